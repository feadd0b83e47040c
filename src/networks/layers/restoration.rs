//! What transformers for restoration have in common (`SwinIR` of network_swinir.py, which HAT, DRCT and DAT follow): a
//! convolution, groups of blocks on tokens, a convolution again, added to the first one's result, and an [`Upsampler`].

use tch::{TchError, Tensor};

use super::swin::{from_tokens, to_tokens};
use super::upsample::{Upsampler, leaky_relu};
use super::windows::reflect;
use super::{Conv2d, LayerNorm};
use crate::runtime::weights::{Loader, WeightsError};

/// Of DIV2K's colours, which such networks subtract before and add afterwards.
pub const MEAN_COLOUR: [f32; 3] = [0.4488, 0.4371, 0.4040];
/// Shorter pictures are mirrored up to here.
pub const SHORTEST_SIDE: i64 = 16;
const EPSILON: f64 = 1e-5;
const SLOPE: f64 = 0.2;

/// [`MEAN_COLOUR`] as `[1, 3, 1, 1]`, in the dtype and on the device of `like`.
pub fn mean_colour(like: &Tensor) -> Result<Tensor, TchError> {
    Tensor::f_from_slice(&MEAN_COLOUR)?.f_view([1, 3, 1, 1])?.f_to_device(like.device())?.f_to_kind(like.kind())
}

/// Convolutions at the end of a group of blocks: one, or three with fewer channels between them.
pub enum BodyConv {
    /// `1conv`.
    One(Conv2d),
    /// `3conv`.
    Three([Conv2d; 3]),
}

impl BodyConv {
    /// From `{name}`, or `{name}.0`, `.2`, `.4`.
    pub fn load(loader: &mut Loader, name: &str, width: i64) -> Result<Self, WeightsError> {
        let Some(first) = loader.shape(&format!("{name}.0.weight")) else {
            return Ok(Self::One(Conv2d::same(loader, name, [width, width], 3)?));
        };
        let inner = first.first().copied().unwrap_or(0);
        Ok(Self::Three([
            Conv2d::same(loader, &format!("{name}.0"), [width, inner], 3)?,
            Conv2d::same(loader, &format!("{name}.2"), [inner, inner], 1)?,
            Conv2d::same(loader, &format!("{name}.4"), [inner, width], 3)?,
        ]))
    }

    /// `[B, C, H, W] -> [B, C, H, W]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        match self {
            Self::One(conv) => conv.forward(x),
            Self::Three([first, middle, last]) => {
                let x = leaky_relu(&first.forward(x)?, SLOPE)?;
                last.forward(&leaky_relu(&middle.forward(&x)?, SLOPE)?)
            }
        }
    }

    /// `[B, H, W, C] -> [B, H, W, C]`.
    pub fn forward_tokens(&self, x: &Tensor) -> Result<Tensor, TchError> {
        to_tokens(&self.forward(&from_tokens(x)?)?)
    }
}

/// A group of blocks, of which such a network has several.
pub trait Group {
    /// How many blocks it has.
    fn blocks(&self) -> usize;

    /// `[B, H, W, C] -> [B, H, W, C]`. Before each block `keep_going` is asked; where it says no, the result is `None`.
    fn forward(&self, x: &Tensor, keep_going: &mut dyn FnMut() -> bool) -> Result<Option<Tensor>, TchError>;
}

/// How one network differs from another.
pub struct Layout {
    /// Height and width are mirrored up to multiples of this many tokens.
    pub multiple: i64,
    /// What colours are multiplied by.
    pub range: f64,
    /// Name of the norm before the groups, where there is one.
    pub norm_before: &'static str,
}

/// The whole network.
pub struct Restoration<G> {
    layout: Layout,
    /// So many pixels of each axis become channels first.
    unshuffle: i64,
    first: Conv2d,
    norm_before: Option<LayerNorm>,
    groups: Vec<G>,
    norm: LayerNorm,
    after_body: BodyConv,
    upsampler: Upsampler,
}

impl<G: Group> Restoration<G> {
    /// Of groups that are loaded by `load_group` from their name, the channels, and their number.
    pub fn load(
        loader: &mut Loader,
        mut load_group: impl FnMut(&mut Loader, &str, i64, usize) -> Result<G, WeightsError>,
        layout: impl FnOnce(&[G]) -> Layout,
    ) -> Result<Self, WeightsError> {
        let is_unshuffled = loader.has("conv_first.1.weight");
        let name = if is_unshuffled { "conv_first.1" } else { "conv_first" };
        let shape = loader.shape(&format!("{name}.weight")).filter(|shape| shape.len() == 4).unwrap_or(vec![0, 3]);
        let (width, channels) = (shape[0], shape[1]);
        let unshuffle = if is_unshuffled { ((channels / 3) as f64).sqrt().round().max(1.0) as i64 } else { 1 };
        let first = Conv2d::same(loader, name, [3 * unshuffle * unshuffle, width], 3)?;
        if loader.has("absolute_pos_embed") {
            loader.ignore_prefix("absolute_pos_embed");
            loader.report("absolute_pos_embed: networks for pictures of one size alone are not read".into());
        }
        let mut groups = Vec::new();
        for number in 0..loader.count_below("layers") {
            groups.push(load_group(loader, &format!("layers.{number}"), width, number)?);
        }
        let layout = layout(&groups);
        let has_norm = loader.has(&format!("{}.weight", layout.norm_before));
        let norm_before = has_norm.then(|| LayerNorm::load(loader, layout.norm_before, width, EPSILON)).transpose()?;
        let network = Self {
            unshuffle,
            first,
            norm_before,
            groups,
            norm: LayerNorm::load(loader, "norm", width, EPSILON)?,
            after_body: BodyConv::load(loader, "conv_after_body", width)?,
            upsampler: Upsampler::load(loader, width)?,
            layout,
        };
        if network.upsampler.scale() % unshuffle != 0 {
            let scale = network.upsampler.scale();
            loader.report(format!("pictures are folded by {unshuffle} and enlarged by {scale}: that makes no scale"));
        }
        Ok(network)
    }

    /// How many times larger the output is.
    pub fn scale(&self) -> i64 {
        self.upsampler.scale() / self.unshuffle
    }

    /// The groups of blocks.
    pub fn groups(&self) -> &[G] {
        &self.groups
    }

    /// `[B, 3, H, W]` in [0, 1] `-> [B, 3, scale * H, scale * W]`. Before each block `keep_going` is asked, with the share
    /// that is done; where it says no, the result is `None`.
    pub fn forward(&self, x: &Tensor, keep_going: &mut dyn FnMut(f32) -> bool) -> Result<Option<Tensor>, TchError> {
        let (_, _, height, width) = x.size4()?;
        let multiple = self.layout.multiple * self.unshuffle;
        let padded = |length: i64| (length.max(SHORTEST_SIDE) + multiple - 1) / multiple * multiple;
        let x = reflect(&reflect(x, 2, padded(height))?, 3, padded(width))?;
        let mean = mean_colour(&x)?;
        let mut x = x.f_sub(&mean)?.f_mul_scalar(self.layout.range)?;
        if self.unshuffle > 1 {
            x = x.f_pixel_unshuffle(self.unshuffle)?;
        }
        let first = self.first.forward(&x)?;
        let mut h = to_tokens(&first)?;
        if let Some(norm) = &self.norm_before {
            h = norm.forward(&h)?;
        }
        let all: usize = self.groups.iter().map(Group::blocks).sum();
        let mut done = 0;
        let mut before_block = || {
            done += 1;
            keep_going((done - 1) as f32 / all as f32)
        };
        for group in &self.groups {
            let Some(next) = group.forward(&h, &mut before_block)? else { return Ok(None) };
            h = next;
        }
        let h = self.after_body.forward(&from_tokens(&self.norm.forward(&h)?)?)?.f_add(&first)?;
        let out = self.upsampler.forward(&h, &x)?.f_div_scalar(self.layout.range)?.f_add(&mean)?;
        Ok(Some(out.f_narrow(2, 0, height * self.scale())?.f_narrow(3, 0, width * self.scale())?))
    }
}
