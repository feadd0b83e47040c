//! Trainings that stop and go on: on purpose, by Ctrl+C, or killed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{assert_same, command, drawn, losses, said, train};
use crate::samples::Folder;
use chain_of_zoom::train::sr::state;

/// A schedule, several micro-batches and validation: all of it must go on where it was.
const OPTIONS: [&str; 10] = [
    "--learning_rate",
    "0.003",
    "--lr_scheduler",
    "cosine",
    "--lr_warmup_steps",
    "2",
    "--train_batch_size",
    "1",
    "--gradient_accumulation_steps",
    "3",
];

fn options<'a>(steps: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&OPTIONS[..], &["--max_train_steps", steps], more].concat()
}

#[test]
fn three_steps_and_three_more_are_six() {
    let folder = Folder::new();
    let list = drawn(&folder, "scenes", 5, 1);
    drawn(&folder, "validation", 2, 3);
    let validation = folder.path("validation");
    let validated = ["--validation_dir", validation.to_str().unwrap(), "--validation_steps", "2"];
    let (at_once, in_two) = (folder.path("at_once"), folder.path("in_two"));
    let run = |out: &Path, more: &[&str]| {
        let output = train(&folder, &list, out, &options("6", &[&validated[..], more].concat()));
        assert!(output.status.success(), "{}", said(&output));
    };
    run(&at_once, &["--checkpointing_steps", "2"]);
    run(&in_two, &["--checkpointing_steps", "2"]);
    // As if it had ended behind step 3, in the middle of writing a row.
    for step in [5, 6] {
        state::delete(&in_two, step).unwrap();
    }
    let log = in_two.join("losses.csv");
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, &text[..text.len() - 30]).unwrap();
    run(&in_two, &["--checkpointing_steps", "2", "--resume_from_checkpoint", "latest"]);
    assert_same(&at_once, &in_two, 6);
    let validation = |out: &Path| std::fs::read_to_string(out.join("validation.csv")).unwrap();
    assert_eq!(validation(&at_once), validation(&in_two));
    assert_eq!(validation(&at_once).lines().count(), 5, "steps 0, 2, 4 and 6");
    for file in ["losses.svg", "validation.svg", "validation/0.png", "validation/6.png"] {
        assert!(at_once.join(file).is_file(), "{file}");
    }
}

#[test]
fn the_options_of_a_run_lead_to_the_same_run() {
    let folder = Folder::new();
    let list = drawn(&folder, "scenes", 3, 1);
    let (first, second) = (folder.path("first"), folder.path("second"));
    let given =
        options("2", &["--report_to", "tensorboard", "--lambda_lpips", "1.5", "--dataset_prob_paths_list", "2"]);
    assert!(train(&folder, &list, &first, &given).status.success());
    let config = first.join("config.toml");
    let output =
        crate::samples::coz(["train", "sr", "--config_file", config.to_str().unwrap(), "-o", second.to_str().unwrap()])
            .output()
            .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_same(&first, &second, 2);
    let events = std::fs::read_dir(second.join("logs")).unwrap().count();
    assert_eq!(events, 1);
}

#[test]
fn old_checkpoints_go() {
    let folder = Folder::new();
    let (list, out) = (drawn(&folder, "scenes", 3, 1), folder.path("out"));
    let more = ["--checkpointing_steps", "1", "--checkpoints_total_limit", "2"];
    assert!(train(&folder, &list, &out, &options("5", &more)).status.success());
    for step in 1..=5 {
        let is_there = |file: &PathBuf| file.exists();
        assert!(state::files(&out, step).iter().all(is_there) == (step > 3), "{step}");
        assert!(state::files(&out, step).iter().any(is_there) == (step > 3), "{step}");
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_finishes_the_step_and_saves() {
    let folder = Folder::new();
    let (list, out) = (drawn(&folder, "scenes", 3, 1), folder.path("out"));
    let mut child = command(&folder, &list, &out, &options("100000", &[])).spawn().unwrap();
    wait_for(|| out.join("losses.csv").is_file() && losses(&out).len() > 3);
    // SAFETY: our own child.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGINT) };
    assert!(child.wait().unwrap().success());
    let step = losses(&out).len() - 1;
    assert_eq!(state::latest(&out).unwrap(), state::files(&out, step)[3]);
}

fn wait_for(is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "it has not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn killed_twenty_times_it_comes_to_the_same() {
    let folder = Folder::new();
    let list = drawn(&folder, "scenes", 5, 1);
    let (steady, killed) = (folder.path("steady"), folder.path("killed"));
    let more = ["--checkpointing_steps", "1", "--gradient_accumulation_steps", "1"];
    assert!(train(&folder, &list, &steady, &options("40", &more)).status.success());
    let mut rng = fastrand::Rng::with_seed(7);
    let mut kills = 0;
    while kills < 20 {
        let is_begun = state::latest(&killed).is_some();
        let resume: &[&str] = if is_begun { &["--resume_from_checkpoint", "latest"] } else { &[] };
        let mut child = command(&folder, &list, &killed, &options("40", &[&more[..], resume].concat()))
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let before = state::latest(&killed);
        // Anywhere from its start to a while behind its first step.
        let at_its_start = rng.u8(0..4) == 0;
        while !at_its_start && state::latest(&killed) == before && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(rng.u64(0..120)));
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            break;
        }
        kills += 1;
    }
    println!("killed {kills} times, at last at {:?}", state::latest(&killed));
    assert_eq!(kills, 20, "the run ended before");
    let last =
        train(&folder, &list, &killed, &options("40", &[&more[..], &["--resume_from_checkpoint", "latest"]].concat()));
    assert!(last.status.success(), "{}", said(&last));
    assert_same(&steady, &killed, 40);
}
