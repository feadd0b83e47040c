//! The steps that an opened picture says it was made by: shown first, made again only when the user says so.

use egui::{Align2, Grid, ScrollArea, Window};

use super::dim;
use crate::base::RecipeStep;
use crate::viewer::Viewer;
use crate::viewer::actions::Action;

pub(super) fn show(viewer: &mut Viewer, ui: &egui::Ui) {
    let Some(rebuild) = viewer.state.rebuild.clone() else { return };
    let mut open = true;
    let window = Window::new("Make its steps again?").open(&mut open).collapsible(false).resizable(false);
    window.anchor(Align2::CENTER_CENTER, egui::Vec2::ZERO).show(ui.ctx(), |ui| {
        ui.set_max_width(520.0);
        let name = rebuild.file.file_name().unwrap_or_default().to_string_lossy();
        ui.label(format!("{name} says that it was made from this photo in {} steps:", rebuild.steps.len()));
        ScrollArea::vertical().max_height(240.0).show(ui, |ui| {
            Grid::new("steps").num_columns(4).spacing([16.0, 4.0]).striped(true).show(ui, |ui| {
                for (number, step) in (1..).zip(&rebuild.steps) {
                    ui.label(format!("{number}"));
                    ui.label(model(step));
                    ui.label(format!("{} x {}", step.width, step.height));
                    ui.add(egui::Label::new(dim(ui, &step.record.prompt)).truncate());
                    ui.end_row();
                }
            });
        });
        ui.add_space(4.0);
        let can_run = rebuild.missing.is_empty();
        if !can_run {
            let missing = rebuild.missing.join(", ");
            ui.label(format!(
                "Not among the models of this machine: {missing}. Open it once as a model, and try again."
            ));
        }
        ui.horizontal(|ui| {
            let run = ui.add_enabled(can_run, egui::Button::new(Action::Rebuild.label()));
            if run.clicked() {
                viewer.actions.push(Action::Rebuild);
            }
            if ui.button("Only the photo").clicked() {
                viewer.state.rebuild = None;
            }
        });
    });
    if !open {
        viewer.state.rebuild = None;
    }
}

fn model(step: &RecipeStep) -> String {
    let model = step.record.model.as_ref();
    model.map_or_else(|| "reduced, no model".into(), |model| model.backbone.name())
}
