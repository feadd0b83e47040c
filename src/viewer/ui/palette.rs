//! All actions in one list, found by typing a few of their letters.

use egui::{Align2, Key, Modifiers, ScrollArea, TextEdit, Window, vec2};

use super::dim;
use crate::viewer::Viewer;
use crate::viewer::actions::Action;
use crate::viewer::commands::Command;

pub(super) fn show(viewer: &mut Viewer, ui: &egui::Ui) {
    let Some(mut palette) = viewer.state.palette.clone() else { return };
    let possible = Action::all()
        .into_iter()
        .filter(|action| !action.is_held() && *action != Command::TogglePalette && action.is_enabled(&viewer.state));
    let mut found: Vec<(usize, Action)> =
        possible.filter_map(|action| Some((distance(&palette.query, &action.label())?, action))).collect();
    found.sort_by_key(|(distance, _)| *distance);

    let pressed = |key| ui.input_mut(|input| input.consume_key(Modifiers::NONE, key));
    if pressed(Key::ArrowDown) {
        palette.selected += 1;
    }
    if pressed(Key::ArrowUp) {
        palette.selected = palette.selected.saturating_sub(1);
    }
    palette.selected = palette.selected.min(found.len().saturating_sub(1));
    let mut chosen =
        pressed(Key::Enter).then(|| found.get(palette.selected).map(|(_, action)| action.clone())).flatten();

    let window = Window::new("All actions").title_bar(false).collapsible(false).resizable(false);
    let response =
        window.anchor(Align2::CENTER_TOP, vec2(0.0, 96.0)).fixed_size(vec2(420.0, 360.0)).show(ui.ctx(), |ui| {
            let field = TextEdit::singleline(&mut palette.query)
                .hint_text("What do you want to do?")
                .desired_width(f32::INFINITY);
            let field = ui.add(field);
            field.widget_info(|| egui::WidgetInfo::labeled(egui::Role::TextInput, true, "Find an action"));
            field.request_focus();
            if field.changed() {
                palette.selected = 0;
            }
            ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
                for (line, (_, action)) in found.iter().enumerate() {
                    let keys = viewer.state.bindings.of(action).first().map(|key| ui.ctx().format_shortcut(key));
                    let is_selected = line == palette.selected;
                    let button = egui::Button::new(action.label()).shortcut_text(dim(ui, keys.unwrap_or_default()));
                    let button = button.selected(is_selected).frame_when_inactive(false);
                    let response = ui.add_sized(vec2(ui.available_width(), 24.0), button);
                    if is_selected {
                        response.scroll_to_me(None);
                    }
                    if response.clicked() {
                        chosen = Some(action.clone());
                    }
                }
                if found.is_empty() {
                    ui.label(dim(ui, "Nothing is called so"));
                }
            });
        });
    let clicked_elsewhere = response.is_some_and(|window| window.response.clicked_elsewhere());
    viewer.state.palette = if chosen.is_some() || clicked_elsewhere { None } else { Some(palette) };
    viewer.actions.extend(chosen);
}

/// How far apart the letters of `query` lie in `label`, in order; `None` where they do not.
fn distance(query: &str, label: &str) -> Option<usize> {
    let label = label.to_lowercase();
    let query = query.trim().to_lowercase();
    if let Some(at) = label.find(&query) {
        return Some(at);
    }
    let mut letters = label.chars().enumerate();
    let mut places = Vec::new();
    for wanted in query.chars().filter(|c| !c.is_whitespace()) {
        places.push(letters.find(|(_, letter)| *letter == wanted)?.0);
    }
    let (first, last) = (places.first()?, places.last()?);
    // Behind all that hold the query as it is.
    Some(label.len() + last - first)
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn letters_are_found_in_order() {
        assert_eq!(distance("", "Fit"), Some(0));
        assert_eq!(distance("actual", "Actual pixels, 1:1"), Some(0));
        assert!(distance("expfilm", "Export the film…") > distance("film", "Export the film…"));
        assert_eq!(distance("xyz", "Fit"), None);
    }
}
