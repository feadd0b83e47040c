//! The LoRA that is trained as a PEFT folder: `adapter_model.safetensors` and `adapter_config.json`, as the released one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

use crate::checkpoint::CheckpointError;
use crate::networks::qwen::adapter::{Adapter, layer};
use crate::networks::qwen::config::Language;
use crate::networks::qwen::language::LanguageModel;
use crate::runtime::rng;
use crate::runtime::weights::lora::Half;
use crate::runtime::weights::{LoraDelta, Weights};
use crate::train::TrainError;
use crate::train::adamw::Group;
use crate::train::files::write_safetensors;
use crate::train::seed::derived_seed;

/// Which layers it changes, as a rule for PEFT: those of the language model, by their names in older and newer libraries.
const TARGETS: &str = r"(.*\.)?model\.(language_model\.)?layers\.\d+\.(self_attn\.(q|k|v|o)|mlp\.(gate|up|down))_proj";

/// Sizes of a new LoRA.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoraConfig {
    /// r.
    pub rank: i64,
    /// Its scale is that by the rank.
    pub alpha: f64,
    /// Share of its input that is dropped while it is trained.
    pub dropout: f64,
}

/// Where its first values come from.
pub enum LoraInit {
    /// Down is drawn, up is zero, as in PEFT: it changes nothing at first.
    New(LoraConfig, u64),
    /// A PEFT folder, and the dropout from now on.
    Folder(PathBuf, f64),
    /// These tensors by PEFT's keys; those of up that are missing are zero.
    Tensors(LoraConfig, Vec<(String, Tensor)>),
}

/// A layer's pair, and how it is called.
pub(super) struct AdapterLayer {
    /// PEFT's keys of down and up.
    pub keys: [String; 2],
    /// The layer's key in the model's weights, without `.weight`.
    pub weight: String,
    /// Its first values.
    pub pair: LoraDelta,
}

/// What is trained, and the rest of its file.
pub(super) struct AdapterFile {
    /// In the order of the model's layers.
    pub layers: Vec<AdapterLayer>,
    /// The other file.
    pub config: PeftConfig,
    /// While it is trained.
    pub dropout: f64,
}

/// `adapter_config.json`. Rules keep their order: the first that matches counts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PeftConfig {
    #[serde(default)]
    alpha_pattern: IndexMap<String, f64>,
    #[serde(default)]
    rank_pattern: IndexMap<String, i64>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl PeftConfig {
    fn new(lora: &LoraConfig) -> Self {
        let rest = json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": true, "r": lora.rank,
            "lora_alpha": lora.alpha, "lora_dropout": lora.dropout, "target_modules": TARGETS, "bias": "none",
            "fan_in_fan_out": false, "init_lora_weights": true, "use_rslora": false, "use_dora": false,
        });
        Self { rest: rest.as_object().cloned().unwrap_or_default(), ..Self::default() }
    }

    fn open(folder: &Path, dropout: f64) -> Result<Self, TrainError> {
        let file = folder.join("adapter_config.json");
        let text = std::fs::read(&file).map_err(TrainError::io(&file))?;
        let mut config: Self = serde_json::from_slice(&text).map_err(|error| TrainError::format(&file, error))?;
        config.rest.insert("inference_mode".into(), true.into());
        config.rest.insert("lora_dropout".into(), dropout.into());
        Ok(config)
    }
}

/// PEFT's keys of down and up.
fn keys_of(name: &str) -> [String; 2] {
    ["A", "B"].map(|half| format!("base_model.model.model.{name}.lora_{half}.weight"))
}

impl AdapterFile {
    /// For a model with these weights.
    ///
    /// # Errors
    /// An adapter that cannot be read, or is of another model.
    pub(super) fn open(init: LoraInit, weights: &Weights, config: &Language) -> Result<Self, TrainError> {
        let layers = LanguageModel::adaptable_layers(weights, config);
        let shape = |key: &str| weights.shape(&format!("{key}.weight")).unwrap_or_default();
        let misfit = |what: String| TrainError::Misfit(format!("{}: {what}", weights.file().display()));
        match init {
            LoraInit::New(lora, seed) => {
                let pair = |(number, (name, key)): (u64, (String, String))| {
                    let [outputs, inputs] = shape(&key)[..] else {
                        return Err(misfit(format!("{key} is no matrix")));
                    };
                    // PEFT's: uniform by the inputs, as a linear layer begins.
                    let bound = 1.0 / (inputs as f64).sqrt();
                    let mut down = Tensor::f_zeros([lora.rank, inputs], (Kind::Float, Device::Cpu))?;
                    rng::seeded(derived_seed("lora", &[seed, number]), || down.f_uniform_(-bound, bound).map(drop))?;
                    let up = Tensor::f_zeros([outputs, lora.rank], (Kind::Float, Device::Cpu))?;
                    let pair = LoraDelta { up, down, scale: lora.alpha / lora.rank as f64, dropout: None };
                    Ok(AdapterLayer { keys: keys_of(&name), weight: key, pair })
                };
                let layers = (0..).zip(layers).map(pair).collect::<Result<_, TrainError>>()?;
                Ok(Self { layers, config: PeftConfig::new(&lora), dropout: lora.dropout })
            }
            LoraInit::Folder(folder, dropout) => {
                let mut named = Adapter::open(&folder)?.pairs()?;
                let mut found = Vec::new();
                for (name, key) in layers {
                    if let Some(pair) = named.remove(&name) {
                        let (up, down, weight) = (pair.delta.up.size(), pair.delta.down.size(), shape(&key));
                        if !LoraDelta::fits(&up, &down, &weight) {
                            let what =
                                format!("{name} is {weight:?}; {} changes it by {up:?} and {down:?}", folder.display());
                            return Err(misfit(what));
                        }
                        found.push(AdapterLayer { keys: pair.keys, weight: key, pair: pair.delta });
                    }
                }
                if let Some(name) = named.keys().next() {
                    return Err(misfit(format!("it has no {name}, which {} changes", folder.display())));
                }
                Ok(Self { layers: found, config: PeftConfig::open(&folder, dropout)?, dropout })
            }
            LoraInit::Tensors(lora, tensors) => {
                // Down and up of each layer, with their keys.
                let mut halves: BTreeMap<String, [Option<(String, Tensor)>; 2]> = BTreeMap::new();
                for (key, tensor) in tensors {
                    let (name, half) =
                        layer(&key).ok_or_else(|| misfit(format!("{key} fits no layer of the language model")))?;
                    halves.entry(name).or_default()[usize::from(half == Half::Up)] = Some((key, tensor));
                }
                let mut found = Vec::new();
                for (name, key) in layers {
                    let (down_key, down, up) = match halves.remove(&name) {
                        Some([Some((key, down)), up]) => (key, down, up),
                        Some([None, _]) => return Err(misfit(format!("{name} has only half of its initial values"))),
                        None => continue,
                    };
                    let outputs = shape(&key).first().copied().unwrap_or(0);
                    let rank = down.size().first().copied().unwrap_or(0);
                    let (up_key, up) = match up {
                        Some(up) => up,
                        None => {
                            let zeros = Tensor::f_zeros([outputs, rank], (Kind::Float, Device::Cpu))?;
                            (down_key.replace("lora_A", "lora_B"), zeros)
                        }
                    };
                    if !LoraDelta::fits(&up.size(), &down.size(), &shape(&key)) {
                        return Err(misfit(format!("{down_key} is {:?}, which does not fit", down.size())));
                    }
                    let pair = LoraDelta { up, down, scale: lora.alpha / rank as f64, dropout: None };
                    found.push(AdapterLayer { keys: [down_key, up_key], weight: key, pair });
                }
                match halves.keys().next() {
                    Some(name) => Err(misfit(format!("it has no {name}, of which there are initial values"))),
                    None if found.is_empty() => Err(misfit("there are no initial values for it".into())),
                    None => Ok(Self { layers: found, config: PeftConfig::new(&lora), dropout: lora.dropout }),
                }
            }
        }
    }
}

/// Writes the two files of a PEFT folder.
///
/// # Errors
/// Where they cannot be written.
pub(super) fn write(folder: &Path, config: &PeftConfig, group: &Group) -> Result<(), TrainError> {
    let tensors = group.parameters.iter().map(|(key, tensor)| (key.clone(), tensor.detach())).collect();
    write_safetensors(&folder.join("adapter_model.safetensors"), &tensors)?;
    let file = folder.join("adapter_config.json");
    let text =
        serde_json::to_string_pretty(config).map_err(|error| CheckpointError::format(&file, error.to_string()))?;
    Ok(crate::base::write_atomic(&file, |out| std::io::Write::write_all(out, text.as_bytes()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_keep_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let text =
            r#"{"r": 4, "alpha_pattern": {"q_proj": 16, ".*_proj": 64}, "lora_alpha": 8, "target_modules": "x"}"#;
        std::fs::write(folder.path().join("adapter_config.json"), text).unwrap();
        let config = PeftConfig::open(folder.path(), 0.5).unwrap();
        let written: Value = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(
            (&written["r"], &written["lora_dropout"], &written["target_modules"]),
            (&json!(4), &json!(0.5), &json!("x"))
        );
        let text = serde_json::to_string(&config).unwrap();
        assert!(text.find("\"q_proj\"").unwrap() < text.find("\".*_proj\"").unwrap(), "{text}");
    }
}
