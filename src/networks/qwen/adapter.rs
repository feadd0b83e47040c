//! A PEFT adapter folder for the language model: LoRAs under the names of the layers they belong to. Both layouts of names
//! are read, `model.layers.…` and `model.language_model.layers.…`; the vision tower is never changed.

use std::collections::BTreeMap;
use std::path::Path;

use indexmap::IndexMap;
use regex::Regex;
use serde::Deserialize;

use crate::checkpoint::CheckpointError;
use crate::networks::layers::Linear;
use crate::runtime::weights::lora::{Half, peft_half};
use crate::runtime::weights::{Loader, LoraDelta, LoraFile, Weights, WeightsError};

/// `adapter_config.json`.
#[derive(Clone, Debug, Deserialize)]
struct Config {
    lora_alpha: f64,
    /// Other values for some layers, by regular expressions of the ends of their names; the first that matches counts.
    #[serde(default)]
    alpha_pattern: IndexMap<String, f64>,
    /// Divide by the root of the rank instead of the rank.
    #[serde(default)]
    use_rslora: bool,
}

impl Config {
    /// As `get_pattern_key` of PEFT matches `alpha_pattern`, whatever a library calls the language model.
    fn scale(&self, name: &str, rank: i64) -> f64 {
        let full = ["", "model.", "model.language_model."].map(|start| format!("{start}{name}"));
        let is_for = |pattern: &str| {
            let rule = Regex::new(&format!(r"^(.*\.)?({pattern})$"));
            // What is no expression for us may still be a name.
            rule.map_or(full.iter().any(|full| full == pattern), |rule| full.iter().any(|full| rule.is_match(full)))
        };
        let alpha = self.alpha_pattern.iter().find(|(pattern, _)| is_for(pattern)).map_or(self.lora_alpha, |(_, a)| *a);
        alpha / if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 }
    }
}

/// The LoRAs, or none.
#[derive(Clone, Default)]
pub struct Adapter {
    read: Option<(LoraFile, Config)>,
}

fn half_of(name: &str) -> String {
    format!("{name} has only half of its change")
}

/// A layer's pair, and the keys of down and up in its file.
pub struct NamedPair {
    /// Down, up.
    pub keys: [String; 2],
    /// The pair.
    pub delta: LoraDelta,
}

/// `layers.0.self_attn.q_proj` of PEFT's key, whatever is before it, and which half that holds.
pub fn layer(key: &str) -> Option<(String, Half)> {
    let (name, half) = peft_half(key, "default")?;
    let start =
        ["model.language_model.", "model.model."].iter().find_map(|start| name.rfind(start).map(|at| at + start.len()));
    Some((name.get(start?..).filter(|name| name.starts_with("layers."))?.to_owned(), half))
}

impl Adapter {
    /// Opens `adapter_config.json` and `adapter_model.safetensors` of a folder.
    ///
    /// # Errors
    /// Where a file is missing or no adapter, and for keys that are no halves of a layer of the language model; those of the
    /// vision tower are left alone.
    pub fn open(folder: &Path) -> Result<Self, WeightsError> {
        let file = folder.join("adapter_config.json");
        let text = std::fs::read(&file).map_err(|source| CheckpointError::Io { file: file.clone(), source })?;
        let config =
            serde_json::from_slice(&text).map_err(|error| CheckpointError::format(&file, error.to_string()))?;
        let weights = Weights::open_folder(folder, "adapter_model")?;
        // A rule that is meant for the language model may match the tower by its names too.
        let ours: Vec<&str> = weights.shapes().into_keys().filter(|key| !key.contains("visual.")).collect();
        let strangers = ours.iter().filter(|key| layer(key).is_none());
        let mut problems: Vec<String> =
            strangers.map(|key| format!("{key} fits no layer of the language model")).collect();
        if ours.is_empty() {
            problems.push("it changes no layer of the language model".into());
        }
        if !problems.is_empty() {
            let file = weights.file().to_owned();
            return Err(WeightsError::Mismatch { file, network: "the language model's adapter", problems });
        }
        Ok(Self { read: Some((LoraFile::new(&weights, layer), config)) })
    }

    /// All pairs by the layers they change, for training.
    ///
    /// # Errors
    /// What cannot be read; half pairs.
    pub fn pairs(&self) -> Result<BTreeMap<String, NamedPair>, WeightsError> {
        let Some((pairs, config)) = &self.read else { return Ok(BTreeMap::new()) };
        let (mut named, mut problems) = (BTreeMap::new(), Vec::new());
        for name in pairs.layers() {
            let ([Some(up), Some(down)], Some([_, shape])) = (pairs.keys(name), pairs.shapes(name)) else {
                problems.push(half_of(name));
                continue;
            };
            let scale = config.scale(name, shape.first().copied().unwrap_or(1));
            if let Some(delta) = pairs.read(name, scale)? {
                named.insert(name.to_owned(), NamedPair { keys: [down.to_owned(), up.to_owned()], delta });
            }
        }
        match problems.is_empty() {
            true => Ok(named),
            false => {
                let file = pairs.file().to_string().into();
                Err(WeightsError::Mismatch { file, network: "the language model's adapter", problems })
            }
        }
    }

    /// A linear layer called `name`, as its own file has it at `key`, with its LoRA merged in.
    pub(super) fn load(
        &self,
        loader: &mut Loader,
        (key, name): (&str, &str),
        [inputs, outputs]: [i64; 2],
        has_bias: bool,
    ) -> Result<Linear, WeightsError> {
        let lora = self.delta(loader, name, [inputs, outputs])?;
        Linear::load_merged(loader, key, [inputs, outputs], has_bias, lora.as_ref())
    }

    fn delta(
        &self,
        loader: &mut Loader,
        name: &str,
        [inputs, outputs]: [i64; 2],
    ) -> Result<Option<LoraDelta>, WeightsError> {
        let Some((pairs, config)) = &self.read else { return Ok(None) };
        if let [Some(_), None] | [None, Some(_)] = pairs.keys(name) {
            loader.report(format!("{}: {}", pairs.file(), half_of(name)));
        }
        let misfit =
            |up: &[i64], down: &[i64]| format!("{name} is changed by {up:?} and {down:?}; it is [{outputs}, {inputs}]");
        pairs.delta(loader, name, &[outputs, inputs], |rank| config.scale(name, rank), misfit)
    }

    /// Notes what belongs to layers that the model does not have.
    pub(super) fn check(&self, loader: &mut Loader, has: impl Fn(&str) -> bool) {
        let Some((pairs, _)) = &self.read else { return };
        for name in pairs.layers().filter(|name| !has(name)) {
            loader.report(format!("{}: {name} is no layer of this model", pairs.file()));
        }
    }
}
