//! `coz train vlm` as a user runs it, on a tiny model and a critic that likes some letters.

mod critics;
mod policy;
mod processes;
mod resume;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::samples::{Folder, coz};
use chain_of_zoom::runtime::weights::Weights;

pub const WORDS: &str = "words:e,a,i,o";

pub fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/qwen/untied")
}

/// A folder of photos.
pub fn photos(folder: &Folder, count: u32) -> PathBuf {
    for i in 0..count {
        folder.photo(&format!("photos/{i}.png"), 90 + 7 * i, 80);
    }
    folder.path("photos")
}

pub fn command(folder: &Folder, out: &Path, more: &[&str]) -> Command {
    let mut command =
        coz(["train", "vlm", "--vlm_path", model().to_str().unwrap(), "--output_dir", out.to_str().unwrap()]);
    command.args(["--data", folder.path("photos").to_str().unwrap(), "--critic", WORDS, "--device", "cpu"]);
    command.args(["--process_size", "64", "--max_completion_length", "8", "--num_generations", "4"]);
    command.args(["--learning_rate", "0.003"]).args(more);
    command
}

pub fn train(folder: &Folder, out: &Path, more: &[&str]) -> Output {
    command(folder, out, more).output().unwrap()
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The numbers of all steps, without the times they took.
pub fn log(out: &Path) -> Vec<Vec<f64>> {
    let text = std::fs::read_to_string(out.join("log.csv")).unwrap_or_default();
    let row = |line: &str| {
        let cells: Vec<f64> = line.split(',').map(|cell| cell.parse().unwrap()).collect();
        cells[..cells.len() - 3].to_vec()
    };
    text.lines().skip(1).map(row).collect()
}

/// A column of the log by its name.
pub fn column(out: &Path, name: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(out.join("log.csv")).unwrap();
    let at = text.lines().next().unwrap().split(',').position(|other| other == name).unwrap();
    text.lines().skip(1).map(|line| line.split(',').nth(at).unwrap().parse().unwrap()).collect()
}

pub fn checkpoint(out: &Path, step: usize) -> PathBuf {
    chain_of_zoom::train::vlm::checkpoint::folder(out, step)
}

/// Two runs have come to the same at this step, to the bit.
pub fn assert_same(a: &Path, b: &Path, step: usize) {
    assert_eq!(log(a), log(b));
    for file in ["adapter_model.safetensors", "adapter_config.json", "state.safetensors", "trainer_state.json"] {
        let read = |out: &Path| std::fs::read(checkpoint(out, step).join(file)).unwrap();
        assert!(read(a) == read(b), "{file}");
    }
}

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

#[test]
fn it_learns() {
    let folder = Folder::new();
    photos(&folder, 4);
    let learns = |name: &str, options: &[&str]| {
        let out = folder.path(name);
        let all = ["--num_generations", "16", "--validation_steps", "0"];
        let output = train(&folder, &out, &[&all[..], options].concat());
        assert!(output.status.success(), "{}", said(&output));
        let (rewards, kl) = (column(&out, "reward"), column(&out, "kl"));
        let last = |numbers: &[f64]| mean(&numbers[numbers.len() - 10..]);
        println!("{name}: {:.3} to {:.3}, KL {:.2}", rewards[0], last(&rewards), last(&kl));
        // It may be 1.5: all letters liked, no phrase, nothing again.
        assert!(last(&rewards) > rewards[0] + 0.5 * (1.5 - rewards[0]), "{name}: {rewards:?}");
        assert!(last(&kl) < 8.0, "{name}: {kl:?}");
    };
    for seed in ["1", "2", "3"] {
        learns(seed, &["--seed", seed, "--learning_rate", "0.002", "--beta", "0.1", "--max_train_steps", "60"]);
    }
    let free = ["--beta", "0", "--scale_rewards", "none", "--max_kl", "1000"];
    learns("free", &[&free[..], &["--learning_rate", "0.004", "--max_train_steps", "40"]].concat());
}

#[test]
fn equal_rewards_change_nothing_but_by_kl() {
    let folder = Folder::new();
    photos(&folder, 2);
    // Nobody likes this: all rewards are equal.
    let options = [
        "--critic",
        "words:unlikely-word",
        "--max_train_steps",
        "3",
        "--validation_steps",
        "0",
        "--reward_weights",
        "1,0,0",
    ];
    let adapter = |out: &Path, step: usize| {
        let weights = Weights::open(&checkpoint(out, step).join("adapter_model.safetensors")).unwrap();
        let names: Vec<String> = weights.shapes().into_keys().map(str::to_owned).collect();
        names.into_iter().map(|name| (weights.tensor(&name).unwrap().unwrap(), name)).collect::<Vec<_>>()
    };
    for beta in ["0", "0.5"] {
        let out = folder.path(&format!("new-{beta}"));
        let output = train(&folder, &out, &[&options[..], &["--beta", beta]].concat());
        assert!(output.status.success() && said(&output).contains("3 steps had no gradient"), "{}", said(&output));
        let up = adapter(&out, 3).into_iter().filter(|(_, name)| name.contains("lora_B"));
        assert!(up.map(|(tensor, _)| tensor.abs().max().double_value(&[])).all(|largest| largest == 0.0));
    }
    // One that has gone away comes back, by KL alone.
    let gone = folder.path("gone");
    assert!(
        train(&folder, &gone, &["--max_train_steps", "8", "--beta", "0", "--validation_steps", "0"]).status.success()
    );
    let (lora, out) = (checkpoint(&gone, 8), folder.path("back"));
    let more = [
        "--vlm_lora_path",
        lora.to_str().unwrap(),
        "--beta",
        "1",
        "--max_train_steps",
        "12",
        "--adam_weight_decay",
        "0",
    ];
    let output = train(&folder, &out, &[&options[..], &more].concat());
    assert!(output.status.success(), "{}", said(&output));
    let kl = column(&out, "kl");
    assert!(mean(&kl[9..]) < 0.7 * mean(&kl[..3]) && kl[0] > 0.0, "{kl:?}");
}

#[test]
fn what_is_trained_is_used_by_zoom_at_once() {
    let folder = Folder::new();
    photos(&folder, 2);
    let out = folder.path("out");
    let options = ["--max_train_steps", "12", "--learning_rate", "0.01", "--validation_steps", "6", "--beta", "0"];
    let output = train(&folder, &out, &options);
    assert!(output.status.success(), "{}", said(&output));
    let photo = folder.photo("photo.png", 96, 96);
    let prompts = |kind: &str, lora: &Path| {
        let to = folder.path(&format!("zoomed-{kind}"));
        let run = coz(["zoom", "--backbone", "bicubic", "--rec_num", "1", "--save_prompts", "--device", "cpu"])
            .args(["--process_size", "64", "--rec_type", "recursive_multiscale", "--prompt_type", kind])
            .args(["--vlm_path", model().to_str().unwrap(), "--vlm_lora_path", lora.to_str().unwrap()])
            .args(["-i", photo.to_str().unwrap(), "-o", to.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        std::fs::read_to_string(to.join("per-sample/photo/txt/0.txt")).unwrap()
    };
    let lora = checkpoint(&out, 12);
    assert_ne!(prompts("vlm", &lora), prompts("vlm_base", &lora));
    let validation = std::fs::read_to_string(out.join("validation.csv")).unwrap();
    assert_eq!(validation.lines().count(), 4, "steps 0, 6 and 12: {validation}");
    for file in ["rewards.svg", "kl.svg", "validation.svg", "validation/0.tsv", "validation/12.tsv", "config.toml"] {
        assert!(out.join(file).is_file(), "{file}");
    }
}

#[test]
fn a_dry_run_shows_prompts_and_rewards_and_leaves_nothing() {
    let folder = Folder::new();
    photos(&folder, 3);
    let out = folder.path("out");
    let output = train(&folder, &out, &["--dry_run", "--max_train_steps", "1000"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", said(&output));
    for line in [
        "data     2 pairs an epoch, 1 held out, 64 x 64",
        "prompt   The second image",
        "time     ",
        "memory   ",
        "files    2 checkpoints",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    // Two steps of four groups of four.
    assert_eq!(text.lines().filter(|line| line.contains("(critic 0.")).count(), 32, "{text}");
    assert!(!out.exists());
}

#[test]
fn pairs_are_shown_without_a_model() {
    let folder = Folder::new();
    photos(&folder, 3);
    let out = folder.path("out");
    let output = train(&folder, &out, &["--preview_data", "2", "--vlm_path", "/nowhere"]);
    assert!(output.status.success(), "{}", said(&output));
    for file in ["preview.png", "preview/000_first.png", "preview/001_second.png"] {
        assert!(out.join(file).is_file(), "{file}");
    }
}

#[test]
fn the_options_of_a_run_lead_to_the_same_run() {
    let folder = Folder::new();
    photos(&folder, 3);
    let (first, second) = (folder.path("first"), folder.path("second"));
    let given =
        ["--max_train_steps", "2", "--loss_type", "dapo", "--report_to", "tensorboard", "--excluded_phrases", "a b,c"];
    let output = train(&folder, &first, &given);
    assert!(output.status.success(), "{}", said(&output));
    let config = first.join("config.toml");
    let again = ["train", "vlm", "--config_file", config.to_str().unwrap(), "-o", second.to_str().unwrap()];
    let output = coz(again).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_same(&first, &second, 2);
    assert_eq!(std::fs::read_dir(second.join("logs")).unwrap().count(), 1);
}

#[test]
fn it_ends_where_there_is_nothing_more_to_learn_or_all_is_lost() {
    let folder = Folder::new();
    photos(&folder, 2);
    let flat = [
        "--critic",
        "words:unlikely-word",
        "--early_stopping_steps",
        "3",
        "--max_train_steps",
        "100",
        "--reward_weights",
        "1,0,0",
    ];
    let output = train(&folder, &folder.path("flat"), &flat);
    assert!(
        output.status.success() && said(&output).contains("all rewards of each group were equal"),
        "{}",
        said(&output)
    );
    assert!(checkpoint(&folder.path("flat"), 3).is_dir());
    let out = folder.path("lost");
    let lost = [
        "--learning_rate",
        "0.05",
        "--beta",
        "0",
        "--max_kl",
        "0.5",
        "--max_train_steps",
        "200",
        "--checkpointing_steps",
        "1",
    ];
    let output = train(&folder, &out, &lost);
    assert!(!output.status.success() && said(&output).contains("The training has collapsed"), "{}", said(&output));
    let steps = log(&out).len();
    assert!(!checkpoint(&out, steps).exists() && checkpoint(&out, steps - 1).exists(), "what was before is kept");
}

#[test]
fn completions_that_are_cut_off_may_be_left_out() {
    let folder = Folder::new();
    photos(&folder, 2);
    let out = folder.path("out");
    // One token each: nearly all are cut off.
    let options =
        ["--max_completion_length", "1", "--mask_truncated_completions", "--max_train_steps", "4", "--beta", "0.5"];
    let output = train(&folder, &out, &options);
    assert!(output.status.success(), "{}", said(&output));
    assert!(column(&out, "truncated_share").iter().all(|&share| share > 0.5));
    assert!(column(&out, "loss").iter().all(|loss| loss.is_finite()));
}

#[test]
fn what_cannot_be_trained_on_is_named() {
    let folder = Folder::new();
    photos(&folder, 2);
    let fails = |more: &[&str], reason: &str| {
        let output = train(&folder, &folder.path("out"), more);
        assert!(!output.status.success() && said(&output).contains(reason), "{reason}: {}", said(&output));
    };
    let empty = folder.path("empty");
    std::fs::create_dir_all(&empty).unwrap();
    fails(&["--data", empty.to_str().unwrap()], "it has no pictures");
    fails(&["--data", "/nowhere"], "/nowhere");
    fails(&["--critic", "/nowhere"], "/nowhere");
    fails(&["--vlm_path", empty.to_str().unwrap()], "empty");
    fails(&["--reward_weights", "1,2"], "Three weights");
    fails(&["--temperature", "0"], "above 0");
    fails(&["--memory", "streamed"], "staged");
    fails(&["--num_generations", "1"], "num");
    fails(&["--loss_type", "ppo"], "ppo");
    let other = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/qwen/adapter");
    fails(&["--vlm_lora_path", other.to_str().unwrap()], "layers.");
    std::fs::write(folder.path("photos/bad.png"), "no picture").unwrap();
    fails(&[], "bad.png");
    let output = train(&folder, &folder.path("skipped"), &["--skip_bad", "--max_train_steps", "1"]);
    assert!(output.status.success() && said(&output).contains("bad.png"), "{}", said(&output));
    std::fs::remove_file(folder.path("photos/bad.png")).unwrap();
    let out = folder.path("out");
    assert!(train(&folder, &out, &["--max_train_steps", "1"]).status.success());
    fails(&[], "holds a training that has come to step 1");
    let resume = ["--resume_from_checkpoint", "latest", "--max_train_steps", "2"];
    fails(&[&resume[..], &["--seed", "5"]].concat(), "its seed is another one");
    fails(&[&resume[..], &["--num_generations", "2"]].concat(), "its num_generations is another one");
    fails(&[&resume[..], &["--deeper_share", "0"]].concat(), "its data is another one");
}
