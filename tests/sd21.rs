//! OSEDiff on Stable Diffusion 2.1 on the real path: found, read by each memory plan, in tiles, run, made again, refused. The models are
//! random ones, written by the program itself.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use safetensors::Dtype;
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use crate::samples::{Folder, coz};
use chain_of_zoom::base::{Backbone, BackboneSpec, DeviceChoice, MemoryPlan, Precision, Progress, Tiling, VaeMode};
use chain_of_zoom::checkpoint::torch_writer::{Container, Entry, write};
use chain_of_zoom::checkpoint::weights_digest;
use chain_of_zoom::hub::ModelPaths;
use chain_of_zoom::imaging::{Filter, Picture, codec, resize};
use chain_of_zoom::pipelines::sr::{StepInput, SuperResolver};
use chain_of_zoom::pipelines::{FullImageInput, sr};
use chain_of_zoom::runtime::weights::Weights;
use chain_of_zoom::synthetic::Size;
use chain_of_zoom::{hub, synthetic};

fn spec() -> &'static BackboneSpec {
    BackboneSpec::named("osediff-sd21").unwrap()
}

fn model(folder: &Folder) -> Backbone {
    let model = folder.path("model");
    synthetic::write(&model, Size::Tiny, &mut |_| {}).unwrap();
    let mut paths = ModelPaths::default();
    paths.set("sd21", model.join("sd21"));
    let backbone = hub::backbone(spec(), &paths, Precision::Fp32).unwrap();
    assert_eq!(backbone.files.get("osediff"), Some(model.join("preset/models/osediff.pkl").as_ref()));
    assert!(hub::missing(&backbone).is_empty());
    backbone
}

fn picture(width: u32, height: u32) -> Picture {
    Picture::from_fn(width, height, |x, y| [(x * 3) as u8, (y * 5) as u8, (x ^ y) as u8])
}

fn input(side: u32, prompt: &str) -> StepInput {
    let enlarged = Arc::new(picture(side, side));
    StepInput { cut: enlarged.clone(), enlarged, prompt: prompt.into(), seed: 9 }
}

fn open(backbone: &Backbone, plan: MemoryPlan) -> Box<dyn SuperResolver> {
    sr::open(backbone, DeviceChoice::Cpu, plan, 0).unwrap()
}

fn restored(model: &mut dyn SuperResolver, input: &StepInput) -> Picture {
    model.restore(input, &mut Progress::new(&mut |_, _| true)).unwrap()
}

#[test]
fn every_plan_makes_the_same_picture() {
    let folder = Folder::new();
    let model = model(&folder);
    let _no_grad = chain_of_zoom::runtime::without_gradients();
    for precision in [Precision::Fp32, Precision::Fp16, Precision::Bf16] {
        let results = [MemoryPlan::Resident, MemoryPlan::Staged, MemoryPlan::Streamed].map(|plan| {
            let mut model = open(&Backbone { precision, ..model.clone() }, plan);
            assert_eq!(model.plan(), Some(plan));
            let pictures =
                ["the red fur", "the red fur", "an old fox!"].map(|prompt| restored(&mut *model, &input(96, prompt)));
            assert_eq!(pictures[0], pictures[1]);
            assert_ne!(pictures[0], pictures[2], "the prompt changes something");
            pictures
        });
        assert_eq!(results[0], results[1], "{precision}");
        assert_eq!(results[0], results[2], "{precision}");
    }
}

#[test]
fn a_large_step_is_a_full_image() {
    let folder = Folder::new();
    let mut model = open(&model(&folder), MemoryPlan::Resident);
    let _no_grad = chain_of_zoom::runtime::without_gradients();
    let enlarged = Arc::new(picture(1160, 800));
    let step = StepInput { cut: enlarged.clone(), enlarged: enlarged.clone(), prompt: "fur".into(), seed: 9 };
    let by_step = restored(&mut *model, &step);
    let full_image = FullImageInput { source: enlarged.clone(), enlarged, tiling: spec().tiling, seed: 9 };
    let mut pieces = 0;
    let mut quiet = |_, _| true;
    let progress = &mut Progress::new(&mut quiet);
    let by_tiles = model.restore_full_image(&full_image, &["fur".into()], progress, &mut |_| pieces += 1).unwrap();
    assert_eq!(by_step, by_tiles);
    let prepared = model.prepare(&step.enlarged, &mut Progress::new(&mut |_, _| true));
    assert!(prepared.is_ok() && restored(&mut *model, &step) == by_step);
    // A smaller latent is restored at once, and odd sides of it are no matter.
    let odd = Arc::new(picture(104, 72));
    assert_eq!(restored(&mut *model, &StepInput { cut: odd.clone(), enlarged: odd, ..step }).height(), 72);
}

#[test]
fn exact_tiles_make_what_no_tiles_make() {
    let folder = Folder::new();
    let mut model = open(&model(&folder), MemoryPlan::Resident);
    let _no_grad = chain_of_zoom::runtime::without_gradients();
    let source = picture(75, 50);
    let enlarged = Arc::new(resize(&source, 300, 200, Filter::Lanczos));
    let mut with = |tiling: Tiling| {
        let input = FullImageInput { source: Arc::new(source.clone()), enlarged: enlarged.clone(), tiling, seed: 3 };
        let mut quiet = |_, _| true;
        model.restore_full_image(&input, &["fur".into()], &mut Progress::new(&mut quiet), &mut |_| ()).unwrap()
    };
    let at_once = with(Tiling::OSEDIFF);
    let (encoder_tile, decoder_tile) = (96, 16);
    let tiles = Tiling { encoder_tile, decoder_tile, ..Tiling::OSEDIFF };
    let apart = |other: &Picture| {
        let pairs = at_once.rgb().iter().zip(other.rgb());
        pairs.map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / at_once.rgb().len() as f64
    };
    let exact = with(Tiling { vae_mode: VaeMode::Exact, ..tiles });
    assert!(apart(&exact) < 0.01, "{}", apart(&exact));
    // What each tile has of its own is less than what the whole picture has.
    assert!(with(tiles) != exact);
    assert_eq!((at_once.width(), at_once.height()), (300, 200));
}

struct Files {
    folder: Folder,
    sd21: PathBuf,
    osediff: PathBuf,
}

impl Files {
    fn new() -> Self {
        let folder = Folder::new();
        let backbone = model(&folder);
        let file = |role: &str| backbone.files.get(role).unwrap().to_owned();
        let (sd21, osediff) = (file("model"), file("osediff"));
        Self { folder, sd21, osediff }
    }

    fn zoom(&self, out: &str, more: &[&str]) -> Output {
        let photo = self.folder.photo("photo.png", 96, 96);
        coz(["zoom", "-i", photo.to_str().unwrap(), "-o", self.folder.path(out).to_str().unwrap()])
            .args(["--backbone", "osediff-sd21", "--process-size", "64", "--device", "cpu"])
            .args(["--pretrained_model_name_or_path", self.sd21.to_str().unwrap()])
            .args(["--osediff_path", self.osediff.to_str().unwrap()])
            .args(more)
            .output()
            .unwrap()
    }

    fn refusal(&self) -> String {
        let run = self.zoom("refused", &["--rec-num", "1"]);
        assert_eq!(run.status.code(), Some(1), "{}", String::from_utf8_lossy(&run.stderr));
        assert!(!self.folder.path("refused/per-sample/photo/1.png").exists());
        String::from_utf8_lossy(&run.stderr).into_owned()
    }
}

fn ok(run: Output) {
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn a_chain_is_run_matched_and_made_again() {
    let files = Files::new();
    let state =
        |out: &str, i: u32| codec::open(&files.folder.path(&format!("{out}/per-sample/photo/{i}.png"))).unwrap();
    ok(files.zoom("usual", &["--rec-num", "2", "--prompt", "the red fur", "--save_prompts"]));
    ok(files.zoom("adain", &["--rec-num", "2", "--prompt", "the red fur", "--align_method", "adain"]));
    ok(files.zoom("nofix", &["--rec-num", "2", "--prompt", "the red fur", "--align_method", "nofix"]));
    assert_eq!(state("usual", 2), state("adain", 2), "colours are matched unless something else is said");
    assert_ne!(state("usual", 1), state("nofix", 1));
    let prompts = std::fs::read_to_string(files.folder.path("usual/per-sample/photo/txt/1.txt")).unwrap();
    assert_eq!(prompts, "the red fur", "a prompt of one's own stays as it is");
    // From the models of this machine.
    let models = files.folder.path("data/chain-of-zoom/models");
    std::fs::create_dir_all(&models).unwrap();
    let replay = || {
        let session = files.folder.path("usual/per-sample/photo");
        let data = files.folder.path("data");
        coz(["replay", session.to_str().unwrap(), "--device", "cpu"]).env("XDG_DATA_HOME", data).output().unwrap()
    };
    assert!(!replay().status.success(), "it has none");
    std::fs::rename(&files.sd21, models.join("stable-diffusion-2-1-base")).unwrap();
    std::fs::rename(&files.osediff, models.join("osediff.pkl")).unwrap();
    ok(replay());
}

fn edit(file: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(file, value.to_string()).unwrap();
}

#[test]
fn another_stable_diffusion_is_told() {
    let files = Files::new();
    let scheduler = files.sd21.join("scheduler/scheduler_config.json");
    std::fs::create_dir(scheduler.parent().unwrap()).unwrap();
    std::fs::write(&scheduler, json!({ "prediction_type": "v_prediction" }).to_string()).unwrap();
    let said = files.refusal();
    assert!(said.contains("v_prediction") && said.contains("2.1-base"), "{said}");
    std::fs::write(&scheduler, json!({ "prediction_type": "epsilon" }).to_string()).unwrap();
    ok(files.zoom("base", &["--rec-num", "1"]));

    std::fs::write(&scheduler, json!({ "num_train_timesteps": 100 }).to_string()).unwrap();
    let said = files.refusal();
    assert!(said.contains("num_train_timesteps is 100"), "{said}");
    std::fs::write(&scheduler, json!({ "beta_schedule": "squaredcos_cap_v2" }).to_string()).unwrap();
    let said = files.refusal();
    assert!(said.contains("squaredcos_cap_v2") && said.contains("scaled_linear"), "{said}");
    std::fs::remove_file(&scheduler).unwrap();

    // Stable Diffusion 1.
    let unet = files.sd21.join("unet/config.json");
    edit(&unet, |config| config["use_linear_projection"] = json!(false));
    let said = files.refusal();
    assert!(said.contains("Stable Diffusion 1") && !said.contains("belongs to no layer"), "{said}");
    // The refiner of Stable Diffusion XL.
    edit(&unet, |config| {
        config["use_linear_projection"] = json!(true);
        config["addition_embed_type"] = json!("text_time");
    });
    assert!(files.refusal().contains("addition_embed_type is \"text_time\""));
    // A folder of Stable Diffusion 3.
    let sd3 = files.sd21.parent().unwrap().to_owned();
    let said = Files { sd21: sd3, ..files }.refusal();
    assert!(said.contains("unet"), "{said}");
}

/// What becomes of a tensor, by its name.
type Change = dyn Fn(&str, &Tensor) -> Option<(String, Tensor)>;

/// The pickle with some of its tensors in other shapes, or under other names.
fn pickle(file: &Path, change: &Change) {
    let weights = Weights::open(file).unwrap();
    let keys: Vec<String> = weights.shapes().into_keys().map(str::to_owned).collect();
    let tensors = keys.iter().filter_map(|key| change(key, &weights.tensor(key).unwrap().unwrap()));
    let tensors: Vec<(String, Tensor)> = tensors.collect();
    let entries: Vec<Entry> = tensors
        .iter()
        .map(|(name, tensor)| Entry { name: name.clone(), dtype: Dtype::F16, shape: tensor.size() })
        .collect();
    let mut bytes = |i: usize| {
        let flat = tensors[i].1.to_kind(Kind::Half).contiguous().view_dtype(Kind::Uint8).reshape([-1]);
        Vec::<u8>::try_from(flat).unwrap()
    };
    let mut out = Vec::new();
    write(std::io::Cursor::new(&mut out), Container::Dictionary(None), &entries, &mut bytes).unwrap();
    std::fs::write(file, out).unwrap();
}

fn same(key: &str, tensor: &Tensor) -> Option<(String, Tensor)> {
    Some((key.to_owned(), tensor.shallow_clone()))
}

#[test]
fn loras_that_do_not_fit_are_told() {
    let files = Files::new();
    let whole = std::fs::read(&files.osediff).unwrap();
    let with = |change: &Change| {
        std::fs::write(&files.osediff, &whole).unwrap();
        pickle(&files.osediff, change);
        files.refusal()
    };
    // Another rank here and there.
    let said = with(&|key, tensor| match key.contains("mid_block.resnets.0.conv1.lora") {
        true if key.contains("lora_A") => Some((key.into(), tensor.narrow(0, 0, 2))),
        true => Some((key.into(), tensor.narrow(1, 0, 2))),
        false => same(key, tensor),
    });
    assert!(said.contains("ranks") && said.contains("osediff.pkl"), "{said}");
    // Half a pair; a layer that is not there; a pair for another width; another adapter; no LoRA at all.
    let said = with(&|key, tensor| if key.contains("conv_out.lora_B") { None } else { same(key, tensor) });
    assert!(said.contains("only half of a pair"), "{said}");
    let said = with(&|key, tensor| same(&key.replace("mid_block.resnets.1", "mid_block.resnets.7"), tensor));
    assert!(said.contains("mid_block.resnets.7.conv1 belongs to no layer"), "{said}");
    let said = with(&|key, tensor| match key.contains("conv_out.lora_A") {
        true => Some((key.into(), Tensor::cat(&[tensor, tensor], 1))),
        false => same(key, tensor),
    });
    assert!(said.contains("conv_out is") && said.contains("its LoRA"), "{said}");
    let said = with(&|key, tensor| same(&key.replace("default_others", "other"), tensor));
    assert!(said.contains("lora_A.other.weight belongs to no layer"), "{said}");
    let said = with(&|key, tensor| same(&key.replace("state_dict", "state"), tensor));
    assert!(said.contains("state_dict_unet with LoRAs is missing"), "{said}");
}

#[test]
fn older_folders_hold_pickles() {
    let files = Files::new();
    let run = |out: &str| {
        ok(files.zoom(out, &["--rec-num", "1"]));
        codec::open(&files.folder.path(out).join("per-sample/photo/1.png")).unwrap()
    };
    let expected = run("safetensors");
    for (folder, stem, name) in [
        ("unet", "diffusion_pytorch_model", "diffusion_pytorch_model.bin"),
        ("vae", "diffusion_pytorch_model", "diffusion_pytorch_model.bin"),
        ("text_encoder", "model", "pytorch_model.bin"),
    ] {
        let (old, new) = (format!("{folder}/{stem}.safetensors"), files.sd21.join(folder).join(name));
        std::fs::rename(files.sd21.join(old), &new).unwrap();
        pickle(&new, &same);
    }
    assert!(run("pickles") == expected);
}

#[test]
fn what_is_not_there_is_named() {
    let files = Files::new();
    std::fs::remove_file(&files.osediff).unwrap();
    let said = files.refusal();
    assert!(said.contains("osediff.pkl") && said.contains("--osediff-path"), "{said}");
    let digest = weights_digest(&Backbone::from(spec()).with("model", &files.sd21).with("osediff", &files.osediff));
    assert!(digest.is_err());
    std::fs::remove_dir_all(files.sd21.join("vae")).unwrap();
    std::fs::write(&files.osediff, "<html>").unwrap();
    let said = files.refusal();
    assert!(said.contains("osediff.pkl") && said.contains("web page"), "{said}");
}
