//! Before a photo is open: where to drop one, recent ones, three lines on what to do.

use egui::{Align2, CornerRadius, FontId, RichText, Stroke, StrokeKind, pos2, vec2};
use egui_material_icons::icons as icon;

use super::dim;
use super::top_bar::get_realesrgan;
use crate::viewer::actions::Action;
use crate::viewer::commands::Command;
use crate::viewer::{Viewer, theme};

pub(super) fn show(viewer: &mut Viewer, ui: &mut egui::Ui) {
    if let Some(opening) = &viewer.state.opening {
        let name = opening.file.file_name().unwrap_or_default().to_string_lossy();
        let opening = dim(ui, format!("Opening {name}…"));
        ui.centered_and_justified(|ui| ui.label(opening));
        return;
    }
    let palette = theme::palette(ui);
    let whole = ui.max_rect();
    let area = egui::Rect::from_center_size(whole.center() - vec2(0.0, 40.0), vec2(480.0, 220.0));
    let hovering = ui.input(|input| !input.raw.hovered_files.is_empty());
    let outline = if hovering { Stroke::new(1.5, theme::ACCENT) } else { Stroke::new(1.0, palette.line) };
    ui.painter().rect_stroke(area, CornerRadius::same(8), outline, StrokeKind::Inside);
    let at = |y: f32| pos2(area.center().x, area.top() + y);
    let text = ui.visuals().text_color();
    ui.painter().text(
        at(56.0),
        Align2::CENTER_CENTER,
        icon::ICON_IMAGE.codepoint,
        FontId::proportional(40.0),
        palette.dim,
    );
    ui.painter().text(at(108.0), Align2::CENTER_CENTER, "Drop a photo here", FontId::proportional(13.0), text);

    let label = RichText::new(Command::Open.label()).color(theme::ON_ACCENT);
    let open = egui::Button::new(label).fill(theme::ACCENT);
    let sample = egui::Button::new(Command::OpenSample.label());
    for (button, command, x) in [(open, Command::Open, -66.0), (sample, Command::OpenSample, 66.0)] {
        let place = egui::Rect::from_center_size(at(152.0) + vec2(x, 0.0), vec2(120.0, 32.0));
        if ui.put(place, button).on_hover_text(viewer.state.bindings.tooltip(command, ui.ctx())).clicked() {
            viewer.actions.push(command.into());
        }
    }
    let below = egui::Rect::from_min_max(pos2(area.left(), area.bottom() + 16.0), pos2(area.right(), whole.bottom()));
    ui.scope_builder(egui::UiBuilder::new().max_rect(below), |ui| {
        ui.label(dim(ui, "Drag a box on the picture to zoom there; a click zooms 4x around the pointer."));
        ui.label(dim(ui, "The wheel travels through all you have made, from the photo to 256x and beyond."));
        ui.label(dim(ui, "Every result is a new state: go back, branch, run again. Nothing is lost."));
        if viewer.state.lacks_realesrgan() {
            ui.add_space(12.0);
            ui.horizontal(|ui| get_realesrgan(viewer, ui));
        }
        unsaved(viewer, ui);
        ui.add_space(12.0);
        for file in viewer.state.settings.recent.clone() {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if ui.link(name).on_hover_text(file.display().to_string()).clicked() {
                viewer.actions.push(Action::OpenFile(file));
            }
        }
    });
}

/// Sessions that can be recovered: of a crash, or not saved.
fn unsaved(viewer: &mut Viewer, ui: &mut egui::Ui) {
    const SHOWN: usize = 3;
    if viewer.state.recoverable.is_empty() {
        return;
    }
    ui.add_space(12.0);
    ui.label("Unsaved work");
    for session in viewer.state.recoverable.iter().take(SHOWN) {
        ui.horizontal(|ui| {
            let minutes = session.when.elapsed().unwrap_or_default().as_secs() / 60;
            let ago = match minutes {
                0 => "just now".into(),
                1..=59 => format!("{minutes} min ago"),
                60..=2879 => format!("{} h ago", minutes / 60),
                _ => format!("{} days ago", minutes / 1440),
            };
            ui.label(dim(ui, format!("{}  ·  {} states  ·  {ago}", session.name, session.states)));
            let folder = session.folder.clone();
            for action in [Action::Restore(folder.clone()), Action::DiscardRecoverable(vec![folder])] {
                let button = ui.small_button(action.label());
                let name = format!("{} {}", action.label(), session.name);
                button.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, &name));
                if button.clicked() {
                    viewer.actions.push(action);
                }
            }
        });
    }
}

/// A large picture while it is being decoded, where it will lie.
pub(super) fn preview(viewer: &mut Viewer, ui: &mut egui::Ui) {
    let Some(opening) = &viewer.state.opening else { return };
    let Some(preview) = &opening.preview else { return };
    let texture = viewer.thumbnails.preview(ui.ctx(), preview);
    let whole = ui.max_rect();
    let [width, height] = preview.size.map(|side| side as f32);
    let scale = 0.94 * (whole.width() / width).min(whole.height() / height);
    let rect = egui::Rect::from_center_size(whole.center(), vec2(width, height) * scale);
    let uv = egui::Rect::from_min_max(pos2(0.0, 0.0), pos2(1.0, 1.0));
    ui.painter().image(texture.id(), rect, uv, egui::Color32::WHITE);
    let done = pos2(rect.left() + rect.width() * preview.fraction, rect.bottom() + 4.0);
    ui.painter().line_segment([rect.left_bottom() + vec2(0.0, 4.0), done], Stroke::new(2.0, theme::ACCENT));
}
