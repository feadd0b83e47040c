//! The layers of RAM's Query2Label head (`BertLayer` of `ram/models/bert.py` in its mode "tagging"): labels attend to the
//! picture, not to each other.

use tch::{TchError, Tensor};

use super::lora::RamLora;
use crate::networks::layers::{LayerNorm, Linear, attention, join_heads, split_heads};
use crate::runtime::weights::{Loader, WeightsError};

/// By the reference's config; no tensor tells.
const HEADS: i64 = 4;
const EPSILON: f64 = 1e-12;

pub(super) struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attended: (Linear, LayerNorm),
    inner: Linear,
    outer: (Linear, LayerNorm),
}

impl Layer {
    /// `name`: in the head, such as `encoder.layer.0`. From labels of width `width` to tokens of width `tokens`.
    pub(super) fn load(
        loader: &mut Loader,
        name: &str,
        [width, tokens]: [i64; 2],
        changes: &RamLora,
    ) -> Result<Self, WeightsError> {
        let head = format!("tagging_head.{name}");
        // Trained beside another encoder whose layers are these very ones, so that changes to it are changes to them.
        let names = |part: &str| {
            [format!("{head}.crossattention.self.{part}"), format!("tag_encoder.{name}.crossattention.self.{part}")]
        };
        let normed = |loader: &mut Loader, part: &str, inputs: i64| -> Result<_, WeightsError> {
            let linear = Linear::load(loader, &format!("{head}.{part}.dense"), inputs, width)?;
            Ok((linear, LayerNorm::load(loader, &format!("{head}.{part}.LayerNorm"), width, EPSILON)?))
        };
        let inner = loader.shape(&format!("{head}.intermediate.dense.weight"));
        let inner = inner.and_then(|shape| shape.first().copied()).unwrap_or(0);
        Ok(Self {
            query: changes.linear(loader, &names("query"), [width, width])?,
            key: changes.linear(loader, &names("key"), [tokens, width])?,
            value: Linear::load(loader, &format!("{head}.crossattention.self.value"), tokens, width)?,
            attended: normed(loader, "crossattention.output", width)?,
            inner: Linear::load(loader, &format!("{head}.intermediate.dense"), width, inner)?,
            outer: normed(loader, "output", inner)?,
        })
    }

    /// Labels `[1, N, D]` and the picture `[1, tokens, C]` -> `[1, N, D]`.
    pub(super) fn forward(&self, x: &Tensor, image: &Tensor) -> Result<Tensor, TchError> {
        let q = split_heads(&self.query.forward(x)?, HEADS)?;
        let k = split_heads(&self.key.forward(image)?, HEADS)?;
        let v = split_heads(&self.value.forward(image)?, HEADS)?;
        let added = |(linear, norm): &(Linear, LayerNorm), new: &Tensor, x: &Tensor| {
            norm.forward(&linear.forward(new)?.f_add(x)?)
        };
        let x = added(&self.attended, &join_heads(&attention(&q, &k, &v, false)?)?, x)?;
        added(&self.outer, &self.inner.forward(&x)?.f_gelu("none")?, &x)
    }
}
