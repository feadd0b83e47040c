//! The window of the self-test: what was measured, what it may be, and a report to copy.

use egui::{Align2, Grid, ProgressBar, RichText, ScrollArea, Window};
use egui_material_icons::icons as icon;

use super::dim;
use crate::selftest::Checked;
use crate::viewer::actions::Action;
use crate::viewer::commands::Command;
use crate::viewer::selftest::Phase;
use crate::viewer::{Viewer, theme};

const WIDTH: f32 = 720.0;
const HEIGHT: f32 = 480.0;
const ABOUT: &str = "Tests whether this machine computes what it should: every network against the reference's own numbers, each \
    precision and memory plan, stopping, memory that runs out. It takes about half a minute, with tiny models that the program holds.";

pub(super) fn show(viewer: &mut Viewer, ui: &egui::Ui) {
    let test = &viewer.state.selftest;
    let mut open = test.is_open;
    let mut chosen = Vec::new();
    let window = Window::new("Self-test").open(&mut open).collapsible(false).resizable(false);
    window.anchor(Align2::CENTER_CENTER, egui::Vec2::ZERO).show(ui.ctx(), |ui| {
        ui.set_width(WIDTH);
        ui.label(dim(ui, if test.headline.is_empty() { ABOUT } else { &test.headline }));
        ui.horizontal(|ui| {
            match &test.phase {
                Phase::Waiting => {}
                Phase::Running => {
                    let done = test.outcomes.len() as f32 / test.checks.max(1) as f32;
                    ui.add(ProgressBar::new(done).desired_width(120.0).desired_height(4.0).fill(theme::ACCENT));
                }
                Phase::Done | Phase::Stopped => _ = ui.label(RichText::new(test.summary()).strong()),
                Phase::Failed(problem) => _ = ui.label(problem.to_string()),
            }
            let run = if test.phase == Phase::Running { Command::StopSelftest } else { Command::RunSelftest };
            let copy = (!test.outcomes.is_empty()).then_some(Command::CopySelftest);
            chosen.extend(std::iter::once(run).chain(copy).filter(|command| ui.button(command.label()).clicked()));
        });
        if test.phase != Phase::Waiting {
            ui.separator();
            // As high from the beginning as it will be: nothing moves while checks arrive.
            let height = (ui.ctx().content_rect().height() - 200.0).clamp(160.0, HEIGHT);
            let list = ScrollArea::vertical().max_height(height).min_scrolled_height(height);
            list.stick_to_bottom(true).auto_shrink(false).show(ui, |ui| outcomes(ui, &test.outcomes));
        }
    });
    if !open && test.is_open {
        chosen.push(Command::ToggleSelftest);
    }
    viewer.actions.extend(chosen.into_iter().map(Action::from));
}

fn outcomes(ui: &mut egui::Ui, outcomes: &[Checked]) {
    Grid::new("selftest").num_columns(4).min_col_width(16.0).spacing([12.0, 2.0]).show(ui, |ui| {
        for outcome in outcomes {
            let (symbol, state) = match outcome.ok {
                true => (RichText::new(icon::ICON_CHECK.codepoint).color(theme::ACCENT), "passed"),
                false => (RichText::new(icon::ICON_CLOSE.codepoint).color(ui.visuals().error_fg_color), "failed"),
            };
            ui.label(symbol).widget_info(|| {
                egui::WidgetInfo::labeled(egui::Role::Label, true, format!("{} {state}", outcome.name))
            });
            ui.label(RichText::new(&outcome.name).small().strong());
            ui.label(RichText::new(&outcome.value).small().monospace());
            let about = ui.label(dim(ui, &outcome.about));
            if !outcome.note.is_empty() {
                about.on_hover_text(&outcome.note);
            }
            ui.end_row();
            if !outcome.ok && !outcome.note.is_empty() {
                ui.label("");
                ui.label("");
                ui.label("");
                ui.label(RichText::new(&outcome.note).small());
                ui.end_row();
            }
        }
    });
}
