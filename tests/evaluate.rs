//! `coz evaluate` as a user runs it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;

use safetensors::SafeTensors;
use serde_json::Value;

use crate::parity::metrics::{key, network, networks, picture};
use crate::samples::{Folder, coz, photo};
use chain_of_zoom::base::{METRICS, sha256};
use chain_of_zoom::imaging::{Picture, codec};

fn evaluate(arguments: &[&str]) -> Output {
    coz(["evaluate", "--device", "cpu"]).args(arguments).env("TORCH_HOME", "/nonexistent").output().unwrap()
}

fn text(of: &[u8]) -> String {
    String::from_utf8_lossy(of).into_owned()
}

fn json(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Every file below a folder, by what is in it.
fn contents(folder: &Path) -> BTreeMap<std::path::PathBuf, String> {
    let files = walkdir::WalkDir::new(folder).into_iter().map(|entry| entry.unwrap().into_path());
    files.filter(|file| file.is_file()).map(|file| (file.clone(), sha256(&file).unwrap())).collect()
}

/// Runs of three photos, two steps each.
fn runs(folder: &Folder, types: &[&str]) {
    for (i, name) in ["a", "b", "c"].iter().enumerate() {
        folder.photo(&format!("photos/{name}.png"), 200 + 20 * i as u32, 180);
    }
    for rec_type in types {
        let (photos, out) = (folder.path("photos"), folder.path(rec_type));
        let fixed = ["--rec-num", "2", "--process-size", "128", "--device", "cpu"];
        let run = coz(["zoom", "-i", path(&photos), "-o", path(&out), "--rec-type", rec_type]).args(fixed).output();
        assert!(run.unwrap().status.success());
    }
}

#[test]
fn runs_are_scored_at_every_scale_and_compared() {
    let folder = Folder::new();
    runs(&folder, &["nearest", "bicubic"]);
    let (nearest, bicubic, out) = (folder.path("nearest"), folder.path("bicubic"), folder.path("scores"));
    let before = contents(&nearest);
    let arguments = [path(&nearest), path(&bicubic), "-o", path(&out), "--metrics", "niqe,musiq", "--paper", "div2k"];
    let run = evaluate(&arguments);
    assert!(run.status.success(), "{}", text(&run.stderr));
    assert_eq!(contents(&nearest), before, "nothing is written into a run");
    let (stdout, stderr) = (text(&run.stdout), text(&run.stderr));
    assert!(stderr.contains("MUSIQ is left out: musiq.pth (https://"), "{stderr}");
    assert!(stdout.contains("| Scale | Run | n | Failed | NIQE \u{2193} |"), "{stdout}");
    assert!(stdout.contains("| 16x | nearest | 3 |") && stdout.contains("| 16x | bicubic | 3 | 0 |"), "{stdout}");
    assert!(stdout.contains("| 4x | paper: CoZ, VLM |  |  | 4.6572 |"), "{stdout}");
    assert!(stdout.contains("Differences from nearest"), "{stdout}");
    assert!(
        stdout.lines().filter(|line| line.contains("**")).count() == 2,
        "one best a scale, none of equals: {stdout}"
    );
    assert_eq!(std::fs::read_to_string(out.join("summary.md")).unwrap(), stdout);
    let svg = std::fs::read_to_string(out.join("niqe.svg")).unwrap();
    assert!(svg.contains("NIQE") && svg.contains("16x") && svg.contains("bicubic"), "{svg}");
    // The means are those of the rows, and every row says what it is of.
    let details = json(&out.join("scores.json"));
    let pictures = details["pictures"].as_array().unwrap();
    assert_eq!(pictures.len(), 2 * 3 * 3);
    let score = |run: &str| {
        let of_run = pictures.iter().filter(|it| it["run"] == run && it["scale"] == 2);
        let scores: Vec<f64> = of_run.map(|it| it["scores"]["niqe"]["score"].as_f64().unwrap()).collect();
        scores.iter().sum::<f64>() / scores.len() as f64
    };
    let summary = std::fs::read_to_string(out.join("summary.csv")).unwrap();
    let row = summary.lines().find(|line| line.starts_with("16x,bicubic,niqe,3,0,")).unwrap();
    let mean: f64 = row.split(',').nth(5).unwrap().parse().unwrap();
    assert!((mean - score("bicubic")).abs() < 1e-9);
    assert_eq!(std::fs::read_to_string(out.join("scores.csv")).unwrap().lines().count(), 1 + 18);
    // A second run knows all of it.
    let rows = std::fs::read(out.join("scores.jsonl")).unwrap();
    let again = evaluate(&arguments);
    assert_eq!(text(&again.stdout), stdout);
    assert_eq!(std::fs::read(out.join("scores.jsonl")).unwrap(), rows);
}

#[test]
fn shards_join_to_the_same_and_a_cut_run_goes_on() {
    let folder = Folder::new();
    runs(&folder, &["bicubic"]);
    let (run, whole, parts) = (folder.path("bicubic"), folder.path("whole"), folder.path("parts"));
    let all = evaluate(&[path(&run), "-o", path(&whole), "--metrics", "niqe"]);
    for shard in ["1/2", "2/2"] {
        let part = evaluate(&[path(&run), "-o", path(&parts), "--metrics", "niqe", "--shard", shard]);
        assert!(part.status.success() && part.stdout.is_empty(), "{}", text(&part.stderr));
    }
    // What a kill has cut short is judged again.
    let second = parts.join("scores-2-of-2.jsonl");
    let rows = std::fs::read(&second).unwrap();
    std::fs::write(&second, &rows[..rows.len() - 20]).unwrap();
    let joined = evaluate(&[path(&run), "-o", path(&parts), "--metrics", "niqe"]);
    assert_eq!(text(&joined.stdout), text(&all.stdout));
    let new = std::fs::read_to_string(parts.join("scores.jsonl")).unwrap();
    assert_eq!(new.lines().filter(|line| !line.is_empty()).count(), 1);
    assert_eq!(json(&parts.join("scores.json"))["pictures"], json(&whole.join("scores.json"))["pictures"]);
}

#[test]
fn weights_are_found_by_plain_names_and_scores_are_those_of_the_fixture() {
    let folder = Folder::new();
    let bytes = networks();
    let all = SafeTensors::deserialize(&bytes).unwrap();
    let names: Vec<&str> = all.names().into_iter().filter_map(|name| name.strip_prefix("picture/")).collect();
    for name in &names {
        for kind in ["picture", "reference"] {
            codec::save(&picture(&all, &format!("{kind}/{name}")), &folder.path(&format!("{kind}/{name}.png")))
                .unwrap();
        }
    }
    std::fs::create_dir_all(folder.path("weights")).unwrap();
    for file in METRICS.iter().flat_map(|spec| spec.files).filter(|file| file.is_required) {
        let written = network(&all, file, &folder);
        std::fs::rename(&written, folder.path("weights").join(written.file_name().unwrap())).unwrap();
    }
    std::fs::copy("assets/niqe.safetensors", folder.path("weights/niqe.safetensors")).unwrap();
    let (pictures, references) = (folder.path("picture"), folder.path("reference"));
    let (weights, scores) = (folder.path("weights"), folder.path("scores.json"));
    let run = evaluate(&[
        path(&pictures),
        "--reference",
        path(&references),
        "--metrics-weights",
        path(&weights),
        "--scores-json",
        path(&scores),
    ]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    let scores = json(&scores);
    for spec in METRICS.iter().filter(|spec| spec.id != "niqe") {
        for name in &names {
            let score = all.tensor(&format!("score/{}/{name}", key(spec.id))).unwrap();
            let expected = f64::from_le_bytes(score.data().try_into().unwrap());
            let found = match key(spec.id) == spec.id {
                true => &scores[spec.id][name],
                false => &scores["full_reference"][name][key(spec.id)],
            };
            let found = found.as_f64().unwrap_or_else(|| panic!("{} of {name}: {found}", spec.id));
            assert!((found - expected).abs() < 1e-5 * expected.abs().max(1.0), "{} of {name}: {found}", spec.id);
        }
    }
    // All of them are smaller than a block.
    assert!(scores["niqe"].as_object().unwrap().iter().filter(|(_, score)| score.is_null()).count() >= 5);
}

#[test]
fn what_has_no_score_is_told_and_nothing_breaks_by_it() {
    let folder = Folder::new();
    let save = |name: &str, picture: &Picture| codec::save(picture, &folder.path(name)).unwrap();
    save("run/good.png", &photo(192, 192));
    save("run/flat.png", &Picture::from_fn(120, 120, |_, _| [90; 3]));
    save("run/tiny.png", &photo(20, 300));
    save("run/pixel.png", &photo(1, 1));
    save("run/large.png", &photo(288, 192));
    std::fs::create_dir_all(folder.path("references")).unwrap();
    std::fs::write(folder.path("references/large.png"), "no picture").unwrap();
    std::fs::write(folder.path("run/broken.png"), b"\x89PNG\r\n\x1a\n and nothing").unwrap();
    save("references/good.png", &photo(96, 192));
    save("references/flat.png", &Picture::from_fn(120, 120, |_, _| [91; 3]));
    let (run, references, scores) = (folder.path("run"), folder.path("references"), folder.path("scores.json"));
    let metrics = "niqe,psnr,psnr_y,ssim,ssim_y,dists";
    let arguments =
        [path(&run), "--reference", path(&references), "--metrics", metrics, "--scores-json", path(&scores)];
    let worst = evaluate(&arguments);
    let stderr = text(&worst.stderr);
    assert_eq!(worst.status.code(), Some(0), "{stderr}");
    for reason in [
        "flat.png: no NIQE: it is flat",
        "tiny.png: no NIQE: 20 x 300 is too small",
        "broken.png: no NIQE",
        "good.png: no PSNR, PSNR-Y, SSIM, SSIM-Y: the reference is 96 x 192, the picture 192 x 192",
        "large.png: no PSNR, PSNR-Y, SSIM, SSIM-Y: ",
        "3 of 6 pictures have no reference of their name",
        "DISTS is left out: vgg16.pth (",
    ] {
        assert!(stderr.contains(reason), "{reason}: {stderr}");
    }
    let scores = json(&scores);
    assert!(scores["niqe"]["good"].is_number());
    assert!(scores["niqe"]["large"].is_number(), "a damaged reference takes nothing from the picture");
    for stem in ["flat", "tiny", "pixel", "broken"] {
        assert!(scores["niqe"][stem].is_null(), "{stem}");
    }
    assert!(scores["full_reference"]["good"]["psnr_rgb"].is_null());
    assert!((scores["full_reference"]["flat"]["psnr_rgb"].as_f64().unwrap() - 48.1275).abs() < 0.01);
    assert!(scores["full_reference"]["tiny"]["ssim_rgb"].is_null() && scores.get("dists").is_none());
    assert!(text(&worst.stdout).starts_with("| Run | n |"), "no column for scales: {}", text(&worst.stdout));
    // Four of six count as 100, or as nothing.
    let mean = |output: &Output| {
        let line = text(&output.stdout).lines().nth(2).unwrap().to_owned();
        line.split(" | ").nth(3).unwrap().split(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let good: f64 = ["good", "large"].iter().map(|stem| scores["niqe"][stem].as_f64().unwrap()).sum();
    assert!((mean(&worst) - (400.0 + good) / 6.0).abs() < 1e-3, "{}", text(&worst.stdout));
    let skip = evaluate(&[&arguments[..], &["--failures", "skip"]].concat());
    assert!((mean(&skip) - good / 2.0).abs() < 1e-3, "{}", text(&skip.stdout));
    assert!(text(&skip.stdout).contains("n = 2"), "{}", text(&skip.stdout));
}

#[test]
fn what_cannot_be_used_is_named() {
    let folder = Folder::new();
    let bytes = networks();
    let all = SafeTensors::deserialize(&bytes).unwrap();
    folder.photo("run/a.png", 128, 128);
    std::fs::create_dir_all(folder.path("empty")).unwrap();
    let vgg = METRICS.iter().flat_map(|spec| spec.files).find(|file| file.id == "vgg16").unwrap();
    let other = network(&all, vgg, &folder);
    std::fs::create_dir_all(folder.path("weights")).unwrap();
    std::fs::rename(other, folder.path("weights/musiq.pth")).unwrap();
    std::fs::write(folder.path("weights/maniqa.pth"), "<html>not found</html>").unwrap();
    std::fs::write(folder.path("weights/niqe.safetensors"), "nothing").unwrap();
    let (run, weights, empty) = (folder.path("run"), folder.path("weights"), folder.path("empty"));
    let fails = |arguments: &[&str], reasons: &[&str]| {
        let output = evaluate(arguments);
        let stderr = text(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{arguments:?}");
        assert!(reasons.iter().all(|reason| stderr.contains(reason)), "{reasons:?}: {stderr}");
    };
    let with_weights = |metric: &'static str| [path(&run), "--metrics", metric, "--metrics-weights", path(&weights)];
    fails(&with_weights("musiq"), &["musiq.pth does not fit MUSIQ", "conv_root.weight"]);
    fails(&with_weights("maniqa"), &["maniqa.pth", "web page"]);
    fails(&with_weights("niqe"), &["niqe.safetensors"]);
    fails(&[path(&run), "--metrics", "clipiqa"], &["CLIPIQA is left out", "no metric can be computed"]);
    fails(&[path(&run), "--metrics", "psnr"], &["--reference"]);
    fails(&[path(&run), "--metrics", "psnrr"], &["expected niqe, musiq", "psnrr"]);
    fails(&[path(&empty)], &["no pictures"]);
    fails(&["/nonexistent/run"], &["/nonexistent/run", "cannot be read"]);
    fails(&[path(&run), "--shard", "1/2"], &["--output"]);
    fails(&[path(&run), "-o", "/proc/nowhere"], &["cannot be written"]);
    for inside in [run.join("scores"), run.join("nowhere/../scores"), run.clone()] {
        fails(&[path(&run), "-o", path(&inside)], &["Nothing is written into a run"]);
    }
    fails(&[path(&run), path(&run)], &["named twice"]);
    assert_eq!(std::fs::read_dir(&run).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_the_scores_so_far() {
    let folder = Folder::new();
    for i in 0..40 {
        folder.photo(&format!("run/{i}.png"), 700 + i, 700);
    }
    let (run, out) = (folder.path("run"), folder.path("scores"));
    let arguments = ["evaluate", path(&run), "-o", path(&out), "--metrics", "niqe"];
    let child = coz(arguments).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let rows = || std::fs::read_to_string(out.join("scores.jsonl")).map_or(0, |text| text.lines().count());
    let start = std::time::Instant::now();
    while rows() < 3 {
        assert!(start.elapsed().as_secs() < 120, "no scores come");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // SAFETY: a signal to a child that has not been waited for.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGINT) };
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("of 40 pictures scored"), "{}", text(&output.stderr));
    let kept = rows();
    assert!(kept < 40 && !out.join("summary.md").exists());
    let rest = coz(arguments).output().unwrap();
    assert!(rest.status.success(), "{}", text(&rest.stderr));
    assert!(rows() == 40 && out.join("summary.md").exists());
}

/// A name that is no text, and pictures whose runs have other scales.
#[cfg(target_os = "linux")]
#[test]
fn names_and_scales_of_any_kind_are_taken_or_refused() {
    use std::os::unix::ffi::OsStrExt;
    let folder = Folder::new();
    let odd = folder.photo("run/a.png", 128, 128).with_file_name(std::ffi::OsStr::from_bytes(b"\xff.png"));
    std::fs::rename(folder.path("run/a.png"), odd).unwrap();
    let (run, out) = (folder.path("run"), folder.path("scores"));
    let output = evaluate(&[path(&run), "-o", path(&out), "--metrics", "niqe"]);
    assert!(output.status.success() && out.join("scores.json").is_file(), "{}", text(&output.stderr));
    for (name, upscale) in [("two", "2"), ("four", "4")] {
        folder.photo(&format!("{name}/per-sample/p/0.png"), 128, 128);
        let record = format!(r#"{{"options": {{"upscale": "{upscale}"}}}}"#);
        std::fs::write(folder.path(&format!("{name}/per-sample/p/run.json")), record).unwrap();
    }
    let (two, four) = (folder.path("two"), folder.path("four"));
    let output = evaluate(&[path(&two), path(&four), "--metrics", "niqe"]);
    assert!(!output.status.success() && text(&output.stderr).contains("other scales"), "{}", text(&output.stderr));
}
