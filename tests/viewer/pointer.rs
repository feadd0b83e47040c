//! Keys, the palette, prompts, queues and variants; what fits on the smallest window, what a screen reader reads out.

use super::*;
use chain_of_zoom::base::BICUBIC;
use chain_of_zoom::document::StateId;
use chain_of_zoom::viewer::commands::Command;

#[test]
fn the_palette_finds_and_runs_actions() {
    let folder = Folder::new();
    let mut harness = app(settings());
    harness.key_press_modifiers(Modifiers::COMMAND, Key::P);
    harness.step();
    harness.step();
    assert!(harness.query_by_label("Make variants").is_none(), "without a photo there is nothing to vary");
    harness.key_press(Key::Escape);
    harness.step();
    harness.step();
    assert!(harness.state().state.palette.is_none());

    open(&mut harness, &folder);
    harness.key_press_modifiers(Modifiers::COMMAND, Key::P);
    harness.step();
    harness.step();
    harness.get_by_label("Find an action").type_text("fllw");
    harness.step();
    harness.step();
    let before = harness.state().state.settings.follow;
    harness.key_press(Key::Enter);
    for _ in 0..3 {
        harness.step();
    }
    assert_eq!(harness.state().state.settings.follow, !before, "letters in order are enough");
    assert!(harness.state().state.palette.is_none() && count(harness.state()) == 1, "Enter was the palette's");
}

#[test]
fn keys_can_be_changed() {
    let folder = Folder::new();
    let mut harness = app(settings());
    open(&mut harness, &folder);
    harness.key_press(Key::F1);
    // The window opens, and finds its size.
    for _ in 0..6 {
        harness.step();
    }
    harness.get_by_label("Change the key of Fit").click();
    harness.step();
    harness.step();
    harness.get_by_label_contains("Press the new key for \"Fit\"");
    // What opens the palette by default fits the picture now.
    harness.key_press_modifiers(Modifiers::COMMAND, Key::P);
    harness.step();
    harness.step();
    assert_eq!(harness.state().state.settings.keys["fit"], ["Ctrl+P"]);
    harness.key_press(Key::Escape);
    harness.step();
    harness.step();
    assert!(!harness.state().state.help);
    harness.key_press_modifiers(Modifiers::COMMAND, Key::P);
    harness.step();
    harness.step();
    assert!(harness.state().state.palette.is_none());
    harness.state_mut().act(Command::ResetKeys);
    harness.step();
    harness.key_press_modifiers(Modifiers::COMMAND, Key::P);
    harness.step();
    harness.step();
    assert!(harness.state().state.palette.is_some());
}

#[test]
fn prompts_are_remembered_and_a_pinned_one_goes_down_the_branch() {
    let folder = Folder::new();
    let mut harness = app(settings());
    open(&mut harness, &folder);
    for (number, prompt) in [(2, "first"), (3, "second")] {
        harness.state_mut().state.choices.draft = prompt.into();
        harness.state_mut().act(Command::Run);
        until(&mut harness, "a state", |viewer| count(viewer) == number && idle(viewer));
    }
    harness.get_by_label("Prompt for the next step").focus();
    harness.step();
    harness.step();
    for (key, wanted) in [
        (Key::ArrowUp, "second"),
        (Key::ArrowUp, "first"),
        (Key::ArrowUp, "first"),
        (Key::ArrowDown, "second"),
        (Key::ArrowDown, ""),
    ] {
        harness.key_press_modifiers(Modifiers::ALT, key);
        harness.step();
        harness.step();
        assert_eq!(harness.state().state.choices.draft, wanted, "{key:?}");
    }
    // Pinned on the first state: used below it, not above.
    harness.state_mut().act(Action::GoTo(StateId(1)));
    harness.step();
    harness.step();
    harness.get_by_label("Pinned prompt").focus();
    harness.step();
    harness.get_by_label("Pinned prompt").type_text("a cat");
    harness.step();
    harness.step();
    harness.state_mut().state.choices.draft = "fur".into();
    harness.state_mut().act(Command::Run);
    until(&mut harness, "a state", |viewer| count(viewer) == 4 && idle(viewer));
    let prompt = |harness: &Harness<'_, Viewer>| {
        document(harness).history.current().record.as_ref().map(|record| record.prompt.clone()).unwrap()
    };
    assert_eq!(prompt(&harness), "fur, a cat");
    harness.state_mut().act(Command::GoToPhoto);
    harness.step();
    harness.state_mut().act(Command::Run);
    until(&mut harness, "a state", |viewer| count(viewer) == 5 && idle(viewer));
    assert_eq!(prompt(&harness), "fur");
}

#[test]
fn variants_are_stacked_and_one_is_picked() {
    let folder = Folder::new();
    let mut harness = app(settings());
    open(&mut harness, &folder);
    drag(&mut harness, (200.0, 100.0), (232.0, 132.0));
    until(&mut harness, "a state", |viewer| count(viewer) == 2 && idle(viewer));
    harness.key_press(Key::V);
    until(&mut harness, "the variants", |viewer| count(viewer) == 6 && idle(viewer));
    let variants = document(&harness).history.variants(StateId(1));
    let seeds: std::collections::HashSet<u64> =
        variants.iter().map(|state| state.record.as_ref().unwrap().seed).collect();
    assert_eq!((variants.len(), seeds.len() >= 4), (5, true));
    let title = Document::title(document(&harness).history.current());
    harness.get_by_label(&format!("State {title}"));
    harness.get_by_label("5 VARIANTS OF THIS BOX");
    // With each line of the prompt instead of new seeds.
    harness.state_mut().state.document.as_mut().unwrap().edited.prompt = "fur\n\nfeathers\n scales ".into();
    scrolled_to(&mut harness, "Make variants");
    harness.get_by_label("Make variants").click();
    until(&mut harness, "three more", |viewer| count(viewer) == 9 && idle(viewer) && viewer.state.queue.is_empty());
    let prompts: Vec<_> =
        document(&harness).history.variants(StateId(1)).iter().map(|s| s.record.clone().unwrap().prompt).collect();
    assert_eq!(prompts[5..], ["fur", "feathers", "scales"]);
    scrolled_to(&mut harness, "Variant 2");
    harness.get_by_label("Variant 2").click();
    harness.step();
    harness.step();
    assert_eq!(document(&harness).history.current().id, StateId(2));
    harness.get_by_label(&format!("State {title}"));
}

#[test]
fn boxes_wait_their_turn() {
    let folder = Folder::new();
    let mut harness = app(settings());
    open(&mut harness, &folder);
    // Three boxes of two steps each; the second and third wait.
    let region = |x| chain_of_zoom::base::Region::square(x, 50, 16);
    harness.state_mut().act(Action::PlaceBox(StateId(0), region(20)));
    harness.state_mut().act(Action::QueueBox(StateId(0), region(200)));
    harness.state_mut().act(Action::QueueBox(StateId(0), region(400)));
    harness.step();
    assert_eq!(harness.state().state.queue.len(), 2, "a queued box does not stop what runs");
    until(&mut harness, "all", |viewer| count(viewer) == 7 && idle(viewer) && viewer.state.queue.is_empty());
    assert_eq!(document(&harness).history.children(StateId(0)).count(), 3);

    harness.state_mut().act(Action::QueueBox(StateId(0), region(100)));
    harness.state_mut().act(Action::QueueBox(StateId(0), region(300)));
    harness.state_mut().act(Command::Cancel);
    harness.step();
    until(&mut harness, "the stop", idle);
    assert!(harness.state().state.queue.is_empty(), "a stop that stops");
}

#[test]
fn nothing_is_cut_off_on_the_smallest_window_and_all_has_a_name() {
    let folder = Folder::new();
    let mut harness = app(settings());
    open(&mut harness, &folder);
    drag(&mut harness, (200.0, 100.0), (232.0, 132.0));
    until(&mut harness, "a state", |viewer| count(viewer) == 2 && idle(viewer));
    harness.set_size(vec2(900.0, 600.0));
    for theme in ["dark", "light", "contrast"] {
        for _ in 0..3 {
            harness.step();
        }
        let window = egui::Rect::from_min_size(Pos2::ZERO, vec2(900.0, 600.0));
        for label in ["Menu", "Save the session", "Zoom (centre)", "Keys", "Canvas", "Seed", "Open…"] {
            let rect = harness.get_by_label(label).rect();
            assert!(window.expand(0.5).contains_rect(rect), "{label} at {rect:?} in {theme}");
        }
        let status = harness.get_by_label_contains("Built-in x4  ·").rect();
        assert!(window.contains_rect(status));
        let nameless: Vec<egui::Rect> = harness
            .query_all_by(|node| {
                let presses = matches!(node.role(), egui::accesskit::Role::Button | egui::accesskit::Role::TextInput);
                presses && node.label().is_none_or(|label| label.trim().is_empty())
            })
            .map(|node| node.rect())
            .collect();
        assert!(nameless.is_empty(), "a screen reader reads nothing at {nameless:?}");
        harness.state_mut().act(Command::NextTheme);
    }
    harness.key_press(Key::F1);
    for _ in 0..3 {
        harness.step();
    }
    let window = egui::Rect::from_min_size(Pos2::ZERO, vec2(900.0, 600.0));
    let reset = harness.get_by_role_and_label(egui::accesskit::Role::Button, "Reset all keys").rect();
    assert!(window.contains_rect(reset), "the help fits");
}

#[test]
fn another_monitor_changes_nothing_but_the_size() {
    let folder = Folder::new();
    let mut harness = app(Settings { backbone: Backbone::from(&BICUBIC), ..settings() });
    open(&mut harness, &folder);
    for scale in [2.0, 1.25] {
        harness.set_pixels_per_point(scale);
        for _ in 0..3 {
            harness.step();
        }
        let canvas = harness.get_by_label("Canvas").rect();
        let screen = document(&harness).screen;
        assert!((screen[0] - f64::from(canvas.width() * scale)).abs() < 1.0, "{screen:?} at {scale}");
    }
    // A box is where the pointer was, in physical pixels.
    let (from, to) = ((120.0, 90.0), (184.0, 154.0));
    let points = |harness: &Harness<'_, Viewer>, (x, y): (f64, f64)| {
        let document = document(harness);
        let on_photo = document.camera.relative_to(&document.history, StateId(0)).unwrap();
        let [x, y] = on_photo.placement(document.screen).screen_from_picture([x, y]);
        harness.get_by_label("Canvas").rect().min + vec2(x as f32, y as f32) / 1.25
    };
    let (from, to) = (points(&harness, from), points(&harness, to));
    harness.hover_at(from);
    harness.step();
    button(&mut harness, from, PointerButton::Primary, true);
    harness.hover_at(to);
    harness.step();
    button(&mut harness, to, PointerButton::Primary, false);
    until(&mut harness, "the state", |viewer| count(viewer) == 2 && idle(viewer));
    let region = document(&harness).history.current().record.as_ref().unwrap().region;
    assert!(region.x.abs_diff(120) <= 1 && region.y.abs_diff(90) <= 1 && region.width.abs_diff(64) <= 2, "{region:?}");
}
