//! Qwen2.5-VL (arXiv 2502.13923; transformers' `Qwen2_5_VLForConditionalGeneration`): a vision tower whose features take
//! the place of image tokens in a language model. All sizes come from `config.json`.

pub mod adapter;
pub mod config;
pub mod generation;
pub mod language;
pub mod positions;
pub mod vision;

use tch::{Kind, Tensor};

use self::adapter::Adapter;
use self::config::Config;
use self::language::LanguageModel;
use self::vision::VisionTower;
use super::layers::Linear;
use crate::runtime::weights::{Loader, WeightsError};

/// Both networks, which share their files.
pub struct Qwen {
    /// What sees.
    pub vision: VisionTower,
    /// What speaks.
    pub language: LanguageModel,
}

impl Qwen {
    /// Reads both; the adapter is merged into the language model.
    pub fn load(loader: &mut Loader, config: &Config, adapter: &Adapter) -> Result<Self, WeightsError> {
        let vision = VisionTower::load(loader, &config.vision)?;
        let language = LanguageModel::load(loader, &config.language, adapter)?;
        loader.finish("Qwen2.5-VL")?;
        Ok(Self { vision, language })
    }
}

/// The names of the published files, and of those that newer libraries write.
const VISION: [&str; 2] = ["visual.", "model.visual."];
const LANGUAGE: [&str; 2] = ["model.", "model.language_model."];

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
    /// `linear` reads the layer of a name, from so many inputs to so many outputs.
    fn load(
        [width, inner]: [i64; 2],
        mut linear: impl FnMut(&str, [i64; 2]) -> Result<Linear, WeightsError>,
    ) -> Result<Self, WeightsError> {
        Ok(Self {
            gate: linear("mlp.gate_proj", [width, inner])?,
            up: linear("mlp.up_proj", [width, inner])?,
            down: linear("mlp.down_proj", [inner, width])?,
        })
    }

    /// In the dtype of the sum that the result is added to: in half precision the product and what is made of it leave the
    /// range (as in T5).
    fn forward(&self, x: &Tensor, sum: Kind) -> Result<Tensor, tch::TchError> {
        // What a LoRA adds comes in float32.
        let narrowed = |layer: &Linear| layer.forward(x)?.f_to_kind(x.kind());
        let (mut gate, up) = (narrowed(&self.gate)?, narrowed(&self.up)?);
        let inner = match gate.requires_grad() {
            true => gate.f_silu()?.f_to_kind(sum)?.f_mul(&up)?,
            // In place: these are the widest tensors, and only needed here.
            false => gate.f_silu_()?.f_to_kind(sum)?.f_mul_(&up)?,
        };
        self.down.forward_as(&inner, sum)?.f_to_kind(sum)
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
