//! What transformers for restoration have in common (`SwinIR` of network_swinir.py, which HAT, DRCT and DAT follow): a
//! convolution, groups of blocks on tokens, a convolution again, added to the first one's result, and an [`Upsampler`].

use tch::{Device, Kind, TchError, Tensor};

use super::swin::{from_tokens, to_tokens};
use super::upsample::{Upsampler, leaky_relu};
use super::windows::{reflect, reflect_to_multiple};
use super::{Conv2d, LayerNorm};
use crate::networks::single_image::{Context, SingleImageNetwork};
use crate::runtime::weights::{Loader, WeightsError};

/// Of DIV2K.
const MEAN_COLOUR: [f32; 3] = [0.4488, 0.4371, 0.4040];
/// Shorter pictures are mirrored up to here.
pub const SHORTEST_SIDE: i64 = 16;
const EPSILON: f64 = 1e-5;
const SLOPE: f64 = 0.2;

/// The mean colour of DIV2K, which such networks subtract before and add afterwards, `[1, 3, 1, 1]`.
pub fn mean_colour(kind: Kind, device: Device) -> Result<Tensor, TchError> {
    Tensor::f_from_slice(&MEAN_COLOUR)?.f_view([1, 3, 1, 1])?.f_to_device(device)?.f_to_kind(kind)
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

/// One block of a network, on tokens.
pub trait Block {
    /// `[B, H, W, C] -> [B, H, W, C]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError>;
}

/// A group of blocks, of which such a network has several.
pub trait Group {
    /// How many blocks it has.
    fn blocks(&self) -> usize;

    /// `[B, H, W, C] -> [B, H, W, C]`. Before each block `keep_going` is asked; where it says no, the result is `None`.
    fn forward(&self, x: &Tensor, keep_going: &mut dyn FnMut() -> bool) -> Result<Option<Tensor>, TchError>;
}

/// The usual group: blocks one after another and a convolution, added to what came in.
pub struct Residual<B> {
    /// Its blocks.
    pub blocks: Vec<B>,
    /// What stands after them.
    pub conv: BodyConv,
}

impl<B: Block> Group for Residual<B> {
    fn blocks(&self) -> usize {
        self.blocks.len()
    }

    fn forward(&self, x: &Tensor, keep_going: &mut dyn FnMut() -> bool) -> Result<Option<Tensor>, TchError> {
        let mut h = x.shallow_clone();
        for block in &self.blocks {
            if !keep_going() {
                return Ok(None);
            }
            h = block.forward(&h)?;
        }
        self.conv.forward_tokens(&h)?.f_add(x).map(Some)
    }
}

/// How one network differs from another.
pub struct Variant {
    /// What of a picture it looks at.
    pub context: Context,
    /// Height and width are mirrored up to multiples of this many tokens.
    pub multiple: i64,
    /// What colours are multiplied by.
    pub range: f64,
    /// Name of the norm before the groups, where there is one.
    pub norm_before: &'static str,
}

/// The whole network: `[B, 3, H, W]` in [0, 1] -> `[B, 3, scale * H, scale * W]`, not clamped.
pub struct Restoration<G> {
    variant: Variant,
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
        variant: impl FnOnce(&[G]) -> Variant,
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
            let name = format!("layers.{number}");
            if !loader.has_below(&name) {
                loader.report(format!("{name} is missing"));
                break;
            }
            groups.push(load_group(loader, &name, width, number)?);
        }
        let tables = loader.requested().iter().filter(|(key, _)| key.ends_with(".attn.relative_position_bias_table"));
        if let [first, rest @ ..] = tables.collect::<Vec<_>>().as_slice()
            && let Some((key, shape)) = rest.iter().find(|(_, shape)| shape[0] != first.1[0])
        {
            let problem = format!("{key} is {shape:?}, and its window is another than that of {}", first.0);
            loader.report(problem);
        }
        let variant = variant(&groups);
        let has_norm = loader.has(&format!("{}.weight", variant.norm_before));
        let norm_before = has_norm.then(|| LayerNorm::load(loader, variant.norm_before, width, EPSILON)).transpose()?;
        let network = Self {
            unshuffle,
            first,
            norm_before,
            groups,
            norm: LayerNorm::load(loader, "norm", width, EPSILON)?,
            after_body: BodyConv::load(loader, "conv_after_body", width)?,
            upsampler: Upsampler::load(loader, width)?,
            variant,
        };
        if network.upsampler.scale() % unshuffle != 0 {
            let scale = network.upsampler.scale();
            loader.report(format!("pictures are folded by {unshuffle} and enlarged by {scale}: that makes no scale"));
        }
        Ok(network)
    }
}

impl<G: Group + Send> SingleImageNetwork for Restoration<G> {
    fn scale(&self) -> i64 {
        self.upsampler.scale() / self.unshuffle
    }

    fn context(&self) -> Context {
        match self.variant.context {
            Context::Windows(window) => Context::Windows(window * self.unshuffle),
            context => context,
        }
    }

    fn forward(&self, x: &Tensor, keep_going: &mut dyn FnMut(f32) -> bool) -> Result<Option<Tensor>, TchError> {
        let (_, _, height, width) = x.size4()?;
        let multiple = self.variant.multiple * self.unshuffle;
        let x = reflect(&reflect(x, 2, SHORTEST_SIDE)?, 3, SHORTEST_SIDE)?;
        let x = reflect_to_multiple(&x, multiple)?;
        let mean = mean_colour(x.kind(), x.device())?;
        let mut x = x.f_sub(&mean)?.f_mul_scalar(self.variant.range)?;
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
        let out = self.upsampler.forward(&h, &x)?.f_div_scalar(self.variant.range)?.f_add(&mean)?;
        Ok(Some(out.f_narrow(2, 0, height * self.scale())?.f_narrow(3, 0, width * self.scale())?))
    }
}
