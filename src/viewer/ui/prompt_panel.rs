//! Prompt and seed for the next step, the prompt of the state at hand, and the one primary button.

use egui::{Button, DragValue, RichText, ScrollArea, TextEdit};
use egui_material_icons::icons as icon;

use super::compare::count;
use super::prompt_field::prompt_field;
use super::{dim, heading, icon_button};
use crate::base::{bytes_label, magnification_label, secs_label};
use crate::document::ScaleState;
use crate::viewer::actions::{Action, Against, CompareMode};
use crate::viewer::commands::Command;
use crate::viewer::state::Document;
use crate::viewer::{Viewer, theme};

pub(super) fn show(viewer: &mut Viewer, ui: &mut egui::Ui) {
    ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
        next_step(viewer, ui);
        ui.add_space(12.0);
        ui.separator();
        ui.add_space(4.0);
        this_state(viewer, ui);
    });
}

fn next_step(viewer: &mut Viewer, ui: &mut egui::Ui) {
    heading(ui, "NEXT STEP");
    model(viewer, ui);
    let takes_prompt = viewer.state.choices.backbone.takes_prompt();
    let placed = viewer.state.document.as_ref().and_then(|document| document.placed.clone());
    let entered = super::prompt_source::show(viewer, ui);
    let hint = match viewer.state.settings.prompt_source.is_user() {
        true => "What is in the box? A short prompt, or none.",
        false => "Your own prompt, added to that.",
    };
    if entered {
        viewer.actions.push(Command::Run.into());
    }
    if prompt_field(ui, &mut viewer.state.choices.draft, "Prompt for the next step", hint) {
        viewer.actions.push(Command::Run.into());
    }
    if !takes_prompt {
        let name = viewer.state.choices.backbone.name();
        ui.label(dim(
            ui,
            format!("{name} takes no prompt: it is kept with the state, the picture does not follow it."),
        ));
    }
    ui.horizontal(|ui| {
        ui.label(dim(ui, "seed"));
        let seed = ui.add(DragValue::new(&mut viewer.state.choices.seed).speed(1.0));
        seed.widget_info(|| egui::WidgetInfo::labeled(egui::Role::SpinButton, true, "Seed"));
        icon_button(viewer, ui, icon::ICON_CASINO.codepoint, Command::RollSeed, true);
        let lock =
            if viewer.state.settings.seed_locked { icon::ICON_LOCK.codepoint } else { icon::ICON_LOCK_OPEN.codepoint };
        icon_button(viewer, ui, lock, Command::ToggleSeedLock, true);
    });
    ui.horizontal(|ui| {
        let edit_prompt_first = &mut viewer.state.settings.edit_prompt_first;
        ui.selectable_value(edit_prompt_first, false, "Run at once").on_hover_text("A box runs as soon as it is drawn");
        ui.selectable_value(edit_prompt_first, true, "Edit prompt first")
            .on_hover_text("A box waits until you have seen its prompt");
    });
    ui.add_space(4.0);
    let label = match &placed {
        Some(placed) => {
            let magnification = viewer
                .state
                .document
                .as_ref()
                .and_then(|document| document.history.get(placed.parent))
                .map_or(1.0, |state| state.magnification);
            format!("Zoom to {}", magnification_label(magnification * placed.plan.factor))
        }
        None => "Zoom (centre)".into(),
    };
    let text = RichText::new(format!("{label}   {}", icon::ICON_KEYBOARD_RETURN.codepoint)).color(theme::ON_ACCENT);
    let button = Button::new(text).fill(theme::ACCENT).min_size(egui::vec2(ui.available_width(), 32.0));
    let response = ui.add(button).on_hover_text(viewer.state.bindings.tooltip(Command::Run, ui.ctx()));
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, &label));
    if response.clicked() {
        viewer.actions.push(Command::Run.into());
    }
    let waits = "The box waits: Enter runs it, Q queues it, V makes variants, Esc drops it.";
    ui.label(dim(ui, if placed.is_some() { waits } else { "Or drag a box on the picture; a click zooms 4x." }));
    let full_image = Button::new(Command::EnlargeFullImage.label()).min_size(egui::vec2(ui.available_width(), 24.0));
    let tip = viewer.state.bindings.tooltip(Command::EnlargeFullImage, ui.ctx());
    if ui
        .add(full_image)
        .on_hover_text(format!("{tip}\nAll of this state, tile by tile, with a prompt for each tile"))
        .clicked()
    {
        viewer.actions.push(Command::EnlargeFullImage.into());
    }
    if !viewer.state.queue.is_empty() {
        ui.horizontal(|ui| {
            ui.label(dim(ui, format!("{} in the queue", viewer.state.queue.len())));
            if ui.small_button("Clear").on_hover_text(Command::ClearQueue.label()).clicked() {
                viewer.actions.push(Command::ClearQueue.into());
            }
        });
    }
}

/// Which model runs, why, and how long a step takes.
fn model(viewer: &Viewer, ui: &mut egui::Ui) {
    let memory = viewer.state.step_bytes().map(|bytes| format!(" and {}", bytes_label(bytes))).unwrap_or_default();
    let pace = viewer
        .state
        .step_secs()
        .map(|secs| format!("About {}{memory} a step on {}", secs_label(secs), viewer.state.device_name()));
    let reason = viewer.state.uses_best().then(|| viewer.state.reason().to_owned());
    // What begins a sentence of its own here.
    let remark = viewer.state.step_remark().map(|remark| format!("It {}", remark.trim_start_matches("it ")));
    let details: Vec<String> = reason.into_iter().chain(pace).chain(remark).collect();
    ui.label(viewer.state.choices.backbone.name());
    if !details.is_empty() {
        ui.label(dim(ui, details.join(". ")));
    }
}

fn this_state(viewer: &mut Viewer, ui: &mut egui::Ui) {
    let Some(document) = &mut viewer.state.document else { return };
    let state = document.history.current();
    heading(ui, "THIS STATE");
    ui.label(Document::title(state));
    ui.label(dim(ui, super::history_panel::description(state)));
    if let Some(record) = &state.record {
        let [across, down] = document.history.source_pixels(state);
        ui.label(dim(ui, format!("Rests on {} x {} pixels of the photo", count(across), count(down))))
            .on_hover_text("All source pixels behind this state; what goes beyond it, the model made up.");
        consistency(document, record.consistency, ui);
    }
    super::quality::show(viewer, ui);
    let Some(document) = &mut viewer.state.document else { return };
    let state = document.history.current();
    let is_reduced = state.record.as_ref().is_some_and(|record| record.model.is_none());
    if is_reduced {
        ui.label(dim(ui, "The box is larger than a state: it was only reduced, nothing is invented."));
    } else if state.record.is_some() {
        ui.add_space(4.0);
        let entered = prompt_field(ui, &mut document.edited.prompt, "Prompt of this state", "No prompt");
        tiles(document.history.current(), ui);
        ui.horizontal(|ui| {
            let width = (ui.available_width() - 72.0) / 2.0;
            for (command, tip) in [
                (Command::RunAgain, "A sibling of this state with this prompt, the seed and the model above"),
                (Command::Variants, "Siblings with other seeds, or with each line of the prompt; pick the best"),
            ] {
                let button = ui.add_sized([width, 28.0], Button::new(command.label())).on_hover_text(tip);
                if button.clicked() || (entered && command == Command::RunAgain) {
                    viewer.actions.push(command.into());
                }
            }
            let number = DragValue::new(&mut viewer.state.settings.variants).range(2..=16);
            let number = ui.add(number).on_hover_text("How many variants");
            number.widget_info(|| egui::WidgetInfo::labeled(egui::Role::SpinButton, true, "Number of variants"));
        });
    }
    variants(viewer, ui);
    pinned(viewer, ui);
    compare(viewer, ui);
}

/// The prompts of a full image's tiles.
fn tiles(state: &ScaleState, ui: &mut egui::Ui) {
    let full_image = state.record.as_ref().and_then(|record| record.full_image.as_ref());
    let Some(full_image) = full_image.filter(|it| !it.prompts.is_empty()) else { return };
    ui.collapsing(format!("Prompts of {} tiles", full_image.prompts.len()), |ui| {
        ScrollArea::vertical().max_height(160.0).id_salt("tiles").show(ui, |ui| {
            for (number, prompt) in (1..).zip(&full_image.prompts) {
                ui.label(dim(ui, format!("{number}. {prompt}")));
            }
        });
    });
}

fn consistency(document: &Document, with_parent: Option<f64>, ui: &mut egui::Ui) {
    let Some(with_parent) = with_parent else { return };
    let decibels = |value: f64| if value.is_finite() { format!("{value:.1} dB") } else { "exact".into() };
    let examined = document.examined(document.history.current().id);
    let along = examined.and_then(|examined| examined.consistency.as_ref());
    let along = along.map(|consistency| format!(", with the photo {}", decibels(consistency.with_photo)));
    ui.label(dim(ui, format!("Consistency {}{}", decibels(with_parent), along.unwrap_or_default()))).on_hover_text(
        "PSNR of luma at the source's resolution: the result, reduced again, against the box it was made from, and down the \
         whole chain against the photo's own pixels. Higher is closer: above 30 dB is good, below 20 dB the picture tells \
         something else. Hold X to see where.",
    );
}

/// Siblings of the same box, to pick from.
fn variants(viewer: &mut Viewer, ui: &mut egui::Ui) {
    let Some(document) = &viewer.state.document else { return };
    let current = document.history.current().id;
    let variants = document.history.variants(current);
    if variants.len() < 2 {
        return;
    }
    ui.add_space(8.0);
    heading(ui, &format!("{} VARIANTS OF THIS BOX", variants.len()));
    ui.horizontal_wrapped(|ui| {
        for (number, state) in (1..).zip(variants) {
            let texture = viewer.thumbnails.get(ui.ctx(), state);
            let image = egui::Image::new((texture.id(), egui::vec2(48.0, 48.0)));
            let button = ui.add(Button::image(image).selected(state.id == current));
            let name = format!("Variant {number}");
            button.widget_info(|| egui::WidgetInfo::selected(egui::Role::Button, true, state.id == current, &name));
            if button.on_hover_text(super::history_panel::description(state)).clicked() {
                viewer.actions.push(Action::GoTo(state.id));
            }
        }
    });
}

/// A prompt that is added to every one from here on down.
fn pinned(viewer: &mut Viewer, ui: &mut egui::Ui) {
    let Some(document) = &mut viewer.state.document else { return };
    let id = document.history.current().id;
    ui.add_space(8.0);
    heading(ui, "PINNED PROMPT");
    let mut prompt = document.history.pinned(id).unwrap_or_default().to_owned();
    let field =
        TextEdit::singleline(&mut prompt).hint_text("In every prompt below this state").desired_width(f32::INFINITY);
    let response = ui.add(field);
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::TextInput, true, "Pinned prompt"));
    if response.changed() {
        document.history.pin(id, prompt);
    }
    let parent = document.history.current().parent;
    let above = parent.map(|parent| document.pinned_prompts(parent).join(", ")).unwrap_or_default();
    if !above.is_empty() {
        ui.label(dim(ui, format!("From above: {above}")));
    }
}

fn compare(viewer: &mut Viewer, ui: &mut egui::Ui) {
    let Some(document) = &viewer.state.document else { return };
    if document.history.current().record.is_none() {
        return;
    }
    ui.add_space(8.0);
    heading(ui, "COMPARE WITH");
    let other = match viewer.state.against {
        Against::State(id) => document.history.get(id).map(|state| (id, Document::title(state))),
        _ => None,
    };
    ui.horizontal_wrapped(|ui| {
        let against = &mut viewer.state.against;
        ui.selectable_value(against, Against::Bicubic, "Bicubic");
        ui.selectable_value(against, Against::Photo, "Photo");
        if let Some((id, title)) = other {
            ui.selectable_value(against, Against::State(id), title);
        }
    });
    ui.horizontal(|ui| {
        for (command, mode, name) in
            [(Command::CompareSplit, CompareMode::Split, "Split"), (Command::CompareLens, CompareMode::Lens, "Lens")]
        {
            let tip = viewer.state.bindings.tooltip(command, ui.ctx());
            if ui.selectable_label(viewer.state.compare == mode, name).on_hover_text(tip).clicked() {
                viewer.actions.push(command.into());
            }
        }
    });
    ui.label(dim(ui, "Hold C to flip, X for where it differs from its source, E for the photo's pixels. Right-click a state in the history to compare with it."));
}
