//! The networks of Stable Diffusion 3 against diffusers, transformers and peft, on tiny random models in the real layout,
//! in float32 on the CPU. `sd3/export.py` made them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use chain_of_zoom::models::sd3::lora::{AdaLoras, merged_encoder};
use chain_of_zoom::models::sd3::mmdit::{self, Mmdit};
use chain_of_zoom::models::sd3::vae::{self, Vae};
use chain_of_zoom::models::text::clip::{self, ClipText};
use chain_of_zoom::models::text::t5::{self, T5Encoder};
use chain_of_zoom::models::{Loader, Weights, WeightsError};
use serde::de::DeserializeOwned;
use tch::{Device, Kind, Tensor};

use super::fixture;
use crate::samples::Folder;

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

fn loader(weights: &Weights) -> Loader<'_> {
    Loader::new(weights, "", Device::Cpu, Kind::Float)
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
        let model = Mmdit::load(loader(&weights), &config(name), AdaLoras::default()).unwrap();
        let case = |part: &str| &cases[&format!("{name}.{part}")];
        let ours = model.forward(case("latent"), 1000.0, case("prompt"), case("pooled")).unwrap();
        same(name, &ours, case("velocity"));
        assert!(
            model
                .forward(
                    &Tensor::zeros([1, 16, 40, 8], (Kind::Float, Device::Cpu)),
                    1000.0,
                    case("prompt"),
                    case("pooled")
                )
                .is_err()
        );
    }
    let (weights, list) = (weights("transformer"), Weights::open(&fixture("sd3/model_20001.pkl")).unwrap());
    let merged = Mmdit::load(loader(&weights), &config("transformer"), AdaLoras::read(&list).unwrap()).unwrap();
    let case = |part: &str| &cases[&format!("transformer.{part}")];
    let ours = merged.forward(case("latent"), 1000.0, case("prompt"), case("pooled")).unwrap();
    same("with the LoRA", &ours, case("velocity_lora"));
    assert!((&ours - case("velocity")).abs().max().double_value(&[]) > 0.01, "the LoRA changes something");
}

#[test]
fn the_vae_encodes_and_decodes_the_same() {
    let cases = cases();
    let weights = weights("vae");
    let config: vae::Config = config("vae");
    assert_eq!((config.scaling_factor, config.shift_factor), (1.5305, Some(0.0609)));
    let plain = Vae::load(loader(&weights), None, &config).unwrap();
    let case = |part: &str| &cases[&format!("vae.{part}")];
    let (mean, log_variance) = plain.encoder.forward(case("picture")).unwrap();
    same("mean", &mean, case("mean"));
    same("log variance", &log_variance, case("logvar"));
    same("decoded", &plain.decoder.forward(case("latent")).unwrap(), case("decoded"));

    let own = merged_encoder(&Weights::open(&fixture("sd3/vae_encoder_20001.pt")).unwrap()).unwrap();
    let tuned = Vae::load(loader(&weights), Some(loader(&own)), &config).unwrap();
    let (mean, log_variance) = tuned.encoder.forward(case("picture")).unwrap();
    same("mean with the LoRA", &mean, case("mean_lora"));
    same("log variance with the LoRA", &log_variance, case("logvar_lora"));
    same("decoded by the same decoder", &tuned.decoder.forward(case("latent")).unwrap(), case("decoded"));
}

#[test]
fn the_text_encoders_say_the_same() {
    let cases = cases();
    for name in ["text_encoder", "text_encoder_2"] {
        let weights = weights(name);
        let model = ClipText::load(loader(&weights), &config::<clip::Config>(name)).unwrap();
        let case = |part: &str| &cases[&format!("{name}.{part}")];
        let said = model.forward(case("ids")).unwrap();
        same(name, &said.penultimate, case("penultimate"));
        same(name, &said.pooled, case("pooled"));
    }
    let weights = weights("text_encoder_3");
    let model = T5Encoder::load(loader(&weights), &config::<t5::Config>("text_encoder_3")).unwrap();
    same("T5", &model.forward(&cases["text_encoder_3.ids"]).unwrap(), &cases["text_encoder_3.states"]);
}

#[test]
fn what_does_not_fit_is_told_all_at_once() {
    let problems = |error: WeightsError| match error {
        WeightsError::Mismatch { problems, .. } => problems.join("\n"),
        other => other.to_string(),
    };
    let weights = weights("transformer");
    let config: mmdit::Config = config("transformer");
    // Another depth, another width of the prompt: missing, surplus and misshapen keys together.
    let other = mmdit::Config { num_layers: 4, joint_attention_dim: 61, ..config.clone() };
    let told = problems(Mmdit::load(loader(&weights), &other, AdaLoras::default()).err().unwrap());
    for part in [
        "transformer_blocks.3.attn.to_q.weight [48, 48] is missing",
        "context_embedder.weight is [48, 60], expected [48, 61]",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let told = mmdit::Config { qk_norm: Some("layer_norm".into()), ..config.clone() };
    let told = problems(Mmdit::load(loader(&weights), &told, AdaLoras::default()).err().unwrap());
    assert!(told.contains("qk_norm is \"layer_norm\""), "{told}");

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
    let told = problems(Mmdit::load(loader(&weights), &config, wrong).err().unwrap());
    assert!(told.contains("pair 1 is [288, 4] and [5, 48]") && told.contains("2 pairs for 5 layers"), "{told}");
    assert!(problems(list(vec![zeros([1, 1])]).err().unwrap()).contains("no pairs"));
}
