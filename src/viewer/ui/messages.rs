//! What went wrong and what was done, over the canvas: title, details, what to do.

use egui::{Align2, Area, Frame, Label, Margin, Order, RichText, Stroke};
use egui_material_icons::icons as icon;

use super::dim;
use crate::viewer::actions::Action;
use crate::viewer::commands::Command;
use crate::viewer::state::Message;
use crate::viewer::{Viewer, theme};

pub(super) fn show(viewer: &mut Viewer, ui: &egui::Ui) {
    let Some(message) = viewer.state.messages.last().cloned() else { return };
    let canvas = ui.max_rect();
    let palette = theme::palette(ui);
    let area = Area::new(egui::Id::unique("messages")).order(Order::Foreground).pivot(Align2::CENTER_BOTTOM);
    area.fixed_pos(canvas.center_bottom() - egui::vec2(0.0, 16.0)).show(ui.ctx(), |ui| {
        let frame = Frame::new().fill(palette.panel).stroke(Stroke::new(1.0, palette.line)).corner_radius(8);
        frame.inner_margin(Margin::same(12)).show(ui, |ui| {
            ui.set_max_width((canvas.width() - 64.0).clamp(240.0, 560.0));
            ui.horizontal_top(|ui| {
                ui.vertical(|ui| match &message {
                    Message::Done(line) => {
                        ui.add(Label::new(line).wrap());
                    }
                    Message::Offer(session) => {
                        let states =
                            if session.states == 1 { "1 state".into() } else { format!("{} states", session.states) };
                        ui.label(RichText::new(format!("Unsaved work was found: {}, {states}", session.name)).strong());
                        ui.horizontal(|ui| {
                            if ui.button(Action::Restore(session.folder.clone()).label()).clicked() {
                                viewer.actions.push(Action::Restore(session.folder.clone()));
                            }
                            if ui.button(Action::DiscardRecoverable(session.folder.clone()).label()).clicked() {
                                viewer.actions.push(Action::DiscardRecoverable(session.folder.clone()));
                            }
                        });
                    }
                    Message::UserError(problem) => {
                        ui.label(RichText::new(&problem.title).color(theme::ERROR).strong());
                        ui.add(Label::new(&problem.details).wrap().selectable(true));
                        if !problem.hint.is_empty() {
                            ui.add(Label::new(dim(ui, &problem.hint)).wrap());
                        }
                        if let Some(action) = problem.smaller.map(Action::GoOnWith)
                            && ui.button(action.label()).clicked()
                        {
                            viewer.actions.push(action);
                        }
                    }
                });
                let close = ui.add(egui::Button::new(icon::ICON_CLOSE.codepoint).frame_when_inactive(false));
                close.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, Command::Dismiss.label()));
                if close.clicked() {
                    viewer.actions.push(Command::Dismiss.into());
                }
            });
        });
    });
}
