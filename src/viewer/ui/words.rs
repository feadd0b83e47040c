//! What finds the words for a step, what it has found, and what it is asked.

use egui::{Button, CollapsingHeader, DragValue, TextEdit};

use super::dim;
use super::prompt_panel::words;
use crate::prompt::vlm::{ONE_IMAGE, TWO_IMAGES};
use crate::prompt::{Extractor, ExtractorKind};
use crate::viewer::Viewer;
use crate::viewer::actions::Action;

/// Whether Enter was pressed in the words that were found.
pub fn show(viewer: &mut Viewer, ui: &mut egui::Ui) -> bool {
    choice(viewer, ui);
    if viewer.state.settings.extractor == Extractor::Own {
        return false;
    }
    let entered = found(viewer, ui);
    if matches!(viewer.state.settings.extractor, Extractor::Vlm(_)) {
        question(viewer, ui);
    }
    entered
}

fn choice(viewer: &mut Viewer, ui: &mut egui::Ui) {
    ui.horizontal(|ui| {
        ui.spacing_mut().item_spacing.x = 4.0;
        ui.label(dim(ui, "words by"));
        for (kind, name, about) in [
            (ExtractorKind::Own, "me", "Your own words, or none"),
            (ExtractorKind::Tags, "tags", "What the tagger RAM, with DAPE, sees in the box"),
            (ExtractorKind::Vlm, "VLM", "What Qwen2.5-VL sees in the box"),
            (ExtractorKind::Tuned, "tuned", "The same with Chain-of-Zoom's adapter, which was trained for this"),
        ] {
            let is_chosen = viewer.state.settings.extractor.kind() == kind;
            if ui.selectable_label(is_chosen, name).on_hover_text(about).clicked() && !is_chosen {
                viewer.actions.push(Action::UseWords(kind));
            }
        }
    });
}

/// The words that were found: written as one watches, and then to be edited.
fn found(viewer: &mut Viewer, ui: &mut egui::Ui) -> bool {
    let running = viewer.state.running.as_ref();
    let is_writing = running.is_some_and(|running| running.proposing);
    // Those of a step that runs are settled.
    let hint = match (is_writing, running.is_some()) {
        (true, _) => "Looking at the box\u{2026}",
        (false, true) => "Looking\u{2026}",
        (false, false) => "What the model sees in the next box.",
    };
    let entered = ui
        .add_enabled_ui(running.is_none(), |ui| words(ui, &mut viewer.state.found, "Words found for the box", hint))
        .inner;
    let writes = matches!(viewer.state.settings.extractor, Extractor::Vlm(_));
    if !writes && !is_writing {
        return entered;
    }
    let waits = viewer.state.document.as_ref().is_some_and(|document| document.placed.is_some());
    ui.horizontal(|ui| {
        let action = if is_writing { Action::StopWords } else { Action::Regenerate };
        let text = if is_writing { "Stop" } else { "Other words" };
        let tip = viewer.state.bindings.tooltip(&action, ui.ctx());
        if ui.add_enabled(is_writing || waits, Button::new(text).small()).on_hover_text(tip).clicked() {
            viewer.actions.push(action);
        }
        if writes {
            let temperature = DragValue::new(&mut viewer.state.settings.temperature).range(0.1..=2.0).speed(0.02);
            let temperature = ui.add(temperature.prefix("freely: ")).on_hover_text("Of other words: the temperature");
            temperature.widget_info(|| egui::WidgetInfo::labeled(egui::Role::SpinButton, true, "Temperature"));
        }
    });
    entered
}

fn question(viewer: &mut Viewer, ui: &mut egui::Ui) {
    let settings = &mut viewer.state.settings;
    CollapsingHeader::new("What it is asked").show(ui, |ui| {
        let usual = if settings.both_images { TWO_IMAGES } else { ONE_IMAGE };
        let mut text = if settings.message.is_empty() { usual.to_owned() } else { settings.message.clone() };
        let response = ui.add(TextEdit::multiline(&mut text).desired_rows(3).desired_width(f32::INFINITY));
        response
            .widget_info(|| egui::WidgetInfo::labeled(egui::Role::MultilineTextInput, true, "What the model is asked"));
        if response.changed() {
            settings.message = if text == usual { String::new() } else { text };
        }
        ui.checkbox(&mut settings.both_images, "Show it the state before too");
        if !settings.message.is_empty() && ui.small_button("As the reference asks").clicked() {
            settings.message.clear();
        }
    });
}
