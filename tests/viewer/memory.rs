//! What stays in memory.

use std::process::Command as Process;
use std::sync::Arc;

use super::{app, app_that_keeps, count, document, idle, open, settings, until};
use crate::samples::Folder;
use chain_of_zoom::base::{BICUBIC, Backbone, Region, memory};
use chain_of_zoom::document::StateId;
use chain_of_zoom::viewer::actions::Action;
use chain_of_zoom::viewer::commands::Command;
use chain_of_zoom::viewer::settings::Settings;
use chain_of_zoom::viewer::{Persistence, Viewer};

/// Set in the process that is measured.
const MEASURED: &str = "COZ_TEST_MEASURED";

#[test]
fn five_hundred_states_stay_within_the_budget() {
    const STATES: usize = 500;
    const BUDGET_MB: u32 = 64;
    if std::env::var_os(MEASURED).is_none() {
        // In a process of its own: other tests take memory too.
        let test = "viewer::memory::five_hundred_states_stay_within_the_budget";
        let run = Process::new(std::env::current_exe().unwrap()).args(["--exact", test]).env(MEASURED, "1").output();
        let run = run.unwrap();
        let said = [run.stdout, run.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(run.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let folder = Folder::new();
    let keeps = Persistence { settings: false, sessions: Some(folder.path("autosave")) };
    let picture_memory_mb = Some(BUDGET_MB);
    let backbone = Backbone::from(&BICUBIC);
    let base = Settings { process_size: 512, backbone, prefetch: false, picture_memory_mb, ..settings() };
    let mut harness = app_that_keeps(Settings { follow: false, ..base }, keeps);
    open(&mut harness, &folder);
    let make = |harness: &mut egui_kittest::Harness<'_, _>, up_to: usize| {
        let have = count(harness.state());
        for i in have..up_to {
            let (x, y) = ((i % 100) as u32 * 4, (i / 100) as u32 * 30);
            harness.state_mut().act(Action::QueueBox(StateId(0), Region::square(x, y, 128)));
        }
        until(harness, "the states", |viewer| count(viewer) == up_to && idle(viewer) && viewer.state.queue.is_empty());
    };
    make(&mut harness, 20);
    let before = memory::resident().unwrap();
    make(&mut harness, 1 + STATES);
    // Deleted and undone, some looked at.
    for i in 1..=STATES {
        harness.state_mut().act(Action::DeleteState(StateId(i)));
    }
    until(&mut harness, "all to be deleted", |viewer| count(viewer) == 1);
    for _ in 0..STATES {
        harness.state_mut().act(Command::Undo);
    }
    until(&mut harness, "all to be back", |viewer| count(viewer) == 1 + STATES);
    for i in (1..=STATES).step_by(20) {
        harness.state_mut().act(Action::GoTo(StateId(i)));
        until(&mut harness, "the state to be there", |viewer| {
            let document = viewer.state.document.as_ref().unwrap();
            let current = document.history.current();
            current.id == StateId(i) && current.picture.in_memory().is_some()
        });
    }
    // From the photo all are in sight. What fits is read, and then all is at rest.
    harness.state_mut().act(Command::GoToPhoto);
    until(&mut harness, "the photo", |viewer| {
        viewer.state.document.as_ref().unwrap().history.current().id == StateId(0)
    });
    harness.run_steps(20);
    let in_memory_now = |harness: &egui_kittest::Harness<'_, Viewer>| {
        let states = document(harness).history.with_deleted();
        states.filter(|state| state.picture.bytes() > 0).map(|state| state.id).collect::<Vec<_>>()
    };
    for _ in 0..200 {
        std::thread::sleep(std::time::Duration::from_millis(10));
        harness.step();
    }
    let at_rest = in_memory_now(&harness);
    for _ in 0..30 {
        std::thread::sleep(std::time::Duration::from_millis(10));
        harness.step();
        assert_eq!(in_memory_now(&harness), at_rest);
    }
    let in_memory = || document(&harness).history.with_deleted().map(|state| state.picture.bytes()).sum::<u64>();
    assert!(in_memory() <= (u64::from(BUDGET_MB) << 20) + 600 * 400 * 3 * 2, "{}", in_memory());
    let grown = memory::resident().unwrap().saturating_sub(before);
    assert!(grown <= (u64::from(BUDGET_MB) << 20) + 200_000_000, "{grown} bytes more, for 400 MB of pictures");
}

#[test]
fn a_closed_photo_is_let_go() {
    let folder = Folder::new();
    let mut harness = app(settings());
    open(&mut harness, &folder);
    // A pointer that rests has its box prefetched.
    let at = super::on_window(&harness, 300.0, 200.0);
    harness.hover_at(at);
    harness.run_steps(20);
    harness.state_mut().act(Command::Run);
    until(&mut harness, "a state", |viewer| count(viewer) == 2 && idle(viewer));
    let photo = document(&harness).history.photo().picture.load().unwrap();
    let kept = Arc::downgrade(&photo);
    drop(photo);
    harness.state_mut().act(Command::Close);
    until(&mut harness, "the photo to be let go", |_| kept.upgrade().is_none());
}
