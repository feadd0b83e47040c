//! Drives the real app, without a window but with its real engine, built-in model and canvas.

mod compare;
mod files;
mod keyboard;
mod memory;
mod models;
mod pointer;
mod prompt;
mod quality;
mod selftest;
mod server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use egui::{Key, Modifiers, PointerButton, Pos2, vec2};
use egui_kittest::kittest::Queryable;
use egui_kittest::{Harness, SnapshotOptions};

use crate::samples::Folder;
use chain_of_zoom::base::{BICUBIC, Backbone, NEAREST};
use chain_of_zoom::document::StateId;
use chain_of_zoom::document::export::{EXPORTERS, sheet, stills, strip, tree};
use chain_of_zoom::imaging::codec;
use chain_of_zoom::viewer::actions::Action;
use chain_of_zoom::viewer::commands::Command;
use chain_of_zoom::viewer::settings::Settings;
use chain_of_zoom::viewer::state::{Cause, Document, Message};
use chain_of_zoom::viewer::{Persistence, Viewer};

/// Small states make quick tests; nothing moves by itself.
fn settings() -> Settings {
    Settings { process_size: 128, motion: false, auto_backbone: Some(false), ..Settings::default() }
}

fn app(settings: Settings) -> Harness<'static, Viewer> {
    app_that_keeps(settings, Persistence::default())
}

fn app_that_keeps(settings: Settings, keeps: Persistence) -> Harness<'static, Viewer> {
    let mut harness = Harness::builder()
        .with_size(vec2(1100.0, 700.0))
        .wgpu()
        .build_eframe(|creation| Viewer::new(creation, settings, keeps).unwrap());
    harness.step();
    harness
}

/// Frame by frame until something holds.
fn until(harness: &mut Harness<'_, Viewer>, what: &str, holds: impl Fn(&Viewer) -> bool) {
    let start = Instant::now();
    while !holds(harness.state()) {
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "{what} did not happen: {:?}",
            harness.state().state.messages
        );
        std::thread::sleep(Duration::from_millis(5));
        harness.step();
    }
    // Once more, so that what is seen is what holds.
    harness.step();
}

fn open(harness: &mut Harness<'_, Viewer>, folder: &Folder) {
    let photo = folder.photo("photo.png", 600, 400);
    harness.state_mut().act(Action::OpenFile(photo));
    until(harness, "the photo to open", |viewer| viewer.state.document.is_some());
    harness.step();
    harness.step();
}

fn document<'a>(harness: &'a Harness<'_, Viewer>) -> &'a Document {
    harness.state().state.document.as_ref().unwrap()
}

fn count(viewer: &Viewer) -> usize {
    viewer.state.document.as_ref().map_or(0, |document| document.history.outline().len())
}

fn idle(viewer: &Viewer) -> bool {
    viewer.state.running.is_none()
}

/// Where a pixel of the photo is on the window.
fn on_window(harness: &Harness<'_, Viewer>, x: f64, y: f64) -> Pos2 {
    let document = document(harness);
    let canvas = harness.get_by_label("Canvas").rect();
    let on_photo = document.camera.relative_to(&document.history, StateId(0)).unwrap();
    let [x, y] = on_photo.placement(document.screen).screen_from_picture([x, y]);
    canvas.min + vec2(x as f32, y as f32)
}

fn button(harness: &mut Harness<'_, Viewer>, pos: Pos2, button: PointerButton, pressed: bool) {
    harness.event(egui::Event::PointerButton { pos, button, pressed, modifiers: Modifiers::NONE });
    harness.step();
}

fn drag(harness: &mut Harness<'_, Viewer>, from: (f64, f64), to: (f64, f64)) {
    let (from, to) = (on_window(harness, from.0, from.1), on_window(harness, to.0, to.1));
    harness.hover_at(from);
    harness.step();
    button(harness, from, PointerButton::Primary, true);
    for i in 1..=4 {
        harness.hover_at(from + (to - from) * (i as f32 / 4.0));
        harness.step();
    }
    button(harness, to, PointerButton::Primary, false);
}

/// Has what lies below the panel's edge come into sight.
fn scrolled_to(harness: &mut Harness<'_, Viewer>, label: &str) {
    harness.get_by_label(label).scroll_to_me();
    // It glides there.
    harness.run_steps(40);
}

#[test]
fn open_zoom_go_back_branch_and_export() {
    let folder = Folder::new();
    let mut harness = app(settings());
    assert!(harness.query_all_by_label("Open…").count() > 0);
    open(&mut harness, &folder);

    // A box of 16 pixels asks for 8x: two steps.
    drag(&mut harness, (300.0, 200.0), (316.0, 216.0));
    until(&mut harness, "two states", |viewer| count(viewer) == 3 && idle(viewer));
    let deep = document(&harness).history.current();
    assert_eq!(document(&harness).history.chain(deep.id).len(), 3);
    assert!((7.0..=8.5).contains(&deep.magnification), "{}", deep.magnification);
    let record = deep.record.clone().unwrap();
    assert_eq!(record.model.unwrap().backbone.name(), "Built-in x4");
    assert_eq!(document(&harness).camera.anchor, deep.id, "the camera went into the result");
    assert!(harness.query_all_by_label(&format!("State {}", Document::title(deep))).count() == 1);

    // Back to the photo, elsewhere: a branch; the first one stays.
    harness.key_press(Key::Home);
    harness.step();
    harness.step();
    assert_eq!(document(&harness).history.current().id, StateId(0));
    drag(&mut harness, (100.0, 100.0), (164.0, 164.0));
    until(&mut harness, "a branch", |viewer| count(viewer) == 4 && idle(viewer));
    assert_eq!(document(&harness).history.children(StateId(0)).count(), 2);

    // The keys walk the tree.
    let branch = document(&harness).history.current().id;
    for (key, at) in [
        (Key::ArrowUp, StateId(1)),
        (Key::ArrowRight, StateId(2)),
        (Key::ArrowLeft, StateId(1)),
        (Key::ArrowDown, branch),
    ] {
        harness.key_press(key);
        harness.step();
        harness.step();
        assert_eq!(document(&harness).history.current().id, at, "{key:?}");
    }

    // With Alt the arrows retrace the visits, which is not the way up.
    harness.key_press_modifiers(Modifiers::ALT, Key::ArrowLeft);
    harness.step();
    harness.step();
    assert_eq!(document(&harness).history.current().id, StateId(1), "where one was before the branch");
    harness.key_press_modifiers(Modifiers::ALT, Key::ArrowRight);
    harness.step();
    harness.step();
    assert_eq!(document(&harness).history.current().id, branch);

    // Deleting and undoing loses nothing.
    harness.key_press(Key::Delete);
    harness.step();
    harness.step();
    assert_eq!(count(harness.state()), 3);
    harness.key_press_modifiers(Modifiers::COMMAND, Key::Z);
    harness.step();
    harness.step();
    assert_eq!(count(harness.state()), 4);

    // Out.
    harness.state_mut().act(Action::GoTo(StateId(2)));
    harness.step();
    let title = Document::title(document(&harness).history.current());
    let still = format!("chain/photo_2_{title}.png");
    let exports = [
        (&stills::STATE, "state.png", "state.png"),
        (&stills::CHAIN, "chain", &still),
        (&strip::EXPORTER, "strip.webp", "strip.webp"),
        (&sheet::EXPORTER, "sheet.jpg", "sheet.jpg"),
        (&tree::EXPORTER, "folders", "folders/per-sample/photo/2.png"),
    ];
    assert_eq!(exports.map(|(exporter, ..)| exporter), EXPORTERS);
    for (exporter, name, wanted) in exports {
        harness.state_mut().act(Action::ExportTo(exporter, folder.path(name)));
        until(&mut harness, "the export", |viewer| matches!(viewer.state.messages.last(), Some(Message::Done(_))));
        harness.state_mut().act(Command::Dismiss);
        harness.step();
        assert!(folder.path(wanted).is_file(), "{exporter:?}");
    }
    assert_eq!(
        codec::open(&folder.path("state.png")).unwrap(),
        *document(&harness).history.current().picture.load().unwrap()
    );
    let strip = codec::open(&folder.path("strip.webp")).unwrap();
    assert_eq!((strip.width(), strip.height()), (192 + 128 + 128, 128));
}

#[test]
fn edit_the_prompt_first_and_run_again() {
    let folder = Folder::new();
    let mut harness = app(Settings { edit_prompt_first: true, ..settings() });
    open(&mut harness, &folder);
    drag(&mut harness, (200.0, 100.0), (232.0, 132.0));
    until(&mut harness, "the box to wait", |viewer| {
        idle(viewer) && viewer.state.document.as_ref().is_some_and(|d| d.placed.is_some())
    });
    assert_eq!(count(harness.state()), 1, "nothing runs before Enter");
    harness.get_by_label("Zoom to 4x");

    harness.get_by_label("Prompt for the next step").focus();
    harness.step();
    harness.get_by_label("Prompt for the next step").type_text("fur, Zz 1");
    harness.step();
    harness.step();
    assert_eq!(harness.state().state.choices.draft, "fur, Zz 1", "single letters are text while a field has the focus");
    harness.key_press(Key::Enter);
    until(&mut harness, "the step", |viewer| count(viewer) == 2 && idle(viewer));
    let state = document(&harness).history.current();
    assert_eq!(state.record.as_ref().unwrap().prompt, "fur, Zz 1");

    // On an existing state: another prompt, run again, a sibling.
    harness.get_by_label("Prompt of this state").focus();
    harness.step();
    harness.key_press_modifiers(Modifiers::COMMAND, Key::A);
    harness.get_by_label("Prompt of this state").type_text("whiskers");
    harness.step();
    harness.step();
    scrolled_to(&mut harness, "Run again");
    harness.get_by_label("Run again").click();
    until(&mut harness, "the sibling", |viewer| count(viewer) == 3 && idle(viewer));
    let siblings: Vec<_> = document(&harness).history.children(StateId(0)).map(|s| s.record.clone().unwrap()).collect();
    assert_eq!(siblings[1].prompt, "whiskers");
    assert_eq!(siblings[0].region, siblings[1].region);
    assert_eq!(
        harness.state().state.choices.draft,
        "fur, Zz 1",
        "looking at a state does not touch the next step's prompt"
    );
}

#[test]
fn a_click_zooms_four_times_and_escape_cancels_a_box() {
    let folder = Folder::new();
    let mut harness = app(settings());
    open(&mut harness, &folder);

    let from = on_window(&harness, 50.0, 50.0);
    harness.hover_at(from);
    harness.step();
    button(&mut harness, from, PointerButton::Primary, true);
    harness.hover_at(from + vec2(60.0, 60.0));
    harness.step();
    harness.key_press(Key::Escape);
    harness.step();
    harness.step();
    button(&mut harness, from + vec2(60.0, 60.0), PointerButton::Primary, false);
    harness.step();
    assert!(idle(harness.state()) && count(harness.state()) == 1, "the box was cancelled");

    // The right button cancels too.
    harness.hover_at(from);
    harness.step();
    button(&mut harness, from, PointerButton::Primary, true);
    harness.hover_at(from + vec2(60.0, 60.0));
    harness.step();
    button(&mut harness, from + vec2(60.0, 60.0), PointerButton::Secondary, true);
    button(&mut harness, from + vec2(60.0, 60.0), PointerButton::Secondary, false);
    button(&mut harness, from + vec2(60.0, 60.0), PointerButton::Primary, false);
    harness.step();
    harness.step();
    assert!(idle(harness.state()) && count(harness.state()) == 1, "the box was cancelled");

    let at = on_window(&harness, 300.0, 200.0);
    harness.hover_at(at);
    harness.step();
    button(&mut harness, at, PointerButton::Primary, true);
    button(&mut harness, at, PointerButton::Primary, false);
    until(&mut harness, "the state", |viewer| count(viewer) == 2 && idle(viewer));
    let record = document(&harness).history.current().record.clone().unwrap();
    assert_eq!((record.region.x, record.region.y, record.region.width), (284, 184, 32));

    // Back outside, the state is a box on the photo: a click dives in instead of making another.
    harness.key_press(Key::Home);
    harness.step();
    harness.step();
    let at = on_window(&harness, 300.0, 200.0);
    harness.hover_at(at);
    harness.step();
    button(&mut harness, at, PointerButton::Primary, true);
    button(&mut harness, at, PointerButton::Primary, false);
    harness.step();
    harness.step();
    assert_eq!((count(harness.state()), document(&harness).history.current().id), (2, StateId(1)));
}

/// A file as the system's drag and drop hands it over.
#[derive(Debug)]
struct Dropped(std::path::PathBuf);

impl egui::DroppedFile for Dropped {
    fn path(&self) -> &std::path::Path {
        &self.0
    }

    fn bytes(&self) -> Result<Vec<u8>, String> {
        std::fs::read(&self.0).map_err(|error| error.to_string())
    }
}

#[test]
fn pictures_are_dropped_and_pasted() {
    let folder = Folder::new();
    let (first, second) = (folder.photo("first.png", 60, 40), folder.photo("second one.png", 50, 40));
    let mut harness = app(settings());
    harness.input_mut().dropped_files = vec![Arc::new(Dropped(first)), Arc::new(Dropped(second.clone()))];
    harness.step();
    until(&mut harness, "the drop", |viewer| viewer.state.document.is_some());
    assert_eq!(document(&harness).name, "first.png");
    assert!(harness.state().state.settings.recent.contains(&second), "the second one waits among the recent ones");

    let image = egui::ColorImage::filled([30, 20], egui::Color32::from_rgb(9, 80, 200));
    harness.event(egui::Event::PasteImage(Arc::new(image)));
    until(&mut harness, "the paste", |viewer| viewer.state.document.as_ref().is_some_and(|d| d.name == "pasted"));
    let photo = document(&harness).history.photo().picture.load().unwrap();
    assert_eq!((photo.width(), photo.height(), photo.pixel(29, 19)), (30, 20, [9, 80, 200]));

    // A path, as file managers copy it.
    let uri = format!("file://{}\n", second.display().to_string().replace(' ', "%20"));
    harness.event(egui::Event::Paste(uri));
    until(&mut harness, "the paste", |viewer| {
        viewer.state.document.as_ref().is_some_and(|d| d.name == "second one.png")
    });
}

#[test]
fn who_goes_elsewhere_meanwhile_is_left_there() {
    let folder = Folder::new();
    let mut harness = app(settings());
    open(&mut harness, &folder);
    drag(&mut harness, (100.0, 100.0), (132.0, 132.0));
    until(&mut harness, "a state to look at", |viewer| count(viewer) == 2 && idle(viewer));
    harness.state_mut().act(Command::RunAgain);
    harness.state_mut().act(Command::GoToPhoto);
    until(&mut harness, "the sibling", |viewer| count(viewer) == 3 && idle(viewer));
    assert_eq!(document(&harness).history.current().id, StateId(0));
}

#[test]
fn the_full_image_is_enlarged_in_its_place_and_zoomed_into() {
    let folder = Folder::new();
    let mut harness = app(settings());
    open(&mut harness, &folder);
    harness.key_press(Key::W);
    until(&mut harness, "pieces to be seen", |viewer| {
        viewer.state.running.as_ref().is_none_or(|running| running.overlays.len() > 1)
    });
    until(&mut harness, "the full image", |viewer| idle(viewer) && count(viewer) == 2);
    let state = document(&harness).history.current();
    assert_eq!((state.picture.width(), state.picture.height(), state.magnification), (2400, 1600, 4.0));
    assert!(state.record.as_ref().is_some_and(|record| record.full_image.is_some()));
    // From here on as in any state.
    drag(&mut harness, (200.0, 100.0), (260.0, 160.0));
    until(&mut harness, "a box of it", |viewer| idle(viewer) && count(viewer) > 2);
    // Made again, it is a sibling of the same size.
    harness.state_mut().act(Action::GoTo(StateId(1)));
    harness.state_mut().act(Command::RunAgain);
    until(&mut harness, "it again", |viewer| idle(viewer) && count(viewer) > 3);
    let again = document(&harness).history.current();
    assert_eq!((again.picture.width(), again.parent), (2400, Some(StateId(0))));
}

#[test]
fn the_wheel_travels_between_photo_and_state() {
    let folder = Folder::new();
    let mut harness = app(Settings { backbone: Backbone::from(&BICUBIC), ..settings() });
    open(&mut harness, &folder);
    drag(&mut harness, (300.0, 200.0), (332.0, 232.0));
    until(&mut harness, "the state", |viewer| count(viewer) == 2 && idle(viewer));
    let canvas = harness.get_by_label("Canvas").rect();
    let wheel = |harness: &mut Harness<'_, Viewer>, notches: f32| {
        harness.hover_at(canvas.center());
        for _ in 0..notches.abs() as usize {
            harness.event(egui::Event::MouseWheel {
                unit: egui::MouseWheelUnit::Line,
                delta: vec2(0.0, notches.signum()),
                phase: egui::TouchPhase::Move,
                source: egui::MouseWheelSource::Wheel,
                modifiers: Modifiers::NONE,
            });
            for _ in 0..20 {
                harness.step();
            }
        }
    };
    wheel(&mut harness, -20.0);
    assert_eq!(document(&harness).history.current().id, StateId(0), "far away, the photo is at hand");
    let before = document(&harness).camera;
    wheel(&mut harness, 20.0);
    assert_eq!(document(&harness).history.current().id, StateId(1), "and back in the state, without a click");
    assert!(
        document(&harness).camera.relative_to(&document(&harness).history, StateId(0)).unwrap().scale > before.scale
    );
}

#[test]
fn failures_are_reported_and_nothing_is_lost() {
    let folder = Folder::new();
    let mut harness = app(settings());
    open(&mut harness, &folder);
    let bad = folder.path("bad.png");
    std::fs::write(&bad, "words").unwrap();
    harness.state_mut().act(Action::OpenFile(bad));
    until(&mut harness, "the message", |viewer| !viewer.state.messages.is_empty());
    harness.get_by_label("This is not a picture");
    assert_eq!(document(&harness).name, "photo.png", "the photo stays open");
    harness.get_by_label("Close the message").click();
    harness.step();
    harness.step();
    assert!(harness.state().state.messages.is_empty());

    harness.state_mut().act(Action::UseBackbone(Backbone::file(folder.path("missing.pth"))));
    harness.step();
    drag(&mut harness, (200.0, 100.0), (232.0, 132.0));
    until(&mut harness, "the message", |viewer| !viewer.state.messages.is_empty() && idle(viewer));
    harness.get_by_label("The model file cannot be opened");
    harness.state_mut().act(Action::UseBackbone(Backbone::default()));
    harness.step();
    drag(&mut harness, (200.0, 100.0), (232.0, 132.0));
    until(&mut harness, "the next step", |viewer| count(viewer) == 2 && idle(viewer));
}

#[test]
fn deep_chains_stay_exact() {
    let folder = Folder::new();
    let mut harness = app(Settings { backbone: Backbone::from(&BICUBIC), ..settings() });
    open(&mut harness, &folder);
    for depth in 1..=8 {
        harness.state_mut().act(Command::Run);
        until(&mut harness, "a state", |viewer| count(viewer) == depth + 1 && idle(viewer));
    }
    let history = &document(&harness).history;
    assert_eq!(history.current().magnification, 65536.0);
    harness.state_mut().act(Command::GoToPhoto);
    harness.step();
    harness.step();
    assert_eq!(document(&harness).history.current().id, StateId(0));
    harness.key_press(Key::End);
    harness.step();
    harness.step();
    assert_eq!(document(&harness).history.current().magnification, 65536.0);
    harness.render().expect("65536x can be drawn");
}

/// A child at the keyboard: whatever is pressed, dragged and scrolled, nothing panics, and the window can still be used.
#[test]
fn a_random_pointer_and_keys_break_nothing() {
    let folder = Folder::new();
    let mut harness = app(Settings { backbone: Backbone::from(&BICUBIC), motion: true, ..settings() });
    open(&mut harness, &folder);
    let mut rng = fastrand::Rng::with_seed(4);
    let asks = |action: &Action| {
        use Command::{Close, Open, OpenModel, Quit, Save, SaveAs};
        match action {
            Action::Command(command) => matches!(command, Open | OpenModel | Save | SaveAs | Close | Quit),
            Action::Export(_) | Action::OpenBackbone(_) => true,
            _ => false,
        }
    };
    let keys: Vec<_> =
        Action::all().into_iter().filter(|action| !asks(action)).flat_map(|action| action.shortcuts()).collect();
    let canvas = egui::Rect::from_min_max(Pos2::new(0.0, 40.0), Pos2::new(1100.0, 672.0));
    for _ in 0..600 {
        let at = canvas.min + vec2(rng.f32() * canvas.width(), rng.f32() * canvas.height());
        match rng.u32(..10) {
            0..3 => harness.hover_at(at),
            3 => harness.event(egui::Event::MouseWheel {
                unit: egui::MouseWheelUnit::Line,
                delta: vec2(0.0, rng.f32() * 12.0 - 6.0),
                phase: egui::TouchPhase::Move,
                source: egui::MouseWheelSource::Wheel,
                modifiers: Modifiers::NONE,
            }),
            4..7 => {
                let which =
                    [PointerButton::Primary, PointerButton::Primary, PointerButton::Middle, PointerButton::Secondary];
                let which = which[rng.usize(..4)];
                harness.hover_at(at);
                harness.step();
                button(&mut harness, at, which, true);
                let to = at + vec2(rng.f32() * 300.0 - 150.0, rng.f32() * 300.0 - 150.0);
                harness.hover_at(to);
                harness.step();
                button(&mut harness, to, which, false);
            }
            7 => harness.set_size(vec2(900.0 + 300.0 * rng.f32(), 600.0 + 200.0 * rng.f32())).step(),
            _ => {
                let key = keys[rng.usize(..keys.len())];
                harness.key_press_modifiers(key.modifiers, key.logical_key);
            }
        }
        harness.step();
    }
    harness.state_mut().act(Command::Cancel);
    until(&mut harness, "the last job to end", idle);
    let history = &document(&harness).history;
    // Deleted ones count too; how many there are depends on how fast steps run beside these hands.
    assert!(history.revision() > 5, "too little was made: {}", history.revision());
    assert!(document(&harness).camera.scale.is_finite() && history.get(document(&harness).camera.anchor).is_some());
    let photo = folder.photo("next.png", 64, 64);
    harness.state_mut().act(Action::OpenFile(photo));
    until(&mut harness, "another photo", |viewer| viewer.state.document.as_ref().is_some_and(|d| d.name == "next.png"));
}

#[test]
fn looks_as_it_should() {
    let options = || SnapshotOptions::new().threshold(1.5).max_failed_pixels(200);
    let mut harness = app(settings());
    // Which models are on this machine is not to be seen.
    until(&mut harness, "models to be looked for", |viewer| !viewer.state.backbones.is_empty());
    harness.state_mut().state.backbones = vec![Backbone::default()];
    harness.step();
    harness.snapshot_options("welcome", &options());

    let folder = Folder::new();
    let mut harness = app(Settings { backbone: Backbone::from(&NEAREST), ..settings() });
    open(&mut harness, &folder);
    drag(&mut harness, (300.0, 200.0), (310.0, 210.0));
    until(&mut harness, "the states", |viewer| count(viewer) == 3 && idle(viewer));
    harness.state_mut().act(Command::GoToPhoto);
    harness.remove_cursor();
    harness.step();
    harness.step();
    // Times differ from run to run; only the canvas is compared.
    let canvas = harness.get_by_label("Canvas").rect();
    let window = harness.render().unwrap();
    let (x, y) = (canvas.left() as u32, canvas.top() as u32);
    let image = image::imageops::crop_imm(&window, x, y, canvas.width() as u32, canvas.height() as u32).to_image();
    egui_kittest::image_snapshot_options(&image, "canvas", &options());
}
