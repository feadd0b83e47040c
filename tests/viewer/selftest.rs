//! The self-test in its window.

use egui_kittest::Harness;
use egui_kittest::kittest::Queryable;

use super::{app, settings, until};
use chain_of_zoom::base::DeviceChoice;
use chain_of_zoom::viewer::Viewer;
use chain_of_zoom::viewer::commands::Command;
use chain_of_zoom::viewer::selftest::Phase;
use chain_of_zoom::viewer::settings::Settings;

/// A window of the built program.
fn app_of(device: DeviceChoice) -> Harness<'static, Viewer> {
    let mut harness = app(Settings { device, ..settings() });
    harness.state_mut().state.selftest.program = env!("CARGO_BIN_EXE_coz").into();
    harness
}

#[test]
fn the_selftest_runs_in_its_window_and_tells_what_a_report_needs() {
    let mut harness = app_of(DeviceChoice::Cpu);
    harness.get_by_label("Menu").click();
    harness.run_steps(3);
    harness.get_by_label("Help").click();
    harness.run_steps(3);
    harness.get_by_label_contains("Self-test…").click();
    harness.run_steps(3);
    assert!(harness.query_by_label("Copy report").is_none(), "there is nothing to copy yet");
    harness.get_by_label("Run the self-test").click();
    until(&mut harness, "the first checks", |viewer| viewer.state.selftest.outcomes.len() > 8);
    assert_eq!(harness.state().state.selftest.phase, Phase::Running);
    assert!(harness.query_by_label("transformer passed").is_some());
    harness.get_by_label("Copy report").click();
    let copied = (0..5).find_map(|_| {
        harness.step();
        harness.output().platform_output.commands.iter().find_map(|command| match command {
            egui::OutputCommand::CopyText(text) => Some(text.clone()),
            _ => None,
        })
    });
    let report = copied.unwrap();
    for wanted in ["coz 0.1.0, libtorch 2.11.0", "cpu (", " on linux", "transformer ", "of the first "] {
        assert!(report.contains(wanted), "{wanted:?} is missing in {report}");
    }
    harness.get_by_label("Stop the self-test").click();
    until(&mut harness, "the stop", |viewer| viewer.state.selftest.phase == Phase::Stopped);
    assert!(harness.query_by_label_contains("Stopped: ").is_some());
    let seen = harness.state().state.selftest.outcomes.len();
    harness.state_mut().act(Command::Cancel);
    harness.run_steps(20);
    assert_eq!(harness.state().state.selftest.outcomes.len(), seen, "late outcomes are dropped");
    assert!(harness.query_by_label("Run the self-test").is_none(), "Esc closes the window");
}

#[test]
fn a_selftest_that_cannot_begin_says_why() {
    let mut harness = app_of(DeviceChoice::Cuda(99));
    harness.state_mut().act(Command::RunSelftest);
    until(&mut harness, "the failure", |viewer| matches!(viewer.state.selftest.phase, Phase::Failed(_)));
    assert!(harness.query_by_label_contains("no device cuda:99").is_some());
}

#[test]
fn a_selftest_that_breaks_off_says_so() {
    let mut harness = app_of(DeviceChoice::Cpu);
    harness.state_mut().state.selftest.program = "/bin/false".into();
    harness.state_mut().act(Command::RunSelftest);
    until(&mut harness, "the failure", |viewer| matches!(viewer.state.selftest.phase, Phase::Failed(_)));
    assert!(harness.query_by_label_contains("The self-test broke off: it ended without a word").is_some());
}
