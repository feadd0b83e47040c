//! Where the prompt for a step comes from, what was extracted, and what a model is asked.

use egui::{Button, CollapsingHeader, DragValue, TextEdit};

use super::dim;
use super::prompt_field::prompt_field;
use crate::base::{CaptionRequest, PROMPT_SOURCES};
use crate::viewer::Viewer;
use crate::viewer::actions::Action;
use crate::viewer::commands::Command;

/// Whether Enter was pressed in the prompt that was extracted.
pub(super) fn show(viewer: &mut Viewer, ui: &mut egui::Ui) -> bool {
    choice(viewer, ui);
    let source = &viewer.state.settings.prompt_source;
    if source.is_user() {
        return false;
    }
    let (is_asked, is_server) = (source.spec.is_asked, source.is_server());
    if is_server {
        super::prompt_server::show(viewer, ui);
    }
    let entered = extracted(viewer, ui);
    if is_asked {
        question(viewer, ui);
    }
    entered
}

fn choice(viewer: &mut Viewer, ui: &mut egui::Ui) {
    ui.label(dim(ui, "Prompt from:"));
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing.x = 4.0;
        for spec in PROMPT_SOURCES {
            let is_chosen = viewer.state.settings.prompt_source.spec == spec;
            if ui.selectable_label(is_chosen, spec.label).on_hover_text(spec.about).clicked() && !is_chosen {
                viewer.actions.push(Action::UsePromptSource(spec));
            }
        }
    });
}

/// The prompt that was extracted: written as one watches, and then to be edited.
fn extracted(viewer: &mut Viewer, ui: &mut egui::Ui) -> bool {
    let running = viewer.state.running.as_ref();
    let is_writing = running.is_some_and(|running| running.captioning);
    // That of a step that runs is decided.
    let hint = match (is_writing, running.is_some()) {
        (true, _) => "Looking at the box\u{2026}",
        (false, true) => "Looking\u{2026}",
        (false, false) => "What the model sees in the next box.",
    };
    let field = |ui: &mut egui::Ui, prompt| prompt_field(ui, prompt, "Prompt extracted from the box", hint);
    let is_free = running.is_none();
    let entered = ui.add_enabled_ui(is_free, |ui| field(ui, &mut viewer.state.extracted_prompt)).inner;
    let is_asked = viewer.state.settings.prompt_source.spec.is_asked;
    if !is_asked && !is_writing {
        return entered;
    }
    let waits = viewer.state.document.as_ref().is_some_and(|document| document.placed.is_some());
    ui.horizontal(|ui| {
        let command = if is_writing { Command::StopCaptioning } else { Command::Regenerate };
        let text = if is_writing { "Stop" } else { "Write another" };
        let tip = viewer.state.bindings.tooltip(command, ui.ctx());
        if ui.add_enabled(is_writing || waits, Button::new(text).small()).on_hover_text(tip).clicked() {
            viewer.actions.push(command.into());
        }
        if is_asked {
            let temperature = DragValue::new(&mut viewer.state.settings.temperature).range(0.1..=2.0).speed(0.02);
            let temperature = ui.add(temperature.prefix("temperature: ")).on_hover_text("Of another prompt");
            temperature.widget_info(|| egui::WidgetInfo::labeled(egui::Role::SpinButton, true, "Temperature"));
        }
    });
    entered
}

fn question(viewer: &mut Viewer, ui: &mut egui::Ui) {
    let settings = &mut viewer.state.settings;
    CollapsingHeader::new("What it is asked").show(ui, |ui| {
        let usual = CaptionRequest::default_message(settings.include_parent);
        let mut text = if settings.message.is_empty() { usual.to_owned() } else { settings.message.clone() };
        let response = ui.add(TextEdit::multiline(&mut text).desired_rows(3).desired_width(f32::INFINITY));
        response
            .widget_info(|| egui::WidgetInfo::labeled(egui::Role::MultilineTextInput, true, "What the model is asked"));
        if response.changed() {
            settings.message = if text == usual { String::new() } else { text };
        }
        ui.checkbox(&mut settings.include_parent, "Show it the parent state too");
        if !settings.message.is_empty() && ui.small_button("As the reference asks").clicked() {
            settings.message.clear();
        }
    });
}
