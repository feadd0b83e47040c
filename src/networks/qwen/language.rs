//! The language model (`Qwen2_5_VLTextModel` with its output layer): grouped-query attention, positions in three axes. It reads
//! token after token into a cache of keys and values that is allocated once; or, to be trained, a whole sequence at once, layer
//! by layer, so that gradients can go back.

use tch::{Device, Kind, TchError, Tensor};

use super::adapter::Adapter;
use super::config::Language;
use super::{GatedMlp, LANGUAGE, prefix, rotated};
use crate::networks::layers::{Linear, RmsNorm, join_heads, residual_kind, split_heads};
use crate::runtime::Layers;
use crate::runtime::weights::{Loader, Weights, WeightsError};

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

/// One layer's keys and values, `[B, kv_heads, room, head_dim]` each.
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

    /// The same for so many texts that begin alike, with room for so many tokens in all.
    pub fn copies(&self, count: i64, room: i64) -> Result<Self, TchError> {
        let copied = |memory: &Tensor| -> Result<Tensor, TchError> {
            let (_, heads, _, head_dim) = memory.size4()?;
            let copies = Tensor::f_zeros([count, heads, room, head_dim], (memory.kind(), memory.device()))?;
            copies.f_narrow(2, 0, self.filled)?.f_copy_(&memory.f_narrow(2, 0, self.filled)?)?;
            Ok(copies)
        };
        let layers = self.layers.iter();
        let layers = layers.map(|layer| Ok(Memory { keys: copied(&layer.keys)?, values: copied(&layer.values)? }));
        Ok(Self { layers: layers.collect::<Result<_, TchError>>()?, filled: self.filled, room })
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

    /// `[B, N, D] -> [B, wanted, D]`: what becomes of the last `wanted` tokens. `attend` has their queries, and the keys and
    /// values of all tokens, `[B, heads, ..., head_dim]`.
    fn forward(
        &self,
        x: &Tensor,
        turns: &Turns,
        wanted: i64,
        config: &Language,
        attend: impl FnOnce(&Tensor, &Tensor, &Tensor) -> Result<Tensor, TchError>,
    ) -> Result<Tensor, TchError> {
        let (heads, shared) = (config.num_attention_heads, config.num_key_value_heads);
        let h = self.norm1.forward_narrowed(x)?;
        let length = h.size()[1];
        let wanted_of = |x: &Tensor, axis: i64| x.f_narrow(axis, length - wanted, wanted);
        // What a LoRA adds comes in float32.
        let narrowed = |layer: &Linear, h: &Tensor| layer.forward(h)?.f_to_kind(h.kind());
        let (cos, sin) = (wanted_of(&turns.cos, 0)?, wanted_of(&turns.sin, 0)?);
        let q = rotated(&split_heads(&narrowed(&self.q, &wanted_of(&h, 1)?)?, heads)?, &cos, &sin)?;
        let k = rotated(&split_heads(&narrowed(&self.k, &h)?, shared)?, &turns.cos, &turns.sin)?;
        let v = split_heads(&narrowed(&self.v, &h)?, shared)?;
        let attended = join_heads(&attend(&q, &k, &v)?)?;
        let x = wanted_of(x, 1)?.f_add(&narrowed(&self.out, &attended)?)?;
        x.f_add(&self.mlp.forward(&self.norm2.forward_narrowed(&x)?, x.kind())?)
    }
}

/// `softmax(q k^T / sqrt(head_dim)) v`; `mask`: true where a query (row) sees a key.
fn attention(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, causal: bool) -> Result<Tensor, TchError> {
    let is_grouped = q.size()[1] != k.size()[1];
    Tensor::f_scaled_dot_product_attention(q, k, v, mask, 0.0, causal, None, is_grouped)
}

/// A sequence that is read at once: where its tokens are, and which they see.
pub struct Sequence {
    turns: Turns,
    /// `[N, N]`, true where a token (row) sees another.
    mask: Tensor,
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
    /// The layers that a LoRA may change: as an adapter names them (`layers.0.self_attn.q_proj`), and their keys in these weights.
    pub fn adaptable_layers(weights: &Weights, config: &Language) -> Vec<(String, String)> {
        let is_there = |start: &&str| weights.shape(&format!("{start}embed_tokens.weight")).is_some();
        let start = LANGUAGE.into_iter().find(is_there).unwrap_or(LANGUAGE[0]);
        let names = (0..config.num_hidden_layers).flat_map(|i| LAYERS.map(|part| format!("layers.{i}.{part}")));
        names.map(|name| (name.clone(), format!("{start}{name}"))).collect()
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        self.tokens.device()
    }

    /// The dtype in which the layers' outputs are added up.
    pub fn residual_kind(&self) -> Kind {
        residual_kind(self.tokens.kind())
    }

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

    /// An empty cache for up to `room` tokens of one text.
    pub fn cache(&self, room: i64) -> Result<Cache, TchError> {
        let config = &self.config;
        let shape = [1, config.num_key_value_heads, room, config.head_dim()];
        let empty = || Tensor::f_zeros(shape, (self.tokens.kind(), self.tokens.device()));
        let layers = (0..config.num_hidden_layers).map(|_| Ok(Memory { keys: empty()?, values: empty()? }));
        Ok(Cache { layers: layers.collect::<Result<_, TchError>>()?, filled: 0, room })
    }

    /// Token ids `[N]` -> `[1, N, D]`; of several texts `[B, N]` -> `[B, N, D]`.
    pub fn embed(&self, ids: &Tensor) -> Result<Tensor, TchError> {
        let embedded = Tensor::f_embedding(&self.tokens, ids, -1, false, false)?;
        if ids.dim() == 1 { embedded.f_unsqueeze(0) } else { Ok(embedded) }
    }

    /// Reads tokens, `[B, N, D]` at the positions `[3, N]` (time, row, column; on the CPU), after what is in the cache of B texts ->
    /// the logits of what follows the last one, `[B, vocabulary]` in float32.
    pub fn forward<E: From<TchError> + From<WeightsError>>(
        &self,
        embedded: &Tensor,
        positions: &Tensor,
        cache: &mut Cache,
        on_progress: &mut dyn FnMut(f32) -> Result<(), E>,
    ) -> Result<Tensor, E> {
        let (length, filled) = (embedded.size()[1], cache.filled);
        if filled + length > cache.room {
            let text = format!("{length} tokens after {filled} do not fit a cache for {}", cache.room);
            return Err(TchError::Shape(text).into());
        }
        let turns = self.turns(positions)?;
        // Several tokens behind others: each sees those, and of its own those before it.
        let mask = match filled > 0 && length > 1 {
            true => {
                let all = Tensor::f_ones([length, filled + length], (Kind::Bool, embedded.device()))?;
                Some(all.f_tril(filled)?)
            }
            false => None,
        };
        let mut x = embedded.f_to_kind(residual_kind(self.tokens.kind()))?;
        let layers = self.config.num_hidden_layers;
        self.layers.each(|i, layer| {
            on_progress(i as f32 / layers as f32)?;
            // Nobody asks what becomes of the others in the end.
            let wanted = if i + 1 == layers { 1 } else { length };
            let memory = &cache.layers[i as usize];
            x = layer.forward(&x, &turns, wanted, &self.config, |q, k, v| {
                let remember = |memory: &Tensor, new: &Tensor| -> Result<Tensor, TchError> {
                    memory.f_narrow(2, filled, length)?.f_copy_(new)?;
                    memory.f_narrow(2, 0, filled + length)
                };
                let (keys, values) = (remember(&memory.keys, k)?, remember(&memory.values, v)?);
                // One token may look at all before it; several at once only at those before each.
                let causal = wanted > 1 && mask.is_none();
                attention(q, &keys, &values, mask.as_ref().filter(|_| wanted > 1), causal)
            })?;
            Ok::<(), E>(())
        })?;
        cache.filled += length;
        Ok(self.logits(&x)?.f_select(1, 0)?)
    }

    /// How many layers there are.
    pub fn layer_count(&self) -> usize {
        self.layers.count()
    }

    /// A sequence for [`LanguageModel::layer`]: positions `[3, N]` on the CPU, and the mask `[N, N]` of which tokens (rows) see
    /// which.
    pub fn sequence(&self, positions: &Tensor, mask: Tensor) -> Result<Sequence, TchError> {
        Ok(Sequence { turns: self.turns(positions)?, mask })
    }

    /// What a layer makes of a sequence, `[1, N, D] -> [1, N, D]`, by operations that gradients go back through. The first one
    /// takes embedded tokens in the dtype of [`residual_kind`].
    pub fn layer(&self, i: usize, x: &Tensor, sequence: &Sequence) -> Result<Tensor, TchError> {
        let missing = || TchError::Shape(format!("layer {i} is not in memory"));
        let layer = self.layers.get(i).ok_or_else(missing)?;
        let length = x.size()[1];
        layer.forward(x, &sequence.turns, length, &self.config, |q, k, v| {
            attention(q, k, v, Some(&sequence.mask), false)
        })
    }

    /// What the layers' output says of the tokens that follow, `[B, N, D] -> [B, N, vocabulary]` in float32.
    pub fn logits(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let last = self.norm.forward_narrowed(x)?;
        let logits = match &self.output {
            Some(output) => output.forward(&last)?,
            None => last.f_linear(&self.tokens, None::<&Tensor>)?,
        };
        logits.f_to_kind(Kind::Float)
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
