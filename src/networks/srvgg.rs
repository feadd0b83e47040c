//! SRVGGNetCompact, Real-ESRGAN's compact network (`realesrgan/archs/srvgg_arch.py`): a plain row of 3x3
//! convolutions at low resolution, a pixel shuffle at the end, added to the nearest-neighbour enlargement.
//!
//! Sizes, scale and activation are read off the tensors `body.{i}.weight`.

use tch::{Device, Kind, TchError, Tensor};

use super::layers::winograd::{Conv3x3, FeatureMap, Simd};
use super::single_image::loader;
use crate::runtime::weights::{Weights, WeightsError};

const NETWORK: &str = "SRVGGNetCompact";

struct Conv {
    weight: Tensor,
    bias: Tensor,
}

/// `[B, 3, H, W]` in [0, 1] -> `[B, 3, scale * H, scale * W]`, not clamped.
pub struct SrvggNetCompact {
    kernel: Kernel,
    scale: i64,
}

/// What computes the convolutions and activations.
enum Kernel {
    /// libtorch, on any device and in any dtype; the only one with gradients. There is a slope for each convolution but the
    /// last, or none where the activation is a plain ReLU.
    Tensors { convs: Vec<Conv>, slopes: Vec<Tensor> },
    /// Our own convolutions, on the CPU in float32.
    Winograd(Vec<Conv3x3>),
}

impl SrvggNetCompact {
    /// Whether the keys under `prefix` look like this network.
    pub fn recognises(weights: &Weights, prefix: &str) -> bool {
        weights.shape(&format!("{prefix}body.0.weight")).is_some_and(|shape| shape.len() == 4 && shape[1] == 3)
    }

    /// Reads the network from the keys under `prefix` (`params.`, `params_ema.` or nothing).
    ///
    /// # Errors
    /// Every missing, surplus or misshapen key, all at once.
    pub fn load(weights: &Weights, prefix: &str, device: Device, kind: Kind) -> Result<Self, WeightsError> {
        let shapes = weights.shapes();
        let shape = |i: usize| shapes.get(format!("{prefix}body.{i}.weight").as_str());
        let layers = (0..).take_while(|&i| shape(i).is_some() || shape(i + 1).is_some()).count();
        let features = shape(0).and_then(|shape| shape.first().copied()).unwrap_or(64);
        let last = layers.saturating_sub(1);
        let out_channels = shape(last).and_then(|shape| shape.first().copied()).unwrap_or(48);
        let scale = ((out_channels / 3) as f64).sqrt().round() as i64;
        // Between two convolutions lies one activation: with PReLU it has a weight, with ReLU it has no key.
        let mut loader = loader(weights, prefix, device, kind);
        let mut convs = Vec::new();
        let mut slopes = Vec::new();
        for i in 0..layers {
            if i % 2 == 1 {
                if shape(i).is_some() {
                    slopes.push(loader.tensor(&format!("body.{i}.weight"), &[features])?);
                }
                continue;
            }
            let channels_in = if i == 0 { 3 } else { features };
            let channels_out = if i == last { 3 * scale * scale } else { features };
            convs.push(Conv {
                weight: loader.tensor(&format!("body.{i}.weight"), &[channels_out, channels_in, 3, 3])?,
                bias: loader.tensor(&format!("body.{i}.bias"), &[channels_out])?,
            });
        }
        loader.finish(NETWORK)?;
        if convs.len() < 2 || layers % 2 == 0 || !(slopes.is_empty() || slopes.len() == convs.len() - 1) {
            let problems =
                vec![format!("{} convolutions and {} activations do not alternate", convs.len(), slopes.len())];
            return Err(WeightsError::Mismatch { file: weights.file().to_owned(), network: NETWORK, problems });
        }
        let is_trained = convs.iter().any(|conv| conv.weight.requires_grad());
        let kernel = match Simd::for_convolutions(device, kind, features).filter(|_| !is_trained) {
            Some(simd) => Kernel::Winograd(transformed(simd, &convs, &slopes)?),
            None => Kernel::Tensors { convs, slopes },
        };
        Ok(Self { kernel, scale })
    }

    /// How many times larger the output is.
    pub fn scale(&self) -> i64 {
        self.scale
    }

    /// `[B, 3, H, W]` -> `[B, 3, scale * H, scale * W]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let h = match &self.kernel {
            Kernel::Tensors { convs, slopes } => by_tensors(convs, slopes, x)?,
            Kernel::Winograd(convs) => by_winograd(convs, x)?,
        };
        let (height, width) = (x.size()[2] * self.scale, x.size()[3] * self.scale);
        let base = x.f_upsample_nearest2d([height, width], None, None)?;
        h.f_pixel_shuffle(self.scale)?.f_add(&base)
    }
}

fn by_tensors(convs: &[Conv], slopes: &[Tensor], x: &Tensor) -> Result<Tensor, TchError> {
    let mut h = x.shallow_clone();
    for (i, conv) in convs.iter().enumerate() {
        h = h.f_conv2d(&conv.weight, Some(&conv.bias), [1, 1], [1, 1], [1, 1], 1)?;
        if i + 1 < convs.len() {
            h = match slopes.get(i) {
                Some(slope) => h.f_prelu(slope)?,
                None => h.f_relu()?,
            };
        }
    }
    Ok(h)
}

fn transformed(simd: Simd, convs: &[Conv], slopes: &[Tensor]) -> Result<Vec<Conv3x3>, TchError> {
    let conv = |(i, conv): (usize, &Conv)| {
        let (channels_out, channels_in) = (conv.weight.size()[0] as usize, conv.weight.size()[1] as usize);
        let slopes = match slopes.get(i) {
            _ if i + 1 == convs.len() => vec![1.0; channels_out],
            Some(slopes) => Vec::<f32>::try_from(slopes)?,
            None => vec![0.0; channels_out],
        };
        Conv3x3::new(simd, &conv.weight, &conv.bias, &slopes, &[channels_in])
    };
    convs.iter().enumerate().map(conv).collect()
}

/// `[B, 3, H, W]` -> `[B, C, H, W]`, the convolutions' result.
fn by_winograd(convs: &[Conv3x3], x: &Tensor) -> Result<Tensor, TchError> {
    let (mut images, mut out) = (Vec::new(), FeatureMap::default());
    for i in 0..x.size()[0] {
        let mut h = FeatureMap::from_tensor(&x.f_get(i)?)?;
        for conv in convs {
            conv.forward(&[&h], &mut out)?;
            std::mem::swap(&mut h, &mut out);
        }
        images.push(h.to_tensor(0..h.height())?);
    }
    Tensor::f_stack(&images, 0)
}
