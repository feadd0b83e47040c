//! What the degradation does to a picture: the operators of Real-ESRGAN (BasicSR 1.4.2), one after another, in float32 on
//! `[1, 3, H, W]` in [0, 1].

use serde::Deserialize;
use tch::{Kind as Dtype, TchError, Tensor};

use super::jpeg;
use super::kernels::Kernel;

/// How a picture is resized; never with antialias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// Adaptive average pooling, also where it becomes larger.
    Area,
    /// Of four pixels.
    Bilinear,
    /// Of sixteen, a = -0.75, not clamped.
    Bicubic,
}

/// Blurs each channel: a correlation, mirrored at the edges.
pub fn filter2d(x: &Tensor, kernel: &Kernel) -> Result<Tensor, TchError> {
    let weights = kernel.weights()?;
    let size = weights.size()[0];
    if size == 1 {
        return Ok(x.shallow_clone());
    }
    let (_, channels, height, width) = x.size4()?;
    let margin = size / 2;
    let padded = match margin < height.min(width) {
        true => x.f_reflection_pad2d([margin; 4])?,
        // Mirrored again and again where it is smaller than what is added.
        false => mirrored(&mirrored(x, 2, margin)?, 3, margin)?,
    };
    // One kernel a channel: several times as fast as channels that pass as pictures.
    let weights = weights.f_expand([channels, 1, size, size], false)?;
    padded.f_conv2d(&weights, None::<&Tensor>, [1, 1], [0, 0], [1, 1], channels)
}

/// An axis with so much added on both sides, mirrored without the edge itself.
fn mirrored(x: &Tensor, axis: i64, margin: i64) -> Result<Tensor, TchError> {
    let length = x.size()[axis as usize];
    let period = (2 * (length - 1)).max(1);
    let place = |at: i64| at.rem_euclid(period).min(period - at.rem_euclid(period));
    let places: Vec<i64> = (-margin..length + margin).map(|at| place(at).min(length - 1)).collect();
    x.f_index_select(axis, &Tensor::f_from_slice(&places)?)
}

/// To `size`, height and width. With a scale, places in the source are counted by that rather than by the sizes.
pub fn resize(x: &Tensor, mode: Resize, size: [i64; 2], scale: Option<f64>) -> Result<Tensor, TchError> {
    match mode {
        Resize::Area => x.f_adaptive_avg_pool2d(size),
        Resize::Bilinear => x.f_upsample_bilinear2d(size, false, scale, scale),
        Resize::Bicubic => x.f_upsample_bicubic2d(size, false, scale, scale),
    }
}

/// Adds `sigma` levels of normally distributed noise: `[1, 3, H, W]`, or `[H, W]` the same for all channels.
pub fn gaussian_noise(x: &Tensor, noise: &Tensor, sigma: f64) -> Result<Tensor, TchError> {
    x.f_add(&noise.f_to_kind(Dtype::Float)?.f_mul_scalar(sigma)?.f_div_scalar(255.0)?)?.f_clamp(0.0, 1.0)
}

/// How many photons each pixel is expected to send: `[1, 3, H, W]`, or grey `[1, 1, H, W]`; what is drawn by it goes into
/// [`poisson_noise`].
pub struct Photons {
    /// The picture in whole levels, in [0, 1].
    levels: Tensor,
    /// Photons of full brightness: the next power of two of the number of levels that occur.
    full: f64,
}

impl Photons {
    /// Of a picture; `is_grey`: one plane for all channels.
    pub fn of(x: &Tensor, is_grey: bool) -> Result<Self, TchError> {
        let x = if is_grey { grey(x)? } else { x.shallow_clone() };
        let levels = to_levels(&x)?;
        let counts = levels.f_to_kind(Dtype::Int64)?.f_flatten(0, -1)?.f_bincount(None::<&Tensor>, 256)?;
        let distinct = counts.f_ne(0)?.f_sum(Dtype::Int64)?.f_double_value(&[])?;
        Ok(Self { levels: levels.f_div_scalar(255.0)?, full: distinct.log2().ceil().exp2() })
    }

    /// The expected counts.
    pub fn rates(&self) -> Result<Tensor, TchError> {
        self.levels.f_mul_scalar(self.full)
    }
}

/// Adds the noise of counted photons, so many times.
pub fn poisson_noise(x: &Tensor, photons: &Photons, counts: &Tensor, scale: f64) -> Result<Tensor, TchError> {
    let counted = counts.f_to_kind(Dtype::Float)?.f_div_scalar(photons.full)?;
    let noise = counted.f_sub(&photons.levels)?.f_mul_scalar(scale)?;
    x.f_add(&noise)?.f_clamp(0.0, 1.0)
}

/// torchvision's `rgb_to_grayscale`, `[1, 1, H, W]`.
fn grey(x: &Tensor) -> Result<Tensor, TchError> {
    let channel = |i: i64, weight: f64| x.f_narrow(1, i, 1)?.f_mul_scalar(weight);
    channel(0, 0.2989)?.f_add(&channel(1, 0.587)?)?.f_add(&channel(2, 0.114)?)
}

/// What a JPEG of this quality leaves, after values outside [0, 1] are clamped.
pub fn jpeg(x: &Tensor, quality: f64) -> Result<Tensor, TchError> {
    jpeg::compressed(&x.f_clamp(0.0, 1.0)?, quality)
}

/// In whole levels, as the file of a small picture would hold it.
pub fn to_levels(x: &Tensor) -> Result<Tensor, TchError> {
    x.f_mul_scalar(255.0)?.f_round()?.f_clamp(0.0, 255.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::rng::noise;

    #[test]
    fn edges_are_mirrored_also_where_a_picture_is_smaller_than_the_kernel() {
        let x = noise(&[1, 3, 12, 15]);
        let padded = x.reflection_pad2d([4; 4]);
        assert!(mirrored(&mirrored(&x, 2, 4).unwrap(), 3, 4).unwrap().equal(&padded));
        let row = Tensor::from_slice(&[1f32, 2.0, 3.0]).view([1, 1, 1, 3]);
        let row = Vec::<f32>::try_from(mirrored(&row, 3, 4).unwrap().view([-1])).unwrap();
        assert_eq!(row, [1.0, 2.0, 3.0, 2.0, 1.0, 2.0, 3.0, 2.0, 1.0, 2.0, 3.0]);
        let small =
            Kernel { size: 21, sigma_x: 2.0, sigma_y: 2.0, kind: super::super::kernels::Kind::Iso, ..Kernel::PULSE };
        assert_eq!(filter2d(&noise(&[1, 3, 5, 2]), &small).unwrap().size(), [1, 3, 5, 2]);
    }
}
