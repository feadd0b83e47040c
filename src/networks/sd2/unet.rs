//! The UNet of Stable Diffusion 2 (arXiv 2112.10752; diffusers' `UNet2DConditionModel`): residual blocks that know the time, transformers
//! that attend to the prompt, at four resolutions down and up again.

use serde::Deserialize;
use serde_json::{Value, json};
use tch::{TchError, Tensor};

use crate::networks::layers::timestep::TimestepEmbedding;
use crate::networks::layers::{Conv2d, GroupNorm, LayerNorm, Linear, attention, join_heads, split_heads};
use crate::runtime::Layers;
use crate::runtime::weights::{Loader, WeightsError};

const NETWORK: &str = "Stable Diffusion 2 UNet";
/// Of the group norms before attention, and of the layer norms in it.
const ATTENTION_EPSILON: f64 = 1e-6;
const LAYER_EPSILON: f64 = 1e-5;
/// A feed-forward's inner width, in widths.
const EXPANSION: i64 = 4;
/// More resolutions or layers than this no config means.
const MOST: usize = 64;

/// `unet/config.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// Channels of the latent.
    pub in_channels: i64,
    /// Of what comes out.
    pub out_channels: i64,
    /// Width at each resolution, the finest first.
    pub block_out_channels: Vec<i64>,
    /// What is at each resolution on the way down, the finest first.
    pub down_block_types: Vec<String>,
    /// And on the way up, the coarsest first.
    pub up_block_types: Vec<String>,
    /// Residual blocks at each resolution on the way down; on the way up there is one more.
    pub layers_per_block: i64,
    /// In spite of its name how many heads there are at each resolution.
    pub attention_head_dim: Heads,
    /// Width of the prompt embeds.
    pub cross_attention_dim: i64,
    /// Transformers begin and end with linear layers, not with convolutions: so from Stable Diffusion 2 on.
    #[serde(default)]
    pub use_linear_projection: bool,
    /// Of all group norms.
    #[serde(default = "groups")]
    pub norm_num_groups: i64,
    /// Of those in residual blocks.
    #[serde(default = "epsilon")]
    pub norm_eps: f64,
    /// All else, to find what is not known here.
    #[serde(flatten)]
    others: serde_json::Map<String, Value>,
}

/// Whether a value says what `plain` does, or nothing; numbers are written as 1 and as 1.0.
fn is_same(found: &Value, plain: &Value) -> bool {
    found.is_null() || found == plain || found.as_f64().is_some_and(|number| Some(number) == plain.as_f64())
}

fn groups() -> i64 {
    32
}

fn epsilon() -> f64 {
    1e-5
}

/// One number for all resolutions, or one for each.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Heads {
    /// For all.
    Same(i64),
    /// The finest first.
    Each(Vec<i64>),
}

impl Heads {
    fn at(&self, level: usize) -> Option<i64> {
        match self {
            Self::Same(heads) => Some(*heads),
            Self::Each(heads) => heads.get(level).copied(),
        }
    }
}

impl Config {
    /// What this implementation does not know, in words.
    fn unknown(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let levels = self.block_out_channels.len();
        let is_known = |types: &[String], plain: &str| {
            types.len() == levels && types.iter().all(|name| name == plain || *name == format!("CrossAttn{plain}"))
        };
        if !(1..=MOST).contains(&levels) || !(1..=MOST as i64).contains(&self.layers_per_block) {
            let layers = self.layers_per_block;
            problems.push(format!("expected at least one resolution and one layer, found {levels} and {layers}"));
        }
        if !is_known(&self.down_block_types, "DownBlock2D") || !is_known(&self.up_block_types, "UpBlock2D") {
            problems.push(format!("its blocks are {:?} and {:?}", self.down_block_types, self.up_block_types));
        }
        if !self.use_linear_projection {
            problems.push("use_linear_projection is false: it is Stable Diffusion 1".into());
        }
        let has_heads =
            |(level, width): (usize, &i64)| (1..=*width).contains(&self.attention_head_dim.at(level).unwrap_or(0));
        if !self.block_out_channels.iter().enumerate().all(has_heads) {
            let (widths, heads) = (&self.block_out_channels, &self.attention_head_dim);
            problems.push(format!("widths of {widths:?} cannot be divided into heads of {heads:?}"));
        }
        let plain = [
            ("act_fn", json!("silu")),
            ("addition_embed_type", Value::Null),
            ("center_input_sample", json!(false)),
            ("class_embed_type", Value::Null),
            ("conv_in_kernel", json!(3)),
            ("conv_out_kernel", json!(3)),
            ("downsample_padding", json!(1)),
            ("dual_cross_attention", json!(false)),
            ("encoder_hid_dim_type", Value::Null),
            ("flip_sin_to_cos", json!(true)),
            ("freq_shift", json!(0)),
            ("mid_block_scale_factor", json!(1)),
            ("mid_block_type", json!("UNetMidBlock2DCrossAttn")),
            ("num_attention_heads", Value::Null),
            ("num_class_embeds", Value::Null),
            ("only_cross_attention", json!(false)),
            ("resnet_time_scale_shift", json!("default")),
            ("time_embedding_act_fn", Value::Null),
            ("time_embedding_type", json!("positional")),
            ("timestep_post_act", Value::Null),
            ("transformer_layers_per_block", json!(1)),
        ];
        for (name, plain) in plain {
            if let Some(found) = self.others.get(name).filter(|found| !is_same(found, &plain)) {
                problems.push(format!("{name} is {found}; {plain} is known"));
            }
        }
        problems
    }

    fn has_attention(types: &[String], i: usize) -> bool {
        types.get(i).is_some_and(|name| name.starts_with("CrossAttn"))
    }

    /// How often the sides are halved.
    pub fn halvings(&self) -> usize {
        self.block_out_channels.len().saturating_sub(1)
    }

    /// All units in the order in which they are computed.
    fn units(&self) -> Vec<UnitSpec> {
        let widths = &self.block_out_channels;
        let (Some(&first), Some(&last)) = (widths.first(), widths.last()) else { return Vec::new() };
        let heads = |level: usize| self.attention_head_dim.at(level).unwrap_or(1).max(1);
        let top = self.halvings();
        let unit = |(block, level): (String, usize),
                    i: i64,
                    channels: [i64; 2],
                    heads: Option<i64>,
                    way: Way,
                    resized: bool| { UnitSpec { block, i, level, channels, heads, way, resized } };
        let (mut units, mut skips, mut inputs) = (Vec::new(), vec![first], first);
        for (level, &width) in widths.iter().enumerate() {
            let heads = Self::has_attention(&self.down_block_types, level).then(|| heads(level));
            for i in 0..self.layers_per_block {
                let resized = i + 1 == self.layers_per_block && level < top;
                units.push(unit(
                    (format!("down_blocks.{level}"), level),
                    i,
                    [inputs, width],
                    heads,
                    Way::Down,
                    resized,
                ));
                skips.extend(std::iter::repeat_n(width, 1 + usize::from(resized)));
                inputs = width;
            }
        }
        units.push(unit(("mid_block".into(), top), 0, [last, last], Some(heads(top)), Way::Middle, false));
        units.push(unit(("mid_block".into(), top), 1, [last, last], None, Way::Middle, false));
        for (block, (level, &width)) in widths.iter().enumerate().rev().enumerate() {
            let heads = Self::has_attention(&self.up_block_types, block).then(|| heads(level));
            for i in 0..=self.layers_per_block {
                let skip = skips.pop().unwrap_or(0);
                let resized = i == self.layers_per_block && level > 0;
                units.push(unit(
                    (format!("up_blocks.{block}"), level),
                    i,
                    [inputs + skip, width],
                    heads,
                    Way::Up,
                    resized,
                ));
                inputs = width;
            }
        }
        units
    }

    /// Products of weights and pixels for a latent of so many pixels and a prompt of so many tokens, about.
    pub fn operations(&self, pixels: f64, tokens: f64) -> f64 {
        let unit = |unit: &UnitSpec| {
            let pixels = pixels / 4f64.powi(unit.level as i32);
            let [inputs, width] = unit.channels.map(|channels| channels as f64);
            let resnet = 9.0 * width * (inputs + width) + inputs * width;
            let transformer = (2.0 + 6.0 + 3.0 * EXPANSION as f64) * width * width + 2.0 * pixels * width;
            let prompt = 2.0 * self.cross_attention_dim as f64 * width * tokens;
            let sampler = if unit.resized { 9.0 * width * width } else { 0.0 };
            let attention = if unit.heads.is_some() { transformer * pixels + prompt } else { 0.0 };
            resnet * pixels + attention + sampler * pixels
        };
        self.units().iter().map(unit).sum()
    }

    /// The most numbers that layers hold at once for a latent of so many pixels: the finest resolution with the skips beside it.
    pub fn activations(&self, pixels: f64) -> f64 {
        let widest = self.block_out_channels.first().copied().unwrap_or(0) as f64;
        // The inner width of a feed-forward twice over, and what waits for the way up.
        pixels * widest * (2.0 * EXPANSION as f64 + 12.0)
    }
}

/// Which part of the UNet a unit is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Down,
    Middle,
    Up,
}

/// A residual block with what follows it.
#[derive(Clone, Debug)]
struct UnitSpec {
    block: String,
    /// Of the residual block in its block.
    i: i64,
    /// How often the sides were halved.
    level: usize,
    /// In and out.
    channels: [i64; 2],
    /// Of the transformer, where there is one.
    heads: Option<i64>,
    way: Way,
    /// Sides are halved or doubled afterwards.
    resized: bool,
}

struct Resnet {
    norm1: GroupNorm,
    conv1: Conv2d,
    time: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl Resnet {
    fn load(
        loader: &mut Loader,
        name: &str,
        [inputs, outputs]: [i64; 2],
        time_width: i64,
        config: &Config,
    ) -> Result<Self, WeightsError> {
        let at = |part: &str| format!("{name}.{part}");
        let (groups, epsilon) = (config.norm_num_groups, config.norm_eps);
        Ok(Self {
            norm1: GroupNorm::load(loader, &at("norm1"), inputs, groups, epsilon)?,
            conv1: Conv2d::same(loader, &at("conv1"), [inputs, outputs], 3)?,
            time: Linear::load(loader, &at("time_emb_proj"), time_width, outputs)?,
            norm2: GroupNorm::load(loader, &at("norm2"), outputs, groups, epsilon)?,
            conv2: Conv2d::same(loader, &at("conv2"), [outputs, outputs], 3)?,
            shortcut: match inputs == outputs {
                true => None,
                false => Some(Conv2d::same(loader, &at("conv_shortcut"), [inputs, outputs], 1)?),
            },
        })
    }

    /// `[B, in, H, W]` and the time after SiLU, `[1, time]` -> `[B, out, H, W]`.
    fn forward(&self, x: &Tensor, time: &Tensor) -> Result<Tensor, TchError> {
        let h = self.conv1.forward(&self.norm1.forward(x)?.f_silu()?)?;
        let h = h.f_add(&self.time.forward(time)?.f_unsqueeze(-1)?.f_unsqueeze(-1)?)?;
        let h = self.conv2.forward(&self.norm2.forward(&h)?.f_silu()?)?;
        match &self.shortcut {
            Some(shortcut) => shortcut.forward(x)?.f_add(&h),
            None => x.f_add(&h),
        }
    }
}

/// Attention of the pixels to each other or to the prompt.
struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
}

impl Attention {
    fn load(loader: &mut Loader, name: &str, inner: i64, context: i64) -> Result<Self, WeightsError> {
        let mut project =
            |part: &str, inputs: i64| Linear::load_without_bias(loader, &format!("{name}.{part}"), inputs, inner);
        let (q, k, v) = (project("to_q", inner)?, project("to_k", context)?, project("to_v", context)?);
        Ok(Self { q, k, v, out: Linear::load(loader, &format!("{name}.to_out.0"), inner, inner)? })
    }

    fn forward(&self, x: &Tensor, context: &Tensor, heads: i64) -> Result<Tensor, TchError> {
        let head = |linear: &Linear, x: &Tensor| split_heads(&linear.forward(x)?, heads);
        let attended = attention(&head(&self.q, x)?, &head(&self.k, context)?, &head(&self.v, context)?, false)?;
        self.out.forward(&join_heads(&attended)?)
    }
}

/// diffusers' `Transformer2DModel` with one `BasicTransformerBlock`.
struct Transformer {
    norm: GroupNorm,
    proj_in: Linear,
    norms: [LayerNorm; 3],
    attention: Attention,
    cross_attention: Attention,
    expand: Linear,
    contract: Linear,
    proj_out: Linear,
    heads: i64,
}

impl Transformer {
    fn load(loader: &mut Loader, name: &str, width: i64, heads: i64, config: &Config) -> Result<Self, WeightsError> {
        let at = |part: &str| format!("{name}.{part}");
        let inside = |part: &str| format!("{name}.transformer_blocks.0.{part}");
        // As many numbers as the heads have, where the width is no multiple of them.
        let inner = width - width % heads;
        let expanded = EXPANSION * inner;
        let norm =
            |loader: &mut Loader, i: i64| LayerNorm::load(loader, &inside(&format!("norm{i}")), inner, LAYER_EPSILON);
        Ok(Self {
            norm: GroupNorm::load(loader, &at("norm"), width, config.norm_num_groups, ATTENTION_EPSILON)?,
            proj_in: Linear::load(loader, &at("proj_in"), width, inner)?,
            norms: [norm(loader, 1)?, norm(loader, 2)?, norm(loader, 3)?],
            attention: Attention::load(loader, &inside("attn1"), inner, inner)?,
            cross_attention: Attention::load(loader, &inside("attn2"), inner, config.cross_attention_dim)?,
            expand: Linear::load(loader, &inside("ff.net.0.proj"), inner, 2 * expanded)?,
            contract: Linear::load(loader, &inside("ff.net.2"), expanded, inner)?,
            proj_out: Linear::load(loader, &at("proj_out"), inner, width)?,
            heads,
        })
    }

    /// `[B, C, H, W]` and prompt embeds `[B, T, cross]` -> `[B, C, H, W]`.
    fn forward(&self, x: &Tensor, prompt: &Tensor) -> Result<Tensor, TchError> {
        let (batch, channels, height, width) = x.size4()?;
        let h = self.norm.forward(x)?.f_permute([0, 2, 3, 1])?.f_reshape([batch, height * width, channels])?;
        let mut h = self.proj_in.forward(&h)?; // [B, HW, inner]
        let normed = self.norms[0].forward(&h)?;
        h = self.attention.forward(&normed, &normed, self.heads)?.f_add(&h)?;
        h = self.cross_attention.forward(&self.norms[1].forward(&h)?, prompt, self.heads)?.f_add(&h)?;
        // GEGLU: one half opens the gate for the other.
        let halves = self.expand.forward(&self.norms[2].forward(&h)?)?.f_chunk(2, -1)?;
        h = self.contract.forward(&halves[0].f_mul(&halves[1].f_gelu("none")?)?)?.f_add(&h)?;
        let h = self.proj_out.forward(&h)?.f_reshape([batch, height, width, channels])?;
        h.f_permute([0, 3, 1, 2])?.f_contiguous()?.f_add(x)
    }
}

struct Unit {
    resnet: Resnet,
    transformer: Option<Transformer>,
    sampler: Option<Conv2d>,
    way: Way,
}

impl Unit {
    fn load(loader: &mut Loader, spec: &UnitSpec, time_width: i64, config: &Config) -> Result<Self, WeightsError> {
        let UnitSpec { block, i, channels, heads, way, resized, .. } = spec;
        let width = channels[1];
        let resnet = Resnet::load(loader, &format!("{block}.resnets.{i}"), *channels, time_width, config)?;
        let transformer = heads
            .map(|heads| Transformer::load(loader, &format!("{block}.attentions.{i}"), width, heads, config))
            .transpose()?;
        let sampler = match (resized, way) {
            (true, Way::Down) => Some(("downsamplers", 2)),
            (true, Way::Up) => Some(("upsamplers", 1)),
            _ => None,
        };
        let sampler = sampler
            .map(|(name, stride)| Conv2d::load(loader, &format!("{block}.{name}.0.conv"), [width, width], 3, stride, 1))
            .transpose()?;
        Ok(Self { resnet, transformer, sampler, way: *way })
    }

    /// `skips`: what the way down leaves for the way up.
    fn forward(&self, x: &Tensor, time: &Tensor, prompt: &Tensor, skips: &mut Vec<Tensor>) -> Result<Tensor, TchError> {
        let mut x = x.shallow_clone();
        if self.way == Way::Up {
            let skip = skips.pop().ok_or_else(|| TchError::Shape("the way down left too little".into()))?;
            x = Tensor::f_cat(&[x, skip], 1)?;
        }
        x = self.resnet.forward(&x, time)?;
        if let Some(transformer) = &self.transformer {
            x = transformer.forward(&x, prompt)?;
        }
        if self.way == Way::Down {
            skips.push(x.shallow_clone());
        }
        match (&self.sampler, self.way) {
            (Some(sampler), Way::Down) => {
                x = sampler.forward(&x)?;
                skips.push(x.shallow_clone());
            }
            (Some(sampler), _) => {
                // To the size that is next on the way up: halves of odd sides were rounded up.
                let next = skips.last().ok_or_else(|| TchError::Shape("the way down left too little".into()))?;
                let (_, _, height, width) = next.size4()?;
                x = sampler.forward(&x.f_upsample_nearest2d([height, width], None, None)?)?;
            }
            (None, _) => {}
        }
        Ok(x)
    }
}

/// The whole network.
pub struct Unet {
    conv_in: Conv2d,
    time: TimestepEmbedding,
    units: Layers<Unit>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Unet {
    /// Reads the network.
    ///
    /// # Errors
    /// Every missing, surplus or misshapen key, and what the config says that is not known here, all at once.
    pub fn load(loader: &mut Loader, config: &Config) -> Result<Self, WeightsError> {
        let problems = config.unknown();
        if !problems.is_empty() {
            // What its tensors should be is not known then.
            loader.ignore_all();
            problems.into_iter().for_each(|problem| loader.report(problem));
            loader.finish(NETWORK)?;
        }
        let first = config.block_out_channels.first().copied().unwrap_or(1);
        let time_width = 4 * first;
        let conv_in = Conv2d::same(loader, "conv_in", [config.in_channels, first], 3)?;
        let time = TimestepEmbedding::load(loader, "time_embedding", first, time_width)?;
        let (specs, of_units) = (config.units(), config.clone());
        let count = specs.len() as i64;
        let units = Layers::load(loader, count, move |loader, i| {
            Unit::load(loader, &specs[i as usize], time_width, &of_units)
        })?;
        let norm_out = GroupNorm::load(loader, "conv_norm_out", first, config.norm_num_groups, config.norm_eps)?;
        let conv_out = Conv2d::same(loader, "conv_out", [first, config.out_channels], 3)?;
        loader.finish(NETWORK)?;
        Ok(Self { conv_in, time, units, norm_out, conv_out })
    }

    /// The noise in `latent` at time `t` (0 to 999). `on_progress` is called before each block with how much is done (0 to 1); what it
    /// fails with ends the pass.
    ///
    /// # Shapes
    /// latent `[B, C, H, W]` of any size, prompt embeds `[B, T, cross]` -> `[B, C, H, W]`.
    pub fn forward<E: From<TchError> + From<WeightsError>>(
        &self,
        latent: &Tensor,
        t: f64,
        prompt: &Tensor,
        on_progress: &mut dyn FnMut(f32) -> Result<(), E>,
    ) -> Result<Tensor, E> {
        let time = self.time.forward(t, latent.kind(), latent.device())?.f_silu()?;
        let mut x = self.conv_in.forward(latent)?;
        let mut skips = vec![x.shallow_clone()];
        let count = self.units.count();
        self.units.each(|i, unit| {
            on_progress(i as f32 / count as f32)?;
            x = unit.forward(&x, &time, prompt, &mut skips)?;
            Ok::<(), E>(())
        })?;
        Ok(self.conv_out.forward(&self.norm_out.forward(&x)?.f_silu()?)?)
    }
}
