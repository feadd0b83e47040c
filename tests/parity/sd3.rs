//! The networks of Stable Diffusion 3 against diffusers, transformers and peft, on tiny random models in the real layout,
//! in float32 on the CPU. `sd3/export.py` made them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use tch::{Device, Kind, TchError, Tensor};

use super::fixture;
use crate::samples::{Folder, coz, sd3};
use chain_of_zoom::base::{DeviceChoice, MemoryPlan, Precision, Progress};
use chain_of_zoom::checkpoint;
use chain_of_zoom::imaging::metrics::luma_psnr;
use chain_of_zoom::imaging::{Picture, codec};
use chain_of_zoom::networks::sd3::lora::{AdaLoras, merged_encoder};
use chain_of_zoom::networks::sd3::mmdit;
use chain_of_zoom::networks::sd3::mmdit::Mmdit;
use chain_of_zoom::networks::text::clip::ClipTextWithProjection;
use chain_of_zoom::networks::text::t5::T5Encoder;
use chain_of_zoom::networks::text::tokenizer::{ClipTokenizer, T5Tokenizer};
use chain_of_zoom::networks::text::{clip, t5};
use chain_of_zoom::networks::vae;
use chain_of_zoom::networks::vae::Vae;
use chain_of_zoom::pipelines::sr;
use chain_of_zoom::pipelines::sr::StepInput;
use chain_of_zoom::runtime::weights::{Loader, Weights, WeightsError};

/// Absolute; 1e-3 is asked for.
const TOLERANCE: f64 = 2e-5;

fn cases() -> BTreeMap<String, Tensor> {
    Tensor::read_safetensors(fixture("sd3/cases.safetensors")).unwrap().into_iter().collect()
}

fn model(name: &str) -> PathBuf {
    fixture(&format!("sd3/{name}"))
}

fn config<C: DeserializeOwned>(name: &str) -> C {
    serde_json::from_slice(&std::fs::read(model(name).join("config.json")).unwrap()).unwrap()
}

fn weights(name: &str) -> Weights {
    let file = if name.starts_with("text") { "model.safetensors" } else { "diffusion_pytorch_model.safetensors" };
    Weights::open(&model(name).join(file)).unwrap()
}

fn loader(weights: &Weights) -> Loader<'static> {
    Loader::new(weights, "", Device::Cpu, Kind::Float)
}

/// The transformer's answer to a case, nobody asking it to stop.
fn velocity(model: &Mmdit, latent: &Tensor, prompt: &Tensor, pooled: &Tensor) -> Result<Tensor, WeightsError> {
    model.forward(latent, 1000.0, prompt, pooled, &mut |_| Ok(()))
}

fn same(what: &str, ours: &Tensor, theirs: &Tensor) {
    assert_eq!(ours.size(), theirs.size(), "{what}");
    let difference = (ours - theirs).abs().max().double_value(&[]);
    assert!(difference < TOLERANCE, "{what}: {difference}");
    // Comparing nothing with nothing would pass too.
    assert!(theirs.std(true).double_value(&[]) > 1e-3, "{what} is flat");
}

#[test]
fn the_transformer_makes_the_same_velocity() {
    let cases = cases();
    for name in ["transformer", "transformer_35"] {
        let weights = weights(name);
        let model = Mmdit::load(&mut loader(&weights), &config(name), AdaLoras::default()).unwrap();
        let case = |part: &str| &cases[&format!("{name}.{part}")];
        let ours = velocity(&model, case("latent"), case("prompt"), case("pooled")).unwrap();
        same(name, &ours, case("velocity"));
        let large = Tensor::zeros([1, 16, 40, 8], (Kind::Float, Device::Cpu));
        assert!(velocity(&model, &large, case("prompt"), case("pooled")).is_err(), "there are no positions for it");
        let stop = &mut |fraction: f32| {
            if fraction > 0.5 { Err(WeightsError::Torch(TchError::Torch("stop".into()))) } else { Ok(()) }
        };
        let stopped = model.forward(case("latent"), 1000.0, case("prompt"), case("pooled"), stop);
        assert!(stopped.is_err_and(|error| error.to_string().contains("stop")), "it stops between blocks");
    }
    let (weights, list) = (weights("transformer"), Weights::open(&fixture("sd3/model_20001.pkl")).unwrap());
    let merged = Mmdit::load(&mut loader(&weights), &config("transformer"), AdaLoras::read(&list).unwrap()).unwrap();
    let case = |part: &str| &cases[&format!("transformer.{part}")];
    let ours = velocity(&merged, case("latent"), case("prompt"), case("pooled")).unwrap();
    // Half-precision parts of the modulation: where the last bit of float32 differs, one may be rounded the other way. Parts
    // that were not rounded at all would be 1.3e-4 off.
    let off = (&ours - case("velocity_lora")).square().mean(Kind::Float).sqrt().double_value(&[]);
    assert!(off < 5e-5, "with the LoRA: {off}");
    assert!((&ours - case("velocity")).abs().max().double_value(&[]) > 0.01, "the LoRA changes something");
}

#[test]
fn the_vae_encodes_and_decodes_the_same() {
    let cases = cases();
    let weights = weights("vae");
    let config: vae::Config = config("vae");
    assert_eq!((config.scaling_factor, config.shift_factor), (1.5305, Some(0.0609)));
    let plain = Vae::load(&mut loader(&weights), None, &config).unwrap();
    let case = |part: &str| &cases[&format!("vae.{part}")];
    let (mean, log_variance) = plain.encoder.forward::<TchError>(case("picture"), &mut |_| Ok(())).unwrap();
    same("mean", &mean, case("mean"));
    same("log variance", &log_variance, case("logvar"));
    same("decoded", &plain.decoder.forward::<TchError>(case("latent"), &mut |_| Ok(())).unwrap(), case("decoded"));

    let own = merged_encoder(&Weights::open(&fixture("sd3/vae_encoder_20001.pt")).unwrap()).unwrap();
    let tuned = Vae::load(&mut loader(&weights), Some(&mut loader(&own)), &config).unwrap();
    let (mean, log_variance) = tuned.encoder.forward::<TchError>(case("picture"), &mut |_| Ok(())).unwrap();
    same("mean with the LoRA", &mean, case("mean_lora"));
    same("log variance with the LoRA", &log_variance, case("logvar_lora"));
    same(
        "decoded by the same decoder",
        &tuned.decoder.forward::<TchError>(case("latent"), &mut |_| Ok(())).unwrap(),
        case("decoded"),
    );
}

#[test]
fn the_text_encoders_say_the_same() {
    let cases = cases();
    for name in ["text_encoder", "text_encoder_2"] {
        let weights = weights(name);
        let model = ClipTextWithProjection::load(&mut loader(&weights), &config::<clip::Config>(name)).unwrap();
        let case = |part: &str| &cases[&format!("{name}.{part}")];
        let (said, pooled) = model.forward(case("ids")).unwrap();
        same(name, &said.penultimate, case("penultimate"));
        same(name, &pooled, case("pooled"));
    }
    let weights = weights("text_encoder_3");
    let model = T5Encoder::load(&mut loader(&weights), &config::<t5::Config>("text_encoder_3")).unwrap();
    same(
        "T5",
        &model.forward::<WeightsError>(&cases["text_encoder_3.ids"], &mut |_| Ok(())).unwrap(),
        &cases["text_encoder_3.states"],
    );
}

const PROMPTS: [&str; 5] = [
    "",
    "The red FUR of an old fox",
    "teeth! in the snow!!  12 photos",
    "don't  lie\n\tin \u{2603} \u{1F98A} snow; caf\u{e9}, na\u{ef}ve?",
    "",
];
const SEEDS: [&str; 5] = ["42", "7", "42", "1", "12345"];

fn prompt(i: usize) -> String {
    if i == 4 { "whiskers and ".repeat(300) } else { PROMPTS[i].to_owned() }
}

#[test]
fn token_ids_are_the_same() {
    let cases = cases();
    let clips = ["tokenizer", "tokenizer_2"].map(|name| ClipTokenizer::open(&model(name)).unwrap());
    let t5 = T5Tokenizer::open(&model("tokenizer_3")).unwrap();
    for i in 0..PROMPTS.len() {
        let wanted = |n: usize| Vec::<i64>::try_from(&cases[&format!("chain.{i}.ids_{n}")]).unwrap();
        for (n, clip) in clips.iter().enumerate() {
            assert_eq!(clip.encode(&prompt(i), 77).unwrap(), wanted(n), "tokenizer {n}, prompt {i}");
        }
        assert_eq!(t5.encode(&prompt(i), 512).unwrap(), wanted(2), "T5, prompt {i}");
    }
}

#[test]
fn three_recursive_steps_end_in_the_same_pictures() {
    let cases = cases();
    let picture = |name: &str| {
        let tensor = &cases[name];
        let size = tensor.size();
        let mut rgb = vec![0; tensor.numel()];
        tensor.copy_data_u8(&mut rgb, tensor.numel());
        Picture::from_rgb(size[1] as u32, size[0] as u32, rgb).unwrap()
    };
    let (mut off, mut all) = (0, 0);
    for (i, seed) in SEEDS.into_iter().enumerate() {
        let folder = Folder::new();
        let (photo, out) = (folder.path("photo.png"), folder.path("out"));
        codec::save(&picture(&format!("chain.{i}.photo")), &photo).unwrap();
        let recursion = if i == 2 { "recursive_multiscale" } else { "recursive" };
        let run = coz(["zoom", "-i", photo.to_str().unwrap(), "-o", out.to_str().unwrap()])
            .args(["--backbone", "sd3", "--pretrained_model_name_or_path", model("").to_str().unwrap()])
            .args(["--lora_path", model("model_20001.pkl").to_str().unwrap()])
            .args(["--vae_path", model("vae_encoder_20001.pt").to_str().unwrap()])
            .args(["--rec_type", recursion, "--rec_num", "3", "--process_size", "64", "--seed", seed])
            .args(["--prompt_type", "null", "--mixed_precision", "fp32", "--device", "cpu", "--prompt", &prompt(i)])
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        for step in 1..=3 {
            let ours = codec::open(&out.join(format!("per-sample/photo/{step}.png"))).unwrap();
            let theirs = picture(&format!("chain.{i}.{step}"));
            let found = luma_psnr(&ours, &theirs, 0);
            assert!(found >= 48.0, "case {i}, step {step}: {found} dB");
            off += ours.rgb().iter().zip(theirs.rgb()).filter(|(a, b)| a.abs_diff(**b) > 2).count();
            all += ours.rgb().len();
        }
    }
    // The merged LoRA rounds otherwise than the reference's separate one; a level that flips thereby in one step is
    // enlarged by the next, so single steps may be further off than all together.
    assert!(off * 1000 <= all, "{off} of {all} differ by more than 2");
}

#[test]
fn half_precision_is_near_and_bad_folders_are_reported() {
    let picture =
        chain_of_zoom::imaging::Picture::from_fn(64, 64, |x, y| [(x * 4) as u8, (y * 4) as u8, ((x ^ y) * 4) as u8]);
    let restored = |precision: Precision| {
        let mut resolver = sr::open(&sd3(&model(""), precision), DeviceChoice::Cpu, MemoryPlan::Auto, 0).unwrap();
        let enlarged = Arc::new(picture.clone());
        let input = StepInput { cut: enlarged.clone(), enlarged, prompt: "fur".into(), seed: 3 };
        resolver.restore(&input, &mut Progress::new(&mut |_, _| true)).unwrap()
    };
    let _no_grad = tch::no_grad_guard();
    let full = restored(Precision::Fp32);
    for precision in [Precision::Fp16, Precision::Bf16] {
        let found = luma_psnr(&full, &restored(precision), 0);
        assert!(found >= 35.0, "{precision:?}: {found} dB");
    }

    // A part missing, a pointer instead of weights, a size that does not suit: each in words.
    let folder = Folder::new();
    let tell = |more: &[&str], size: &str| {
        let photo = folder.photo("photo.png", 80, 80);
        let run = coz(["zoom", "-i", photo.to_str().unwrap(), "-o", folder.path("out").to_str().unwrap()])
            .args(["--backbone", "sd3", "--rec-num", "1", "--process-size", size])
            .args(more)
            .output()
            .unwrap();
        assert!(!run.status.success());
        String::from_utf8_lossy(&run.stderr).into_owned()
    };
    assert!(tell(&[], "64").contains("stabilityai/stable-diffusion-3-medium-diffusers is no folder, nor is there"));
    let empty = folder.root().to_str().unwrap().to_owned();
    assert!(tell(&["--pretrained_model_name_or_path", &empty], "64").contains("text_encoder/model.safetensors"));
    std::fs::create_dir(folder.path("text_encoder")).unwrap();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    std::fs::write(folder.path("text_encoder/model.safetensors"), pointer).unwrap();
    assert!(tell(&["--pretrained_model_name_or_path", &empty], "64").contains("git lfs pull"));
    assert!(tell(&["--pretrained_model_name_or_path", model("").to_str().unwrap()], "72").contains("multiples of 16"));
}

#[test]
fn shards_are_one_file() {
    let folder = Folder::new();
    let all = Tensor::read_safetensors(model("vae").join("diffusion_pytorch_model.safetensors")).unwrap();
    let (first, second) = all.split_at(all.len() / 2);
    let mut map = BTreeMap::new();
    for (name, part) in [("a-00001-of-00002.safetensors", first), ("a-00002-of-00002.safetensors", second)] {
        Tensor::write_safetensors(part, folder.path(name)).unwrap();
        map.extend(part.iter().map(|(key, _)| (key.clone(), name)));
    }
    let index = |map: &BTreeMap<String, &str>| serde_json::json!({ "metadata": {}, "weight_map": map }).to_string();
    std::fs::write(folder.path("a.safetensors.index.json"), index(&map)).unwrap();
    assert_eq!(checkpoint::missing(folder.root(), "a"), Vec::<PathBuf>::new());
    let sharded = Weights::open_folder(folder.root(), "a").unwrap();
    let vae = Vae::load(&mut loader(&sharded), None, &config("vae")).unwrap();
    let cases = cases();
    same(
        "decoded from shards",
        &vae.decoder.forward::<TchError>(&cases["vae.latent"], &mut |_| Ok(())).unwrap(),
        &cases["vae.decoded"],
    );
    std::fs::rename(folder.path("a-00002-of-00002.safetensors"), folder.path("elsewhere")).unwrap();
    assert_eq!(checkpoint::missing(folder.root(), "a"), [folder.path("a-00002-of-00002.safetensors")]);
    map.insert("x".into(), "../../etc/passwd");
    std::fs::write(folder.path("a.safetensors.index.json"), index(&map)).unwrap();
    assert!(Weights::open_folder(folder.root(), "a").err().unwrap().to_string().contains("no file of this folder"));
}

#[test]
fn all_that_does_not_fit_is_reported_at_once() {
    let problems = |error: WeightsError| match error {
        WeightsError::Mismatch { problems, .. } => problems.join("\n"),
        other => other.to_string(),
    };
    let weights = weights("transformer");
    let config: mmdit::Config = config("transformer");
    // Another depth, another width of the prompt: missing, surplus and misshapen keys together.
    let other = mmdit::Config { num_layers: 4, joint_attention_dim: 61, ..config.clone() };
    let text = problems(Mmdit::load(&mut loader(&weights), &other, AdaLoras::default()).err().unwrap());
    for part in [
        "transformer_blocks.3.attn.to_q.weight [48, 48] is missing",
        "context_embedder.weight is [48, 60], expected [48, 61]",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let layer_norm = mmdit::Config { qk_norm: Some("layer_norm".into()), ..config.clone() };
    let text = problems(Mmdit::load(&mut loader(&weights), &layer_norm, AdaLoras::default()).err().unwrap());
    assert!(text.contains("qk_norm is \"layer_norm\""), "{text}");

    // A LoRA of another model: too few pairs, and of the wrong shape.
    let folder = Folder::new();
    let zeros = |size: [i64; 2]| Tensor::zeros(size, (Kind::Float, Device::Cpu));
    let list = |tensors: Vec<Tensor>| {
        let named: Vec<_> = tensors.into_iter().enumerate().map(|(i, tensor)| (i.to_string(), tensor)).collect();
        let file = folder.path("list.safetensors");
        Tensor::write_safetensors(&named, &file).unwrap();
        AdaLoras::read(&Weights::open(&file).unwrap())
    };
    let wrong = list(vec![zeros([288, 4]), zeros([4, 48]), zeros([288, 4]), zeros([5, 48])]).unwrap();
    let text = problems(Mmdit::load(&mut loader(&weights), &config, wrong).err().unwrap());
    assert!(text.contains("pair 1 is [288, 4] and [5, 48]") && text.contains("2 pairs for 5 layers"), "{text}");
    assert!(problems(list(vec![zeros([1, 1])]).err().unwrap()).contains("no pairs"));
}
