//! The language model (`Qwen2_5_VLTextModel` with its output layer): grouped-query attention, positions in three axes, a
//! cache of keys and values that is allocated once.

use tch::{Device, Kind, TchError, Tensor};

use super::adapter::Adapter;
use super::config::Language;
use super::{GatedMlp, LANGUAGE, prefix, rotated};
use crate::networks::layers::{Linear, RmsNorm, join_heads, residual_kind, split_heads};
use crate::runtime::Layers;
use crate::runtime::weights::{Loader, WeightsError};

/// The linear layers of a layer, which an adapter may change.
const LAYERS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

struct Layer {
    norm1: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm2: RmsNorm,
    mlp: GatedMlp,
}

/// Cosines and sines of the tokens' positions, `[N, head_dim]` each.
struct Turns {
    cos: Tensor,
    sin: Tensor,
}

/// One layer's keys and values, `[1, kv_heads, room, head_dim]` each.
struct Memory {
    keys: Tensor,
    values: Tensor,
}

/// What has been read so far, for every layer; made by [`LanguageModel::cache`].
pub struct Cache {
    layers: Vec<Memory>,
    filled: i64,
    room: i64,
}

impl Cache {
    /// Tokens read so far.
    pub fn filled(&self) -> i64 {
        self.filled
    }
}

impl Layer {
    /// `name`: of the layer in an adapter; in the model's own file `start` is before it.
    fn load(
        loader: &mut Loader,
        (start, name): (&str, &str),
        config: &Language,
        adapter: &Adapter,
    ) -> Result<Self, WeightsError> {
        let width = config.hidden_size;
        let shared = config.num_key_value_heads * config.head_dim();
        let at = |part: &str| format!("{start}{name}.{part}");
        let linear = |loader: &mut Loader, part: &str, sizes: [i64; 2], has_bias: bool| {
            adapter.load(loader, (&at(part), &format!("{name}.{part}")), sizes, has_bias)
        };
        Ok(Self {
            norm1: RmsNorm::load(loader, &at("input_layernorm"), width, config.rms_norm_eps)?,
            q: linear(loader, "self_attn.q_proj", [width, width], true)?,
            k: linear(loader, "self_attn.k_proj", [width, shared], true)?,
            v: linear(loader, "self_attn.v_proj", [width, shared], true)?,
            out: linear(loader, "self_attn.o_proj", [width, width], false)?,
            norm2: RmsNorm::load(loader, &at("post_attention_layernorm"), width, config.rms_norm_eps)?,
            mlp: GatedMlp::load([width, config.intermediate_size], |part, sizes| linear(loader, part, sizes, false))?,
        })
    }

    /// `[1, N, D] -> [1, wanted, D]`, N tokens after the `filled` ones in memory; what becomes of the last `wanted` ones, all
    /// or one.
    fn forward(
        &self,
        x: &Tensor,
        turns: &Turns,
        memory: &Memory,
        filled: i64,
        wanted: i64,
        config: &Language,
    ) -> Result<Tensor, TchError> {
        let (heads, shared) = (config.num_attention_heads, config.num_key_value_heads);
        let h = self.norm1.forward_narrowed(x)?;
        let length = h.size()[1];
        let wanted_of = |x: &Tensor, axis: i64| x.f_narrow(axis, length - wanted, wanted);
        let (cos, sin) = (wanted_of(&turns.cos, 0)?, wanted_of(&turns.sin, 0)?);
        let q = rotated(&split_heads(&self.q.forward(&wanted_of(&h, 1)?)?, heads)?, &cos, &sin)?;
        let k = rotated(&split_heads(&self.k.forward(&h)?, shared)?, &turns.cos, &turns.sin)?;
        let v = split_heads(&self.v.forward(&h)?, shared)?;
        let remember = |memory: &Tensor, new: &Tensor| -> Result<Tensor, TchError> {
            memory.f_narrow(2, filled, length)?.f_copy_(new)?;
            memory.f_narrow(2, 0, filled + length)
        };
        let (keys, values) = (remember(&memory.keys, &k)?, remember(&memory.values, &v)?);
        // One token may look at all before it; several at once only at those before each.
        let causal = wanted > 1;
        let attended = Tensor::f_scaled_dot_product_attention(
            &q,
            &keys,
            &values,
            None::<&Tensor>,
            0.0,
            causal,
            None,
            heads != shared,
        )?;
        let x = wanted_of(x, 1)?.f_add(&self.out.forward(&join_heads(&attended)?)?)?;
        x.f_add(&self.mlp.forward(&self.norm2.forward_narrowed(&x)?, x.kind())?)
    }
}

/// The whole model.
pub struct LanguageModel {
    tokens: Tensor,
    layers: Layers<Layer>,
    norm: RmsNorm,
    /// `None` where the embedding serves for it.
    output: Option<Linear>,
    config: Language,
}

impl LanguageModel {
    /// Reads the model from a file that also holds the vision tower, which is left alone; the adapter is merged in float32.
    pub fn load(loader: &mut Loader, config: &Language, adapter: &Adapter) -> Result<Self, WeightsError> {
        let start = prefix(loader, LANGUAGE, "embed_tokens.weight");
        let width = config.hidden_size;
        let tokens = loader.tensor(&format!("{start}embed_tokens.weight"), &[config.vocab_size, width])?;
        adapter.check(loader, |name| {
            LAYERS.iter().any(|part| {
                let number = name.strip_prefix("layers.").and_then(|name| name.strip_suffix(part)?.strip_suffix('.'));
                number.and_then(|number| number.parse().ok()).is_some_and(|i: i64| i < config.num_hidden_layers)
            })
        });
        let (of_layers, adapter) = (config.clone(), adapter.clone());
        let layers = Layers::load(loader, config.num_hidden_layers, move |loader, i| {
            Layer::load(loader, (start, &format!("layers.{i}")), &of_layers, &adapter)
        })?;
        let norm = RmsNorm::load(loader, &format!("{start}norm"), width, config.rms_norm_eps)?;
        let output = match config.tie_word_embeddings.unwrap_or(!loader.has("lm_head.weight")) {
            true => {
                // Some files hold it all the same.
                loader.ignore_prefix("lm_head.");
                None
            }
            false => Some(Linear::load_without_bias(loader, "lm_head", width, config.vocab_size)?),
        };
        Ok(Self { tokens, layers, norm, output, config: config.clone() })
    }

    /// An empty cache for up to `room` tokens.
    pub fn cache(&self, room: i64) -> Result<Cache, TchError> {
        let config = &self.config;
        let shape = [1, config.num_key_value_heads, room, config.head_dim()];
        let empty = || Tensor::f_zeros(shape, (self.tokens.kind(), self.tokens.device()));
        let layers = (0..config.num_hidden_layers).map(|_| Ok(Memory { keys: empty()?, values: empty()? }));
        Ok(Cache { layers: layers.collect::<Result<_, TchError>>()?, filled: 0, room })
    }

    /// Token ids `[N]` -> `[1, N, D]`.
    pub fn embed(&self, ids: &Tensor) -> Result<Tensor, TchError> {
        Tensor::f_embedding(&self.tokens, ids, -1, false, false)?.f_unsqueeze(0)
    }

    /// Reads tokens, `[1, N, D]` at the positions `[3, N]` (time, row, column; on the CPU), after what is in the cache -> the logits of
    /// what follows the last one, `[vocabulary]` in float32.
    pub fn forward<E: From<TchError> + From<WeightsError>>(
        &self,
        embedded: &Tensor,
        positions: &Tensor,
        cache: &mut Cache,
        on_progress: &mut dyn FnMut(f32) -> Result<(), E>,
    ) -> Result<Tensor, E> {
        let length = embedded.size()[1];
        if cache.filled + length > cache.room {
            let text = format!("{} tokens after {} do not fit a cache for {}", length, cache.filled, cache.room);
            return Err(TchError::Shape(text).into());
        }
        if cache.filled > 0 && length > 1 {
            return Err(TchError::Shape("after the prompt tokens come one by one".into()).into());
        }
        let turns = self.turns(positions)?;
        let mut x = embedded.f_to_kind(residual_kind(self.tokens.kind()))?;
        let layers = self.config.num_hidden_layers;
        self.layers.each(|i, layer| {
            on_progress(i as f32 / layers as f32)?;
            // Nobody asks what becomes of the others in the end.
            let wanted = if i + 1 == layers { 1 } else { length };
            x = layer.forward(&x, &turns, &cache.layers[i as usize], cache.filled, wanted, &self.config)?;
            Ok::<(), E>(())
        })?;
        cache.filled += length;
        let last = self.norm.forward_narrowed(&x)?;
        let logits = match &self.output {
            Some(output) => output.forward(&last)?,
            None => last.f_linear(&self.tokens, None::<&Tensor>)?,
        };
        Ok(logits.f_view([-1])?.f_to_kind(Kind::Float)?)
    }

    /// Each section of a head's channels turns with its own axis. Computed on the CPU: so little costs more to begin on a
    /// device, and comes out the same everywhere.
    fn turns(&self, positions: &Tensor) -> Result<Turns, TchError> {
        let head = self.config.head_dim();
        let steps = Tensor::f_arange_start_step(0, head, 2, (Kind::Float, Device::Cpu))?.f_div_scalar(head)?;
        let frequencies = Tensor::f_pow_scalar(self.config.rope_theta, &steps)?.f_reciprocal()?;
        let angles = positions.f_to_kind(Kind::Float)?.f_unsqueeze(2)?.f_mul(&frequencies)?;
        let mut at = 0;
        let mut sections = Vec::new();
        for (axis, &length) in self.config.sections.iter().enumerate() {
            sections.push(angles.f_select(0, axis as i64)?.f_narrow(1, at, length)?);
            at += length;
        }
        let half = Tensor::f_cat(&sections, 1)?;
        let angles = Tensor::f_cat(&[&half, &half], 1)?;
        let moved = |x: Tensor| x.f_to_kind(self.tokens.kind())?.f_to_device(self.tokens.device());
        Ok(Turns { cos: moved(angles.f_cos()?)?, sin: moved(angles.f_sin()?)? })
    }
}
