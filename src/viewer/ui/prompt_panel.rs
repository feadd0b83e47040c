//! Words and seed for the next step, the words of the state at hand, and the one primary button.

use egui::{Button, DragValue, Key, KeyboardShortcut, Modifiers, RichText, ScrollArea, TextEdit};
use egui_material_icons::icons as icon;

use super::{dim, heading, icon_button};
use crate::export::stills::magnification_label;
use crate::viewer::actions::Action;
use crate::viewer::state::Document;
use crate::viewer::{Viewer, theme};

pub fn show(viewer: &mut Viewer, ui: &mut egui::Ui) {
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
    let takes_text = viewer.state.settings.backbone.takes_text();
    let placed = viewer.state.document.as_ref().and_then(|document| document.placed.clone());
    let hint = "What is in the box? A few words, or none.";
    if words(ui, &mut viewer.state.draft, "Prompt for the next step", hint) {
        viewer.actions.push(Action::Run);
    }
    if !takes_text {
        let name = viewer.state.settings.backbone.name();
        ui.label(dim(
            ui,
            format!("{name} takes no text: words are kept with the state, the picture does not follow them."),
        ));
    }
    ui.horizontal(|ui| {
        ui.label(dim(ui, "seed"));
        let seed = ui.add(DragValue::new(&mut viewer.state.settings.seed).speed(1.0));
        seed.widget_info(|| egui::WidgetInfo::labeled(egui::Role::SpinButton, true, "Seed"));
        icon_button(viewer, ui, icon::ICON_CASINO.codepoint, Action::RollSeed, true);
        let lock =
            if viewer.state.settings.seed_locked { icon::ICON_LOCK.codepoint } else { icon::ICON_LOCK_OPEN.codepoint };
        icon_button(viewer, ui, lock, Action::ToggleSeedLock, true);
    });
    ui.horizontal(|ui| {
        let ask_first = &mut viewer.state.settings.ask_first;
        ui.selectable_value(ask_first, false, "Straight through").on_hover_text("A box runs as soon as it is drawn");
        ui.selectable_value(ask_first, true, "Ask first").on_hover_text("A box waits until you have seen its words");
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
        None => "Zoom in the middle".into(),
    };
    let text = RichText::new(format!("{label}   {}", icon::ICON_KEYBOARD_RETURN.codepoint)).color(theme::ON_ACCENT);
    let button = Button::new(text).fill(theme::ACCENT).min_size(egui::vec2(ui.available_width(), 32.0));
    let response = ui.add(button).on_hover_text(Action::Run.tooltip(ui.ctx()));
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, &label));
    if response.clicked() {
        viewer.actions.push(Action::Run);
    }
    let waits = "The box waits: Enter runs it, Esc drops it.";
    ui.label(dim(ui, if placed.is_some() { waits } else { "Or drag a box on the picture; a click zooms 4x." }));
}

/// A field for words; whether Enter was pressed in it. Shift+Enter makes a new line.
fn words(ui: &mut egui::Ui, words: &mut String, name: &str, hint: &str) -> bool {
    let field = TextEdit::multiline(words).desired_rows(3).desired_width(f32::INFINITY).hint_text(hint);
    let response = ui.add(field.return_key(KeyboardShortcut::new(Modifiers::SHIFT, Key::Enter)));
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::MultilineTextInput, true, name));
    let entered = response.has_focus() && ui.input(|input| input.key_pressed(Key::Enter) && !input.modifiers.shift);
    if entered {
        response.surrender_focus();
    }
    entered
}

fn this_state(viewer: &mut Viewer, ui: &mut egui::Ui) {
    let Some(document) = &mut viewer.state.document else { return };
    let state = document.history.current();
    heading(ui, "THIS STATE");
    ui.label(Document::title(state));
    ui.label(dim(ui, super::history_panel::description(state)));
    let Some(making) = &state.making else { return };
    let [across, down] = document.history.evidence(state);
    ui.label(dim(ui, format!("Rests on {} x {} pixels of the photo", pixels(across), pixels(down))))
        .on_hover_text("All the evidence behind this view; what goes beyond it, the model made up.");
    if let Some(agreement) = making.agreement {
        let told =
            if agreement.is_finite() { format!("Agreement {agreement:.1} dB") } else { "Agreement: exact".into() };
        ui.label(dim(ui, told)).on_hover_text(
            "The result, reduced again, against the region it was made from: PSNR of luma. Higher is closer.",
        );
    }
    if making.model.is_none() {
        ui.label(dim(ui, "The box is larger than a state: it was only reduced, nothing is invented."));
        return;
    }
    ui.add_space(4.0);
    let entered = words(ui, &mut document.edited.prompt, "Prompt of this state", "No words");
    let again = Button::new(Action::RunAgain.label()).min_size(egui::vec2(ui.available_width(), 28.0));
    let again =
        ui.add(again).on_hover_text("Makes a sibling of this state with these words, the seed and the model above");
    if again.clicked() || entered {
        viewer.actions.push(Action::RunAgain);
    }
}

/// Fractions only where they matter.
fn pixels(side: f64) -> String {
    if side >= 10.0 { format!("{side:.0}") } else { format!("{side:.1}") }
}
