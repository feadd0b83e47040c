//! Sessions, autosave, restoring, films and exported pictures that know how they were made.

use std::path::Path;

use super::*;
use chain_of_zoom::base::BICUBIC;
use chain_of_zoom::document::export::stills;
use chain_of_zoom::document::session;
use chain_of_zoom::viewer::commands::Command;

fn keeps(folder: &Folder) -> Persistence {
    Persistence { settings: false, sessions: Some(folder.path("autosave")) }
}

/// Two steps in the middle, with a prompt.
fn two_states(harness: &mut Harness<'_, Viewer>) {
    harness.state_mut().state.choices.draft = "two foxes".into();
    for wanted in [2, 3] {
        harness.state_mut().act(Command::Run);
        until(harness, "a state", |viewer| count(viewer) == wanted && idle(viewer));
    }
}

fn save(harness: &mut Harness<'_, Viewer>, file: &Path) {
    harness.state_mut().act(Action::SaveTo(file.to_owned()));
    until(harness, "the session to be saved", |viewer| {
        viewer.state.exporting.is_none() && !viewer.state.document.as_ref().unwrap().is_unsaved()
    });
}

#[test]
fn a_session_is_saved_and_opened_again() {
    let folder = Folder::new();
    let mut harness = app_that_keeps(settings(), keeps(&folder));
    open(&mut harness, &folder);
    two_states(&mut harness);
    assert!(document(&harness).is_unsaved());
    harness.state_mut().state.document.as_mut().unwrap().history.pin(StateId(1), "pinned".into());
    let file = folder.path("work.coz");
    save(&mut harness, &file);
    assert!(harness.state().state.settings.recent.contains(&file));
    let before: Vec<_> = document(&harness).history.outline().iter().map(|(_, s)| s.picture.load().unwrap()).collect();
    // Saved: nothing is left to restore.
    until(&mut harness, "the autosave to go", |_| session::autosave::recoverable(&folder.path("autosave")).is_empty());
    harness.run_ok();
    drop(harness);
    assert!(session::autosave::recoverable(&folder.path("autosave")).is_empty());

    let mut harness = app(Settings { seed: 7, ..settings() });
    harness.input_mut().dropped_files = vec![Arc::new(Dropped(file))];
    harness.step();
    until(&mut harness, "the session to open", |viewer| count(viewer) == 3);
    let opened = document(&harness);
    let after: Vec<_> = opened.history.outline().iter().map(|(_, s)| s.picture.load().unwrap()).collect();
    assert!(before.iter().zip(&after).all(|(a, b)| a == b), "every pixel is as it was");
    assert_eq!(opened.history.current().id, StateId(2));
    assert_eq!(opened.history.current().record.as_ref().unwrap().prompt, "two foxes");
    assert_eq!(opened.history.pinned(StateId(1)), Some("pinned"));
    assert_eq!(harness.state().state.choices.draft, "two foxes");
    assert_eq!(harness.state().state.choices.seed, 42, "the session's own");
    assert_eq!(harness.state().state.settings.seed, 7, "the user's own stays");
    assert!(!opened.is_unsaved());
    // And it goes on.
    harness.state_mut().act(Command::Run);
    until(&mut harness, "a state", |viewer| count(viewer) == 4 && idle(viewer));
}

#[test]
fn a_message_goes_when_its_cause_is_gone() {
    let folder = Folder::new();
    let (bad, good) = (folder.path("bad.png"), folder.photo("good.png", 60, 40));
    std::fs::write(&bad, b"\x89PNG\r\n\x1a\nand no more").unwrap();
    let mut harness = app(settings());
    harness.state_mut().act(Action::OpenFile(bad));
    until(&mut harness, "the problem", |viewer| !viewer.state.messages.is_empty());
    harness.state_mut().act(Action::OpenFile(good));
    until(&mut harness, "the photo", |viewer| viewer.state.document.is_some());
    assert!(harness.state().state.messages.is_empty(), "{:?}", harness.state().state.messages);
    // One of a step stays while files are opened.
    let problem = chain_of_zoom::base::UserError::new("The step failed", "so", "");
    harness.state_mut().state.messages.push(Message::UserError(problem, Cause::Job));
    harness.state_mut().act(Command::Close);
    harness.step();
    open(&mut harness, &folder);
    assert_eq!(harness.state().state.messages.len(), 1);
    harness.state_mut().act(Command::Run);
    until(&mut harness, "a state", |viewer| count(viewer) == 2 && idle(viewer));
    assert!(harness.state().state.messages.is_empty());
}

#[test]
fn of_several_files_the_first_opens_and_the_others_are_offered() {
    let folder = Folder::new();
    let files: Vec<_> = ["a.png", "b.png", "c.png"].map(|name| folder.photo(name, 60, 40)).into();
    let mut harness = app(settings());
    let paths: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    harness.event(egui::Event::Paste(paths.join("\n")));
    until(&mut harness, "the first", |viewer| viewer.state.document.is_some());
    assert_eq!(document(&harness).name, "a.png");
    assert_eq!(harness.state().state.messages, [Message::Waiting(files[1..].to_vec())]);
    harness.step();
    harness.get_by_label("c.png").click();
    until(&mut harness, "the third", |viewer| viewer.state.document.as_ref().is_some_and(|it| it.name == "c.png"));
    assert_eq!(harness.state().state.messages, [Message::Waiting(files[1..2].to_vec())]);
}

#[test]
fn what_is_transparent_lies_over_a_checker_in_the_window_alone() {
    let folder = Folder::new();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/logo-black-on-transparent.png");
    let mut harness = app(settings());
    harness.state_mut().act(Action::OpenFile(file));
    until(&mut harness, "the logo", |viewer| viewer.state.document.is_some());
    let is_right = |harness: &Harness<'_, Viewer>| {
        let photo = document(harness).history.photo();
        let (picture, shown) = (photo.picture.load().unwrap(), photo.shown.clone().expect("the checker"));
        assert_eq!((picture.pixel(0, 0), picture.pixel(8, 0)), ([255; 3], [255; 3]), "models have it over white");
        assert_ne!(shown.pixel(0, 0), shown.pixel(8, 0));
        assert_eq!(shown.pixel(32, 24), [0; 3]);
    };
    is_right(&harness);
    assert!(matches!(&harness.state().state.messages[..], [Message::Done(line)] if line.contains("checker")));
    // Pasted it is the same.
    let opaque = egui::Color32::BLACK;
    let pixels = (0..64 * 48).map(|i| if i == 24 * 64 + 32 { opaque } else { egui::Color32::TRANSPARENT }).collect();
    let image = egui::ColorImage::new([64, 48], pixels);
    harness.event(egui::Event::PasteImage(Arc::new(image)));
    until(&mut harness, "the pasted one", |viewer| {
        viewer.state.document.as_ref().is_some_and(|document| document.name == "pasted")
    });
    is_right(&harness);
    // What is opaque has none.
    harness.state_mut().act(Command::Close);
    harness.step();
    open(&mut harness, &folder);
    assert!(document(&harness).history.photo().shown.is_none());
}

#[test]
fn only_the_file_that_was_asked_for_last_is_opened() {
    let folder = Folder::new();
    let (slow, fast) = (folder.photo("slow.png", 5000, 4000), folder.photo("fast.png", 60, 40));
    let mut harness = app(settings());
    let start = std::time::Instant::now();
    harness.state_mut().act(Action::OpenFile(slow.clone()));
    until(&mut harness, "the slow one", |viewer| viewer.state.document.is_some());
    let patience = start.elapsed() * 2 + std::time::Duration::from_millis(500);
    harness.state_mut().act(Command::Close);
    harness.step();
    let is_open = |harness: &Harness<'_, Viewer>| harness.state().state.document.is_some();

    harness.state_mut().act(Action::OpenFile(slow.clone()));
    harness.step();
    harness.step();
    harness.state_mut().act(Action::OpenFile(fast));
    until(&mut harness, "the fast one", |viewer| viewer.state.document.is_some());
    let start = std::time::Instant::now();
    while start.elapsed() < patience {
        std::thread::sleep(std::time::Duration::from_millis(20));
        harness.step();
        assert_eq!(document(&harness).name, "fast.png");
    }
    assert!(harness.state().state.messages.is_empty() && harness.state().state.opening.is_none());

    // Esc gives it up altogether.
    harness.state_mut().act(Command::Close);
    harness.step();
    harness.state_mut().act(Action::OpenFile(slow));
    harness.step();
    harness.step();
    assert!(harness.state().state.opening.is_some());
    harness.key_press(egui::Key::Escape);
    let start = std::time::Instant::now();
    while start.elapsed() < patience {
        std::thread::sleep(std::time::Duration::from_millis(20));
        harness.step();
        assert!(!is_open(&harness));
    }
    assert!(harness.state().state.messages.is_empty() && harness.state().state.opening.is_none());
}

#[test]
fn models_that_a_session_names_are_not_believed() {
    let folder = Folder::new();
    let mut harness = app(settings());
    open(&mut harness, &folder);
    two_states(&mut harness);
    // Somebody's session names a file that is there, but that this user has never opened.
    let theirs = folder.path("theirs.pth");
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/networks/rrdb_x4.pth"), &theirs).unwrap();
    harness.state_mut().state.choices.backbone = Backbone::file(&theirs);
    let file = folder.path("work.coz");
    save(&mut harness, &file);
    drop(harness);

    let mut harness = app(settings());
    harness.state_mut().act(Action::OpenFile(file.clone()));
    until(&mut harness, "the session to open", |viewer| count(viewer) == 3);
    let chosen = &harness.state().state.choices.backbone;
    assert!(chosen.network_file() != Some(&theirs), "{chosen:?}");
    let told = harness.state().state.messages.last().cloned();
    assert!(
        matches!(&told, Some(Message::Done(line)) if line.contains("theirs is no model of this machine")),
        "{told:?}"
    );
    assert_eq!(harness.state().state.settings.backbone, settings().backbone, "the user's own stays");
}

#[test]
fn old_unsaved_work_is_deleted_only_when_asked() {
    let folder = Folder::new();
    let all = folder.path("autosave");
    for _ in 0..3 {
        let mut harness = app_that_keeps(settings(), keeps(&folder));
        open(&mut harness, &folder);
        two_states(&mut harness);
    }
    let left = session::autosave::recoverable(&all);
    assert_eq!(left.len(), 3);
    assert!(left.iter().all(|session| session.bytes > 1000), "{left:?}");
    // Beyond the room there is, the oldest are proposed, never the newest.
    let each = left[0].bytes;
    assert!(session::autosave::surplus(&left, u64::MAX).is_empty());
    assert_eq!(session::autosave::surplus(&left, each * 5 / 2), &left[2..]);
    assert_eq!(session::autosave::surplus(&left, 0), &left[1..]);
    let mut harness = app_that_keeps(settings(), keeps(&folder));
    let oldest: Vec<_> = left[1..].iter().map(|session| session.folder.clone()).collect();
    harness.state_mut().act(Action::DiscardRecoverable(oldest));
    until(&mut harness, "them to go", |viewer| viewer.state.recoverable.len() == 1);
    assert_eq!(session::autosave::recoverable(&all), &left[..1]);
}

#[test]
fn what_a_crash_left_is_offered_and_restored() {
    let folder = Folder::new();
    let mut harness = app_that_keeps(settings(), keeps(&folder));
    open(&mut harness, &folder);
    two_states(&mut harness);
    let autosave = folder.path("autosave");
    let there = |states: usize| {
        let manifests = std::fs::read_dir(&autosave).into_iter().flatten().flatten();
        manifests
            .map(|entry| entry.path().join("chain.json"))
            .any(|file| std::fs::read_to_string(file).is_ok_and(|text| text.matches("\"picture\"").count() == states))
    };
    until(&mut harness, "the autosave", |_| there(2));
    assert!(session::autosave::recoverable(&autosave).is_empty(), "a session in use is not offered to others");
    let picture = document(&harness).history.current().picture.clone();
    // Not closed: gone. The photo is gone with it, as after a move; it was only linked, and is found no more.
    drop(harness);

    let mut harness = app_that_keeps(settings(), keeps(&folder));
    until(&mut harness, "the offer", |viewer| viewer.state.recoverable.len() == 1);
    harness.get_by_label("Restore photo.png").click();
    until(&mut harness, "the session", |viewer| count(viewer) == 3);
    assert_eq!(document(&harness).history.current().picture.load().unwrap(), picture.load().unwrap());
    assert!(document(&harness).is_unsaved(), "it is in no file of the user's yet");
    until(&mut harness, "a new autosave instead of the old one", |_| {
        std::fs::read_dir(&autosave).unwrap().count() == 1 && there(2)
    });
    // Another photo: what was unsaved stays on the disk for the next start.
    let other = folder.photo("other.png", 64, 64);
    harness.state_mut().act(Action::OpenFile(other));
    until(&mut harness, "the other photo", |viewer| {
        viewer.state.document.as_ref().is_some_and(|d| d.name == "other.png")
    });
    drop(harness);
    let left = session::autosave::recoverable(&autosave);
    assert_eq!(left.iter().map(|left| left.states).collect::<Vec<_>>(), [2]);

    // Started with a photo, the offer is a message; it can be thrown away.
    let mut harness = app_that_keeps(settings(), keeps(&folder));
    open(&mut harness, &folder);
    until(&mut harness, "the offer", |viewer| !viewer.state.recoverable.is_empty());
    harness.state_mut().act(Action::DiscardRecoverable(vec![left[0].folder.clone()]));
    until(&mut harness, "it to go", |viewer| viewer.state.recoverable.is_empty());
    assert!(!left[0].folder.exists());
}

#[test]
fn a_vanished_photo_and_a_bad_place_lose_nothing() {
    let folder = Folder::new();
    // A file where the folder should be: nothing can be kept there.
    std::fs::write(folder.path("autosave"), "no folder").unwrap();
    let mut harness = app_that_keeps(settings(), keeps(&folder));
    open(&mut harness, &folder);
    std::fs::remove_file(folder.path("photo.png")).unwrap();
    two_states(&mut harness);
    until(&mut harness, "the failure to be reported", |viewer| !viewer.state.messages.is_empty());
    harness.get_by_label("The session could not be saved");
    harness.state_mut().act(Command::Dismiss);
    harness.state_mut().act(Command::Run);
    until(&mut harness, "work to go on", |viewer| count(viewer) == 4 && idle(viewer));

    // Saved with a link to a photo that is gone, the photo goes inside.
    harness.state_mut().act(Command::ToggleLinkPhoto);
    let file = folder.path("work.coz");
    save(&mut harness, &file);
    let photo = document(&harness).history.photo().picture.clone();
    assert_eq!(session::open(&file).unwrap().history.photo().picture.load().unwrap(), photo.load().unwrap());

    // To where nothing can be written.
    harness.state_mut().act(Command::Dismiss);
    harness.state_mut().act(Action::SaveTo(folder.path("autosave/x.coz")));
    until(&mut harness, "the message", |viewer| {
        viewer.state.exporting.is_none() && matches!(viewer.state.messages.last(), Some(Message::UserError(_, _)))
    });
    assert_eq!(count(harness.state()), 4);
}

#[test]
fn an_exported_picture_rebuilds_its_chain() {
    let folder = Folder::new();
    let mut harness = app(settings());
    open(&mut harness, &folder);
    two_states(&mut harness);
    let states: Vec<_> = document(&harness).history.outline().iter().map(|(_, s)| s.picture.load().unwrap()).collect();
    for name in ["state.png", "state.webp", "state.jpg"] {
        let file = folder.path(name);
        harness.state_mut().act(Action::ExportTo(&stills::STATE, file.clone()));
        until(&mut harness, "the export", |viewer| matches!(viewer.state.messages.last(), Some(Message::Done(_))));
        harness.state_mut().act(Command::Dismiss);
        harness.step();
        let xmp = codec::xmp(&file).unwrap_or_else(|| panic!("{name} says nothing of itself"));
        assert!(xmp.contains("compositeWithTrainedAlgorithmicMedia"), "{name}");
    }

    let mut harness = app(Settings { backbone: Backbone::from(&BICUBIC), seed: 9, ..settings() });
    harness.input_mut().dropped_files = vec![Arc::new(Dropped(folder.path("state.png")))];
    harness.step();
    until(&mut harness, "the question", |viewer| viewer.state.rebuild.is_some());
    assert_eq!((count(harness.state()), idle(harness.state())), (1, true), "nothing runs because a file says so");
    harness.step();
    harness.get_by_label("Make them again").click();
    until(&mut harness, "the chain", |viewer| count(viewer) == 3 && idle(viewer) && viewer.state.queue.is_empty());
    let again: Vec<_> = document(&harness).history.outline().iter().map(|(_, s)| s.picture.load().unwrap()).collect();
    assert!(states.iter().zip(&again).all(|(a, b)| a == b), "the same pixels, by the model that made them");
    let record = document(&harness).history.current().record.clone().unwrap();
    assert_eq!((record.seed, record.prompt.as_str()), (42, "two foxes"));

    // Without its photo it is a photo itself, and says so.
    std::fs::remove_file(folder.path("photo.png")).unwrap();
    harness.state_mut().act(Action::OpenFile(folder.path("state.png")));
    until(&mut harness, "the picture", |viewer| count(viewer) == 1);
    assert_eq!(document(&harness).history.photo().picture.load().unwrap(), states[2]);
    assert!(matches!(harness.state().state.messages.last(), Some(Message::Done(line)) if line.contains("photo.png")));
}

#[test]
fn the_film_is_previewed_exported_and_stopped() {
    let folder = Folder::new();
    let mut harness = app(settings());
    open(&mut harness, &folder);
    harness.state_mut().act(Command::PlayFilm);
    until(&mut harness, "the refusal", |viewer| !viewer.state.messages.is_empty());
    harness.get_by_label("There is nothing to film");
    harness.state_mut().act(Command::Dismiss);
    two_states(&mut harness);

    harness.key_press_modifiers(Modifiers::COMMAND, Key::M);
    harness.step();
    harness.step();
    harness.get_by_label("Export as MP4 or GIF…");
    harness.get_by_label("Preview the film").click();
    harness.step();
    harness.step();
    assert!(document(&harness).film.is_some() && !harness.state().state.film_options);
    harness.render().expect("the film is drawn by the canvas");
    harness.key_press(Key::Escape);
    harness.step();
    harness.step();
    assert!(document(&harness).film.is_none());

    let film = &mut harness.state_mut().state.settings.film;
    (film.width, film.height, film.fps, film.seconds_per_4x) = (320, 180, 10, 0.5);
    let file = folder.path("film");
    harness.state_mut().act(Action::FilmTo(file.clone()));
    until(&mut harness, "the film", |viewer| matches!(viewer.state.messages.last(), Some(Message::Done(_))));
    assert!(file.with_extension("mp4").is_file() && harness.state().state.exporting.is_none());

    let film = &mut harness.state_mut().state.settings.film;
    film.seconds_per_4x = 20.0;
    let long = folder.path("long.mp4");
    harness.state_mut().act(Command::Dismiss);
    harness.state_mut().act(Action::FilmTo(long.clone()));
    harness.step();
    harness.state_mut().act(Action::FilmTo(folder.path("second.mp4")));
    harness.step();
    harness.step();
    harness.get_by_label("One export runs already: wait, or stop it");
    harness.get_by_label("Stop the export").click();
    until(&mut harness, "it to stop", |viewer| viewer.state.exporting.is_none());
    let names: Vec<_> = std::fs::read_dir(folder.root()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!long.exists() && names.iter().all(|name| !name.to_string_lossy().contains(".part")), "{names:?}");
}

#[test]
fn a_large_picture_is_seen_before_it_is_decoded() {
    let folder = Folder::new();
    // Turned by its EXIF orientation, as phones write them.
    let file = folder.path("large.jpg");
    let mut bytes = Vec::new();
    let grain = |x: u32, y: u32| (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(97)).wrapping_mul(2_246_822_519) >> 26;
    let picture = chain_of_zoom::imaging::Picture::from_fn(9000, 6000, |x, y| {
        let shade = grain(x, y) as u8;
        if x < 4500 { [250 - shade, shade, shade] } else { [shade, shade, 250 - shade] }
    });
    codec::save(&picture, &file).unwrap();
    let jpeg = std::fs::read(&file).unwrap();
    bytes.extend(&jpeg[..2]);
    // APP1 with one tag: orientation 6, a quarter turn to the right.
    bytes.extend(b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0");
    bytes.extend(&jpeg[2..]);
    std::fs::write(&file, bytes).unwrap();

    let mut harness = app(settings());
    harness.state_mut().act(Action::OpenFile(file));
    let previewed = |viewer: &Viewer| viewer.state.opening.as_ref().and_then(|opening| opening.preview.clone());
    until(&mut harness, "a preview", |viewer| previewed(viewer).is_some() || viewer.state.document.is_some());
    let preview = previewed(harness.state()).expect("it comes before the picture");
    assert_eq!((preview.size, preview.picture.width() < preview.picture.height()), ([6000, 9000], true));
    assert!(preview.fraction > 0.0 && preview.fraction < 1.0);
    harness.render().unwrap();
    let widths = harness.state().state.settings.panel_widths;
    until(&mut harness, "the picture", |viewer| viewer.state.document.is_some());
    let photo = document(&harness).history.photo().picture.load().unwrap();
    assert_eq!((photo.width(), photo.height()), (6000, 9000));
    assert!(photo.pixel(2500, 100)[0] > 150 && photo.pixel(2500, 8900)[2] > 150, "upright");
    assert!(harness.state().state.opening.is_none());
    let usual = Settings::default().panel_widths;
    assert_eq!((widths, harness.state().state.settings.panel_widths), (usual, usual), "the panels do not move");
}

#[test]
fn a_lost_graphics_device_closes_the_window_with_everything_kept() {
    let folder = Folder::new();
    let keeps = keeps(&folder);
    let device = std::rc::Rc::new(std::cell::RefCell::new(None));
    let found = device.clone();
    let mut harness = Harness::builder().with_size(vec2(1100.0, 700.0)).wgpu().build_eframe(move |creation| {
        *found.borrow_mut() = creation.wgpu_render_state.as_ref().map(|state| state.device.clone());
        Viewer::new(creation, settings(), keeps).unwrap()
    });
    harness.step();
    open(&mut harness, &folder);
    two_states(&mut harness);
    let closes = |harness: &Harness<'_, Viewer>| {
        let output = harness.output();
        let commands = output.viewport_output.values().flat_map(|viewport| viewport.commands.clone());
        commands.into_iter().any(|command| command == egui::ViewportCommand::Close)
    };
    assert!(!closes(&harness));
    device.borrow().as_ref().unwrap().destroy();
    let start = Instant::now();
    while !closes(&harness) {
        assert!(start.elapsed() < Duration::from_secs(20), "the loss was not noticed");
        // As every frame that is drawn does.
        _ = device.borrow().as_ref().unwrap().poll(wgpu::PollType::Poll);
        harness.step();
    }
    drop(harness);
    let left = session::autosave::recoverable(&folder.path("autosave"));
    assert_eq!(left.iter().map(|left| left.states).collect::<Vec<_>>(), [2]);
    assert_eq!(session::open(&left[0].folder).unwrap().history.outline().len(), 3);
}
