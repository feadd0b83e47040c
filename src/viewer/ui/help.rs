//! The window with all keys, made from the actions themselves.

use super::dim;
use crate::viewer::Viewer;
use crate::viewer::actions::Action;

/// What the mouse does; keys are told by the actions.
const MOUSE: [(&str, &str); 6] = [
    ("Drag", "Zoom into a box"),
    ("Click", "Zoom 4x, or dive into a box made before"),
    ("Wheel, pinch", "Look closer or from further away, at the pointer"),
    ("Middle drag, Space + drag", "Move the picture"),
    ("Right click", "Cancel the box"),
    ("Drop, paste", "Open a picture"),
];

pub fn show(viewer: &mut Viewer, ui: &egui::Ui) {
    let mut open = viewer.state.help;
    let window = egui::Window::new("Keys and mouse").open(&mut open).collapsible(false).resizable(false);
    window.anchor(egui::Align2::CENTER_CENTER, egui::Vec2::ZERO).show(ui.ctx(), |ui| {
        ui.horizontal_top(|ui| {
            let context = ui.ctx().clone();
            let keys = Action::with_keys().into_iter().map(|action| {
                let keys: Vec<_> = action.shortcuts().iter().map(|key| context.format_shortcut(key)).collect();
                (keys.join(", "), action.label())
            });
            let mouse = MOUSE.iter().map(|(key, what)| (key.to_string(), what.to_string()));
            let rows: Vec<(String, String)> = mouse.chain(keys).collect();
            for (column, rows) in rows.chunks(rows.len().div_ceil(2)).enumerate() {
                egui::Grid::new(("keys", column)).num_columns(2).spacing([16.0, 4.0]).show(ui, |ui| {
                    for (key, what) in rows {
                        ui.label(dim(ui, key));
                        ui.label(what);
                        ui.end_row();
                    }
                });
                ui.add_space(16.0);
            }
        });
    });
    viewer.state.help = open;
}
