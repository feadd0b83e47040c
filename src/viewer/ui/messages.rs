//! What went wrong and what was done, over the canvas: title, details, what to do.

use egui::accesskit::Live;
use egui::{Align2, Area, Frame, Label, Margin, Order, RichText, Stroke};
use egui_material_icons::icons as icon;

use super::dim;
use crate::base::{UserError, bytes_label};
use crate::document::session::autosave;
use crate::viewer::actions::Action;
use crate::viewer::commands::Command;
use crate::viewer::state::Message;
use crate::viewer::{Viewer, theme};

/// Of files that wait.
const MOST_OFFERED: usize = 6;

fn buttons(viewer: &mut Viewer, ui: &mut egui::Ui, actions: impl IntoIterator<Item = Action>) {
    ui.horizontal(|ui| {
        for action in actions {
            if ui.button(action.label()).clicked() {
                viewer.actions.push(action);
            }
        }
    });
}

/// A problem as somebody who is to help needs it.
fn report(problem: &UserError) -> String {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    format!("coz {} on {os} {arch}\n{problem}\n", env!("CARGO_PKG_VERSION"))
}

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
                        let line = ui.add(Label::new(line).wrap());
                        ui.ctx().accesskit_node_builder(line.id, |node| node.set_live(Live::Polite));
                    }
                    Message::Offer(session) => {
                        let states =
                            if session.states == 1 { "1 state".into() } else { format!("{} states", session.states) };
                        ui.label(RichText::new(format!("Unsaved work was found: {}, {states}", session.name)).strong());
                        let folder = session.folder.clone();
                        buttons(
                            viewer,
                            ui,
                            [Action::Restore(folder.clone()), Action::DiscardRecoverable(vec![folder])],
                        );
                    }
                    Message::Surplus { count, bytes, oldest } => {
                        let line = format!("Unsaved work takes {}: {count} sessions", bytes_label(*bytes));
                        ui.label(RichText::new(line).strong());
                        let room = bytes_label(autosave::ROOM);
                        let line = format!("Without the {} oldest it would be less than {room}.", oldest.len());
                        ui.add(Label::new(dim(ui, line)).wrap());
                        buttons(viewer, ui, [Action::DiscardRecoverable(oldest.clone())]);
                    }
                    Message::Waiting(files) => {
                        let line = match files.len() {
                            1 => "One more file was given".into(),
                            count => format!("{count} more files were given"),
                        };
                        ui.label(RichText::new(line).strong());
                        ui.add(Label::new(dim(ui, "They are in the menu too, under Open recent.")).wrap());
                        ui.horizontal_wrapped(|ui| {
                            for file in files.iter().take(MOST_OFFERED) {
                                let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
                                if ui.button(name).clicked() {
                                    let others = files.iter().filter(|other| *other != file).cloned();
                                    viewer.open_all(std::iter::once(file.clone()).chain(others).collect());
                                }
                            }
                        });
                    }
                    Message::UserError(problem, _) => {
                        let title = ui.label(RichText::new(&problem.title).color(theme::ERROR).strong());
                        ui.ctx().accesskit_node_builder(title.id, |node| node.set_live(Live::Assertive));
                        ui.add(Label::new(&problem.details).wrap().selectable(true));
                        if !problem.hint.is_empty() {
                            ui.add(Label::new(dim(ui, &problem.hint)).wrap());
                        }
                        buttons(viewer, ui, problem.remedy.map(Action::GoOnWith));
                        if ui.button("Copy details").clicked() {
                            ui.ctx().copy_text(report(problem));
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
