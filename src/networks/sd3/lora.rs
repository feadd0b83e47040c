//! The two files that Chain-of-Zoom's training wrote: the transformer's LoRA (`model_20001.pkl`, a list without names) and
//! the autoencoder's encoder with its LoRA inside (`vae_encoder_20001.pt`, keys as PEFT names them).

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use crate::runtime::weights::lora::{BASE, Half, peft_half};
use crate::runtime::weights::{Loader, LoraDelta, LoraFile, LoraMap, Weights, WeightsError};

/// Of the encoder's adapter; the reference leaves PEFT's default.
const ENCODER_ALPHA: f64 = 8.0;
/// PEFT's name of that adapter.
pub const ENCODER: &str = "default_encoder";

/// Pairs for the layers of the class AdaLayerNormZero, in the order of the blocks: first the image's, then the text's.
#[derive(Default)]
pub struct AdaLoras {
    /// By number.
    pairs: Option<LoraFile>,
}

impl AdaLoras {
    /// From a list of tensors: up, down, up, down, ...
    pub fn read(list: &Weights) -> Result<Self, WeightsError> {
        let count = list.shapes().len();
        let wrong = |problem: String| WeightsError::Mismatch {
            file: list.file().to_owned(),
            network: "the transformer's LoRA",
            problems: vec![problem],
        };
        if let Some(i) = (0..count).find(|i| !list.shapes().contains_key(i.to_string().as_str())) {
            return Err(wrong(format!("expected a list of tensors, number {i} of {count} is not there")));
        }
        if !count.is_multiple_of(2) {
            return Err(wrong(format!("{count} tensors are no pairs")));
        }
        let pair = |key: &str| {
            let i: usize = key.parse().ok()?;
            Some(((i / 2).to_string(), if i.is_multiple_of(2) { Half::Up } else { Half::Down }))
        };
        Ok(Self { pairs: Some(LoraFile::new(list, pair)) })
    }

    /// Pair `number`, which is for the layer `name`.
    pub(super) fn delta(
        &self,
        loader: &mut Loader,
        number: usize,
        name: &str,
        [inputs, outputs]: [i64; 2],
    ) -> Result<Option<LoraDelta>, WeightsError> {
        let Some(pairs) = &self.pairs else { return Ok(None) };
        let misfit = |up: &[i64], down: &[i64]| {
            format!("pair {number} is {up:?} and {down:?}; {name} needs [{outputs}, r] and [r, {inputs}]")
        };
        // Too few are noted by `check`.
        pairs.delta(loader, &number.to_string(), &[outputs, inputs], |_| 1.0, misfit)
    }

    /// Notes it where there are more or fewer pairs than layers.
    pub(super) fn check(&self, loader: &mut Loader, layers: usize) {
        let Some(pairs) = &self.pairs else { return };
        let count = pairs.layers().len();
        if count != layers {
            loader.report(format!("{}: {count} pairs for {layers} layers", pairs.file()));
        }
    }
}

/// The encoder's weights with the LoRA merged in. Keys are those of the plain encoder, without a prefix.
pub fn merged_encoder(weights: &Weights) -> Result<Weights, WeightsError> {
    let (mut tensors, loras) = split_encoder(weights)?;
    for (layer, lora) in loras {
        if let Some(weight) = tensors.get_mut(&format!("{layer}.weight")) {
            *weight = lora.merge(weight)?;
        }
    }
    Ok(Weights::from_tensors(tensors).called(weights.file()))
}

/// The encoder's weights without its LoRA, in float32, and the LoRA by the names of the layers.
pub fn split_encoder(weights: &Weights) -> Result<(BTreeMap<String, Tensor>, LoraMap), WeightsError> {
    let parse = |key: &str| peft_half(key, ENCODER).map(|(layer, half)| (layer.to_owned(), half));
    let pairs = LoraFile::new(weights, parse);
    let (mut tensors, mut loras, mut problems) = (BTreeMap::new(), LoraMap::new(), Vec::new());
    for (key, shape) in weights.shapes() {
        if key.contains(".lora_A.") || key.contains(".lora_B.") {
            let layer = parse(key).map(|(layer, _)| layer);
            if !layer.is_some_and(|layer| weights.has(&format!("{layer}{BASE}weight"))) {
                problems.push(format!("{key} fits no layer"));
            }
            continue;
        }
        if let Some((layer, "weight")) = key.split_once(BASE) {
            match pairs.shapes(layer) {
                Some([up, down]) if LoraDelta::fits(&up, &down, &shape) => {
                    loras.extend(
                        pairs.read(layer, ENCODER_ALPHA / down[0] as f64)?.map(|lora| (layer.to_owned(), lora)),
                    );
                }
                Some([up, down]) => {
                    let problem = format!("LoRA of {down:?} and {up:?} does not fit a weight of {shape:?}");
                    problems.push(format!("{layer}: {problem}"));
                }
                None => problems.push(format!("{layer} has a base layer but no pair of LoRA weights")),
            }
        }
        if let Some(tensor) = weights.tensor(key).transpose()? {
            tensors.insert(key.replacen(BASE, ".", 1), tensor.f_to_kind(Kind::Float)?);
        }
    }
    if !problems.is_empty() {
        let file = weights.file().to_owned();
        return Err(WeightsError::Mismatch { file, network: "the VAE encoder's LoRA", problems });
    }
    Ok((tensors, loras))
}
