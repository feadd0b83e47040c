//! Trainings that stop and go on: on purpose, by Ctrl+C, or killed.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{assert_same, checkpoint, command, log, photos, said, train};
use crate::samples::Folder;
use chain_of_zoom::train::vlm::checkpoint::latest;

/// Two prompts of two micro-batches, a schedule.
const OPTIONS: [&str; 8] = [
    "--gradient_accumulation_steps",
    "2",
    "--lr_scheduler",
    "cosine",
    "--lr_warmup_steps",
    "2",
    "--validation_steps",
    "2",
];

fn options<'a>(steps: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&OPTIONS[..], &["--max_train_steps", steps], more].concat()
}

#[test]
fn three_steps_and_three_more_are_six() {
    let folder = Folder::new();
    photos(&folder, 4);
    // The second way stops in the middle of what was sampled together.
    for (name, more) in [("one", &[][..]), ("several", &["--steps_per_generation", "2", "--num_iterations", "2"])] {
        let (at_once, in_two) = (folder.path(&format!("{name}/at_once")), folder.path(&format!("{name}/in_two")));
        let run = |out: &Path, steps: &str, resume: &[&str]| {
            let all =
                options(steps, &[&["--checkpointing_steps", "3", "--lr_scheduler", "constant"], more, resume].concat());
            let output = train(&folder, out, &all);
            assert!(output.status.success(), "{name}: {}", said(&output));
        };
        run(&at_once, "6", &[]);
        run(&in_two, "6", &[]);
        std::fs::remove_dir_all(checkpoint(&in_two, 6)).unwrap();
        run(&in_two, "6", &["--resume_from_checkpoint", "latest"]);
        assert_same(&at_once, &in_two, 6);
        let validation = |out: &Path| std::fs::read_to_string(out.join("validation.csv")).unwrap();
        assert_eq!(validation(&at_once), validation(&in_two));
    }
}

#[test]
fn old_checkpoints_go() {
    let folder = Folder::new();
    photos(&folder, 2);
    let out = folder.path("out");
    let more = ["--checkpointing_steps", "1", "--checkpoints_total_limit", "2"];
    assert!(train(&folder, &out, &options("4", &more)).status.success());
    assert!((1..=4).all(|step| checkpoint(&out, step).exists() == (step > 2)));
}

fn wait_for(is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "it has not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_ends() {
    let folder = Folder::new();
    photos(&folder, 2);
    let out = folder.path("out");
    let mut child = command(&folder, &out, &options("100000", &[])).spawn().unwrap();
    wait_for(|| log(&out).len() > 3);
    // SAFETY: our own child.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGINT) };
    assert!(child.wait().unwrap().success());
    assert_eq!(latest(&out).unwrap(), checkpoint(&out, log(&out).len()));
}

#[test]
fn killed_ten_times_it_comes_to_the_same() {
    let folder = Folder::new();
    photos(&folder, 3);
    let (steady, killed) = (folder.path("steady"), folder.path("killed"));
    let more = ["--checkpointing_steps", "1", "--steps_per_generation", "2"];
    assert!(train(&folder, &steady, &options("24", &more)).status.success());
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..10 {
        let before = latest(&killed);
        let resume: &[&str] = if before.is_some() { &["--resume_from_checkpoint", "latest"] } else { &[] };
        let mut command = command(&folder, &killed, &options("24", &[&more[..], resume].concat()));
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let at_its_start = rng.u8(0..4) == 0;
        while !at_its_start && latest(&killed) == before && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(rng.u64(0..100)));
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success(), "the run ended before");
    }
    println!("killed ten times, at last at {:?}", latest(&killed));
    let resume = ["--resume_from_checkpoint", "latest"];
    let last = train(&folder, &killed, &options("24", &[&more[..], &resume].concat()));
    assert!(last.status.success(), "{}", said(&last));
    assert_same(&steady, &killed, 24);
}

#[test]
fn what_cannot_be_saved_is_saved_later() {
    let folder = Folder::new();
    photos(&folder, 2);
    let out = folder.path("out");
    std::fs::create_dir_all(&out).unwrap();
    // In the way of the folder.
    let blocked = out.join(".checkpoint-1.part");
    std::fs::write(&blocked, "").unwrap();
    let output = train(&folder, &out, &options("3", &["--checkpointing_steps", "1"]));
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains(".checkpoint-1.part") && said(&output).contains("the training goes on"));
    assert!(!checkpoint(&out, 1).exists() && checkpoint(&out, 2).exists() && checkpoint(&out, 3).exists());
}
