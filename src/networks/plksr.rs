//! PLKSR (arXiv 2404.11848; `plksr/archs/plksr_arch.py`) and RealPLKSR (`neosr/archs/realplksr_arch.py`): blocks of a few
//! convolutions, one of which, with a large kernel, sees a part of the channels. RealPLKSR may end in DySample (arXiv
//! 2308.15085), which samples where it learned to.

use tch::{Device, Kind, TchError, Tensor};

use super::layers::upsample::shuffle_factor;
use super::layers::{Conv2d, GroupNorm, LayerNorm};
use super::single_image::{Context, SingleImageNetwork, loader};
use crate::checkpoint::CheckpointError;
use crate::runtime::weights::{Loader, Weights, WeightsError};

const LAYER_NORM_EPSILON: f64 = 1e-6;
/// Groups of channels and epsilon of the norm at the end of RealPLKSR's blocks, which are in no file.
const GROUPS: i64 = 4;
const GROUP_NORM_EPSILON: f64 = 1e-5;
/// Largest kernel that is read.
const LARGEST_KERNEL: i64 = 63;
/// Numbers in PyTorch's enumerations of `grid_sample`.
const BILINEAR: i64 = 0;
const BORDER: i64 = 1;

/// Which of the two it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Variant {
    Plain,
    Real,
}

impl Variant {
    fn mixer(self) -> &'static str {
        // The first one's name is misspelt in its own code, and so in all files.
        if self == Variant::Plain { "channe_mixer" } else { "channel_mixer" }
    }

    fn name(self) -> &'static str {
        if self == Variant::Plain { "PLKSR" } else { "RealPLKSR" }
    }
}

/// `PLKBlock`.
struct Block {
    layer_norm: Option<LayerNorm>,
    mixer: [Conv2d; 2],
    large: Conv2d,
    /// How many channels the large kernel sees.
    seen: i64,
    attention: Option<Conv2d>,
    refine: Conv2d,
    norm: Option<GroupNorm>,
    variant: Variant,
}

impl Block {
    fn load(loader: &mut Loader, name: &str, width: i64, variant: Variant) -> Result<Self, WeightsError> {
        let shape = |loader: &Loader, key: &str| {
            let shape = loader.shape(&format!("{name}.{key}.weight"));
            shape.filter(|shape| shape.len() == 4 && shape[3] % 2 == 1).unwrap_or(vec![0, 0, 1, 1])
        };
        let kernel = |loader: &Loader, key: &str| shape(loader, key)[3].min(LARGEST_KERNEL);
        let mixer = variant.mixer();
        let (first, second) = (format!("{mixer}.0"), format!("{mixer}.2"));
        let inner = shape(loader, &first)[0];
        let kernels = [kernel(loader, &first), kernel(loader, &second), kernel(loader, "lk.conv")];
        let seen = shape(loader, "lk.conv")[0].min(width);
        let has = |loader: &Loader, key: &str| loader.has(&format!("{name}.{key}.weight"));
        let (has_layer_norm, has_attention) = (has(loader, "layer_norm"), has(loader, "attn.f.0"));
        let has_norm = has(loader, "norm");
        if has_norm && width % GROUPS != 0 {
            loader.report(format!("{name}.norm: {width} channels do not make {GROUPS} groups"));
        }
        let path = |key: &str| format!("{name}.{key}");
        let layer_norm = |loader: &mut Loader| LayerNorm::load(loader, &path("layer_norm"), width, LAYER_NORM_EPSILON);
        let attention = |loader: &mut Loader| Conv2d::same(loader, &path("attn.f.0"), [width, width], 3);
        let norm = |loader: &mut Loader| GroupNorm::load(loader, &path("norm"), width, GROUPS, GROUP_NORM_EPSILON);
        Ok(Self {
            layer_norm: has_layer_norm.then(|| layer_norm(loader)).transpose()?,
            mixer: [
                Conv2d::same(loader, &path(&first), [width, inner], kernels[0])?,
                Conv2d::same(loader, &path(&second), [inner, width], kernels[1])?,
            ],
            large: Conv2d::same(loader, &path("lk.conv"), [seen, seen], kernels[2])?,
            seen,
            attention: has_attention.then(|| attention(loader)).transpose()?,
            refine: Conv2d::same(loader, &path("refine"), [width, width], 1)?,
            norm: has_norm.then(|| norm(loader)).transpose()?,
            variant,
        })
    }

    /// `[B, C, H, W] -> [B, C, H, W]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let mut h = match &self.layer_norm {
            Some(norm) => norm.forward_channels(x)?,
            None => x.shallow_clone(),
        };
        h = self.mixer[0].forward(&h)?;
        h = if self.variant == Variant::Plain { h.f_gelu("none")? } else { h.f_mish()? };
        h = self.mixer[1].forward(&h)?;
        let rest = h.f_narrow(1, self.seen, h.size()[1] - self.seen)?;
        h = Tensor::f_cat(&[self.large.forward(&h.f_narrow(1, 0, self.seen)?)?, rest], 1)?;
        if let Some(attention) = &self.attention {
            h = h.f_mul(&attention.forward(&h)?.f_sigmoid()?)?;
        }
        h = self.refine.forward(&h)?;
        if let Some(norm) = &self.norm {
            h = norm.forward(&h)?;
        }
        h.f_add(x)
    }
}

/// From `3 * scale^2` channels to a picture by sampling at learned places.
struct DySample {
    offset: Conv2d,
    scope: Conv2d,
    init_pos: Tensor,
    end: Option<Conv2d>,
    groups: i64,
    scale: i64,
}

impl DySample {
    fn load(loader: &mut Loader, scale: i64) -> Result<Self, WeightsError> {
        let groups = if scale % 2 == 0 { 4 } else { 3 };
        let (channels, places) = (3 * scale * scale, 2 * groups * scale * scale);
        let has_end = loader.has("to_img.end_conv.weight");
        Ok(Self {
            offset: Conv2d::same(loader, "to_img.offset", [channels, places], 1)?,
            scope: Conv2d::same_without_bias(loader, "to_img.scope", [channels, places], 1)?,
            init_pos: loader.tensor("to_img.init_pos", &[1, places, 1, 1])?,
            end: has_end.then(|| Conv2d::same(loader, "to_img.end_conv", [channels, 3], 1)).transpose()?,
            groups,
            scale,
        })
    }

    /// `[B, 3 * scale^2, H, W] -> [B, 3, scale * H, scale * W]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (batch, channels, height, width) = x.size4()?;
        let (scale, groups) = (self.scale, self.groups);
        let reach = self.scope.forward(x)?.f_sigmoid()?.f_mul_scalar(0.5)?;
        let offset = self.offset.forward(x)?.f_mul(&reach)?.f_add(&self.init_pos)?;
        let offset = offset.f_view([batch, 2, groups * scale * scale, height, width])?;
        // Centres of pixels, columns first, from -1 at one edge to 1 at the other.
        let centres = |length: i64| Tensor::f_arange(length, (x.kind(), x.device()))?.f_add_scalar(0.5);
        let place = |axis: i64, centres: Tensor, length: i64| {
            let places = offset.f_select(1, axis)?.f_add(&centres)?;
            let places = places.f_mul_scalar(2.0)?.f_div_scalar(length as f64)?.f_sub_scalar(1.0)?;
            places.f_pixel_shuffle(scale)?.f_reshape([batch * groups, scale * height, scale * width])
        };
        let across = place(0, centres(width)?, width)?;
        let down = place(1, centres(height)?.f_view([-1, 1])?, height)?;
        let grid = Tensor::f_stack(&[across, down], -1)?;
        let planes = x.f_reshape([batch * groups, channels / groups, height, width])?;
        let sampled = planes.f_grid_sampler(&grid, BILINEAR, BORDER, false)?;
        let sampled = sampled.f_reshape([batch, channels, scale * height, scale * width])?;
        match &self.end {
            Some(end) => end.forward(&sampled),
            None => Ok(sampled),
        }
    }
}

/// `[B, 3, H, W]` in [0, 1] -> `[B, 3, scale * H, scale * W]`, not clamped.
pub struct Plksr {
    first: Conv2d,
    blocks: Vec<Block>,
    last: Conv2d,
    sampler: Option<DySample>,
    scale: i64,
}

impl Plksr {
    /// Whether the keys under `prefix` look like PLKSR.
    pub fn recognises(weights: &Weights, prefix: &str) -> bool {
        Self::is_of(weights, prefix, Variant::Plain)
    }

    /// Whether the keys under `prefix` look like RealPLKSR.
    pub fn recognises_real(weights: &Weights, prefix: &str) -> bool {
        Self::is_of(weights, prefix, Variant::Real)
    }

    fn is_of(weights: &Weights, prefix: &str, variant: Variant) -> bool {
        weights.shape(&format!("{prefix}feats.1.{}.0.weight", variant.mixer())).is_some()
    }

    /// # Errors
    /// Every missing, surplus or misshapen key, all at once.
    pub fn load(weights: &Weights, prefix: &str, device: Device, kind: Kind) -> Result<Self, WeightsError> {
        let variant = if Self::recognises(weights, prefix) { Variant::Plain } else { Variant::Real };
        let mut loader = loader(weights, prefix, device, kind);
        let loader = &mut loader;
        if loader.has_below("feats.1.lk.convs") || loader.has_below("feats.1.lk.mn_conv") {
            let found =
                "its large kernels are sparse or rectangular (lk.convs, lk.mn_conv), and only full ones are read";
            return Err(CheckpointError::format(weights.file(), found).into());
        }
        let width = loader.rows("feats.0.weight");
        // Between the first convolution and the last; RealPLKSR had a dropout before that.
        let layers = loader.count_below("feats");
        let blocks = layers.saturating_sub(if variant == Variant::Real { 3 } else { 2 });
        let last = format!("feats.{}", layers.saturating_sub(1));
        let scale = shuffle_factor(loader.rows(&format!("{last}.weight")), 3);
        let has_sampler = variant == Variant::Real && loader.has("to_img.init_pos");
        let block = |loader: &mut Loader, i: usize| Block::load(loader, &format!("feats.{i}"), width, variant);
        let network = Self {
            first: Conv2d::same(loader, "feats.0", [3, width], 3)?,
            blocks: (1..=blocks).map(|i| block(loader, i)).collect::<Result<_, _>>()?,
            last: Conv2d::same(loader, &last, [width, 3 * scale * scale], 3)?,
            sampler: has_sampler.then(|| DySample::load(loader, scale)).transpose()?,
            scale,
        };
        loader.finish(variant.name())?;
        Ok(network)
    }
}

impl SingleImageNetwork for Plksr {
    fn scale(&self) -> i64 {
        self.scale
    }

    fn context(&self) -> Context {
        Context::Global
    }

    fn forward(&self, x: &Tensor, keep_going: &mut dyn FnMut(f32) -> bool) -> Result<Option<Tensor>, TchError> {
        let mut h = self.first.forward(x)?;
        for (i, block) in self.blocks.iter().enumerate() {
            if !keep_going(i as f32 / self.blocks.len() as f32) {
                return Ok(None);
            }
            h = block.forward(&h)?;
        }
        let repeated = x.f_repeat_interleave_self_int(self.scale * self.scale, 1, None)?;
        let h = self.last.forward(&h)?.f_add(&repeated)?;
        match &self.sampler {
            Some(sampler) => sampler.forward(&h),
            None => h.f_pixel_shuffle(self.scale),
        }
        .map(Some)
    }
}
