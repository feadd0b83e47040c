//! Chain-of-Zoom's own model on the real path: found, read by each memory plan, measured, short of memory. The models are
//! random ones, written by the program itself.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tch::{Kind, Tensor};

use crate::samples::{Folder, coz, sd3};
use chain_of_zoom::base::{
    AlignMethod, Backbone, CaptionRequest, DeviceChoice, MemoryPlan, Precision, Progress, PromptSource, Region, Remedy,
    Stage, UserError,
};
use chain_of_zoom::engine::{Engine, Event, Job, JobOutcome, Restorer};
use chain_of_zoom::imaging::Picture;
use chain_of_zoom::pipelines::sr::StepInput;
use chain_of_zoom::pipelines::{PipelineError, sr};
use chain_of_zoom::synthetic::Size;
use chain_of_zoom::{hub, synthetic};

fn model(folder: &Folder) -> Backbone {
    let model = folder.path("model");
    synthetic::write(&model, Size::Tiny, &mut |_| {}).unwrap();
    let backbone = sd3(&model, Precision::Auto);
    let beside = |role: &str| backbone.files.get(role).is_some_and(|file| file.starts_with(&model));
    assert!(beside("lora") && beside("vae") && hub::missing(&backbone).is_empty());
    backbone
}

fn picture(side: u32) -> Picture {
    Picture::from_fn(side, side, |x, y| [(x * 3) as u8, (y * 5) as u8, (x ^ y) as u8])
}

fn input(side: u32, prompt: &str) -> StepInput {
    let enlarged = Arc::new(picture(side));
    StepInput { cut: enlarged.clone(), enlarged, prompt: prompt.into(), seed: 9 }
}

#[test]
fn every_plan_makes_the_same_picture() {
    let folder = Folder::new();
    let model = model(&folder);
    let _no_grad = chain_of_zoom::runtime::without_gradients();
    for precision in [Precision::Fp32, Precision::Fp16, Precision::Bf16] {
        let results = [MemoryPlan::Resident, MemoryPlan::Staged, MemoryPlan::Streamed].map(|plan| {
            let backbone = Backbone { precision, ..model.clone() };
            let mut model = sr::open(&backbone, DeviceChoice::Cpu, plan, 0).unwrap();
            assert_eq!(model.plan(), Some(plan));
            // Twice with one prompt, once with another: what is kept and what is read anew must agree.
            let mut stages = Vec::new();
            let pictures = ["the red fur", "the red fur", "an old fox!"].map(|prompt| {
                let mut on_progress = |stage: Stage, _: f32| {
                    stages.push(stage);
                    true
                };
                model.restore(&input(96, prompt), &mut Progress::new(&mut on_progress)).unwrap()
            });
            stages.retain(|stage| *stage != Stage::Loading);
            let readings = stages.windows(2).filter(|pair| pair[0] != Stage::Text && pair[1] == Stage::Text).count();
            assert_eq!(readings, 2, "the second pass knows the prompt already");
            assert_eq!(pictures[0], pictures[1]);
            assert_ne!(pictures[0], pictures[2], "the prompt changes something");
            pictures
        });
        assert_eq!(results[0], results[1], "{precision}");
        assert_eq!(results[0], results[2], "{precision}");
    }
}

/// A file whose matrices are in 8 bits, or, beside it, in 32 bits with the same numbers.
fn rounded(file: &Path, is_fp8: bool) {
    let tensors = Tensor::read_safetensors(file).unwrap();
    let rounded: Vec<(String, Tensor)> = tensors
        .into_iter()
        .map(|(name, tensor)| match tensor.dim() {
            2 => (name, tensor.to_kind(Kind::Float8e4m3fn)),
            _ => (name, tensor),
        })
        .collect();
    let stored = rounded.iter().map(|(name, tensor)| {
        let (dtype, tensor) = match tensor.kind() {
            Kind::Float8e4m3fn if is_fp8 => (Dtype::F8_E4M3, tensor.shallow_clone()),
            _ => (Dtype::F32, tensor.to_kind(Kind::Float)),
        };
        let bytes = Vec::<u8>::try_from(tensor.contiguous().view_dtype(Kind::Uint8).reshape([-1])).unwrap();
        (name, dtype, tensor.size().iter().map(|&size| size as usize).collect::<Vec<_>>(), bytes)
    });
    let stored: Vec<_> = stored.collect();
    let views = stored
        .iter()
        .map(|(name, dtype, shape, bytes)| (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    std::fs::write(file, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn files_in_8_bits_make_what_their_numbers_make() {
    let folder = Folder::new();
    let _no_grad = chain_of_zoom::runtime::without_gradients();
    let opened = |name: &str, is_fp8: bool| {
        let place = folder.path(name);
        synthetic::write(&place, Size::Tiny, &mut |_| {}).unwrap();
        for file in ["transformer/diffusion_pytorch_model.safetensors", "text_encoder_3/model.safetensors"] {
            rounded(&place.join(file), is_fp8);
        }
        sd3(&place, Precision::Fp32)
    };
    let restored = |backbone: &Backbone, plan: MemoryPlan| {
        let mut model = sr::open(backbone, DeviceChoice::Cpu, plan, 0).unwrap();
        model.restore(&input(96, "the red fur"), &mut Progress::new(&mut |_, _| true)).unwrap()
    };
    let (small, wide) = (opened("small", true), opened("wide", false));
    let expected = restored(&wide, MemoryPlan::Resident);
    for plan in [MemoryPlan::Resident, MemoryPlan::Staged, MemoryPlan::Streamed] {
        assert_eq!(restored(&small, plan), expected, "{plan}");
    }
}

#[test]
fn what_is_prepared_ahead_is_not_done_again() {
    let folder = Folder::new();
    let mut model = sr::open(&model(&folder), DeviceChoice::Cpu, MemoryPlan::Auto, 0).unwrap();
    let _no_grad = chain_of_zoom::runtime::without_gradients();
    let input = input(64, "fur");
    // Stopped while weights are read: a part that is half there is not used.
    let mut is_stopped = false;
    let mut on_progress = |stage: Stage, fraction: f32| {
        is_stopped |= stage == Stage::Loading && fraction > 0.5;
        !is_stopped
    };
    let stopped = model.prepare(&input.enlarged, &mut Progress::new(&mut on_progress));
    assert!(matches!(stopped, Err(PipelineError::Cancelled)));
    model.prepare(&input.enlarged, &mut Progress::new(&mut |_, _| true)).unwrap();
    let mut stages = Vec::new();
    let mut on_progress = |stage: Stage, _: f32| {
        stages.push(stage);
        true
    };
    let result = model.restore(&input, &mut Progress::new(&mut on_progress)).unwrap();
    assert!(stages.contains(&Stage::Denoising) && !stages.contains(&Stage::Encoding), "{stages:?}");
    // Stopped between two layers of any part, it still works afterwards.
    for stop_at in [Stage::Encoding, Stage::Text, Stage::Denoising, Stage::Decoding] {
        let mut is_stopped = false;
        let mut on_progress = |stage: Stage, fraction: f32| {
            is_stopped |= stage == stop_at && fraction > 0.3;
            !is_stopped
        };
        let enlarged = Arc::new(picture(64));
        let other = StepInput { prompt: format!("{stop_at:?}"), enlarged, ..input.clone() };
        assert!(model.restore(&other, &mut Progress::new(&mut on_progress)).is_err(), "{stop_at:?}");
    }
    assert_eq!(model.restore(&input, &mut Progress::new(&mut |_, _| true)).unwrap(), result);
}

#[test]
fn a_hundred_steps_leave_nothing_behind() {
    let folder = Folder::new();
    let model = model(&folder);
    for plan in ["resident", "streamed"] {
        let run = coz(["bench", "--size", "64", "--runs", "100", "--json", "--device", "cpu", "--memory", plan])
            .args(["--pretrained_model_name_or_path", model.main_file().unwrap().to_str().unwrap()])
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let figures: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
        assert_eq!(figures["memory"], plan);
        for stage in ["encoding", "encoding the prompt", "denoising", "decoding"] {
            assert!(figures["seconds"][stage].as_f64().unwrap() > 0.0, "{stage}");
        }
        // A latent's worth in each step would be 80 MB; the embeds that are kept on purpose are 11 MB.
        let after = |i: usize| figures["memory_after"][i].as_f64().unwrap();
        assert!(after(1) - after(0) < 40e6, "{plan}: {} grew to {}", after(0), after(1));
    }
}

#[test]
fn models_are_found_by_name() {
    let folder = Folder::new();
    let model = model(&folder);
    let snapshots = folder.path("hf/hub/models--stabilityai--stable-diffusion-3-medium-diffusers/snapshots");
    std::fs::create_dir_all(snapshots.join("old")).unwrap();
    std::fs::rename(model.main_file().unwrap(), snapshots.join("abc")).unwrap();
    std::fs::create_dir_all(snapshots.join("../refs")).unwrap();
    std::fs::write(snapshots.join("../refs/main"), "abc\n").unwrap();
    // The working directory has the training's files where the reference has them.
    let work = folder.path("work");
    std::fs::create_dir(&work).unwrap();
    std::fs::rename(snapshots.join("abc/ckpt"), work.join("ckpt")).unwrap();
    let photo = folder.photo("photo.png", 80, 80);
    let zoom = |out: &str, more: &[&str]| {
        let mut command = coz(["zoom", "-i", photo.to_str().unwrap(), "-o", folder.path(out).to_str().unwrap()]);
        command.args(["--backbone", "sd3", "--rec-num", "1", "--process-size", "64", "--mixed_precision", "fp32"]);
        command.args(more).current_dir(&work).env_remove("HF_HUB_CACHE").env("HF_HOME", folder.path("hf"));
        command.env("XDG_DATA_HOME", folder.path("data")).env("XDG_CONFIG_HOME", folder.path("config"));
        let run = command.output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        std::fs::read(folder.path(out).join("per-sample/photo/1.png")).unwrap()
    };
    let by_default = zoom("a", &["--efficient_memory"]);
    let by_name = zoom("b", &["--pretrained_model_name_or_path", "stabilityai/stable-diffusion-3-medium-diffusers"]);
    let explicit = snapshots.join("abc");
    let ckpt = work.join("ckpt");
    let by_path = zoom(
        "c",
        &[
            "--pretrained_model_name_or_path",
            explicit.to_str().unwrap(),
            "--lora_path",
            ckpt.join("SR_LoRA/model_20001.pkl").to_str().unwrap(),
            "--vae_path",
            ckpt.join("SR_VAE/vae_encoder_20001.pt").to_str().unwrap(),
        ],
    );
    // The paths are part of the pictures' metadata, so pixels are compared.
    let pixels = |png: &[u8]| image::load_from_memory(png).unwrap().to_rgb8();
    assert_eq!(pixels(&by_default), pixels(&by_path));
    assert_eq!(pixels(&by_name), pixels(&by_path));
}

#[test]
fn random_models_are_written_once() {
    let folder = Folder::new();
    let make = || coz(["random-models", folder.path("m").to_str().unwrap(), "--tiny"]).output().unwrap();
    assert!(make().status.success());
    let again = make();
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("is not empty"));
}

/// The memory of this process is bounded for a moment, so the test runs in one of its own.
#[cfg(target_os = "linux")]
#[test]
fn memory_runs_out_and_the_next_try_works() {
    const INSIDE: &str = "COZ_TEST_STARVES";
    if std::env::var_os(INSIDE).is_none() {
        let this = std::env::current_exe().unwrap();
        let name = "sd3::memory_runs_out_and_the_next_try_works";
        let run = Command::new(this).args(["--exact", name, "--nocapture"]).env(INSIDE, "1").output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        return;
    }
    let folder = Folder::new();
    let mut engine = Engine::start(Arc::new(|| {})).unwrap();
    let model = model(&folder);
    let mut run = |size: u32| -> Result<(), UserError> {
        let job = engine.run(Job {
            source: Arc::new(picture(256)).into(),
            regions: vec![Region::square(64, 64, 64)],
            size: (size, size),
            prompt: "fur".into(),
            extracted_prompt: None,
            prompt_source: PromptSource::default(),
            request: CaptionRequest::default(),
            full_image: None,
            seed: 1,
            preview: false,
            restorer: Restorer {
                backbone: Backbone { precision: Precision::Fp32, ..model.clone() },
                device: DeviceChoice::Cpu,
                memory: MemoryPlan::Resident,
                align: AlignMethod::NoFix,
            },
        });
        loop {
            match engine.events().recv_timeout(Duration::from_secs(120)).unwrap() {
                Event::Finished { job: finished, outcome } if finished == job => {
                    return match outcome {
                        JobOutcome::Completed => Ok(()),
                        JobOutcome::Failed(error) => Err(error),
                        JobOutcome::Cancelled => panic!("nobody cancelled"),
                    };
                }
                _ => {}
            }
        }
    };
    run(64).unwrap();
    let before = limit(None);
    limit(Some(virtual_memory() + 300_000_000));
    let error = run(2048).unwrap_err();
    limit(Some(before));
    assert_eq!(
        (error.title.as_str(), error.remedy),
        ("Out of memory", Some(Remedy::Memory(MemoryPlan::Staged))),
        "{error}"
    );
    assert!(error.hint.contains("--memory staged"), "{error}");
    run(64).unwrap();
}

#[cfg(target_os = "linux")]
fn virtual_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Bounds the memory of this process where that can be done; how it was bounded before.
#[cfg(target_os = "linux")]
fn limit(bytes: Option<u64>) -> u64 {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limits) };
    let before = limits.rlim_cur;
    if let Some(bytes) = bytes {
        limits.rlim_cur = bytes;
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limits) }, 0);
    }
    before
}

#[test]
fn numbers_beyond_half_precision_are_told() {
    let folder = Folder::new();
    let model = model(&folder);
    let file = model.main_file().unwrap().join("transformer/diffusion_pytorch_model.safetensors");
    let tensors = tch::Tensor::read_safetensors(&file).unwrap();
    let larger: Vec<_> = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let tensor = tensor.to_kind(tch::Kind::Float);
            let tensor = if name == "proj_out.bias" { tensor + 1e5 } else { tensor };
            (name, tensor)
        })
        .collect();
    tch::Tensor::write_safetensors(&larger, &file).unwrap();
    let photo = folder.photo("photo.png", 80, 80);
    let zoom = |precision: &str| {
        coz(["zoom", "-i", photo.to_str().unwrap(), "-o", folder.path("out").to_str().unwrap()])
            .args(["--backbone", "sd3", "--rec-num", "1", "--process-size", "64", "--mixed_precision", precision])
            .args(["--device", "cpu", "--pretrained_model_name_or_path", model.main_file().unwrap().to_str().unwrap()])
            .output()
            .unwrap()
    };
    let half = zoom("fp16");
    assert!(!half.status.success());
    assert!(String::from_utf8_lossy(&half.stderr).contains("--mixed-precision bf16"));
    assert!(zoom("bf16").status.success(), "there it is as large as it is");
}
