//! The two files that Chain-of-Zoom's training wrote: low-rank changes to the transformer (`model_20001.pkl`, a list
//! without names) and the autoencoder's encoder with its LoRA inside (`vae_encoder_20001.pt`, keys as PEFT names them).

use std::collections::BTreeMap;

use tch::{Kind, TchError, Tensor};

use crate::models::layers::Linear;
use crate::models::weights::{Loader, Reading, Weights, WeightsError};

/// Of the encoder's adapter; the reference leaves PEFT's default.
const ENCODER_ALPHA: f64 = 8.0;
/// What PEFT puts in front of the tensors of a layer that carries a LoRA.
const BASE: &str = ".base_layer.";
const A: &str = ".lora_A.default_encoder.weight";
const B: &str = ".lora_B.default_encoder.weight";

/// Pairs of (up `[out, r]`, down `[r, in]`) for the layers of the class AdaLayerNormZero, in the order of the blocks:
/// first the image's, then the text's. W' = W + up @ down.
#[derive(Default)]
pub struct AdaLoras {
    /// Up, down, up, down, ... by number.
    list: Option<Weights>,
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
        Ok(Self { list: Some(list.clone()) })
    }

    /// The layer's weights with pair `number` merged in; without pairs, as they are.
    pub(super) fn load(
        &self,
        loader: &mut Loader,
        number: usize,
        name: &str,
        inputs: i64,
        outputs: i64,
    ) -> Result<Linear, WeightsError> {
        let tensor = |i: usize| self.list.as_ref().and_then(|list| list.tensor(&i.to_string()));
        // Too few are noted by `check`.
        let (Some(up), Some(down)) = (tensor(2 * number), tensor(2 * number + 1)) else {
            return Linear::load(loader, name, inputs, outputs);
        };
        let (up, down) = (up?, down?);
        let (up_size, down_size) = (up.size(), down.size());
        let fits = matches!((up_size.as_slice(), down_size.as_slice()), (&[o, r], &[s, i]) if (o, i) == (outputs, inputs) && r == s);
        if !fits {
            let file = self.file();
            loader.note(format!(
                "{file}: pair {number} is {up_size:?} and {down_size:?}; {name} needs [{outputs}, r] and [r, {inputs}]"
            ));
            return Linear::load(loader, name, inputs, outputs);
        }
        if loader.how() == Reading::Checked {
            return Linear::load(loader, name, inputs, outputs);
        }
        Linear::load_with_lora(loader, name, [inputs, outputs], true, (&up, &down))
    }

    /// Notes it where there are more or fewer pairs than layers.
    pub(super) fn check(&self, loader: &mut Loader, layers: usize) {
        let count = self.list.as_ref().map(|list| list.shapes().len() / 2);
        if let Some(count) = count.filter(|&count| count != layers) {
            loader.note(format!("{}: {count} pairs for {layers} layers", self.file()));
        }
    }

    fn file(&self) -> String {
        self.list.as_ref().map(|list| list.file().display().to_string()).unwrap_or_default()
    }
}

/// The encoder's weights with the LoRA merged in: W' = W + alpha / r * B A, in float32. Keys are those of the plain
/// encoder, without a prefix.
pub fn merged_encoder(weights: &Weights) -> Result<Weights, WeightsError> {
    let mut merged = BTreeMap::new();
    let mut problems = Vec::new();
    let read = |name: &str| -> Result<Option<Tensor>, WeightsError> {
        match weights.tensor(name) {
            Some(tensor) => Ok(Some(tensor?.f_to_kind(Kind::Float)?)),
            None => Ok(None),
        }
    };
    for name in weights.shapes().into_keys() {
        let Some(tensor) = read(name)? else { continue };
        if let Some((layer, part)) = name.split_once(BASE) {
            let pair = (read(&format!("{layer}{A}"))?, read(&format!("{layer}{B}"))?);
            let tensor = match (part, pair) {
                ("weight", (Some(a), Some(b))) => match change(&tensor, &a, &b) {
                    Ok(change) => tensor.f_add(&change)?,
                    Err(problem) => {
                        problems.push(format!("{layer}: {problem}"));
                        tensor
                    }
                },
                ("weight", _) => {
                    problems.push(format!("{layer} has a base layer but no pair of LoRA weights"));
                    tensor
                }
                _ => tensor,
            };
            merged.insert(format!("{layer}.{part}"), tensor);
        } else if name.contains(".lora_A.") || name.contains(".lora_B.") {
            let layer = name.split(".lora_").next().unwrap_or(name);
            let is_known = name.ends_with(A) || name.ends_with(B);
            if !is_known || !weights.shapes().contains_key(format!("{layer}{BASE}weight").as_str()) {
                problems.push(format!("{name} fits no layer"));
            }
        } else {
            merged.insert(name.to_owned(), tensor);
        }
    }
    if !problems.is_empty() {
        let file = weights.file().to_owned();
        return Err(WeightsError::Mismatch { file, network: "the VAE encoder's LoRA", problems });
    }
    Ok(Weights::from_tensors(merged).called(weights.file()))
}

/// alpha / r * B A in the weight's shape. A convolution's A has the layer's own kernel, its B is 1 x 1.
fn change(weight: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor, String> {
    let (size, rank) = (weight.size(), a.size().first().copied().unwrap_or(0));
    let wrong = || format!("LoRA of {:?} and {:?} does not fit a weight of {size:?}", a.size(), b.size());
    let inner: i64 = size.iter().skip(1).product();
    if rank == 0 || a.numel() as i64 != rank * inner || b.numel() as i64 != size[0] * rank {
        return Err(wrong());
    }
    let product = || -> Result<Tensor, TchError> {
        let (a, b) = (a.f_reshape([rank, inner])?, b.f_reshape([size[0], rank])?);
        b.f_matmul(&a)?.f_mul_scalar(ENCODER_ALPHA / rank as f64)?.f_reshape(&size)
    };
    product().map_err(|_| wrong())
}
