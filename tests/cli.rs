//! `coz zoom`, `export` and `measure` as a user runs them.

use crate::samples::{Folder, coz};
use chain_of_zoom::imaging::codec;
use chain_of_zoom::synthetic;
use chain_of_zoom::synthetic::Size;

fn zoom(folder: &Folder, arguments: &[&str]) -> (std::process::Output, std::path::PathBuf) {
    let out = folder.path("out");
    let output = coz(["zoom", "-o", out.to_str().unwrap(), "--device", "cpu"]).args(arguments).output().unwrap();
    (output, out)
}

#[test]
fn recursive_writes_the_reference_tree_and_a_summary() {
    let folder = Folder::new();
    let photo = folder.photo("a photo ö.png", 150, 110);
    let (run, out) = zoom(
        &folder,
        &[
            "-i",
            photo.to_str().unwrap(),
            "--rec-num",
            "2",
            "--process-size",
            "96",
            "--prompt",
            "some words",
            "--save-prompts",
            "--json",
        ],
    );
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    for file in [
        "per-sample/a photo ö/0.png",
        "per-sample/a photo ö/1.png",
        "per-sample/a photo ö/2.png",
        "per-sample/a photo ö/1_input.png",
        "per-sample/a photo ö/2_input.png",
        "per-sample/a photo ö/txt/0.txt",
        "per-sample/a photo ö/txt/1.txt",
        "per-sample/a photo ö/a photo ö.png",
        "per-scale/scale0/a photo ö.png",
        "per-scale/scale2/a photo ö.png",
        "recursive/a photo ö.png",
    ] {
        assert!(out.join(file).is_file(), "{file} is missing");
    }
    let strip = codec::open(&out.join("recursive/a photo ö.png")).unwrap();
    assert_eq!((strip.width(), strip.height()), (3 * 96, 96));
    assert_eq!(std::fs::read_to_string(out.join("per-sample/a photo ö/txt/1.txt")).unwrap(), "some words");
    let summary: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(summary["backbone"], "Built-in x4");
    assert_eq!(summary["images"][0]["states"].as_array().unwrap().len(), 3);
    assert_eq!(summary["images"][0]["states"][1]["region"]["x"], 36);
}

#[test]
fn boxes_lead_off_centre() {
    let folder = Folder::new();
    let photo = folder.photo("photo.png", 128, 128);
    let (run, out) = zoom(
        &folder,
        &[
            "-i",
            photo.to_str().unwrap(),
            "--process_size",
            "128",
            "--backbone",
            "bicubic",
            "--crop_box",
            "0,0,32,32",
            "--crop_box",
            "96,64,32,32",
        ],
    );
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let state = |i: usize| codec::open(&out.join(format!("per-sample/photo/{i}.png"))).unwrap();
    let enlarged = |picture: &chain_of_zoom::imaging::Picture, x, y| {
        chain_of_zoom::imaging::resize(&picture.crop(x, y, 32, 32), 128, 128, chain_of_zoom::imaging::Filter::Bicubic)
    };
    assert_eq!(state(1), enlarged(&state(0), 0, 0));
    assert_eq!(state(2), enlarged(&state(1), 96, 64));
    assert!(!out.join("per-sample/photo/3.png").exists(), "as many steps as boxes");
}

#[test]
fn onestep_starts_from_the_photo_every_time() {
    let folder = Folder::new();
    let photo = folder.photo("photo.jpg", 160, 128);
    let (run, out) = zoom(
        &folder,
        &[
            "-i",
            photo.to_str().unwrap(),
            "--rec-type",
            "onestep",
            "--rec-num",
            "2",
            "--process-size",
            "128",
            "--align-method",
            "wavelet",
        ],
    );
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let first = codec::open(&out.join("per-sample/photo/0.png")).unwrap();
    let input = codec::open(&out.join("per-sample/photo/2_input.png")).unwrap();
    let expected =
        chain_of_zoom::imaging::resize(&first.crop(60, 60, 8, 8), 128, 128, chain_of_zoom::imaging::Filter::Bicubic);
    assert_eq!(input, expected);
}

#[test]
fn a_folder_is_worked_through_and_one_bad_picture_does_not_end_it() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("in")).unwrap();
    folder.photo("in/one.png", 70, 64);
    folder.photo("in/one.jpg", 70, 64);
    std::fs::write(folder.path("in/bad.png"), b"no picture").unwrap();
    std::fs::write(folder.path("in/notes.txt"), b"not looked at").unwrap();
    let (run, out) = zoom(
        &folder,
        &["-i", folder.path("in").to_str().unwrap(), "--rec-num", "1", "--process-size", "64", "--rec-type", "bicubic"],
    );
    assert_eq!(run.status.code(), Some(1));
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(said.contains("bad.png") && said.contains("not a picture") && said.contains("2 of 3"), "{said}");
    // Two pictures of one stem do not overwrite each other.
    assert!(out.join("per-sample/one.png/1.png").is_file() && out.join("per-sample/one.jpg/1.png").is_file());
}

#[test]
fn strips_and_sheets_are_exported() {
    let folder = Folder::new();
    let photo = folder.photo("photo.png", 64, 64);
    let (run, out) = zoom(
        &folder,
        &["-i", photo.to_str().unwrap(), "--process-size", "64", "--rec-num", "3", "--rec-type", "nearest"],
    );
    assert!(run.status.success());
    for (layout, file, size) in [("strip", "strip.webp", (4 * 40, 40)), ("sheet", "sheet.jpg", (104, 104))] {
        let to = folder.path(file);
        let run = coz(["export", "-i", out.join("per-sample/photo").to_str().unwrap(), "-o", to.to_str().unwrap()])
            .args(["--layout", layout, "--size", "40"])
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let picture = codec::open(&to).unwrap();
        assert_eq!((picture.width(), picture.height()), size, "{layout}");
    }
}

#[test]
fn the_built_in_model_beats_bicubic() {
    let folder = Folder::new();
    let photo = folder.photo("photo.png", 240, 200);
    let run = coz(["measure", photo.to_str().unwrap(), "--device", "cpu"]).output().unwrap();
    let report = String::from_utf8(run.stdout).unwrap();
    let gain: f64 = report.lines().last().unwrap().split_whitespace().last().unwrap().parse().unwrap();
    // Discs without antialiasing are hard on any network; photos gain twice as much (docs/benchmarks.md).
    assert!(gain > 0.5, "{report}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_soon_and_leaves_nothing_half_written() {
    let folder = Folder::new();
    let photo = folder.photo("photo.png", 512, 512);
    let out = folder.path("out");
    let mut run = coz(["zoom", "-i", photo.to_str().unwrap(), "-o", out.to_str().unwrap(), "--rec-num", "32"])
        .args(["--process-size", "2048", "--device", "cpu"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let first = out.join("per-sample/photo/0.png");
    let start = std::time::Instant::now();
    while !first.exists() {
        assert!(start.elapsed().as_secs() < 60, "nothing was made");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let asked = std::time::Instant::now();
    std::process::Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap();
    let status = run.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(asked.elapsed().as_secs() < 20, "it took {:?}", asked.elapsed());
    let part = |path: &std::path::Path| path.file_name().unwrap().to_string_lossy().ends_with(".part");
    let left: Vec<_> =
        std::fs::read_dir(first.parent().unwrap()).unwrap().flatten().map(|e| e.path()).filter(|p| part(p)).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(codec::open(&first).is_ok());
}

/// The reference's own command, with `coz zoom` in its program's place.
const REFERENCE: &str = "-i samples -o inference_results/coz_vlmprompt --rec_type recursive_multiscale --prompt_type vlm \
    --lora_path ckpt/SR_LoRA/model_20001.pkl --vae_path ckpt/SR_VAE/vae_encoder_20001.pt \
    --vlm_lora_path ckpt/VLM_LoRA/checkpoint-10000 \
    --pretrained_model_name_or_path stabilityai/stable-diffusion-3-medium-diffusers --ram_ft_path ckpt/DAPE/DAPE.pth \
    --ram_path ckpt/RAM/ram_swin_large_14m.pth --save_prompts";

/// The command for whole pictures in the reference's README.
const REFERENCE_FULL: &str = "-i samples -o inference_results/coz_full --rec_type recursive_multiscale --prompt_type vlm \
    --lora_path ckpt/SR_LoRA/model_20001.pkl --vae_path ckpt/SR_VAE/vae_encoder_20001.pt \
    --vlm_lora_path ckpt/VLM_LoRA/checkpoint-10000 \
    --pretrained_model_name_or_path stabilityai/stable-diffusion-3-medium-diffusers --ram_ft_path ckpt/DAPE/DAPE.pth \
    --ram_path ckpt/RAM/ram_swin_large_14m.pth";

/// A folder to work in as the reference's README leaves it, with tiny models: two samples, `ckpt`, and the hub's cache.
fn as_the_reference_has_it(folder: &Folder, width: u32, height: u32) {
    let model = folder.path("hub/models--stabilityai--stable-diffusion-3-medium-diffusers/snapshots/main");
    synthetic::write(&model, Size::Tiny, &mut |_| {}).unwrap();
    let vlm = folder.path("hub/models--Qwen--Qwen2.5-VL-3B-Instruct/snapshots/main");
    std::fs::create_dir_all(vlm.parent().unwrap()).unwrap();
    std::fs::rename(model.join("vlm"), vlm).unwrap();
    std::fs::rename(model.join("ckpt"), folder.path("ckpt")).unwrap();
    std::fs::create_dir(folder.path("samples")).unwrap();
    for name in ["samples/a.png", "samples/b.png"] {
        folder.photo(name, width, height);
    }
}

#[test]
fn the_references_command_for_whole_pictures_works_as_it_is() {
    let folder = Folder::new();
    as_the_reference_has_it(&folder, 44, 30);
    let out = folder.path("inference_results/coz_full");
    let words = || {
        let mut files: Vec<_> = std::fs::read_dir(out.join("per-sample/a/txt")).unwrap().flatten().collect();
        files.sort_by_key(|file| file.file_name());
        files.iter().map(|file| std::fs::read_to_string(file.path()).unwrap()).collect::<Vec<_>>()
    };
    let tiles = ["--latent_tiled_size", "8", "--latent_tiled_overlap", "2", "--vae_encoder_tiled_size", "64"];
    let tiled = [&tiles[..], &["--vae_decoder_tiled_size", "8", "--save_prompts"]].concat();
    let tags = [&tiled[..], &["--prompt_type", "dape", "--prompt", "fur"]].concat();
    for (more, count) in [(&["--save_prompts"][..], 1), (&tiled, 12), (&tags, 12)] {
        _ = std::fs::remove_dir_all(&out);
        let options: Vec<&str> =
            REFERENCE_FULL.split_whitespace().filter(|word| more != tags || *word != "vlm").collect();
        let options = options.into_iter().filter(|word| more != tags || *word != "--prompt_type");
        let run = coz(["full"])
            .args(options)
            .args(["--device", "cpu"])
            .args(more)
            .env("XDG_DATA_HOME", folder.path("data"))
            .env("HF_HUB_CACHE", folder.path("hub"))
            .current_dir(folder.root())
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        for name in ["a", "b"] {
            let made = codec::open(&out.join(format!("per-sample/{name}/1.png"))).unwrap();
            assert_eq!((made.width(), made.height()), (176, 120));
        }
        let words = words();
        assert_eq!(words.len(), count);
        assert!(words.iter().all(|words| more != tags || words.ends_with(", fur,")), "{words:?}");
    }
}

#[test]
fn the_references_command_works_as_it_is() {
    let folder = Folder::new();
    as_the_reference_has_it(&folder, 150, 110);
    let run = |more: &[&str]| {
        let run = coz(["zoom"])
            .args(REFERENCE.split_whitespace())
            .args(["--process_size", "96", "--rec_num", "2", "--device", "cpu"])
            .args(more)
            .env("XDG_DATA_HOME", folder.path("data"))
            .env("HF_HUB_CACHE", folder.path("hub"))
            .current_dir(folder.root())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(run.status.success(), "{said}");
        said
    };
    let said = run(&["--efficient_memory", "--mixed_precision", "fp16", "--merge_and_unload_lora", "--lora_rank", "4"]);
    assert!(said.contains("--merge_and_unload_lora, --lora_rank: without effect here"), "{said}");
    let out = folder.path("inference_results/coz_vlmprompt");
    for name in ["a", "b"] {
        let sample = out.join("per-sample").join(name);
        for file in ["0.png", "1.png", "2.png", "1_input.png", "txt/0.txt", "txt/1.txt"] {
            assert!(sample.join(file).is_file(), "{name} {file}");
        }
        assert!(out.join(format!("recursive/{name}.png")).is_file());
        assert!(std::fs::read_to_string(sample.join("txt/1.txt")).unwrap().len() > 10);
    }

    // One was cut short: only that one is made again.
    std::fs::remove_file(out.join("recursive/b.png")).unwrap();
    let before = std::fs::metadata(out.join("recursive/a.png")).unwrap().modified().unwrap();
    let resume = ["--resume", "--mixed_precision", "fp16"];
    let said = run(&resume);
    assert!(said.contains("1 of 2 pictures were finished before") && said.contains("1 of 1 pictures done"), "{said}");
    assert_eq!(std::fs::metadata(out.join("recursive/a.png")).unwrap().modified().unwrap(), before);
    assert!(run(&resume).contains("0 of 0 pictures done"));

    // Every second one, for another machine.
    std::fs::remove_dir_all(&out).unwrap();
    assert!(run(&["--shard", "2/2"]).contains("1 of 1 pictures done"));
    assert!(out.join("recursive/b.png").is_file() && !out.join("recursive/a.png").exists());
    let wrong = coz(["zoom", "-i", "samples", "-o", "x", "--shard", "3/2"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn a_seed_names_a_picture_however_many_work_at_a_time() {
    let folder = Folder::new();
    let model = folder.path("model");
    synthetic::write(&model, Size::Tiny, &mut |_| {}).unwrap();
    std::fs::create_dir(folder.path("photos")).unwrap();
    for i in 0..12 {
        folder.photo(&format!("photos/{i}.png"), 70, 60);
    }
    let states = |jobs: &str| {
        let out = folder.path(jobs);
        let run = coz(["zoom", "--rec-num", "2", "--process-size", "64", "--device", "cpu", "--backbone", "sd3"])
            .args(["--jobs", jobs, "--prompt-type", "null", "--pretrained-model-name-or-path", model.to_str().unwrap()])
            .args(["-i", folder.path("photos").to_str().unwrap(), "-o", out.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        (0..12).map(|i| codec::open(&out.join(format!("per-sample/{i}/2.png"))).unwrap()).collect::<Vec<_>>()
    };
    assert!(states("1") == states("4"));
}

#[test]
fn networks_run_once_at_their_own_scale_or_at_another() {
    let folder = Folder::new();
    let photo = folder.photo("photo.png", 50, 33);
    let full = |options: &[&str]| {
        let out = folder.path("out");
        let run = coz(["full", "-i", photo.to_str().unwrap(), "-o", out.to_str().unwrap(), "--device", "cpu"])
            .args(options)
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&run.stderr).into_owned();
        let picture = codec::open(&out.join("per-sample/photo/1.png")).map(|made| (made.width(), made.height()));
        (run.status.code(), output, picture.ok())
    };
    let pair = "tests/parity/ncnn/compact_x4_to_x2.param";
    for (scale, expected) in [("native", (100, 66)), ("3.5", (175, 115)), ("4", (200, 132)), ("0.5", (25, 16))] {
        let (code, output, size) = full(&["--backbone", pair, "--outscale", scale, "--mixed_precision", "fp32"]);
        assert_eq!((code, size), (Some(0), Some(expected)), "{scale}: {output}");
    }
    let (code, output, size) = full(&["--outscale", "native", "--align_method", "wavelet"]);
    assert_eq!((code, size), (Some(0), Some((200, 132))), "{output}");
    assert!(output.contains("with the built-in model; more detail: `coz models download realesrgan`"), "{output}");
    let (code, output, _) = full(&["--outscale", "native", "--backbone", "bicubic"]);
    assert!(code == Some(1) && output.contains("Bicubic has no scale of its own"), "{output}");
    for wrong in [&["--outscale", "2", "--upscale", "2"][..], &["--outscale", "0"], &["--outscale", "nativ"]] {
        assert_eq!(full(wrong).0, Some(2), "{wrong:?}");
    }
}

#[test]
fn a_pair_of_files_restores_a_chain() {
    let folder = Folder::new();
    let photo = folder.photo("photo.png", 80, 80);
    let zoom = |name: &str| {
        let out = folder.path(name);
        let pair = format!("tests/parity/ncnn/rrdb_x4_fp16.{name}");
        let run = coz(["zoom", "-i", photo.to_str().unwrap(), "-o", out.to_str().unwrap(), "--process-size", "64"])
            .args(["--rec-num", "2", "--backbone", &pair, "--device", "cpu"])
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        codec::open(&out.join("per-sample/photo/2.png")).unwrap()
    };
    assert_eq!(zoom("param"), zoom("bin"), "either name opens the pair");
}
