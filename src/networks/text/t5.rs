//! T5's encoder (transformers' `T5EncoderModel`), the version with gated GELU (v1.1, XXL in Stable Diffusion 3).

use serde::Deserialize;
use tch::{TchError, Tensor};

use crate::networks::layers::{Linear, RmsNorm, join_heads, residual_kind, split_heads};
use crate::runtime::Layers;
use crate::runtime::weights::{Loader, WeightsError};

const NETWORK: &str = "T5 encoder";

/// `text_encoder_3/config.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// Tokens.
    pub vocab_size: i64,
    /// Width.
    pub d_model: i64,
    /// Width of a head.
    pub d_kv: i64,
    /// Inner width of a layer.
    pub d_ff: i64,
    /// Layers.
    pub num_layers: i64,
    /// Heads of each.
    pub num_heads: i64,
    /// Kinds of distance between tokens.
    pub relative_attention_num_buckets: i64,
    /// Longer distances are one kind.
    #[serde(default = "max_distance")]
    pub relative_attention_max_distance: i64,
    /// Of the norms.
    pub layer_norm_epsilon: f64,
    /// `gated-gelu` is known.
    pub feed_forward_proj: String,
}

fn max_distance() -> i64 {
    128
}

struct Layer {
    norm1: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm2: RmsNorm,
    gate: Linear,
    expand: Linear,
    contract: Linear,
}

impl Layer {
    fn load(loader: &mut Loader, i: i64, config: &Config) -> Result<Self, WeightsError> {
        let (width, inner, epsilon) = (config.d_model, config.num_heads * config.d_kv, config.layer_norm_epsilon);
        let at = |name: &str| format!("encoder.block.{i}.layer.{name}");
        let linear = |loader: &mut Loader, name: &str, inputs: i64, outputs: i64| {
            Linear::load_without_bias(loader, &at(name), inputs, outputs)
        };
        Ok(Self {
            norm1: RmsNorm::load(loader, &at("0.layer_norm"), width, epsilon)?,
            q: linear(loader, "0.SelfAttention.q", width, inner)?,
            k: linear(loader, "0.SelfAttention.k", width, inner)?,
            v: linear(loader, "0.SelfAttention.v", width, inner)?,
            out: linear(loader, "0.SelfAttention.o", inner, width)?,
            norm2: RmsNorm::load(loader, &at("1.layer_norm"), width, epsilon)?,
            gate: linear(loader, "1.DenseReluDense.wi_0", width, config.d_ff)?,
            expand: linear(loader, "1.DenseReluDense.wi_1", width, config.d_ff)?,
            contract: linear(loader, "1.DenseReluDense.wo", config.d_ff, width)?,
        })
    }

    /// `x` may be wider than the weights: what is added to it then is too.
    fn forward(&self, x: &Tensor, bias: &Tensor, heads: i64) -> Result<Tensor, TchError> {
        let h = self.norm1.forward_narrowed(x)?;
        let head = |linear: &Linear| split_heads(&linear.forward(&h)?, heads);
        // T5 does not scale the products. Written out, as transformers does it: the fused kernel rounds otherwise.
        let scores = head(&self.q)?.f_matmul(&head(&self.k)?.f_transpose(2, 3)?)?.f_add(bias)?;
        let attended = scores.f_softmax(-1, None)?.f_matmul(&head(&self.v)?)?;
        let x = x.f_add(&self.out.forward(&join_heads(&attended)?)?)?;
        let h = self.norm2.forward_narrowed(&x)?;
        let h = self.gate.forward(&h)?.f_gelu("tanh")?.f_mul(&self.expand.forward(&h)?)?;
        // In the width of the sum: in half precision this layer's own output overflows (transformers keeps its weights in
        // 32 bits for that).
        x.f_add(&self.contract.forward_as(&h, x.kind())?)
    }
}

impl Config {
    /// The most bytes that layers hold at once for a prompt of so many tokens, whatever the precision: a few times the scores
    /// of attention.
    pub fn activations(&self, tokens: u64) -> u64 {
        6 * 4 * self.num_heads.unsigned_abs() * tokens * tokens
    }
}

/// The whole encoder.
pub struct T5Encoder {
    tokens: Tensor,
    /// `[buckets, heads]`; the first layer's, used by all.
    distances: Tensor,
    layers: Layers<Layer>,
    final_norm: RmsNorm,
    config: Config,
}

impl T5Encoder {
    /// Reads the encoder.
    ///
    /// # Errors
    /// Every missing, surplus or misshapen key, and an unknown activation, all at once.
    pub fn load(loader: &mut Loader, config: &Config) -> Result<Self, WeightsError> {
        if config.feed_forward_proj != "gated-gelu" {
            loader.report(format!("feed_forward_proj is {:?}; \"gated-gelu\" is known", config.feed_forward_proj));
        }
        // Some files hold the same embedding under its other name as well, or only under that.
        let (shared, own) = ("shared.weight", "encoder.embed_tokens.weight");
        let (name, other) = if loader.has(own) && !loader.has(shared) { (own, shared) } else { (shared, own) };
        let tokens = loader.tensor(name, &[config.vocab_size, config.d_model])?;
        loader.ignore_prefix(other);
        let distances = loader.tensor(
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            &[config.relative_attention_num_buckets, config.num_heads],
        )?;
        let of_layers = config.clone();
        let layers = Layers::load(loader, config.num_layers, move |loader, i| Layer::load(loader, i, &of_layers))?;
        let final_norm = RmsNorm::load(loader, "encoder.final_layer_norm", config.d_model, config.layer_norm_epsilon)?;
        loader.finish(NETWORK)?;
        Ok(Self { tokens, distances, layers, final_norm, config: config.clone() })
    }

    /// Token ids `[B, T]` -> `[B, T, d_model]`. Nothing is masked: padding is attended to, as the reference does.
    /// `on_progress` is called after each layer with how much is done (0 to 1); what it fails with ends the pass.
    pub fn forward<E: From<TchError> + From<WeightsError>>(
        &self,
        ids: &Tensor,
        on_progress: &mut dyn FnMut(f32) -> Result<(), E>,
    ) -> Result<Tensor, E> {
        let (_, length) = ids.size2()?;
        let mut x = Tensor::f_embedding(&self.tokens, ids, -1, false, false)?;
        x = x.f_to_kind(residual_kind(x.kind()))?;
        let bias = self.bias(length)?;
        self.layers.each(|i, layer| {
            on_progress(i as f32 / self.config.num_layers as f32)?;
            x = layer.forward(&x, &bias, self.config.num_heads)?;
            Ok::<(), E>(())
        })?;
        Ok(self.final_norm.forward_narrowed(&x)?)
    }

    /// What distance adds to attention: `[1, heads, T, T]`.
    fn bias(&self, length: i64) -> Result<Tensor, TchError> {
        let buckets: Vec<i64> =
            (0..length).flat_map(|query| (0..length).map(move |key| key - query)).map(|d| self.bucket(d)).collect();
        let buckets = Tensor::f_from_slice(&buckets)?.f_to_device(self.distances.device())?;
        Tensor::f_embedding(&self.distances, &buckets, -1, false, false)?
            .f_view([length, length, self.config.num_heads])?
            .f_permute([2, 0, 1])?
            .f_unsqueeze(0)?
            .f_contiguous()
    }

    /// The kind of a distance: near ones each their own, far ones in steps that grow, before and after apart. Logarithms
    /// in float32, as in transformers: at the borders of two kinds it matters.
    fn bucket(&self, distance: i64) -> i64 {
        let half = self.config.relative_attention_num_buckets / 2;
        let exact = half / 2;
        let side = if distance > 0 { half } else { 0 };
        let distance = distance.abs();
        if distance < exact {
            return side + distance;
        }
        let far = (distance as f32 / exact as f32).ln();
        let furthest = (self.config.relative_attention_max_distance as f64 / exact as f64).ln() as f32;
        let step = (far / furthest * (half - exact) as f32) as i64;
        side + (exact + step).min(half - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_distance_are_the_published_ones() {
        let config = Config {
            vocab_size: 4,
            d_model: 4,
            d_kv: 2,
            d_ff: 4,
            num_layers: 0,
            num_heads: 2,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            feed_forward_proj: "gated-gelu".into(),
        };
        let zeros = |size: &[i64]| Tensor::zeros(size, (tch::Kind::Float, tch::Device::Cpu));
        let tensors = [
            ("shared.weight", zeros(&[4, 4])),
            ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", zeros(&[32, 2])),
            ("encoder.final_layer_norm.weight", zeros(&[4])),
        ];
        let tensors = tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
        let weights = crate::runtime::weights::Weights::from_tensors(tensors);
        let mut loader = Loader::new(&weights, "", tch::Device::Cpu, tch::Kind::Float);
        let encoder = T5Encoder::load(&mut loader, &config).expect("all is there");
        let found = [0, 1, -1, 7, 8, -8, 12, 64, 127, 128, 500, -500].map(|distance| encoder.bucket(distance));
        assert_eq!(found, [0, 17, 1, 23, 24, 8, 25, 30, 31, 31, 31, 15]);
    }
}
