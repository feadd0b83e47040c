//! The autoencoder (diffusers' `AutoencoderKL`): pictures to 16-channel latents an eighth as large, and back.

use serde::Deserialize;
use tch::{Kind, TchError, Tensor};

use crate::models::heap;
use crate::models::layers::{Conv2d, GroupNorm, Linear, attention};
use crate::models::weights::{Loader, WeightsError};

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
    /// Latents are multiplied by it.
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

fn yes() -> bool {
    true
}

struct Resnet {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl Resnet {
    fn load(loader: &mut Loader, name: &str, [inputs, outputs]: [i64; 2], groups: i64) -> Result<Self, WeightsError> {
        let at = |part: &str| format!("{name}.{part}");
        Ok(Self {
            norm1: GroupNorm::load(loader, &at("norm1"), inputs, groups, EPSILON)?,
            conv1: Conv2d::load(loader, &at("conv1"), [inputs, outputs], 3, 1, 1)?,
            norm2: GroupNorm::load(loader, &at("norm2"), outputs, groups, EPSILON)?,
            conv2: Conv2d::load(loader, &at("conv2"), [outputs, outputs], 3, 1, 1)?,
            shortcut: match inputs == outputs {
                true => None,
                false => Some(Conv2d::load(loader, &at("conv_shortcut"), [inputs, outputs], 1, 1, 0)?),
            },
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let h = self.conv1.forward(&self.norm1.forward(x)?.f_silu()?)?;
        let h = self.conv2.forward(&self.norm2.forward(&h)?.f_silu()?)?;
        match &self.shortcut {
            Some(shortcut) => shortcut.forward(x)?.f_add(&h),
            None => x.f_add(&h),
        }
    }
}

/// Attention over all pixels, one head.
struct Attention {
    norm: GroupNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
}

impl Attention {
    fn load(loader: &mut Loader, name: &str, channels: i64, groups: i64) -> Result<Self, WeightsError> {
        let linear =
            |loader: &mut Loader, part: &str| Linear::load(loader, &format!("{name}.{part}"), channels, channels);
        Ok(Self {
            norm: GroupNorm::load(loader, &format!("{name}.group_norm"), channels, groups, EPSILON)?,
            q: linear(loader, "to_q")?,
            k: linear(loader, "to_k")?,
            v: linear(loader, "to_v")?,
            out: linear(loader, "to_out.0")?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (batch, channels, height, width) = x.size4()?;
        let flat = x.f_view([batch, channels, height * width])?;
        let h = self.norm.forward(&flat)?.f_transpose(1, 2)?; // [B, HW, C]
        let head = |linear: &Linear| linear.forward(&h)?.f_unsqueeze(1);
        let attended = attention(&head(&self.q)?, &head(&self.k)?, &head(&self.v)?, false)?.f_squeeze_dim(1)?;
        let out = self.out.forward(&attended)?.f_transpose(1, 2)?.f_reshape([batch, channels, height, width])?;
        out.f_add(x)
    }
}

/// Two residual blocks with attention between them, at the coarsest resolution.
struct Middle {
    first: Resnet,
    attention: Option<Attention>,
    second: Resnet,
}

impl Middle {
    fn load(loader: &mut Loader, prefix: &str, config: &Config) -> Result<Self, WeightsError> {
        let channels = config.block_out_channels.last().copied().unwrap_or(1);
        let groups = config.norm_num_groups;
        let resnet = |loader: &mut Loader, i: i64| {
            Resnet::load(loader, &format!("{prefix}mid_block.resnets.{i}"), [channels, channels], groups)
        };
        let first = resnet(loader, 0)?;
        let attention = match config.mid_block_add_attention {
            true => Some(Attention::load(loader, &format!("{prefix}mid_block.attentions.0"), channels, groups)?),
            false => None,
        };
        Ok(Self { first, attention, second: resnet(loader, 1)? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let mut x = self.first.forward(x)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(&x)?;
        }
        self.second.forward(&x)
    }
}

/// Residual blocks at one resolution, and the convolution to the next.
struct Level {
    resnets: Vec<Resnet>,
    resample: Option<Conv2d>,
}

/// How much of a pass is done before block `j` of level `i`: levels take about as long as each other.
fn done(levels: &[Level], i: usize, j: usize) -> f32 {
    (i as f32 + j as f32 / levels[i].resnets.len() as f32) / levels.len() as f32
}

/// Pictures in [-1, 1] to the mean and log variance of their latents.
pub struct Encoder {
    conv_in: Conv2d,
    levels: Vec<Level>,
    middle: Middle,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    quant: Option<Conv2d>,
}

impl Encoder {
    /// Reads the encoder's part under `prefix` (`encoder.` in a VAE's file, nothing in a file of its own).
    pub fn load(loader: &mut Loader, prefix: &str, config: &Config) -> Result<Self, WeightsError> {
        let widths = &config.block_out_channels;
        let first = widths.first().copied().unwrap_or(1);
        let last = widths.last().copied().unwrap_or(1);
        let groups = config.norm_num_groups;
        let conv_in = Conv2d::load(loader, &format!("{prefix}conv_in"), [config.in_channels, first], 3, 1, 1)?;
        let mut levels = Vec::new();
        let mut inputs = first;
        for (i, &outputs) in widths.iter().enumerate() {
            let mut resnets = Vec::new();
            for j in 0..config.layers_per_block {
                let name = format!("{prefix}down_blocks.{i}.resnets.{j}");
                resnets.push(Resnet::load(loader, &name, [inputs, outputs], groups)?);
                inputs = outputs;
            }
            let name = format!("{prefix}down_blocks.{i}.downsamplers.0.conv");
            let resample = match i + 1 < widths.len() {
                true => Some(Conv2d::load(loader, &name, [outputs, outputs], 3, 2, 0)?),
                false => None,
            };
            levels.push(Level { resnets, resample });
        }
        let middle = Middle::load(loader, prefix, config)?;
        let norm_out = GroupNorm::load(loader, &format!("{prefix}conv_norm_out"), last, groups, EPSILON)?;
        let outputs = 2 * config.latent_channels;
        let conv_out = Conv2d::load(loader, &format!("{prefix}conv_out"), [last, outputs], 3, 1, 1)?;
        // Beside the encoder, not inside it.
        let quant = match config.use_quant_conv && prefix == "encoder." {
            true => Some(Conv2d::load(loader, "quant_conv", [outputs, outputs], 1, 1, 0)?),
            false => None,
        };
        Ok(Self { conv_in, levels, middle, norm_out, conv_out, quant })
    }

    /// `[B, 3, H, W] -> [B, C, H / 8, W / 8]` twice: mean and log variance. `between` hears after each block how much is
    /// done (0 to 1); what it fails with ends the pass.
    pub fn forward<E: From<TchError>>(
        &self,
        picture: &Tensor,
        between: &mut dyn FnMut(f32) -> Result<(), E>,
    ) -> Result<(Tensor, Tensor), E> {
        let _kept = heap::keep_blocks();
        let mut x = self.conv_in.forward(picture)?;
        for (i, level) in self.levels.iter().enumerate() {
            for (j, resnet) in level.resnets.iter().enumerate() {
                between(done(&self.levels, i, j))?;
                x = resnet.forward(&x)?;
            }
            if let Some(conv) = &level.resample {
                // One more column on the right and one more row below.
                x = conv.forward(&x.f_constant_pad_nd([0, 1, 0, 1])?)?;
            }
        }
        x = self.conv_out.forward(&self.norm_out.forward(&self.middle.forward(&x)?)?.f_silu()?)?;
        if let Some(quant) = &self.quant {
            x = quant.forward(&x)?;
        }
        let parts = x.f_chunk(2, 1)?;
        Ok((parts[0].shallow_clone(), parts[1].f_clamp(LOG_VARIANCE.0, LOG_VARIANCE.1)?))
    }
}

/// Latents to pictures.
pub struct Decoder {
    post_quant: Option<Conv2d>,
    conv_in: Conv2d,
    middle: Middle,
    levels: Vec<Level>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    /// Reads the part under `decoder.`.
    pub fn load(loader: &mut Loader, config: &Config) -> Result<Self, WeightsError> {
        let widths: Vec<i64> = config.block_out_channels.iter().rev().copied().collect();
        let first = widths.first().copied().unwrap_or(1);
        let last = widths.last().copied().unwrap_or(1);
        let (groups, latent) = (config.norm_num_groups, config.latent_channels);
        let post_quant = match config.use_post_quant_conv {
            true => Some(Conv2d::load(loader, "post_quant_conv", [latent, latent], 1, 1, 0)?),
            false => None,
        };
        let conv_in = Conv2d::load(loader, "decoder.conv_in", [latent, first], 3, 1, 1)?;
        let middle = Middle::load(loader, "decoder.", config)?;
        let mut levels = Vec::new();
        let mut inputs = first;
        for (i, &outputs) in widths.iter().enumerate() {
            let mut resnets = Vec::new();
            for j in 0..=config.layers_per_block {
                let name = format!("decoder.up_blocks.{i}.resnets.{j}");
                resnets.push(Resnet::load(loader, &name, [inputs, outputs], groups)?);
                inputs = outputs;
            }
            let name = format!("decoder.up_blocks.{i}.upsamplers.0.conv");
            let resample = match i + 1 < widths.len() {
                true => Some(Conv2d::load(loader, &name, [outputs, outputs], 3, 1, 1)?),
                false => None,
            };
            levels.push(Level { resnets, resample });
        }
        let norm_out = GroupNorm::load(loader, "decoder.conv_norm_out", last, groups, EPSILON)?;
        // In 16 bits its three numbers a pixel would be as coarse as the levels of a picture.
        let conv_out = Conv2d::load_wide(loader, "decoder.conv_out", [last, config.out_channels])?;
        Ok(Self { post_quant, conv_in, middle, levels, norm_out, conv_out })
    }

    /// `[B, C, h, w] -> [B, 3, 8 h, 8 w]` in float32, about [-1, 1], not clamped. `between` as for the encoder.
    pub fn forward<E: From<TchError>>(
        &self,
        latent: &Tensor,
        between: &mut dyn FnMut(f32) -> Result<(), E>,
    ) -> Result<Tensor, E> {
        let _kept = heap::keep_blocks();
        let mut x = match &self.post_quant {
            Some(conv) => conv.forward(latent)?,
            None => latent.shallow_clone(),
        };
        x = self.middle.forward(&self.conv_in.forward(&x)?)?;
        for (i, level) in self.levels.iter().enumerate() {
            for (j, resnet) in level.resnets.iter().enumerate() {
                between(done(&self.levels, i, j))?;
                x = resnet.forward(&x)?;
            }
            if let Some(conv) = &level.resample {
                let (_, _, height, width) = x.size4()?;
                x = conv.forward(&x.f_upsample_nearest2d([2 * height, 2 * width], None, None)?)?;
            }
        }
        Ok(self.conv_out.forward(&self.norm_out.forward(&x)?.f_silu()?.f_to_kind(Kind::Float)?)?)
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
        let encoder = match encoder {
            None => Encoder::load(loader, "encoder.", config)?,
            Some(own) => {
                loader.leave("encoder.");
                loader.leave("quant_conv.");
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
