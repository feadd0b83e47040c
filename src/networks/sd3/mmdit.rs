//! The multimodal diffusion transformer of Stable Diffusion 3 and 3.5 (arXiv 2403.03206; diffusers'
//! `SD3Transformer2DModel`): image patches and text tokens, each with weights of their own, attend to each other.

use serde::Deserialize;
use tch::{Kind, TchError, Tensor};

use super::lora::AdaLoras;
use crate::networks::layers::timestep::TimestepEmbedding;
use crate::networks::layers::{Conv2d, Linear, RmsNorm, attention, join_heads, split_heads};
use crate::runtime::Layers;
use crate::runtime::weights::{Loader, LoraDelta, WeightsError};

const NETWORK: &str = "SD3 transformer";
/// Of all its norms.
const EPSILON: f64 = 1e-6;
/// Width of the timestep's sines and cosines.
const TIME_CHANNELS: i64 = 256;

/// `transformer/config.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// Side of a patch in latent pixels.
    pub patch_size: i64,
    /// Channels of the latent.
    pub in_channels: i64,
    /// Of what comes out; the same where it is not given.
    pub out_channels: Option<i64>,
    /// Blocks.
    pub num_layers: i64,
    /// Width of a head.
    pub attention_head_dim: i64,
    /// Heads; with the above the width of the model.
    pub num_attention_heads: i64,
    /// Width of the prompt embeds.
    pub joint_attention_dim: i64,
    /// What they are projected to.
    pub caption_projection_dim: i64,
    /// Width of the pooled prompt embeds.
    pub pooled_projection_dim: i64,
    /// Side of the stored position embedding, in patches.
    pub pos_embed_max_size: i64,
    /// Blocks in which the image also attends to itself alone (SD 3.5 medium).
    #[serde(default)]
    pub dual_attention_layers: Vec<i64>,
    /// `rms_norm` in SD 3.5.
    #[serde(default)]
    pub qk_norm: Option<String>,
}

impl Config {
    /// Channels of a token.
    pub fn width(&self) -> i64 {
        self.attention_head_dim * self.num_attention_heads
    }

    fn outputs(&self) -> i64 {
        self.out_channels.unwrap_or(self.in_channels)
    }

    /// Linear layers of the class AdaLayerNormZero in the blocks before block `i`: those that carry a LoRA.
    fn adaptable_before(&self, i: i64) -> usize {
        let of_block =
            |j: i64| usize::from(!self.dual_attention_layers.contains(&j)) + usize::from(j + 1 < self.num_layers);
        (0..i).map(of_block).sum()
    }

    /// Those layers, in their order.
    pub fn adaptable_layers(&self) -> Vec<String> {
        let of_block = |i: i64| {
            let is_adaptable = |name: &str| match name {
                "norm1" => !self.dual_attention_layers.contains(&i),
                _ => i + 1 < self.num_layers,
            };
            let names = ["norm1", "norm1_context"].into_iter().filter(|name| is_adaptable(name));
            names.map(|name| format!("transformer_blocks.{i}.{name}.linear")).collect::<Vec<_>>()
        };
        (0..self.num_layers).flat_map(of_block).collect()
    }

    /// What this implementation does not know, in words.
    fn unknown(&self) -> Option<String> {
        match self.qk_norm.as_deref() {
            None | Some("rms_norm") => None,
            Some(other) => Some(format!("qk_norm is {other:?}; null and \"rms_norm\" are known")),
        }
    }
}

/// `[.., width] -> [.., width]` through four times the width.
struct FeedForward {
    expand: Linear,
    contract: Linear,
}

impl FeedForward {
    fn load(loader: &mut Loader, name: &str, width: i64) -> Result<Self, WeightsError> {
        Ok(Self {
            expand: Linear::load(loader, &format!("{name}.net.0.proj"), width, 4 * width)?,
            contract: Linear::load(loader, &format!("{name}.net.2"), 4 * width, width)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        self.contract.forward(&self.expand.forward(x)?.f_gelu("tanh")?)
    }
}

/// One stream's projections for attention.
struct Projections {
    q: Linear,
    k: Linear,
    v: Linear,
    norm_q: Option<RmsNorm>,
    norm_k: Option<RmsNorm>,
}

impl Projections {
    fn load(loader: &mut Loader, names: [&str; 3], norms: [&str; 2], config: &Config) -> Result<Self, WeightsError> {
        let width = config.width();
        let [q, k, v] = names.map(|name| Linear::load(loader, name, width, width));
        let norm = |loader: &mut Loader, name: &str| match config.qk_norm {
            Some(_) => RmsNorm::load(loader, name, config.attention_head_dim, EPSILON).map(Some),
            None => Ok(None),
        };
        Ok(Self { q: q?, k: k?, v: v?, norm_q: norm(loader, norms[0])?, norm_k: norm(loader, norms[1])? })
    }

    /// Queries, keys and values, `[B, heads, N, head_dim]`.
    fn forward(&self, x: &Tensor, heads: i64) -> Result<[Tensor; 3], TchError> {
        let normed = |norm: &Option<RmsNorm>, x: Tensor| match norm {
            Some(norm) => norm.forward(&x),
            None => Ok(x),
        };
        let q = normed(&self.norm_q, split_heads(&self.q.forward(x)?, heads)?)?;
        let k = normed(&self.norm_k, split_heads(&self.k.forward(x)?, heads)?)?;
        Ok([q, k, split_heads(&self.v.forward(x)?, heads)?])
    }
}

/// Over the last axis, without scale or shift of its own.
fn normed(x: &Tensor) -> Result<Tensor, TchError> {
    let width = *x.size().last().unwrap_or(&1);
    x.f_layer_norm([width], None::<&Tensor>, None::<&Tensor>, EPSILON, true)
}

/// Scaled by `1 + scale` and shifted: `[B, N, D]` with `[B, D]`. What modulates may be of a wider dtype, where it is trained.
fn modulated(x: &Tensor, shift: &Tensor, scale: &Tensor) -> Result<Tensor, TchError> {
    x.f_mul(&scale.f_add_scalar(1)?.f_unsqueeze(1)?)?.f_add(&shift.f_unsqueeze(1)?)?.f_to_kind(x.kind())
}

fn gated(x: &Tensor, gate: &Tensor, change: &Tensor) -> Result<Tensor, TchError> {
    x.f_add(&gate.f_unsqueeze(1)?.f_mul(change)?)?.f_to_kind(x.kind())
}

/// What a block's norm is scaled, shifted and gated by.
struct Modulation {
    linear: Linear,
    parts: i64,
    /// A LoRA is merged into it.
    is_adapted: bool,
}

impl Modulation {
    fn load(
        loader: &mut Loader,
        name: &str,
        width: i64,
        parts: i64,
        lora: Option<&LoraDelta>,
    ) -> Result<Self, WeightsError> {
        let linear = Linear::load_merged(loader, name, [width, parts * width], true, lora)?;
        Ok(Self { linear, parts, is_adapted: lora.is_some() })
    }

    /// From the conditioning after SiLU, `[B, D]` each.
    fn forward(&self, emb: &Tensor) -> Result<Vec<Tensor>, TchError> {
        let mut all = self.linear.forward(emb)?;
        // The reference casts what comes out of a layer with a LoRA to half precision, also where all else is float32: these
        // parts, and `1 + scale` computed of them. After a few steps of a chain the difference can be seen.
        if self.is_adapted && all.kind() == Kind::Float {
            all = all.f_to_kind(Kind::Half)?;
        }
        all.f_chunk(self.parts, 1)
    }
}

/// How a block treats the text.
enum TextPart {
    /// Text goes on to the next block.
    Full { norm: Modulation, out: Linear, feed_forward: FeedForward },
    /// The last block: text is only attended to.
    Last { norm: Modulation },
}

struct Block {
    norm: Modulation,
    image: Projections,
    image_out: Linear,
    text: Projections,
    text_part: TextPart,
    /// The image attends to itself alone, with an output of its own.
    dual_attention: Option<(Projections, Linear)>,
    feed_forward: FeedForward,
    heads: i64,
}

impl Block {
    fn load(loader: &mut Loader, i: i64, config: &Config, loras: &AdaLoras) -> Result<Self, WeightsError> {
        let width = config.width();
        let at = |name: &str| format!("transformer_blocks.{i}.{name}");
        let is_last = i + 1 == config.num_layers;
        let is_dual = config.dual_attention_layers.contains(&i);
        // Only layers of the class AdaLayerNormZero carry a LoRA, and those in this order.
        let first = config.adaptable_before(i);
        let modulation = |loader: &mut Loader, name: &str, parts: i64, number: Option<usize>| {
            let lora =
                number.map(|number| loras.delta(loader, number, &at(name), [width, parts * width])).transpose()?;
            Modulation::load(loader, &at(name), width, parts, lora.flatten().as_ref())
        };
        let norm = match is_dual {
            true => modulation(loader, "norm1.linear", 9, None)?,
            false => modulation(loader, "norm1.linear", 6, Some(first))?,
        };
        let second = first + usize::from(!is_dual);
        let text_norm = match is_last {
            true => modulation(loader, "norm1_context.linear", 2, None)?,
            false => modulation(loader, "norm1_context.linear", 6, Some(second))?,
        };
        let names = |prefix: &str, names: [&str; 3]| names.map(|name| at(&format!("{prefix}.{name}")));
        let projections = |loader: &mut Loader, prefix: &str, q: [&str; 3], norms: [&str; 2]| {
            let (q, norms) = (names(prefix, q), norms.map(|name| at(&format!("{prefix}.{name}"))));
            Projections::load(loader, [&q[0], &q[1], &q[2]], [&norms[0], &norms[1]], config)
        };
        let own = ["to_q", "to_k", "to_v"];
        let image = projections(loader, "attn", own, ["norm_q", "norm_k"])?;
        let added = ["add_q_proj", "add_k_proj", "add_v_proj"];
        let text = projections(loader, "attn", added, ["norm_added_q", "norm_added_k"])?;
        let image_out = Linear::load(loader, &at("attn.to_out.0"), width, width)?;
        let dual_attention = match is_dual {
            true => {
                let projections = projections(loader, "attn2", own, ["norm_q", "norm_k"])?;
                Some((projections, Linear::load(loader, &at("attn2.to_out.0"), width, width)?))
            }
            false => None,
        };
        let text_part = match is_last {
            true => TextPart::Last { norm: text_norm },
            false => TextPart::Full {
                norm: text_norm,
                out: Linear::load(loader, &at("attn.to_add_out"), width, width)?,
                feed_forward: FeedForward::load(loader, &at("ff_context"), width)?,
            },
        };
        let feed_forward = FeedForward::load(loader, &at("ff"), width)?;
        Ok(Self {
            norm,
            image,
            image_out,
            text,
            text_part,
            dual_attention,
            feed_forward,
            heads: config.num_attention_heads,
        })
    }

    /// Image `[B, N, D]`, text `[B, T, D]` and the conditioning after SiLU `[B, D]`; text is `None` after the last block.
    fn forward(&self, x: &Tensor, text: &Tensor, emb: &Tensor) -> Result<(Tensor, Option<Tensor>), TchError> {
        let chunks = self.norm.forward(emb)?;
        let [shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp, dual @ ..] = chunks.as_slice() else {
            return Err(TchError::Torch("the modulation has too few parts".into()));
        };
        let x_normed = normed(x)?;
        let (text_norm, text_chunks) = match &self.text_part {
            TextPart::Full { norm, .. } => {
                let chunks = norm.forward(emb)?;
                (modulated(&normed(text)?, &chunks[0], &chunks[1])?, chunks)
            }
            // Here scale comes first (AdaLayerNormContinuous).
            TextPart::Last { norm } => {
                let chunks = norm.forward(emb)?;
                (modulated(&normed(text)?, &chunks[1], &chunks[0])?, chunks)
            }
        };
        let image_qkv = self.image.forward(&modulated(&x_normed, shift_msa, scale_msa)?, self.heads)?;
        let text_qkv = self.text.forward(&text_norm, self.heads)?;
        let joined = |i: usize| Tensor::f_cat(&[&image_qkv[i], &text_qkv[i]], 2);
        let attended = join_heads(&attention(&joined(0)?, &joined(1)?, &joined(2)?, false)?)?;
        let length = x.size()[1];
        let (from_image, from_text) = (attended.f_narrow(1, 0, length)?, attended.f_narrow(1, length, text.size()[1])?);

        let mut x = gated(x, gate_msa, &self.image_out.forward(&from_image)?)?;
        if let (Some((projections, out)), [shift, scale, gate]) = (&self.dual_attention, dual) {
            // It sees the block's input, not what the first attention has made of it.
            let [q, k, v] = projections.forward(&modulated(&x_normed, shift, scale)?, self.heads)?;
            x = gated(&x, gate, &out.forward(&join_heads(&attention(&q, &k, &v, false)?)?)?)?;
        }
        x = gated(&x, gate_mlp, &self.feed_forward.forward(&modulated(&normed(&x)?, shift_mlp, scale_mlp)?)?)?;

        let text = match &self.text_part {
            TextPart::Last { .. } => None,
            TextPart::Full { out, feed_forward, .. } => {
                let text = gated(text, &text_chunks[2], &out.forward(&from_text)?)?;
                let fed = feed_forward.forward(&modulated(&normed(&text)?, &text_chunks[3], &text_chunks[4])?)?;
                Some(gated(&text, &text_chunks[5], &fed)?)
            }
        };
        Ok((x, text))
    }
}

/// The whole network.
pub struct Mmdit {
    patches: Conv2d,
    /// `[1, max * max, D]`, as stored: rounded to half precision in the published checkpoints.
    positions: Tensor,
    time: TimestepEmbedding,
    pooled: [Linear; 2],
    context: Linear,
    blocks: Layers<Block>,
    norm_out: Linear,
    out: Linear,
    config: Config,
}

impl Mmdit {
    /// Reads the network; `loras` are merged into the layers they belong to, in float32.
    ///
    /// # Errors
    /// Every missing, surplus or misshapen key, and LoRAs that do not fit, all at once.
    pub fn load(loader: &mut Loader, config: &Config, loras: AdaLoras) -> Result<Self, WeightsError> {
        if let Some(problem) = config.unknown() {
            loader.report(problem);
        }
        let (width, patch) = (config.width(), config.patch_size);
        let patches = Conv2d::load(loader, "pos_embed.proj", [config.in_channels, width], patch, patch, 0)?;
        let positions = loader.tensor("pos_embed.pos_embed", &[1, config.pos_embed_max_size.pow(2), width])?;
        let time = TimestepEmbedding::load(loader, "time_text_embed.timestep_embedder", TIME_CHANNELS, width)?;
        let pooled = ["linear_1", "linear_2"].map(|name| format!("time_text_embed.text_embedder.{name}"));
        let pooled = [
            Linear::load(loader, &pooled[0], config.pooled_projection_dim, width)?,
            Linear::load(loader, &pooled[1], width, width)?,
        ];
        let context =
            Linear::load(loader, "context_embedder", config.joint_attention_dim, config.caption_projection_dim)?;
        loras.check(loader, config.adaptable_before(config.num_layers));
        let of_blocks = config.clone();
        let read = move |loader: &mut Loader, i: i64| Block::load(loader, i, &of_blocks, &loras);
        let blocks = Layers::load(loader, config.num_layers, read)?;
        let norm_out = Linear::load(loader, "norm_out.linear", width, 2 * width)?;
        let out = Linear::load(loader, "proj_out", width, patch * patch * config.outputs())?;
        loader.finish(NETWORK)?;
        Ok(Self { patches, positions, time, pooled, context, blocks, norm_out, out, config: config.clone() })
    }

    /// The velocity of `latent` at time `t` (0 to 1000). `on_progress` is called after each block with how much is done (0 to 1); what
    /// it fails with ends the pass.
    ///
    /// # Shapes
    /// latent `[B, C, H, W]` with H and W divisible by the patch size, prompt embeds `[B, T, joint]`, pooled
    /// `[B, pooled]` -> `[B, C, H, W]`.
    pub fn forward<E: From<TchError> + From<WeightsError>>(
        &self,
        latent: &Tensor,
        t: f64,
        prompt: &Tensor,
        pooled: &Tensor,
        on_progress: &mut dyn FnMut(f32) -> Result<(), E>,
    ) -> Result<Tensor, E> {
        let (_, _, height, width) = latent.size4()?;
        let emb = self.conditioning(t, pooled)?.f_silu()?; // [B, D]
        let (mut x, mut text) = self.begin(latent, prompt)?;
        self.blocks.each(|i, block| {
            on_progress(i as f32 / self.config.num_layers as f32)?;
            let (next, next_text) = block.forward(&x, &text, &emb)?;
            x = next;
            if let Some(next_text) = next_text {
                text = next_text;
            }
            Ok::<(), E>(())
        })?;
        Ok(self.end(&x, &emb, [height, width])?)
    }

    /// What the first block is given: tokens of the latent, `[B, N, D]`, and of the prompt embeds.
    pub fn begin(&self, latent: &Tensor, prompt: &Tensor) -> Result<(Tensor, Tensor), TchError> {
        let (_, _, height, width) = latent.size4()?;
        let patch = self.config.patch_size;
        let x = self.patches.forward(latent)?.f_flatten(2, -1)?.f_transpose(1, 2)?;
        let x = x.f_add(&self.cropped_positions(height / patch, width / patch)?)?;
        Ok((x, self.context.forward(prompt)?))
    }

    /// Of its weights, and of what it computes.
    pub fn kind(&self) -> Kind {
        self.positions.kind()
    }

    /// How many blocks there are.
    pub fn block_count(&self) -> usize {
        self.blocks.count()
    }

    /// One block, where all are in memory: image and text `[B, N, D]`, [`Mmdit::conditioning`] after SiLU; the last one
    /// returns no text.
    pub fn block(
        &self,
        i: usize,
        x: &Tensor,
        text: &Tensor,
        emb: &Tensor,
    ) -> Result<(Tensor, Option<Tensor>), TchError> {
        let block = self.blocks.get(i).ok_or_else(|| TchError::Torch(format!("block {i} is not in memory")))?;
        block.forward(x, text, emb)
    }

    /// From what the last block returns to the velocity of a latent of this height and width.
    pub fn end(&self, x: &Tensor, emb: &Tensor, [height, width]: [i64; 2]) -> Result<Tensor, TchError> {
        let (patch, channels, batch) = (self.config.patch_size, self.config.outputs(), x.size()[0]);
        let (rows, columns) = (height / patch, width / patch);
        let chunks = self.norm_out.forward(emb)?.f_chunk(2, 1)?;
        self.out
            .forward(&modulated(&normed(x)?, &chunks[1], &chunks[0])?)?
            .f_reshape([batch, rows, columns, patch, patch, channels])?
            .f_permute([0, 5, 1, 3, 2, 4])? // [B, C, rows, patch, columns, patch]
            .f_reshape([batch, channels, rows * patch, columns * patch])
    }

    /// The middle `rows` x `columns` of the stored positions: `[1, rows * columns, D]`.
    fn cropped_positions(&self, rows: i64, columns: i64) -> Result<Tensor, TchError> {
        let (max, width) = (self.config.pos_embed_max_size, self.config.width());
        if rows > max || columns > max {
            let text = format!("a latent of {rows} x {columns} patches; the model has positions for {max} x {max}");
            return Err(TchError::Shape(text));
        }
        self.positions
            .f_view([1, max, max, width])?
            .f_narrow(1, (max - rows) / 2, rows)?
            .f_narrow(2, (max - columns) / 2, columns)?
            .f_reshape([1, rows * columns, width])
    }

    /// `[B, pooled] -> [B, D]`: time and pooled prompt embeds together.
    pub fn conditioning(&self, t: f64, pooled: &Tensor) -> Result<Tensor, TchError> {
        let text = self.pooled[1].forward(&self.pooled[0].forward(pooled)?.f_silu()?)?;
        self.time.forward(t, pooled.kind(), pooled.device())?.f_add(&text)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tch::Device;

    use super::*;
    use crate::runtime::rng::noise;
    use crate::runtime::weights::Weights;

    #[test]
    fn only_merged_loras_round_the_modulation() {
        let tensors = [("norm.weight".into(), noise(&[48, 8])), ("norm.bias".into(), noise(&[48]))];
        let weights = Weights::from_tensors(tensors.into());
        let lora = LoraDelta { up: noise(&[48, 4]), down: noise(&[4, 8]), scale: 1.0, dropout: None };
        let emb = noise(&[1, 8]);
        let parts = |kind: Kind, lora: Option<&LoraDelta>| {
            let mut loader = Loader::new(&weights, "", Device::Cpu, kind);
            Modulation::load(&mut loader, "norm", 8, 6, lora).unwrap().forward(&emb.to_kind(kind)).unwrap()
        };
        let rounded = Tensor::cat(&parts(Kind::Float, Some(&lora)), 1);
        let loras = BTreeMap::from([("norm".to_owned(), lora.shallow_clone())]);
        let mut training = Loader::new(&weights, "", Device::Cpu, Kind::Float).unmerged(loras);
        let training = Modulation::load(&mut training, "norm", 8, 6, None).unwrap().forward(&emb).unwrap();
        let apart = Tensor::cat(&training, 1);
        assert_eq!((rounded.kind(), apart.kind()), (Kind::Half, Kind::Float));
        assert!((rounded.to_kind(Kind::Float) - &apart).abs().max().double_value(&[]) < 0.02);
        assert_eq!(parts(Kind::Float, None)[0].kind(), Kind::Float);
        assert_eq!(parts(Kind::BFloat16, Some(&lora))[0].kind(), Kind::BFloat16);

        // So small a scale is lost where 1 is added to it, and what is scaled is float32 all the same.
        let x = Tensor::ones([1, 3, 2], (Kind::Float, Device::Cpu));
        let part = |value: f64, kind: Kind| Tensor::full([1, 2], value, (kind, Device::Cpu));
        let scaled = |kind: Kind| modulated(&x, &part(0.0, kind), &part(1.0 / 4096.0, kind)).unwrap();
        assert!(scaled(Kind::Half).equal(&x) && !scaled(Kind::Float).equal(&x));
        assert_eq!(gated(&x, &part(0.5, Kind::Half), &x).unwrap().kind(), Kind::Float);
    }
}
