//! `coz train sr` as a user runs it, on a tiny model and scenes that the program draws.

mod losses;
mod processes;
mod resume;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::samples::{Folder, coz};
use chain_of_zoom::imaging::codec;
use chain_of_zoom::train::scenes;

/// Side of the pictures that are trained on.
const SIDE: &str = "64";

fn fixture(name: &str) -> String {
    format!("{}/tests/parity/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Scenes in a folder, and a list of them.
fn drawn(folder: &Folder, name: &str, count: usize, seed: u64) -> PathBuf {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut list = String::new();
    for i in 0..count {
        let file = folder.path(&format!("{name}/{i:03}.png"));
        codec::save(&scenes::scene(&mut rng, 96), &file).unwrap();
        list += &format!("{}\n", file.display());
    }
    let file = folder.path(&format!("{name}.txt"));
    std::fs::write(&file, list).unwrap();
    file
}

/// LPIPS's two files under their plain names.
fn weights(folder: &Folder) -> PathBuf {
    let to = folder.path("weights");
    std::fs::create_dir_all(&to).unwrap();
    std::fs::copy(fixture("train/vgg16.pth"), to.join("vgg16.pth")).unwrap();
    std::fs::copy(fixture("train/lpips.pth"), to.join("lpips_vgg.pth")).unwrap();
    to
}

fn train(folder: &Folder, list: &Path, out: &Path, more: &[&str]) -> Output {
    command(folder, list, out, more).output().unwrap()
}

fn command(folder: &Folder, list: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = command_with_prompts(folder, list, out);
    command.arg("--null_prompt").args(more);
    command
}

fn command_with_prompts(folder: &Folder, list: &Path, out: &Path) -> Command {
    let (sd3, weights) = (fixture("sd3"), weights(folder));
    let mut command =
        coz(["train", "sr", "--dataset_txt_paths_list", list.to_str().unwrap(), "--output_dir", out.to_str().unwrap()]);
    command.args(["--pretrained_model_name_or_path", &sd3, "--metrics_weights", weights.to_str().unwrap()]).args([
        "--resolution",
        SIDE,
        "--device",
        "cpu",
    ]);
    command
}

/// The numbers of all steps, without the time they took.
fn losses(out: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(out.join("losses.csv")).unwrap();
    text.lines().map(|line| line.rsplit_once(',').unwrap().0.to_owned()).collect()
}

/// Two runs have come to the same at this step, to the bit.
fn assert_same(a: &Path, b: &Path, step: usize) {
    assert_eq!(losses(a), losses(b));
    for file in chain_of_zoom::train::sr::state::files(Path::new(""), step) {
        assert!(std::fs::read(a.join(&file)).unwrap() == std::fs::read(b.join(&file)).unwrap(), "{}", file.display());
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_is_trained_is_used_by_zoom_and_the_same_with_any_number_of_workers() {
    let folder = Folder::new();
    let list = drawn(&folder, "scenes", 5, 1);
    let run = |name: &str, workers: &str| {
        let out = folder.path(name);
        let steps = ["--max_train_steps", "3", "--dataloader_num_workers", workers, "--learning_rate", "0.001"];
        let output = train(&folder, &list, &out, &steps);
        assert!(output.status.success(), "{}", said(&output));
        out
    };
    let (one, three) = (run("one", "1"), run("three", "3"));
    assert_same(&one, &three, 3);
    let (photo, out) = (folder.photo("photo.png", 96, 96), folder.path("zoomed"));
    let (lora, vae) = (one.join("checkpoints/model_3.pkl"), one.join("checkpoints_vae/vae_encoder_3.pt"));
    let zoom = coz(["zoom", "-i", photo.to_str().unwrap(), "-o", out.to_str().unwrap(), "--rec_num", "1"])
        .args(["--process_size", "64", "--backbone", "sd3", "--pretrained_model_name_or_path", &fixture("sd3")])
        .args(["--lora_path", lora.to_str().unwrap(), "--vae_path", vae.to_str().unwrap(), "--device", "cpu"])
        .output()
        .unwrap();
    assert!(zoom.status.success(), "{}", said(&zoom));
    assert!(out.join("per-sample/photo/1.png").is_file());
}

#[test]
fn it_learns() {
    let folder = Folder::new();
    let list = drawn(&folder, "scenes", 24, 2);
    drawn(&folder, "validation", 4, 3);
    let validation = folder.path("validation");
    for seed in ["1", "2", "3"] {
        let out = folder.path(seed);
        let options =
            ["--max_train_steps", "20", "--validation_steps", "20", "--learning_rate", "0.002", "--seed", seed];
        let output =
            train(&folder, &list, &out, &[&options[..], &["--validation_dir", validation.to_str().unwrap()]].concat());
        assert!(output.status.success(), "{}", said(&output));
        let text = std::fs::read_to_string(out.join("validation.csv")).unwrap();
        let total =
            |line: &str| -> f64 { line.split(',').skip(1).take(2).map(|cell| cell.parse::<f64>().unwrap()).sum() };
        let (first, last) = (total(text.lines().nth(1).unwrap()), total(text.lines().last().unwrap()));
        println!("{text}");
        assert!(last < 0.8 * first, "seed {seed}: l2 + lpips was {first}, is {last}");
    }
}

#[test]
fn captions_are_learned_with_the_same_wherever_the_text_encoders_are() {
    let folder = Folder::new();
    let list = drawn(&folder, "scenes", 3, 1);
    let run = |name: &str, more: &[&str]| {
        let out = folder.path(name);
        let ram = fixture("ram/small/ram_swin_large_14m.pth");
        let output = command_with_prompts(&folder, &list, &out)
            .args(["--ram_path", &ram, "--max_train_steps", "2", "--train_batch_size", "1"])
            .args(more)
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {}", said(&output));
        assert!(said(&output).contains(&format!("memory plan: {name}")), "{}", said(&output));
        out
    };
    let resident = run("resident", &["--memory", "resident"]);
    for plan in ["staged", "streamed"] {
        assert_same(&resident, &run(plan, &["--memory", plan]), 2);
    }
    let output = command_with_prompts(&folder, &list, &folder.path("null"))
        .args(["--null_prompt", "--max_train_steps", "2", "--train_batch_size", "1"])
        .output()
        .unwrap();
    assert!(output.status.success());
    assert_ne!(losses(&resident), losses(&folder.path("null")), "captions count");
}

#[test]
fn what_a_step_looks_like_is_shown() {
    let folder = Folder::new();
    let (list, out) = (drawn(&folder, "scenes", 2, 1), folder.path("out"));
    assert!(train(&folder, &list, &out, &["--max_train_steps", "1"]).status.success());
    let size = |name: &str| {
        let picture = codec::open(&out.join("visualization").join(name)).unwrap();
        (picture.width(), picture.height())
    };
    assert_eq!((size("restoration/1.png"), size("vsd/1.png")), ((3 * 64, 64), (5 * 64, 64)));
}

#[test]
fn a_dry_run_tells_what_it_takes_and_leaves_nothing() {
    let folder = Folder::new();
    let (list, out) = (drawn(&folder, "scenes", 2, 1), folder.path("out"));
    let output = train(&folder, &list, &out, &["--dry_run", "--max_train_steps", "1000"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", said(&output));
    for line in ["data     2 items", "time     ", "memory   ", "files    "] {
        assert!(text.contains(line), "{text}");
    }
    assert!(!out.exists());
}

/// Where nothing larger than this many bytes can be written.
#[cfg(target_os = "linux")]
fn with_room(output: Command, kibibytes: u64) -> Output {
    let mut limited = Command::new("bash");
    let limit = format!("trap '' XFSZ; ulimit -f {kibibytes}; exec \"$@\"");
    limited.args(["-c", &limit, "bash"]).arg(output.get_program()).args(output.get_args());
    limited.envs(output.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited.output().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named_and_keeps_what_was_saved() {
    let folder = Folder::new();
    let (list, out) = (drawn(&folder, "scenes", 2, 1), folder.path("out"));
    assert!(train(&folder, &list, &out, &["--max_train_steps", "1"]).status.success());
    let options = ["--max_train_steps", "3", "--checkpointing_steps", "1", "--resume_from_checkpoint", "latest"];
    let output = with_room(command(&folder, &list, &out, &options), 350);
    let said = said(&output);
    assert!(!output.status.success() && said.contains("cannot write"), "{said}");
    assert!(said.contains("state_2") && said.contains("the training goes on"), "{said}");
    let left = walkdir::WalkDir::new(&out)
        .into_iter()
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "part"));
    assert_eq!(left.count(), 0);
    use chain_of_zoom::train::sr::state::files;
    assert!(files(&out, 1).iter().all(|file| file.is_file()));
    assert!(!files(&out, 2).iter().chain(&files(&out, 3)).any(|file| file.exists()), "nothing of what failed");
}

#[test]
fn what_could_not_be_saved_is_saved_later() {
    let folder = Folder::new();
    let (list, out) = (drawn(&folder, "scenes", 2, 1), folder.path("out"));
    // In the way of the folder.
    let blocked = out.join("checkpoints");
    std::fs::create_dir_all(&out).unwrap();
    std::fs::write(&blocked, "").unwrap();
    let mut command = command(&folder, &list, &out, &["--max_train_steps", "100000"]);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines =
        std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap())).map_while(Result::ok);
    let warning = lines.find(|line| line.contains("the training goes on")).unwrap();
    assert!(warning.contains("checkpoints"), "{warning}");
    std::fs::remove_file(&blocked).unwrap();
    let start = std::time::Instant::now();
    while !out.join("checkpoints_state").is_dir() && start.elapsed().as_secs() < 60 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(blocked.is_dir() && out.join("checkpoints_state").is_dir());
}

#[test]
fn what_cannot_be_trained_on_is_named() {
    let folder = Folder::new();
    let fails = |list: &Path, more: &[&str], reason: &str| {
        let output = train(&folder, list, &folder.path("out"), more);
        assert!(!output.status.success() && said(&output).contains(reason), "{reason}: {}", said(&output));
    };
    let small = folder.photo("small.png", 60, 200);
    let list = folder.path("list.txt");
    std::fs::write(&list, format!("{}\n", small.display())).unwrap();
    fails(&list, &[], "small.png: it is 60 x 200");
    std::fs::write(&list, "/nowhere/a.png\n").unwrap();
    fails(&list, &[], "list.txt, line 1: ");
    std::fs::write(&list, "\n").unwrap();
    fails(&list, &[], "list.txt: it names no photos");
    fails(&folder.path("none.txt"), &[], "none.txt");
    let good = drawn(&folder, "scenes", 2, 1);
    fails(&good, &["--dataset_prob_paths_list", "1,2"], "1 lists, and [1, 2]");
    let empty = folder.path("empty");
    std::fs::create_dir_all(&empty).unwrap();
    fails(&good, &["--validation_dir", empty.to_str().unwrap()], "no pictures to validate by");
    fails(&good, &["--resolution", "72"], "multiples of 16");
    fails(&good, &["--adam_beta1", "1"], "below 1");
    fails(&good, &["--pretrained_model_name_or_path", &fixture("qwen")], "qwen/text_encoder");
    fails(&good, &["--resume_from_checkpoint", &fixture("train/init.safetensors")], "is it a training's state?");
    let (steps, state) = (["--max_train_steps", "1"], folder.path("out/checkpoints_state/state_1.safetensors"));
    assert!(train(&folder, &good, &folder.path("out"), &steps).status.success());
    let resume = ["--resume_from_checkpoint", state.to_str().unwrap()];
    fails(&good, &[&resume[..], &["--lora_rank", "2"]].concat(), "this model has");
    fails(&good, &[&resume[..], &["--seed", "5"]].concat(), "its seed is another one");
    fails(&good, &[&resume[..], &["--shift_as_inference"]].concat(), "its shift_as_inference is another one");
    fails(&good, &[], "holds a training that has come to step 1");
    fails(
        &good,
        &["--learning_rate", "1e30", "--max_train_steps", "60", "--output_dir", folder.path("wild").to_str().unwrap()],
        "not finite",
    );
}
