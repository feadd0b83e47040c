//! The window with all keys, made from the actions themselves; a click on a key changes it.

use egui::{Event, Key, KeyboardShortcut, RichText};

use super::dim;
use crate::viewer::actions::Action;
use crate::viewer::commands::Command;
use crate::viewer::{Viewer, theme};

/// What the mouse does; keys are those of the actions.
const MOUSE: [(&str, &str); 7] = [
    ("Drag", "Zoom into a box"),
    ("Ctrl + drag", "Queue the box after what runs"),
    ("Click", "Zoom 4x, or dive into a box made before"),
    ("Wheel, pinch", "Look closer or further away, at the pointer"),
    ("Middle drag, Space + drag", "Move the picture"),
    ("Right click", "Cancel the box"),
    ("Drop, paste", "Open a picture or a session"),
];
const COLUMNS: usize = 3;
const WIDEST: f32 = 1000.0;

pub(super) fn show(viewer: &mut Viewer, ui: &egui::Ui) {
    take_new_key(viewer, ui);
    let mut open = viewer.state.help;
    let window = egui::Window::new("Keys and mouse").open(&mut open).collapsible(false).resizable(false);
    let most = ui.ctx().content_rect().shrink(24.0).size();
    window.anchor(egui::Align2::CENTER_CENTER, egui::Vec2::ZERO).show(ui.ctx(), |ui| {
        ui.set_width(most.x.min(WIDEST) - 16.0);
        ui.spacing_mut().interact_size.y = 18.0;
        egui::ScrollArea::both().auto_shrink([false, true]).max_height(most.y - 96.0).show(ui, |ui| {
            ui.horizontal_top(|ui| columns(viewer, ui));
        });
        ui.separator();
        ui.horizontal(|ui| {
            let hint = match &viewer.state.rebinding {
                Some(action) => format!("Press the new key for \"{}\", or Esc", action.label()),
                None => "A click on a key changes it.".into(),
            };
            ui.label(dim(ui, hint));
            if ui.button(Command::ResetKeys.label()).clicked() {
                viewer.actions.push(Command::ResetKeys.into());
            }
        });
    });
    viewer.state.help = open;
}

fn columns(viewer: &mut Viewer, ui: &mut egui::Ui) {
    let context = ui.ctx().clone();
    let mut rows: Vec<(String, String, Option<Action>)> =
        MOUSE.iter().map(|(key, what)| (key.to_string(), what.to_string(), None)).collect();
    for action in Action::all() {
        let keys: Vec<String> =
            viewer.state.bindings.of(&action).iter().map(|key| context.format_shortcut(key)).collect();
        rows.push((keys.join(", "), action.label(), Some(action)));
    }
    for (column, rows) in rows.chunks(rows.len().div_ceil(COLUMNS)).enumerate() {
        egui::Grid::new(("keys", column)).num_columns(2).spacing([8.0, 1.0]).show(ui, |ui| {
            for (keys, what, action) in rows {
                match action {
                    None => _ = ui.label(dim(ui, keys)),
                    Some(action) => {
                        let waits = viewer.state.rebinding.as_ref() == Some(action);
                        let text = if keys.is_empty() { "–" } else { keys };
                        let text = RichText::new(text).small();
                        let text = if waits { text.color(theme::ACCENT) } else { text };
                        let button =
                            ui.add(egui::Button::new(text).frame_when_inactive(false).min_size([64.0, 18.0].into()));
                        let name = format!("Change the key of {what}");
                        button.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, &name));
                        if button.clicked() {
                            viewer.actions.push(Action::Rebind(Box::new(action.clone())));
                        }
                    }
                }
                ui.label(RichText::new(what).small());
                ui.end_row();
            }
        });
        ui.add_space(8.0);
    }
}

/// The next key that is pressed belongs to the action that waits for one.
fn take_new_key(viewer: &mut Viewer, ui: &egui::Ui) {
    let Some(action) = viewer.state.rebinding.clone() else { return };
    let pressed = ui.input_mut(|input| {
        let found = input.events.iter().find_map(|event| match event {
            Event::Key { key, pressed: true, modifiers, .. } => Some((*key, *modifiers)),
            _ => None,
        });
        input.events.retain(|event| !matches!(event, Event::Key { .. } | Event::Text(_)));
        found
    });
    if let Some((key, modifiers)) = pressed {
        if key != Key::Escape {
            let mut kept = egui::Modifiers {
                command: modifiers.command,
                shift: modifiers.shift,
                alt: modifiers.alt,
                ..Default::default()
            };
            // These are written with Shift on some keyboards and without on others.
            if matches!(key, Key::Plus | Key::Questionmark) {
                kept.shift = false;
            }
            viewer.rebind(&action, &KeyboardShortcut::new(kept, key));
        }
        viewer.state.rebinding = None;
    }
}
