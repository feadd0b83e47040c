//! A PEFT adapter folder for the language model: low-rank changes under the names of the layers they belong to. Both
//! layouts of names are read, `model.layers.…` and `model.language_model.layers.…`; the vision tower is never changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use crate::models::layers::Linear;
use crate::models::weights::{Loader, Reading, Weights, WeightsError};

/// `adapter_config.json`.
#[derive(Clone, Debug, Deserialize)]
struct Config {
    lora_alpha: f64,
    /// Other values for some layers, by the end of their names.
    #[serde(default)]
    alpha_pattern: BTreeMap<String, f64>,
    /// Divide by the root of the rank instead of the rank.
    #[serde(default)]
    use_rslora: bool,
}

/// The changes, or none.
#[derive(Clone, Default)]
pub struct Adapter {
    read: Option<(Weights, Config)>,
}

/// The two halves of a change, as PEFT names them at the end of a key; newer libraries leave out the adapter's name.
const HALVES: [[&str; 2]; 2] =
    [[".lora_A.weight", ".lora_B.weight"], [".lora_A.default.weight", ".lora_B.default.weight"]];

/// `layers.0.self_attn.q_proj` of a key, whatever is before and behind it.
fn layer(key: &str) -> Option<&str> {
    let name = HALVES.iter().flatten().find_map(|half| key.strip_suffix(half))?;
    let start =
        ["model.language_model.", "model.model."].iter().find_map(|start| name.rfind(start).map(|at| at + start.len()));
    name.get(start?..).filter(|name| name.starts_with("layers."))
}

impl Adapter {
    /// Opens `adapter_config.json` and `adapter_model.safetensors` of a folder.
    ///
    /// # Errors
    /// Where a file is missing or no adapter, and for keys that are no halves of a layer of the language model; those of the
    /// vision tower are left alone.
    pub fn open(folder: &Path) -> Result<Self, WeightsError> {
        let file = folder.join("adapter_config.json");
        let text = std::fs::read(&file).map_err(|source| WeightsError::Io { file: file.clone(), source })?;
        let config =
            serde_json::from_slice(&text).map_err(|error| WeightsError::Format { file, found: error.to_string() })?;
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
        Ok(Self { read: Some((weights, config)) })
    }

    /// A linear layer called `name`, as its own file has it at `key`, with its change merged in.
    pub(super) fn load(
        &self,
        loader: &mut Loader,
        (key, name): (&str, &str),
        [inputs, outputs]: [i64; 2],
        has_bias: bool,
    ) -> Result<Linear, WeightsError> {
        let plain = |loader: &mut Loader| match has_bias {
            true => Linear::load(loader, key, inputs, outputs),
            false => Linear::load_without_bias(loader, key, inputs, outputs),
        };
        let Some((weights, config)) = &self.read else { return plain(loader) };
        let half = |which: usize| {
            let shapes = weights.shapes();
            let mut keys = shapes.into_iter().filter(|(key, _)| HALVES.iter().any(|half| key.ends_with(half[which])));
            keys.find(|(key, _)| layer(key) == Some(name)).map(|(key, shape)| (key.to_owned(), shape))
        };
        let ((down, down_shape), (up, up_shape)) = match (half(0), half(1)) {
            (None, None) => return plain(loader),
            (Some(down), Some(up)) => (down, up),
            _ => {
                loader.note(format!("{}: {name} has only half of its change", weights.file().display()));
                return plain(loader);
            }
        };
        let rank = down_shape.first().copied().unwrap_or(0);
        if rank == 0 || down_shape != [rank, inputs] || up_shape != [outputs, rank] {
            let file = weights.file().display();
            loader.note(format!(
                "{file}: {name} is changed by {up_shape:?} and {down_shape:?}; it is [{outputs}, {inputs}]"
            ));
            return plain(loader);
        }
        if loader.how() == Reading::Checked {
            return plain(loader);
        }
        let (Some(up), Some(down)) = (weights.tensor(&up), weights.tensor(&down)) else { return plain(loader) };
        let is_for = |pattern: &str| name == pattern || name.ends_with(&format!(".{pattern}"));
        let alpha =
            config.alpha_pattern.iter().find(|(pattern, _)| is_for(pattern)).map_or(config.lora_alpha, |(_, a)| *a);
        let scale = alpha / if config.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        Linear::load_with_lora(loader, key, [inputs, outputs], has_bias, (&up?.f_mul_scalar(scale)?, &down?))
    }

    /// Notes what belongs to layers that the model does not have.
    pub(super) fn check(&self, loader: &mut Loader, has: impl Fn(&str) -> bool) {
        let Some((weights, _)) = &self.read else { return };
        let shapes = weights.shapes();
        let strangers: BTreeSet<&str> = shapes.keys().filter_map(|key| layer(key)).filter(|name| !has(name)).collect();
        for name in strangers {
            loader.note(format!("{}: {name} is no layer of this model", weights.file().display()));
        }
    }
}
