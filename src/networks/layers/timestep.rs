//! How a diffusion model is told the time (diffusers' `Timesteps` with `flip_sin_to_cos` and a shift of 0, `TimestepEmbedding`).

use tch::{Device, Kind, TchError, Tensor};

use super::Linear;
use crate::runtime::weights::{Loader, WeightsError};

/// The longest period of the waves.
const MAX_PERIOD: f64 = 10_000.0;

/// Waves of the time (0 to 1000), then two linear layers.
pub struct TimestepEmbedding {
    channels: i64,
    layers: [Linear; 2],
}

impl TimestepEmbedding {
    /// From `{name}.linear_1` and `{name}.linear_2`: `channels` waves to `width` numbers.
    pub fn load(loader: &mut Loader, name: &str, channels: i64, width: i64) -> Result<Self, WeightsError> {
        let mut linear = |i: i64, inputs: i64| Linear::load(loader, &format!("{name}.linear_{i}"), inputs, width);
        Ok(Self { channels, layers: [linear(1, channels)?, linear(2, width)?] })
    }

    /// `[1, width]`; the waves are computed in float32.
    pub fn forward(&self, t: f64, kind: Kind, device: Device) -> Result<Tensor, TchError> {
        let half = self.channels / 2;
        let exponent = Tensor::f_arange(half, (Kind::Float, device))?.f_mul_scalar(-MAX_PERIOD.ln())?;
        let angles = exponent.f_div_scalar(half)?.f_exp()?.f_mul_scalar(t)?;
        let waves = Tensor::f_cat(&[angles.f_cos()?, angles.f_sin()?], 0)?;
        // Of an odd number of channels the last stays 0.
        let waves = waves.f_constant_pad_nd([0, self.channels % 2])?.f_to_kind(kind)?.f_unsqueeze(0)?;
        self.layers[1].forward(&self.layers[0].forward(&waves)?.f_silu()?)
    }
}
