//! How it is painted: one file a panel. Panels read the state and push actions; the few values they edit directly
//! (texts, numbers) are the user's own.

mod boxes;
mod canvas;
mod compare;
mod downloads;
mod film;
mod help;
mod history_panel;
mod messages;
mod minimap;
mod models;
mod offered_models;
mod palette;
mod prompt_field;
mod prompt_panel;
mod prompt_server;
mod prompt_source;
mod quality;
mod rebuild;
mod selftest;
mod status_bar;
mod top_bar;
mod welcome;

use std::path::PathBuf;

use egui::{CentralPanel, FocusDirection, Frame, Key, KeyboardShortcut, Margin, Panel};
pub(super) use history_panel::Rows as HistoryRows;

use super::actions::{CompareMode, Tool};
use super::commands::Command;
use super::{Viewer, theme};
use crate::base::path_of;

/// The whole window.
pub(super) fn show(viewer: &mut Viewer, ui: &mut egui::Ui) {
    take_keys(viewer, ui);
    take_files(viewer, ui);
    let palette = theme::palette(ui);
    let panel = |x, y| Frame::new().fill(palette.panel).inner_margin(Margin::symmetric(x, y));
    let has_photo = viewer.state.document.is_some();
    let settings = &viewer.state.settings;
    let (panels, info, widths) = (settings.panels, settings.info, settings.panel_widths);
    if panels || !has_photo {
        Panel::top("top").exact_size(40.0).frame(panel(12, 0)).show(ui, |ui| top_bar::show(viewer, ui));
        Panel::bottom("status").exact_size(28.0).frame(panel(12, 0)).show(ui, |ui| status_bar::show(viewer, ui));
    }
    let previews = viewer.state.opening.as_ref().is_some_and(|opening| opening.preview.is_some());
    // Already beside a preview, so that nothing moves when the picture is there.
    if panels && (has_photo || previews) {
        let side = |panel: Panel| panel.size_range(200.0..=360.0).resizable(true);
        let left = side(Panel::left("history"))
            .default_size(widths[0])
            .frame(panel(12, 12))
            .show(ui, |ui| history_panel::show(viewer, ui));
        viewer.state.settings.panel_widths[0] = left.response.rect.width().round();
        if info {
            let right = side(Panel::right("prompt"))
                .default_size(widths[1])
                .frame(panel(12, 12))
                .show(ui, |ui| prompt_panel::show(viewer, ui));
            viewer.state.settings.panel_widths[1] = right.response.rect.width().round();
        }
    }
    remember_window(viewer, ui);
    CentralPanel::default().frame(Frame::new().fill(palette.canvas)).show(ui, |ui| {
        if previews {
            welcome::preview(viewer, ui);
        } else if has_photo {
            canvas::show(viewer, ui);
        } else {
            welcome::show(viewer, ui);
        }
        messages::show(viewer, ui);
    });
    film::show(viewer, ui);
    models::show(viewer, ui);
    offered_models::show(viewer, ui);
    downloads::show(viewer, ui);
    palette::show(viewer, ui);
    rebuild::show(viewer, ui);
    selftest::show(viewer, ui);
    help::show(viewer, ui);
    focus_ring(ui);
}

/// Around the control that has the keyboard's focus, whatever it looks like itself.
fn focus_ring(ui: &egui::Ui) {
    let context = ui.ctx();
    let focused = context.memory(|memory| memory.focused()).and_then(|id| context.read_response(id));
    let Some(rect) = focused.map(|response| response.rect.expand(2.0)) else { return };
    let layer = egui::LayerId::new(egui::Order::Foreground, egui::Id::unique("focus ring"));
    let inside = rect.intersect(ui.max_rect().shrink(1.0));
    let stroke = egui::Stroke::new(2.0, theme::ACCENT);
    context.layer_painter(layer).rect_stroke(inside, 4, stroke, egui::StrokeKind::Inside);
}

/// The next start opens a window like this one.
fn remember_window(viewer: &mut Viewer, ui: &egui::Ui) {
    let (size, maximized, fullscreen) = ui.input(|input| {
        let viewport = input.viewport();
        let size = viewport.inner_rect.map(|rect| rect.size());
        (size, viewport.maximized.unwrap_or(false), viewport.fullscreen.unwrap_or(false))
    });
    let settings = &mut viewer.state.settings;
    // While it is being resized nothing is written.
    if ui.input(|input| input.pointer.any_down()) || fullscreen {
        return;
    }
    settings.maximized = maximized;
    if let Some(size) = size.filter(|size| !maximized && size.x >= 900.0 && size.y >= 600.0) {
        settings.window = [size.x.round(), size.y.round()];
    }
}

/// Keys become actions before any widget sees them; while a text field has the focus only those that cannot be text.
fn take_keys(viewer: &mut Viewer, ui: &egui::Ui) {
    let context = ui.ctx();
    let typing = context.text_edit_focused();
    // A menu closes with Esc, and a button reached by keyboard is pressed with Enter, as everywhere.
    let in_menu = egui::Popup::is_any_open(context);
    let focused = context.memory(|memory| memory.focused());
    let on_widget = !typing && focused.is_some_and(|id| id != canvas::id());
    let belongs_to_widget = |KeyboardShortcut { logical_key, modifiers }: &KeyboardShortcut| match logical_key {
        Key::Escape => in_menu,
        Key::Enter => on_widget,
        Key::ArrowLeft | Key::ArrowRight | Key::ArrowUp | Key::ArrowDown => on_widget && !modifiers.any(),
        // Who walks through the controls goes on; without a control it means something else.
        Key::Tab => focused.is_some(),
        _ => false,
    };
    if viewer.state.rebinding.is_some() || viewer.state.palette.is_some() {
        // There the keys are the list's, but for the one that closes it.
        if viewer.state.palette.is_some() && context.input_mut(|i| i.consume_key(egui::Modifiers::NONE, Key::Escape)) {
            viewer.actions.push(Command::TogglePalette.into());
        }
        return;
    }
    for (action, shortcut) in viewer.state.bindings.sorted() {
        let allowed = (!typing || action.works_while_typing(shortcut)) && !action.is_held();
        // Shift+Tab stays what it is: it walks through the controls.
        let is_walk = shortcut.logical_key == Key::Tab && context.input(|input| input.modifiers.any());
        if !allowed || is_walk || belongs_to_widget(shortcut) {
            continue;
        }
        if context.input_mut(|input| input.consume_shortcut(shortcut)) {
            if shortcut.logical_key == Key::Tab {
                // The key has moved the focus already.
                context.memory_mut(|memory| memory.move_focus(FocusDirection::None));
            }
            viewer.actions.push(action.clone());
        }
    }
    // Copying arrives as an event of its own, so that every system's key for it works.
    let copies = |event: &egui::Event| matches!(event, egui::Event::Copy);
    if !typing && has_photo(viewer) && context.input(|input| input.events.iter().any(copies)) {
        viewer.actions.push(Command::Copy.into());
    }
}

/// What is dropped on the window or pasted into it.
fn take_files(viewer: &mut Viewer, ui: &egui::Ui) {
    let context = ui.ctx();
    let dropped = context.input(|input| input.raw.dropped_files.clone());
    if !dropped.is_empty() {
        viewer.open_all(dropped.iter().map(|file| file.path().to_owned()).collect());
    }
    for event in context.input(|input| input.events.clone()) {
        match event {
            egui::Event::PasteImage(image) => viewer.open_pasted(image),
            egui::Event::Paste(text) if !context.text_edit_focused() => viewer.open_all(pasted_files(&text)),
            _ => {}
        }
    }
}

/// The files that a text names, one a line, as file managers and terminals copy them: as paths, in quotes or not, or as URIs.
fn pasted_files(text: &str) -> Vec<PathBuf> {
    text.lines().map(path_of).filter(|path| path.is_absolute()).collect()
}

fn has_photo(viewer: &Viewer) -> bool {
    viewer.state.document.is_some()
}

/// A small button with an icon, whose tooltip names the command and its key.
fn icon_button(viewer: &mut Viewer, ui: &mut egui::Ui, icon: &str, command: Command, enabled: bool) {
    let label = command.label();
    let button = egui::Button::new(egui::RichText::new(icon).size(16.0)).frame_when_inactive(false);
    let is_on = match command {
        Command::ZoomTool => viewer.state.tool == Tool::Zoom,
        Command::HandTool => viewer.state.tool == Tool::Hand,
        Command::CompareSplit => viewer.state.compare == CompareMode::Split,
        Command::CompareLens => viewer.state.compare == CompareMode::Lens,
        _ => false,
    };
    let button = button.selected(is_on);
    let response = ui.add_enabled(enabled, button).on_hover_text(viewer.state.bindings.tooltip(command, ui.ctx()));
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, enabled, label));
    if response.clicked() {
        viewer.actions.push(command.into());
    }
}

/// A panel's title.
fn heading(ui: &mut egui::Ui, text: &str) {
    ui.label(egui::RichText::new(text).small().color(theme::palette(ui).dim));
    ui.add_space(2.0);
}

/// Less important text.
fn dim(ui: &egui::Ui, text: impl Into<String>) -> egui::RichText {
    egui::RichText::new(text).small().color(theme::palette(ui).dim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pasted_texts_name_files() {
        let files = |text: &str| pasted_files(text).iter().map(|file| file.display().to_string()).collect::<Vec<_>>();
        assert_eq!(files("/x/a.png\n/x/b c.png\r\n"), ["/x/a.png", "/x/b c.png"]);
        assert_eq!(files(" \"/x/a.png\" \n'/x/b.png'"), ["/x/a.png", "/x/b.png"]);
        assert_eq!(files("copy\nfile:///x/a%20b.png\nfile:///x/c.png"), ["/x/a b.png", "/x/c.png"]);
        assert!(files("a fox\nx/a.png\nhttps://x.org/a.png").is_empty());
    }
}
