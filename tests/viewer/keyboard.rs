//! The window without a pointer, as told to a screen reader.

use egui::{Key, Modifiers};
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT, Queryable};

use super::{app, count, document, idle, open, settings, until};
use crate::samples::Folder;
use chain_of_zoom::base::Region;
use chain_of_zoom::document::export::stills;
use chain_of_zoom::imaging::codec;
use chain_of_zoom::viewer::Viewer;
use chain_of_zoom::viewer::actions::Action;
use chain_of_zoom::viewer::state::Message;

fn press(harness: &mut Harness<'_, Viewer>, modifiers: Modifiers, key: Key) {
    harness.key_press_modifiers(modifiers, key);
    harness.step();
    harness.step();
}

/// What a screen reader says of the canvas.
fn told(harness: &Harness<'_, Viewer>) -> String {
    harness.get_by_label("Canvas").value().unwrap_or_default()
}

fn focused(harness: &Harness<'_, Viewer>) -> String {
    let nodes = harness.query_all_by(|node| node.is_focused());
    nodes.filter_map(|node| node.accesskit_node().label()).collect()
}

/// Walks through the controls until this one has the focus.
fn walk_to(harness: &mut Harness<'_, Viewer>, label: &str) {
    let mut passed = Vec::new();
    press(harness, Modifiers::NONE, Key::F6);
    for _ in 0..200 {
        let at = focused(harness);
        if at == label {
            return;
        }
        passed.push(at);
        press(harness, Modifiers::NONE, Key::Tab);
    }
    panic!("{label} is not reached, only {passed:?}");
}

#[test]
fn a_zoom_a_prompt_and_an_export_need_no_pointer() {
    let folder = Folder::new();
    let mut harness = app(settings());
    open(&mut harness, &folder);
    assert_eq!(told(&harness), "photo.png: photo, 600 x 400 pixels");

    // The box: placed in the middle of the view, moved, sized.
    press(&mut harness, Modifiers::SHIFT, Key::ArrowRight);
    let placed = |harness: &Harness<'_, Viewer>| document(harness).placed.clone().map(|placed| placed.target);
    assert_eq!(placed(&harness), Some(Region::square(284, 184, 32)));
    assert_eq!(told(&harness), "photo.png: photo, 600 x 400 pixels. Box of 32 x 32 pixels at 284, 184, to 4x");
    for (modifiers, key, target) in [
        (Modifiers::SHIFT, Key::ArrowRight, Region::square(288, 184, 32)),
        (Modifiers::SHIFT, Key::ArrowDown, Region::square(288, 188, 32)),
        (Modifiers::COMMAND, Key::ArrowUp, Region::square(286, 186, 36)),
        (Modifiers::COMMAND, Key::ArrowDown, Region::square(288, 188, 32)),
        (Modifiers::SHIFT, Key::ArrowLeft, Region::square(284, 188, 32)),
        (Modifiers::SHIFT, Key::ArrowUp, Region::square(284, 184, 32)),
    ] {
        press(&mut harness, modifiers, key);
        assert_eq!(placed(&harness), Some(target), "{key:?}");
    }
    // It stays in the picture.
    for _ in 0..100 {
        press(&mut harness, Modifiers::SHIFT, Key::ArrowLeft);
    }
    assert_eq!(placed(&harness), Some(Region::square(0, 184, 32)));
    // Esc takes it away, Enter runs it.
    press(&mut harness, Modifiers::NONE, Key::Escape);
    assert_eq!(placed(&harness), None);
    press(&mut harness, Modifiers::SHIFT, Key::ArrowRight);
    press(&mut harness, Modifiers::SHIFT, Key::ArrowRight);
    press(&mut harness, Modifiers::NONE, Key::Enter);
    until(&mut harness, "the state", |viewer| count(viewer) == 2 && idle(viewer));
    assert_eq!(document(&harness).history.current().record.as_ref().unwrap().region, Region::square(288, 184, 32));
    assert_eq!(told(&harness), "photo.png: 4x, 128 x 128 pixels");

    // The prompt of the next one.
    walk_to(&mut harness, "Prompt for the next step");
    harness.event(egui::Event::Text("whiskers, w".into()));
    harness.step();
    assert_eq!(harness.state().state.choices.draft, "whiskers, w");
    press(&mut harness, Modifiers::NONE, Key::Enter);
    until(&mut harness, "the next state", |viewer| count(viewer) == 3 && idle(viewer));
    assert_eq!(document(&harness).history.current().record.as_ref().unwrap().prompt, "whiskers, w");

    // The history, by arrows on the canvas and by its rows.
    walk_to(&mut harness, "Canvas");
    press(&mut harness, Modifiers::NONE, Key::ArrowLeft);
    assert_eq!(told(&harness), "photo.png: 4x, 128 x 128 pixels");
    assert_eq!(focused(&harness), "Canvas", "the arrows walk the history, not the controls");
    walk_to(&mut harness, "State photo");
    press(&mut harness, Modifiers::NONE, Key::Enter);
    assert_eq!(told(&harness), "photo.png: photo, 600 x 400 pixels");
    press(&mut harness, Modifiers::NONE, Key::Escape);
    assert_eq!(focused(&harness), "");

    // Everything else is in the list of actions, the system's dialog for the place apart.
    press(&mut harness, Modifiers::NONE, Key::End);
    press(&mut harness, Modifiers::COMMAND, Key::P);
    harness.event(egui::Event::Text("export this state".into()));
    harness.step();
    harness.get_by_label_contains(&Action::Export(&stills::STATE).label());
    press(&mut harness, Modifiers::NONE, Key::Escape);
    let file = folder.path("state.png");
    harness.state_mut().act(Action::ExportTo(&stills::STATE, file.clone()));
    until(&mut harness, "the export", |viewer| matches!(viewer.state.messages.last(), Some(Message::Done(_))));
    let exported = codec::open(&file).unwrap();
    assert_eq!(exported, *document(&harness).history.current().picture.load().unwrap());
    // That it is done is told.
    let line = harness.get_by_label_contains("state.png");
    assert_eq!(line.accesskit_node().live(), egui::accesskit::Live::Polite);
}
