//! SPAN (arXiv 2311.12770; `basicsr/archs/span_arch.py`): six small blocks that weigh their own result by how far from zero
//! it is. Each convolution is trained as four of them, which are one when they are used.

use tch::{Device, Kind, TchError, Tensor};

use super::layers::Conv2d;
use super::layers::restoration::mean_colour;
use super::layers::upsample::shuffle_factor;
use super::single_image::{Context, SingleImageNetwork, loader};
use crate::runtime::weights::{Loader, Weights, WeightsError};

const NETWORK: &str = "SPAN";
const BLOCKS: usize = 6;
/// What colours are multiplied by (`img_range`), which PyTorch's files do not tell.
const RANGE: f64 = 255.0;
/// A 3 x 3 convolution sees one pixel further: three in each block, the first, the last, and that of the upsampler.
const MARGIN: u32 = 3 * BLOCKS as u32 + 3;

/// `Conv3XC`: 1 x 1, 3 x 3 and 1 x 1 after each other, and 1 x 1 beside them, as one of 3 x 3 (`update_params`).
struct FusedConv {
    weight: Tensor,
    bias: Tensor,
}

impl FusedConv {
    fn load(loader: &mut Loader, name: &str, inputs: i64, outputs: i64, kind: Kind) -> Result<Self, WeightsError> {
        // As ncnn's files hold it.
        if loader.has(&format!("{name}.weight")) {
            let weight = loader.tensor(&format!("{name}.weight"), &[outputs, inputs, 3, 3])?;
            return Ok(Self { weight, bias: loader.tensor(&format!("{name}.bias"), &[outputs])? });
        }
        let rows = |key: &str| loader.rows(&format!("{name}.{key}"));
        let (before, after) = (rows("conv.0.weight"), rows("conv.1.weight"));
        let mut pair = |key: &str, shape: &[i64]| -> Result<(Tensor, Tensor), WeightsError> {
            let weight = loader.tensor_as(Kind::Double, &format!("{name}.{key}.weight"), shape)?;
            Ok((weight, loader.tensor_as(Kind::Double, &format!("{name}.{key}.bias"), &shape[..1])?))
        };
        let (w0, b0) = pair("conv.0", &[before, inputs, 1, 1])?;
        let (w1, b1) = pair("conv.1", &[after, before, 3, 3])?;
        let (w2, b2) = pair("conv.2", &[outputs, after, 1, 1])?;
        let (beside, beside_bias) = pair("sk", &[outputs, inputs, 1, 1])?;
        // Of what does not fit there is nothing to compute; it is reported in the end.
        if loader.has_problems() {
            let nothing = |shape: &[i64]| Tensor::f_zeros([1], (kind, Device::Cpu))?.f_expand(shape, false);
            return Ok(Self { weight: nothing(&[outputs, inputs, 3, 3])?, bias: nothing(&[outputs])? });
        }
        // One matrix for each of the 3 x 3 places.
        let (w0, w1, w2) = (w0.f_view([before, inputs])?, w1.f_permute([2, 3, 0, 1])?, w2.f_view([outputs, after])?);
        let weight = w2.f_matmul(&w1)?.f_matmul(&w0)?.f_permute([2, 3, 0, 1])?;
        let weight = weight.f_add(&beside.f_constant_pad_nd([1, 1, 1, 1])?)?;
        let inner = w1.f_sum_dim_intlist([0, 1].as_slice(), false, None::<Kind>)?.f_mv(&b0)?.f_add(&b1)?;
        let bias = w2.f_mv(&inner)?.f_add(&b2)?.f_add(&beside_bias)?;
        Ok(Self { weight: weight.f_to_kind(kind)?.f_contiguous()?, bias: bias.f_to_kind(kind)? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        x.f_conv2d(&self.weight, Some(&self.bias), [1, 1], [1, 1], [1, 1], 1)
    }
}

/// `SPAB`.
struct Block([FusedConv; 3]);

impl Block {
    fn load(loader: &mut Loader, name: &str, width: i64, kind: Kind) -> Result<Self, WeightsError> {
        let mut conv = |i: usize| FusedConv::load(loader, &format!("{name}.c{i}_r"), width, width, kind);
        Ok(Self([conv(1)?, conv(2)?, conv(3)?]))
    }

    /// The block's result, and that of its first convolution.
    fn forward(&self, x: &Tensor) -> Result<(Tensor, Tensor), TchError> {
        // In place: at this size memory takes as long as the products do.
        let first = self.0[0].forward(x)?.f_silu_()?;
        let mut out = self.0[2].forward(&self.0[1].forward(&first)?.f_silu_()?)?;
        let weight = out.f_sigmoid()?.f_sub_scalar_(0.5)?;
        Ok((out.f_add_(x)?.f_mul_(&weight)?, first))
    }
}

/// `[B, 3, H, W]` in [0, 1] -> `[B, 3, scale * H, scale * W]`, not clamped.
pub struct Span {
    first: FusedConv,
    blocks: Vec<Block>,
    last: FusedConv,
    cat: Conv2d,
    upsampler: Conv2d,
    scale: i64,
    /// What is subtracted from colours, and what the rest is multiplied by.
    normalisation: Option<(Tensor, f64)>,
}

impl Span {
    /// Whether the keys under `prefix` look like this network.
    pub fn recognises(weights: &Weights, prefix: &str) -> bool {
        let has = |key: &str| weights.shape(&format!("{prefix}{key}.weight")).is_some();
        has("upsampler.0") && (has("block_1.c1_r.sk") || has("block_1.c1_r"))
    }

    /// # Errors
    /// Every missing, surplus or misshapen key, all at once.
    pub fn load(weights: &Weights, prefix: &str, device: Device, kind: Kind) -> Result<Self, WeightsError> {
        let mut loader = loader(weights, prefix, device, kind);
        let loader = &mut loader;
        let width = loader.rows("conv_cat.weight");
        let scale = shuffle_factor(loader.rows("upsampler.0.weight"), 3);
        // ncnn's graphs tell both numbers, PyTorch's files that there are none.
        let normalisation = match (weights.input_range(), loader.has("mean.weight")) {
            (Some(range), true) => Some((loader.tensor("mean.weight", &[1, 3, 1, 1])?, range)),
            (Some(_), false) => None,
            (None, _) if loader.has("no_norm") => None,
            (None, _) => Some((mean_colour(kind, device)?, RANGE)),
        };
        loader.ignore_prefix("no_norm");
        let block = |loader: &mut Loader, i: usize| Block::load(loader, &format!("block_{i}"), width, kind);
        let network = Self {
            first: FusedConv::load(loader, "conv_1", 3, width, kind)?,
            blocks: (1..=BLOCKS).map(|i| block(loader, i)).collect::<Result<_, _>>()?,
            last: FusedConv::load(loader, "conv_2", width, width, kind)?,
            cat: Conv2d::same(loader, "conv_cat", [4 * width, width], 1)?,
            upsampler: Conv2d::same(loader, "upsampler.0", [width, 3 * scale * scale], 3)?,
            scale,
            normalisation,
        };
        loader.finish(NETWORK)?;
        Ok(network)
    }
}

impl SingleImageNetwork for Span {
    fn scale(&self) -> i64 {
        self.scale
    }

    fn context(&self) -> Context {
        Context::Local(MARGIN)
    }

    fn forward(&self, x: &Tensor, keep_going: &mut dyn FnMut(f32) -> bool) -> Result<Option<Tensor>, TchError> {
        let x = match &self.normalisation {
            Some((mean, range)) => x.f_sub(mean)?.f_mul_scalar(*range)?,
            None => x.shallow_clone(),
        };
        let features = self.first.forward(&x)?;
        let (mut h, mut inner, mut after_first) = (features.shallow_clone(), None, None);
        for (i, block) in self.blocks.iter().enumerate() {
            if !keep_going(i as f32 / BLOCKS as f32) {
                return Ok(None);
            }
            let (out, first) = block.forward(&h)?;
            after_first.get_or_insert_with(|| out.shallow_clone());
            (h, inner) = (out, Some(first));
        }
        let parts = [Some(features), Some(self.last.forward(&h)?), after_first, inner];
        let parts: Vec<Tensor> = parts.into_iter().flatten().collect();
        let h = self.cat.forward(&Tensor::f_cat(&parts, 1)?)?;
        self.upsampler.forward(&h)?.f_pixel_shuffle(self.scale).map(Some)
    }
}
