//! Model files that were dropped on the window: what they are, and whether they are to be added.

use egui::{Align2, RichText, Window};

use super::models;
use crate::base::{Backbone, Remedy, UserError};
use crate::viewer::actions::Action;
use crate::viewer::{Viewer, network_facts};

pub(super) fn show(viewer: &mut Viewer, ui: &egui::Ui) {
    let offered = viewer.state.offered_models.clone();
    let Some(first) = offered.first() else { return };
    let title = if offered.len() == 1 { "Add this model?" } else { "Add these models?" };
    let mut open = true;
    let window = Window::new(title).open(&mut open).collapsible(false).resizable(false);
    window.anchor(Align2::CENTER_CENTER, egui::Vec2::ZERO).show(ui.ctx(), |ui| {
        ui.set_width(420.0);
        for backbone in &offered {
            ui.label(RichText::new(backbone.name()).strong());
            models::facts(viewer, ui, backbone);
            use_as_another_kind(viewer, ui, backbone);
        }
        ui.add_space(4.0);
        let is_one = |of: &_| matches!(viewer.state.network_facts.get(&network_facts::id(of)), Some(Ok(_)));
        let usable: Vec<_> = offered.iter().filter(|backbone| is_one(backbone)).cloned().collect();
        ui.horizontal(|ui| {
            let add = Action::AddModels(usable.clone());
            if let Some(first) = usable.first() {
                if ui.button(format!("Add and use {}", first.name())).clicked() {
                    viewer.actions.extend([add.clone(), Action::UseBackbone(first.clone())]);
                }
                if ui.button(add.label()).clicked() {
                    viewer.actions.push(add);
                }
            }
            if let Some(folder) = first.network_file().and_then(|file| file.parent()).filter(|_| !usable.is_empty()) {
                let add = Action::AddModelFolder(folder.to_owned());
                if ui.button("Add its folder").on_hover_text(folder.display().to_string()).clicked() {
                    viewer.actions.push(add);
                    viewer.state.offered_models.clear();
                }
            }
        });
    });
    if !open {
        viewer.state.offered_models.clear();
    }
}

/// A file that is a model of another kind can be used as that.
fn use_as_another_kind(viewer: &mut Viewer, ui: &mut egui::Ui, backbone: &Backbone) {
    let known = viewer.state.network_facts.get(&network_facts::id(backbone));
    let Some(Err(UserError { remedy: Some(Remedy::Backbone(spec)), .. })) = known else { return };
    let Some(file) = backbone.network_file() else { return };
    let use_it = Action::UseBackboneAt(spec, file.to_owned());
    if ui.button(use_it.label()).clicked() {
        viewer.actions.push(use_it);
        viewer.state.offered_models.clear();
    }
}
