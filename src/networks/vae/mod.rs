//! The autoencoder (diffusers' `AutoencoderKL`): pictures to latents an eighth as large, of 16 channels in Stable Diffusion 3 and 4 in 2,
//! and back.

pub mod tiles;

use std::ops::Range;

use serde::Deserialize;
use tch::{Device, Kind, TchError, Tensor};

use crate::networks::layers::{Conv2d, GroupNorm, Linear, attention};
use crate::runtime::allocator;
use crate::runtime::weights::{Loader, WeightsError};

/// Of all its norms.
const EPSILON: f64 = 1e-6;
/// The log variance is kept within this.
const LOG_VARIANCE: (f64, f64) = (-30.0, 20.0);

/// `vae/config.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// Channels of a picture.
    pub in_channels: i64,
    /// Of a decoded picture.
    pub out_channels: i64,
    /// Of the latent.
    pub latent_channels: i64,
    /// Width at each resolution, the finest first; each but the last halves the picture.
    pub block_out_channels: Vec<i64>,
    /// Residual blocks at each resolution.
    pub layers_per_block: i64,
    /// Of the group norms.
    pub norm_num_groups: i64,
    /// Between the convolutions; SiLU is known.
    #[serde(default = "silu")]
    pub act_fn: String,
    /// Latents are multiplied by it.
    #[serde(default = "scaling_factor")]
    pub scaling_factor: f64,
    /// And were shifted by it.
    #[serde(default)]
    pub shift_factor: Option<f64>,
    /// Attention at the coarsest resolution.
    #[serde(default = "yes")]
    pub mid_block_add_attention: bool,
    /// A 1 x 1 convolution behind the encoder; SD 3 has none.
    #[serde(default = "yes")]
    pub use_quant_conv: bool,
    /// And one before the decoder.
    #[serde(default = "yes")]
    pub use_post_quant_conv: bool,
}

impl Config {
    /// How often the encoder halves the sides.
    pub fn halvings(&self) -> u32 {
        self.block_out_channels.len().saturating_sub(1).min(8) as u32
    }
}

impl Config {
    /// Floating-point operations of encoding and decoding a picture of so many pixels: its convolutions of 3 x 3.
    pub fn operations(&self, pixels: f64) -> f64 {
        let widths = &self.block_out_channels;
        let level = |(i, &width): (usize, &i64)| {
            // Two a residual block, of which the decoder has one more; and one behind each enlargement.
            let blocks = (4 * self.layers_per_block + 2) as f64 * (width * width) as f64;
            let enlargement = widths.get(i + 1).map_or(0.0, |coarser| (coarser * coarser) as f64);
            18.0 * pixels / 4f64.powi(i as i32) * (blocks + enlargement)
        };
        widths.iter().enumerate().map(level).sum()
    }

    /// The most bytes that layers hold at once for a picture of so many pixels, whatever the precision: a few times what the
    /// decoder has after its last enlargement.
    pub fn activations(&self, pixels: f64) -> f64 {
        let widest = self.block_out_channels.iter().take(2).max().copied().unwrap_or(0);
        6.0 * 4.0 * widest as f64 * pixels
    }
}

fn yes() -> bool {
    true
}

/// What diffusers takes where the config does not say it: Stable Diffusion 1 and 2.
fn silu() -> String {
    "silu".into()
}

fn scaling_factor() -> f64 {
    0.18215
}

/// One thing after another is done to `x`; what [`Op::Keep`] keeps is added again by the next [`Op::Add`].
pub(super) enum Op {
    Conv(Conv2d),
    /// From here on in float32.
    ConvWide(Conv2d),
    Norm(GroupNorm),
    Silu,
    /// Through the shortcut, where there is one.
    Keep(Option<Conv2d>),
    Add,
    /// Over all pixels, one head.
    Attend(Attention),
    /// To half the sides.
    Halve(Conv2d),
    /// To twice the sides.
    Double(Conv2d),
}

pub(super) struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
}

/// Queries that are asked at a time where the pixels are many: all at once they may need a matrix of all pairs.
const QUERIES: i64 = 4096;

impl Attention {
    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (batch, channels, height, width) = x.size4()?;
        let h = x.f_reshape([batch, channels, height * width])?.f_transpose(1, 2)?; // [B, HW, C]
        let head = |linear: &Linear| linear.forward(&h)?.f_unsqueeze(1);
        let (q, k, v) = (head(&self.q)?, head(&self.k)?, head(&self.v)?);
        let answers: Result<Vec<_>, _> = match height * width > 4 * QUERIES {
            false => Ok(vec![attention(&q, &k, &v, false)?]),
            true => q.f_split(QUERIES, 2)?.iter().map(|q| attention(q, &k, &v, false)).collect(),
        };
        let attended = Tensor::f_cat(&answers?, 2)?.f_squeeze_dim(1)?;
        self.out.forward(&attended)?.f_transpose(1, 2)?.f_reshape([batch, channels, height, width])
    }
}

/// How a pass answers a group norm: with its number among the ops.
pub(super) type Normalise<'a> = dyn FnMut(usize, &GroupNorm, &Tensor) -> Result<Tensor, TchError> + 'a;

/// Each by what it normalises.
pub(super) fn by_itself(_: usize, norm: &GroupNorm, x: &Tensor) -> Result<Tensor, TchError> {
    norm.forward(x)
}

/// Where a pass has stopped.
struct State {
    x: Tensor,
    /// By [`Op::Keep`].
    kept: Option<Tensor>,
}

impl State {
    fn to_device(&self, device: Device) -> Result<Self, TchError> {
        let kept = self.kept.as_ref().map(|kept| kept.f_to_device(device)).transpose()?;
        Ok(Self { x: self.x.f_to_device(device)?, kept })
    }
}

/// A network as a row of ops, so that it can be run in parts.
pub struct Ops(Vec<Op>);

impl Ops {
    fn resnet(
        &mut self,
        loader: &mut Loader,
        name: &str,
        [inputs, outputs]: [i64; 2],
        groups: i64,
    ) -> Result<(), WeightsError> {
        let at = |part: &str| format!("{name}.{part}");
        let norm = |loader: &mut Loader, part: &str, channels: i64| {
            GroupNorm::load(loader, &at(part), channels, groups, EPSILON).map(Op::Norm)
        };
        let (norm1, norm2) = (norm(loader, "norm1", inputs)?, norm(loader, "norm2", outputs)?);
        let conv1 = Conv2d::load(loader, &at("conv1"), [inputs, outputs], 3, 1, 1)?;
        let conv2 = Conv2d::load(loader, &at("conv2"), [outputs, outputs], 3, 1, 1)?;
        let shortcut = match inputs == outputs {
            true => None,
            false => Some(Conv2d::load(loader, &at("conv_shortcut"), [inputs, outputs], 1, 1, 0)?),
        };
        self.0.extend([
            Op::Keep(shortcut),
            norm1,
            Op::Silu,
            Op::Conv(conv1),
            norm2,
            Op::Silu,
            Op::Conv(conv2),
            Op::Add,
        ]);
        Ok(())
    }

    /// Two residual blocks with attention between them, at the coarsest resolution.
    fn middle(&mut self, loader: &mut Loader, prefix: &str, config: &Config) -> Result<(), WeightsError> {
        let channels = config.block_out_channels.last().copied().unwrap_or(1);
        let groups = config.norm_num_groups;
        let name = |part: &str| format!("{prefix}mid_block.{part}");
        self.resnet(loader, &name("resnets.0"), [channels, channels], groups)?;
        if config.mid_block_add_attention {
            let name = |part: &str| name(&format!("attentions.0.{part}"));
            let norm = GroupNorm::load(loader, &name("group_norm"), channels, groups, EPSILON)?;
            // Older files call them otherwise.
            for (now, before) in [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")] {
                loader.rename(&name(before), &name(now));
            }
            let mut linear = |part: &str| Linear::load(loader, &name(part), channels, channels);
            let (q, k, v, out) = (linear("to_q")?, linear("to_k")?, linear("to_v")?, linear("to_out.0")?);
            self.0.extend([Op::Keep(None), Op::Norm(norm), Op::Attend(Attention { q, k, v, out }), Op::Add]);
        }
        self.resnet(loader, &name("resnets.1"), [channels, channels], groups)
    }

    /// All of them, by number.
    pub(super) fn all(&self) -> Range<usize> {
        0..self.0.len()
    }

    /// The numbers of the norms.
    pub(super) fn norms(&self) -> impl DoubleEndedIterator<Item = (usize, &GroupNorm)> {
        self.0.iter().enumerate().filter_map(|(i, op)| match op {
            Op::Norm(norm) => Some((i, norm)),
            _ => None,
        })
    }

    /// From which op on everything is as coarse as the latent: behind the last halving.
    pub(super) fn coarse_from(&self) -> usize {
        self.0.iter().rposition(|op| matches!(op, Op::Halve(_))).map_or(0, |i| i + 1)
    }

    /// Up to which op everything is as coarse as the latent: before the first doubling.
    pub(super) fn coarse_to(&self) -> usize {
        self.0.iter().position(|op| matches!(op, Op::Double(_))).unwrap_or(self.0.len())
    }

    /// How many times smaller (below 1: larger) the sides are after these ops.
    pub(super) fn reduction(&self, range: Range<usize>) -> f64 {
        self.0[range].iter().fold(1.0, |by, op| match op {
            Op::Halve(_) => by * 2.0,
            Op::Double(_) => by / 2.0,
            _ => by,
        })
    }

    /// How far beyond its edge an input decides about an output, in pixels of the input, at most. Attention, which sees
    /// everything, is not counted.
    pub(super) fn reach(&self, range: Range<usize>) -> i64 {
        let ops = &self.0[range];
        // Residual blocks: the way through the convolutions is the longer one.
        ops.iter().rev().fold(0, |reach, op| match op {
            Op::Conv(conv) | Op::ConvWide(conv) => reach + conv.padding(),
            Op::Halve(_) => 2 * reach + 2,
            Op::Double(_) => (reach + 1) / 2 + 1,
            _ => reach,
        })
    }

    /// Cut where nothing is kept for later: residual blocks stay whole.
    pub fn segments(&self) -> Vec<Range<usize>> {
        let is_end = |i: &usize| matches!(self.0[*i], Op::Add | Op::Halve(_) | Op::Double(_));
        let mut ends: Vec<usize> = self.all().filter(is_end).map(|i| i + 1).collect();
        if ends.last() != Some(&self.0.len()) {
            ends.push(self.0.len());
        }
        let starts = std::iter::once(0).chain(ends.iter().copied()).collect::<Vec<_>>();
        starts.into_iter().zip(ends).map(|(start, end)| start..end).collect()
    }

    /// One of them.
    pub fn run_segment(&self, segment: usize, x: &Tensor) -> Result<Tensor, TchError> {
        let range = self.segments().get(segment).cloned().unwrap_or(0..0);
        self.run(range, x.shallow_clone(), &mut by_itself, &mut |_| Ok::<(), TchError>(()))
    }

    /// Runs some of the ops, a residual block whole or up to a norm in it. `on_progress` is called now and then with how much is done
    /// (0 to 1); what it fails with ends the pass.
    pub(super) fn run<E: From<TchError>>(
        &self,
        range: Range<usize>,
        x: Tensor,
        normalise: &mut Normalise,
        on_progress: &mut dyn FnMut(f32) -> Result<(), E>,
    ) -> Result<Tensor, E> {
        let state = self.advance(range, State { x, kept: None }, normalise, on_progress)?;
        Ok(state.x)
    }

    /// The same from where another pass has stopped, be it in a residual block.
    fn advance<E: From<TchError>>(
        &self,
        range: Range<usize>,
        State { mut x, mut kept }: State,
        normalise: &mut Normalise,
        on_progress: &mut dyn FnMut(f32) -> Result<(), E>,
    ) -> Result<State, E> {
        let _blocks = allocator::keep_blocks();
        let ops = range.len().max(1) as f32;
        for (n, i) in range.enumerate() {
            x = match &self.0[i] {
                Op::Conv(conv) => conv.forward(&x)?,
                Op::ConvWide(conv) => conv.forward(&x.f_to_kind(Kind::Float)?)?,
                Op::Norm(norm) => normalise(i, norm, &x)?,
                Op::Silu => x.f_silu()?,
                Op::Keep(shortcut) => {
                    on_progress(n as f32 / ops)?;
                    kept = Some(match shortcut {
                        Some(shortcut) => shortcut.forward(&x)?,
                        None => x.shallow_clone(),
                    });
                    x
                }
                Op::Add => match kept.take() {
                    Some(kept) => kept.f_add(&x)?,
                    None => x,
                },
                Op::Attend(attention) => attention.forward(&x)?,
                // One more column on the right and one more row below.
                Op::Halve(conv) => conv.forward(&x.f_constant_pad_nd([0, 1, 0, 1])?)?,
                Op::Double(conv) => {
                    let (_, _, height, width) = x.size4()?;
                    conv.forward(&x.f_upsample_nearest2d([2 * height, 2 * width], None, None)?)?
                }
            };
        }
        Ok(State { x, kept })
    }
}

/// Pictures in [-1, 1] to the mean and log variance of their latents.
pub struct Encoder {
    pub(super) ops: Ops,
}

impl Encoder {
    /// Reads the encoder's part under `prefix` (`encoder.` in a VAE's file, nothing in a file of its own).
    pub fn load(loader: &mut Loader, prefix: &str, config: &Config) -> Result<Self, WeightsError> {
        let widths = &config.block_out_channels;
        let first = widths.first().copied().unwrap_or(1);
        let last = widths.last().copied().unwrap_or(1);
        let groups = config.norm_num_groups;
        let conv_in = Conv2d::load(loader, &format!("{prefix}conv_in"), [config.in_channels, first], 3, 1, 1)?;
        let mut ops = Ops(vec![Op::Conv(conv_in)]);
        let mut inputs = first;
        for (i, &outputs) in widths.iter().enumerate() {
            for j in 0..config.layers_per_block {
                let name = format!("{prefix}down_blocks.{i}.resnets.{j}");
                ops.resnet(loader, &name, [inputs, outputs], groups)?;
                inputs = outputs;
            }
            if i + 1 < widths.len() {
                let name = format!("{prefix}down_blocks.{i}.downsamplers.0.conv");
                ops.0.push(Op::Halve(Conv2d::load(loader, &name, [outputs, outputs], 3, 2, 0)?));
            }
        }
        ops.middle(loader, prefix, config)?;
        let norm_out = GroupNorm::load(loader, &format!("{prefix}conv_norm_out"), last, groups, EPSILON)?;
        let outputs = 2 * config.latent_channels;
        let conv_out = Conv2d::load(loader, &format!("{prefix}conv_out"), [last, outputs], 3, 1, 1)?;
        ops.0.extend([Op::Norm(norm_out), Op::Silu, Op::Conv(conv_out)]);
        // Beside the encoder, not inside it.
        if config.use_quant_conv && prefix == "encoder." {
            ops.0.push(Op::Conv(Conv2d::load(loader, "quant_conv", [outputs, outputs], 1, 1, 0)?));
        }
        Ok(Self { ops })
    }

    /// To be run in parts; the last one returns mean and log variance, `[B, 2 C, H / 8, W / 8]`, this not clamped.
    pub fn ops(&self) -> &Ops {
        &self.ops
    }

    /// `[B, 3, H, W] -> [B, C, H / 8, W / 8]` twice: mean and log variance. `on_progress` is called after each block with how much is
    /// done (0 to 1); what it fails with ends the pass.
    pub fn forward<E: From<TchError>>(
        &self,
        picture: &Tensor,
        on_progress: &mut dyn FnMut(f32) -> Result<(), E>,
    ) -> Result<(Tensor, Tensor), E> {
        Ok(moments(&self.ops.run(self.ops.all(), picture.shallow_clone(), &mut by_itself, on_progress)?)?)
    }
}

/// `[B, 2 C, h, w]` as mean and log variance.
pub fn moments(encoded: &Tensor) -> Result<(Tensor, Tensor), TchError> {
    let parts = encoded.f_chunk(2, 1)?;
    Ok((parts[0].shallow_clone(), parts[1].f_clamp(LOG_VARIANCE.0, LOG_VARIANCE.1)?))
}

/// Latents to pictures.
pub struct Decoder {
    pub(super) ops: Ops,
}

impl Decoder {
    /// Reads the part under `decoder.`.
    pub fn load(loader: &mut Loader, config: &Config) -> Result<Self, WeightsError> {
        let widths: Vec<i64> = config.block_out_channels.iter().rev().copied().collect();
        let first = widths.first().copied().unwrap_or(1);
        let last = widths.last().copied().unwrap_or(1);
        let (groups, latent) = (config.norm_num_groups, config.latent_channels);
        let mut ops = Ops(Vec::new());
        if config.use_post_quant_conv {
            ops.0.push(Op::Conv(Conv2d::load(loader, "post_quant_conv", [latent, latent], 1, 1, 0)?));
        }
        ops.0.push(Op::Conv(Conv2d::load(loader, "decoder.conv_in", [latent, first], 3, 1, 1)?));
        ops.middle(loader, "decoder.", config)?;
        let mut inputs = first;
        for (i, &outputs) in widths.iter().enumerate() {
            for j in 0..=config.layers_per_block {
                let name = format!("decoder.up_blocks.{i}.resnets.{j}");
                ops.resnet(loader, &name, [inputs, outputs], groups)?;
                inputs = outputs;
            }
            if i + 1 < widths.len() {
                let name = format!("decoder.up_blocks.{i}.upsamplers.0.conv");
                ops.0.push(Op::Double(Conv2d::load(loader, &name, [outputs, outputs], 3, 1, 1)?));
            }
        }
        let norm_out = GroupNorm::load(loader, "decoder.conv_norm_out", last, groups, EPSILON)?;
        // In 16 bits its three numbers a pixel would be as coarse as the levels of a picture.
        let conv_out = Conv2d::load_fp32(loader, "decoder.conv_out", [last, config.out_channels])?;
        ops.0.extend([Op::Norm(norm_out), Op::Silu, Op::ConvWide(conv_out)]);
        Ok(Self { ops })
    }

    /// To be run in parts.
    pub fn ops(&self) -> &Ops {
        &self.ops
    }

    /// `[B, C, h, w] -> [B, 3, 8 h, 8 w]` in float32, about [-1, 1], not clamped. `on_progress` as for the encoder.
    pub fn forward<E: From<TchError>>(
        &self,
        latent: &Tensor,
        on_progress: &mut dyn FnMut(f32) -> Result<(), E>,
    ) -> Result<Tensor, E> {
        self.ops.run(self.ops.all(), latent.shallow_clone(), &mut by_itself, on_progress)
    }
}

const NETWORK: &str = "VAE";

/// Both halves.
pub struct Vae {
    /// Pictures to latents.
    pub encoder: Encoder,
    /// And back.
    pub decoder: Decoder,
}

impl Vae {
    /// Reads a VAE's file; where `encoder` is given, that replaces the file's own encoder, whole.
    ///
    /// # Errors
    /// Every missing, surplus or misshapen key, all at once.
    pub fn load(loader: &mut Loader, encoder: Option<&mut Loader>, config: &Config) -> Result<Self, WeightsError> {
        if config.act_fn != silu() {
            loader.report(format!("act_fn is {:?}; \"silu\" is known", config.act_fn));
        }
        let encoder = match encoder {
            None => Encoder::load(loader, "encoder.", config)?,
            Some(own) => {
                loader.ignore_prefix("encoder.");
                loader.ignore_prefix("quant_conv.");
                let encoder = Encoder::load(own, "", config)?;
                own.finish("VAE encoder")?;
                encoder
            }
        };
        let decoder = Decoder::load(loader, config)?;
        loader.finish(NETWORK)?;
        Ok(Self { encoder, decoder })
    }
}
