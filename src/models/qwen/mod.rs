//! Qwen2.5-VL (arXiv 2502.13923; transformers' `Qwen2_5_VLForConditionalGeneration`): a vision tower whose features take
//! the place of image tokens in a language model. All sizes come from `config.json`.

pub mod config;
pub mod language;
pub mod positions;
pub mod vision;

use tch::Tensor;

use crate::models::layers::Linear;
use crate::models::weights::{Loader, WeightsError};

/// The names of the published files, and of those that newer libraries write.
const VISION: [&str; 2] = ["visual.", "model.visual."];
const LANGUAGE: [&str; 2] = ["model.language_model.", "model."];

/// Which of several prefixes a file uses, by a key that must be there; the first where none is.
fn prefix<'a>(loader: &Loader, known: [&'a str; 2], key: &str) -> &'a str {
    known.into_iter().find(|prefix| loader.has(&format!("{prefix}{key}"))).unwrap_or(known[0])
}

/// `silu(gate(x)) * up(x)`, and down again.
struct GatedMlp {
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl GatedMlp {
    fn load(loader: &mut Loader, name: &str, width: i64, inner: i64, has_bias: bool) -> Result<Self, WeightsError> {
        let linear = |loader: &mut Loader, part: &str, inputs: i64, outputs: i64| {
            let name = format!("{name}.{part}_proj");
            match has_bias {
                true => Linear::load(loader, &name, inputs, outputs),
                false => Linear::load_without_bias(loader, &name, inputs, outputs),
            }
        };
        Ok(Self {
            gate: linear(loader, "gate", width, inner)?,
            up: linear(loader, "up", width, inner)?,
            down: linear(loader, "down", inner, width)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, tch::TchError> {
        self.down.forward(&self.gate.forward(x)?.f_silu()?.f_mul(&self.up.forward(x)?)?)
    }
}

/// The second half, negated, before the first: what rotary positions turn into.
fn half_turned(x: &Tensor) -> Result<Tensor, tch::TchError> {
    let half = x.size().last().copied().unwrap_or(0) / 2;
    Tensor::f_cat(&[&x.f_narrow(-1, half, half)?.f_neg()?, &x.f_narrow(-1, 0, half)?], -1)
}

/// Rotated by cosines and sines of the positions, which are broadcast.
fn rotated(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor, tch::TchError> {
    x.f_mul(cos)?.f_add(&half_turned(x)?.f_mul(sin)?)
}
