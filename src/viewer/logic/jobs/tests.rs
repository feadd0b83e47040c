//! What happens to jobs when the engine tells of them.

use std::time::{Duration, Instant};

use egui_kittest::Harness;

use super::*;
use crate::base::{DeviceChoice, MemoryPlan, UserError};
use crate::imaging::{Picture, codec};
use crate::viewer::Persistence;
use crate::viewer::actions::Action;
use crate::viewer::settings::Settings;

fn until(harness: &mut Harness<'_, Viewer>, holds: impl Fn(&Viewer) -> bool) {
    let start = Instant::now();
    while !holds(harness.state()) {
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", harness.state().state.messages);
        std::thread::sleep(Duration::from_millis(5));
        harness.step();
    }
}

fn with_photo() -> Harness<'static, Viewer> {
    let folder = tempfile::tempdir().expect("there is room");
    let file = folder.path().join("photo.png");
    codec::save(&Picture::from_fn(100, 80, |x, y| [x as u8, y as u8, 9]), &file).expect("there is room");
    let settings = Settings { process_size: 64, prefetch: false, ..Settings::default() };
    let mut harness = Harness::builder()
        .wgpu()
        .build_eframe(|creation| Viewer::new(creation, settings, Persistence::default()).expect("it starts"));
    harness.step();
    harness.state_mut().act(Action::OpenFile(file));
    until(&mut harness, |viewer| viewer.state.document.is_some());
    harness.step();
    harness
}

#[test]
fn memory_that_runs_out_while_a_prompt_is_written_starts_no_step() {
    let mut harness = with_photo();
    let viewer = harness.state_mut();
    viewer.move_box([0, 0]);
    viewer.caption_box(false);
    let job = viewer.state.running.as_ref().map(|running| running.job).expect("the prompt is being written");
    let remedy = Remedy::Memory(MemoryPlan::Streamed);
    let problem = UserError { remedy: Some(remedy), ..UserError::new("Out of memory", "there was none left", "") };
    viewer.take_event(Event::Finished { job, outcome: JobOutcome::Failed(problem) });
    assert!(viewer.state.running.is_none());
    viewer.act(Action::GoOnWith(remedy));
    harness.step();
    until(&mut harness, |viewer| viewer.state.running.is_none());
    harness.run_steps(5);
    let document = harness.state().state.document.as_ref().expect("it is open");
    assert!(document.history.is_empty() && document.placed.is_some(), "the box waits, and nothing was made");
    assert_eq!(harness.state().state.settings.memory, MemoryPlan::Streamed);
}

#[test]
fn a_step_goes_on_without_a_device_that_has_stopped() {
    let mut harness = with_photo();
    let viewer = harness.state_mut();
    viewer.state.settings.device = DeviceChoice::Cpu;
    viewer.move_box([0, 0]);
    viewer.run_placed();
    let job = viewer.state.running.as_ref().map(|running| running.job).expect("it runs");
    viewer.engine.cancel();
    let remedy = Remedy::Device(DeviceChoice::Auto);
    let problem =
        UserError { remedy: Some(remedy), ..UserError::new("The graphics card has stopped", "launch failure", "") };
    viewer.take_event(Event::Finished { job, outcome: JobOutcome::Failed(problem) });
    harness.step();
    harness.state_mut().act(Action::GoOnWith(remedy));
    harness.step();
    assert!(harness.state().state.messages.is_empty(), "{:?}", harness.state().state.messages);
    until(&mut harness, |viewer| viewer.state.running.is_none());
    let state = &harness.state().state;
    assert_eq!(state.settings.device, DeviceChoice::Auto);
    assert_eq!(state.document.as_ref().map(|document| document.history.outline().len()), Some(2), "the step was made");
}
