//! Random models in the layouts of the published ones: speed and memory can be measured, and everything tried, without
//! a download. Names and shapes come from the networks' own loading code.

mod captioners;
mod configs;
mod numbers;
mod sd21;
mod tokenizers;
mod torch_save;

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};
use tch::{Device, Kind};

use crate::checkpoint::CheckpointError;
use crate::networks::sd3::lora::{AdaLoras, ENCODER};
use crate::networks::sd3::mmdit;
use crate::networks::sd3::mmdit::Mmdit;
use crate::networks::text::clip::ClipTextWithProjection;
use crate::networks::text::t5::T5Encoder;
use crate::networks::vae;
use crate::networks::vae::Vae;
use crate::runtime::weights::{LoadMode, Loader, Weights, WeightsError};

pub use configs::Size;
use numbers::Numbers;

/// Shards are not larger, as the hub has it.
const SHARD: u64 = 5_000_000_000;
/// Of both LoRAs, as published.
const RANK: i64 = 4;

/// Why a model could not be written.
#[derive(Debug, thiserror::Error)]
pub enum RandomError {
    /// The folder holds something already: nothing is overwritten.
    #[error("{} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// It could not be written.
    #[error("cannot write {}: {source}", file.display())]
    Write {
        /// The file or folder.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A config does not suit its network; a mistake of ours.
    #[error(transparent)]
    Network(#[from] WeightsError),
}

/// Names and shapes of one network's tensors.
type Tensors = Vec<(String, Vec<i64>)>;

/// Writes Stable Diffusion 3, Qwen2.5-VL (in `vlm`), what Chain-of-Zoom adds to them (in `ckpt`, the tagger too), and Stable Diffusion
/// 2.1 (in `sd21`) with what OSEDiff adds to it (in `preset`) below `folder`, which must be empty or not be there. `on_file` is called with what is being written.
pub fn write(folder: &Path, size: Size, on_file: &mut dyn FnMut(&str)) -> Result<(), RandomError> {
    let is_empty = std::fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none());
    if !is_empty {
        return Err(RandomError::NotEmpty(folder.to_owned()));
    }
    let configs = configs::of(size);
    let mut numbers = Numbers::new(42);
    let mut part = |name: &str, stem: &str, config: &Value, tensors: &Tensors| {
        part(&folder.join(name), stem, config, tensors, &mut numbers, on_file)
    };
    let transformer = transformer(&configs.transformer)?;
    let (vae, encoder) = vae(&configs.vae)?;
    part("transformer", "diffusion_pytorch_model", &configs.transformer, &transformer)?;
    part("vae", "diffusion_pytorch_model", &configs.vae, &vae)?;
    for (name, config) in [("text_encoder", &configs.clip_l), ("text_encoder_2", &configs.clip_g)] {
        part(
            name,
            "model",
            config,
            &requested(config, |loader, config| ClipTextWithProjection::load(loader, &config).map(drop))?,
        )?;
    }
    let t5 = requested(&configs.t5, |loader, config| T5Encoder::load(loader, &config).map(drop))?;
    part("text_encoder_3", "model", &configs.t5, &t5)?;
    let vocabulary = |config: &Value| config["vocab_size"].as_u64().unwrap_or_default();
    tokenizers::clip(&folder.join("tokenizer"), vocabulary(&configs.clip_l), "<|endoftext|>")?;
    tokenizers::clip(&folder.join("tokenizer_2"), vocabulary(&configs.clip_g), "!")?;
    tokenizers::t5(&folder.join("tokenizer_3"))?;
    on_file("the files of Chain-of-Zoom's training");
    let ckpt = folder.join("ckpt");
    torch_save::list(&ckpt.join("SR_LoRA").join("model_20001.pkl"), &loras(&transformer), &mut numbers)?;
    let encoder = with_loras(&encoder);
    torch_save::dictionary(&ckpt.join("SR_VAE").join("vae_encoder_20001.pt"), None, &encoder, &mut numbers)?;
    sd21::write(&folder.join("sd21"), &folder.join("preset").join("models").join("osediff.pkl"), size, on_file)?;
    captioners::vlm(&folder.join("vlm"), &ckpt.join("VLM_LoRA").join("checkpoint-10000"), size, on_file)?;
    captioners::tagger(&ckpt, size, on_file)
}

/// A network's folder: its config, and its tensors.
fn part(
    folder: &Path,
    stem: &str,
    config: &Value,
    tensors: &Tensors,
    numbers: &mut Numbers,
    on_file: &mut dyn FnMut(&str),
) -> Result<(), RandomError> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    on_file(&format!("{name}: {:.2} billion numbers", tensors.iter().map(count).sum::<i64>() as f64 / 1e9));
    text(&folder.join("config.json"), &config.to_string())?;
    safetensors(folder, stem, tensors, numbers)
}

fn count((_, shape): &(String, Vec<i64>)) -> i64 {
    shape.iter().product()
}

/// What a network asks for; from a file without tensors it gets none of it.
fn requested<C: for<'a> Deserialize<'a>>(
    config: &Value,
    load: impl FnOnce(&mut Loader, C) -> Result<(), WeightsError>,
) -> Result<Tensors, RandomError> {
    let wrong = |error: serde_json::Error| {
        WeightsError::from(CheckpointError::format("config.json".as_ref(), error.to_string()))
    };
    let nothing = Weights::from_tensors(Default::default());
    let mut loader = Loader::new(&nothing, "", Device::Cpu, Kind::Float).mode(LoadMode::ShapesOnly);
    match load(&mut loader, C::deserialize(config).map_err(wrong)?) {
        // That all is missing is the point.
        Ok(()) | Err(WeightsError::Mismatch { .. }) => Ok(loader.requested().to_vec()),
        Err(error) => Err(error.into()),
    }
}

fn transformer(config: &Value) -> Result<Tensors, RandomError> {
    requested(config, |loader, config: mmdit::Config| Mmdit::load(loader, &config, AdaLoras::default()).map(drop))
}

/// The whole VAE, and its encoder with the names of an encoder's own file.
fn vae(config: &Value) -> Result<(Tensors, Tensors), RandomError> {
    let whole = requested(config, |loader, config: vae::Config| Vae::load(loader, None, &config).map(drop))?;
    let encoder =
        whole.iter().filter_map(|(name, shape)| Some((name.strip_prefix("encoder.")?.to_owned(), shape.clone())));
    let encoder = encoder.collect();
    Ok((whole, encoder))
}

/// Up and down for each layer of the class AdaLayerNormZero, in the order in which they are asked for.
fn loras(transformer: &Tensors) -> Tensors {
    let is_zero = |name: &str, shape: &[i64]| {
        (name.ends_with("norm1.linear.weight") || name.ends_with("norm1_context.linear.weight"))
            && shape[0] == 6 * shape[1]
    };
    let layers = transformer.iter().filter(|(name, shape)| is_zero(name, shape));
    let pairs = layers.flat_map(|(_, shape)| [vec![shape[0], RANK], vec![RANK, shape[1]]]);
    pairs.enumerate().map(|(i, shape)| (format!("{i}.lora.weight"), shape)).collect()
}

/// The encoder as PEFT names its tensors, a LoRA in every convolution and linear layer.
fn with_loras(encoder: &Tensors) -> Tensors {
    let mut named = Vec::new();
    for (name, shape) in encoder {
        let (layer, part) = name.rsplit_once('.').unwrap_or((name, ""));
        let is_norm = layer.contains("norm");
        if is_norm {
            named.push((name.clone(), shape.clone()));
            continue;
        }
        named.push((format!("{layer}.base_layer.{part}"), shape.clone()));
        if part == "weight" {
            named.extend(pair(layer, ENCODER, shape));
        }
    }
    named
}

/// The LoRA of a layer whose weight has this shape, as PEFT names it.
fn pair(layer: &str, adapter: &str, shape: &[i64]) -> [(String, Vec<i64>); 2] {
    let (mut down, mut up) = (shape.to_vec(), vec![1; shape.len()]);
    (down[0], up[0], up[1]) = (RANK, shape[0], RANK);
    [(format!("{layer}.lora_A.{adapter}.weight"), down), (format!("{layer}.lora_B.{adapter}.weight"), up)]
}

/// Half precision, in one file or in shards with an index.
fn safetensors(folder: &Path, stem: &str, tensors: &Tensors, numbers: &mut Numbers) -> Result<(), RandomError> {
    let mut shards = vec![Vec::new()];
    let mut filled = 0;
    for tensor in tensors {
        let bytes = count(tensor) as u64 * 2;
        if filled + bytes > SHARD && filled > 0 {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push(tensor.clone());
        }
    }
    let total = shards.len();
    let mut map = serde_json::Map::new();
    for (i, shard) in shards.iter().enumerate() {
        let name = match total {
            1 => format!("{stem}.safetensors"),
            _ => format!("{stem}-{:05}-of-{total:05}.safetensors", i + 1),
        };
        map.extend(shard.iter().map(|(key, _)| (key.clone(), json!(name))));
        let file = folder.join(name);
        numbers.safetensors(shard, &file).map_err(|source| RandomError::Write { file: file.clone(), source })?;
    }
    if total > 1 {
        let bytes = tensors.iter().map(count).sum::<i64>() * 2;
        let index = json!({ "metadata": { "total_size": bytes }, "weight_map": map });
        text(&folder.join(format!("{stem}.safetensors.index.json")), &index.to_string())?;
    }
    Ok(())
}

fn text(file: &Path, content: &str) -> Result<(), RandomError> {
    create(file)
        .and_then(|mut out| out.write_all(content.as_bytes()))
        .map_err(|source| RandomError::Write { file: file.to_owned(), source })
}

fn create(file: &Path) -> std::io::Result<std::fs::File> {
    file.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    std::fs::File::create(file)
}
