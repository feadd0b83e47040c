//! The text field for a prompt.

use egui::{Key, KeyboardShortcut, Modifiers, TextEdit};

/// A field for a prompt; whether Enter was pressed in it. Shift+Enter makes a new line.
pub(super) fn prompt_field(ui: &mut egui::Ui, prompt: &mut String, name: &str, hint: &str) -> bool {
    let field = TextEdit::multiline(prompt).desired_rows(3).desired_width(f32::INFINITY).hint_text(hint);
    let response = ui.add(field.return_key(KeyboardShortcut::new(Modifiers::SHIFT, Key::Enter)));
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::MultilineTextInput, true, name));
    let entered = response.has_focus() && ui.input(|input| input.key_pressed(Key::Enter) && !input.modifiers.shift);
    if entered {
        response.surrender_focus();
    }
    entered
}
