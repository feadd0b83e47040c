//! CLIP's text encoder (transformers' `CLIPTextModel`), as Stable Diffusion 2 uses one of; with a projection
//! (`CLIPTextModelWithProjection`), as Stable Diffusion 3 uses two of.

use serde::Deserialize;
use tch::{Kind, TchError, Tensor};

use crate::networks::layers::{LayerNorm, Linear, attention, join_heads, split_heads};
use crate::runtime::Layers;
use crate::runtime::weights::{Loader, WeightsError};

const NETWORK: &str = "CLIP text encoder";
/// Before the names of all layers; files that `CLIPTextModel` of transformers 5 writes are without it.
const PREFIX: &str = "text_model.";
/// The end-of-text id that old configs carry by mistake.
const LEGACY_END: i64 = 2;

/// `text_encoder/config.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// Tokens.
    pub vocab_size: i64,
    /// Width.
    pub hidden_size: i64,
    /// Inner width of a layer.
    pub intermediate_size: i64,
    /// Width of the pooled output; transformers' default where there is none.
    #[serde(default = "projection_dim")]
    pub projection_dim: i64,
    /// Layers.
    pub num_hidden_layers: i64,
    /// Heads of each.
    pub num_attention_heads: i64,
    /// The longest prompt in tokens, padding included.
    pub max_position_embeddings: i64,
    /// `quick_gelu` or `gelu`.
    pub hidden_act: String,
    /// Of the norms.
    pub layer_norm_eps: f64,
    /// The end-of-text token; 2 in old configs, where it stands for the largest id, as nothing does.
    #[serde(default)]
    pub eos_token_id: Option<i64>,
}

impl Config {
    /// The most bytes that layers hold at once for a prompt of so many tokens, whatever the precision, about.
    pub fn activations(&self, tokens: u64) -> u64 {
        4 * 4 * self.intermediate_size.unsigned_abs() * tokens
    }
}

fn projection_dim() -> i64 {
    512
}

#[derive(Clone, Copy)]
enum Activation {
    Gelu,
    QuickGelu,
}

struct Layer {
    norm1: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm2: LayerNorm,
    expand: Linear,
    contract: Linear,
}

impl Layer {
    fn load(loader: &mut Loader, name: &str, config: &Config) -> Result<Self, WeightsError> {
        let (width, inner, epsilon) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let at = |part: &str| format!("{name}.{part}");
        let square = |loader: &mut Loader, name: &str| Linear::load(loader, &at(name), width, width);
        Ok(Self {
            norm1: LayerNorm::load(loader, &at("layer_norm1"), width, epsilon)?,
            q: square(loader, "self_attn.q_proj")?,
            k: square(loader, "self_attn.k_proj")?,
            v: square(loader, "self_attn.v_proj")?,
            out: square(loader, "self_attn.out_proj")?,
            norm2: LayerNorm::load(loader, &at("layer_norm2"), width, epsilon)?,
            expand: Linear::load(loader, &at("mlp.fc1"), width, inner)?,
            contract: Linear::load(loader, &at("mlp.fc2"), inner, width)?,
        })
    }

    fn forward(&self, x: &Tensor, heads: i64, activation: Activation) -> Result<Tensor, TchError> {
        let h = self.norm1.forward(x)?;
        let head = |linear: &Linear| split_heads(&linear.forward(&h)?, heads);
        let attended = attention(&head(&self.q)?, &head(&self.k)?, &head(&self.v)?, true)?;
        let x = x.f_add(&self.out.forward(&join_heads(&attended)?)?)?;
        let h = self.expand.forward(&self.norm2.forward(&x)?)?;
        let h = match activation {
            Activation::Gelu => h.f_gelu("none")?,
            Activation::QuickGelu => h.f_mul(&h.f_mul_scalar(1.702)?.f_sigmoid()?)?,
        };
        x.f_add(&self.contract.forward(&h)?)
    }
}

/// What the encoder says of a prompt.
pub struct Encoded {
    /// The hidden states before the last layer, `[B, T, hidden]`: what SD 3 attends to.
    pub penultimate: Tensor,
    /// Those behind the last layer, normalised: what SD 2 attends to.
    pub last: Tensor,
}

/// The encoder.
pub struct ClipText {
    tokens: Tensor,
    positions: Tensor,
    layers: Layers<Layer>,
    final_norm: LayerNorm,
    activation: Activation,
    heads: i64,
}

impl ClipText {
    /// Reads the encoder.
    ///
    /// # Errors
    /// Every missing, surplus or misshapen key, and an unknown activation, all at once.
    pub fn load(loader: &mut Loader, config: &Config) -> Result<Self, WeightsError> {
        let text = Self::load_part(loader, config)?;
        loader.finish(NETWORK)?;
        Ok(text)
    }

    fn load_part(loader: &mut Loader, config: &Config) -> Result<Self, WeightsError> {
        let activation = match config.hidden_act.as_str() {
            "gelu" => Activation::Gelu,
            "quick_gelu" => Activation::QuickGelu,
            other => {
                loader.report(format!("hidden_act is {other:?}; \"gelu\" and \"quick_gelu\" are known"));
                Activation::Gelu
            }
        };
        let width = config.hidden_size;
        let prefix = if loader.has("embeddings.token_embedding.weight") { "" } else { PREFIX };
        let embedding = |name: &str| format!("{prefix}embeddings.{name}_embedding.weight");
        let tokens = loader.tensor(&embedding("token"), &[config.vocab_size, width])?;
        let positions = loader.tensor(&embedding("position"), &[config.max_position_embeddings, width])?;
        // Old files carry the numbers 0, 1, 2, ... too.
        loader.ignore_prefix(&format!("{prefix}embeddings.position_ids"));
        let of_layers = config.clone();
        let layers = Layers::load(loader, config.num_hidden_layers, move |loader, i| {
            Layer::load(loader, &format!("{prefix}encoder.layers.{i}"), &of_layers)
        })?;
        let final_norm = LayerNorm::load(loader, &format!("{prefix}final_layer_norm"), width, config.layer_norm_eps)?;
        Ok(Self { tokens, positions, layers, final_norm, activation, heads: config.num_attention_heads })
    }

    /// Token ids `[B, T]`, with T at most the longest prompt.
    pub fn forward(&self, ids: &Tensor) -> Result<Encoded, WeightsError> {
        let (_, length) = ids.size2()?;
        let positions = self.positions.f_narrow(0, 0, length)?;
        let mut x = Tensor::f_embedding(&self.tokens, ids, -1, false, false)?.f_add(&positions)?;
        let mut penultimate = x.shallow_clone();
        self.layers.each(|_, layer| {
            penultimate = x.shallow_clone();
            x = layer.forward(&penultimate, self.heads, self.activation)?;
            Ok::<(), WeightsError>(())
        })?;
        Ok(Encoded { penultimate, last: self.final_norm.forward(&x)? })
    }
}

/// The encoder with a projection of what it says at the end of the text.
pub struct ClipTextWithProjection {
    text: ClipText,
    projection: Linear,
    config: Config,
}

impl ClipTextWithProjection {
    /// Reads encoder and projection.
    ///
    /// # Errors
    /// As [`ClipText::load`].
    pub fn load(loader: &mut Loader, config: &Config) -> Result<Self, WeightsError> {
        let text = ClipText::load_part(loader, config)?;
        let projection =
            Linear::load_without_bias(loader, "text_projection", config.hidden_size, config.projection_dim)?;
        loader.finish(NETWORK)?;
        Ok(Self { text, projection, config: config.clone() })
    }

    /// Token ids `[B, T]` -> the hidden states, and the projected one at the end of the text, `[B, projection]`.
    pub fn forward(&self, ids: &Tensor) -> Result<(Encoded, Tensor), WeightsError> {
        let encoded = self.text.forward(ids)?;
        // With the legacy id the end is where the largest id is, which in CLIP's vocabulary is the end of the text.
        let end = match self.config.eos_token_id {
            None | Some(LEGACY_END) => ids.f_argmax(-1, false)?,
            Some(id) => ids.f_eq(id)?.f_to_kind(Kind::Int)?.f_argmax(-1, false)?,
        };
        let index = end.f_view([-1, 1, 1])?.f_expand([-1, 1, self.config.hidden_size], false)?;
        let pooled = self.projection.forward(&encoded.last.f_gather(1, &index, false)?.f_squeeze_dim(1)?)?;
        Ok((encoded, pooled))
    }
}
