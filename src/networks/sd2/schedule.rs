//! How much noise Stable Diffusion is trained with at each timestep (diffusers' `DDPMScheduler`).

use serde::Deserialize;
use tch::{Kind, TchError, Tensor};

/// How betas lie between the first and the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// Evenly.
    Linear,
    /// Their square roots evenly.
    ScaledLinear,
}

/// Of `scheduler/scheduler_config.json` what says so; Stable Diffusion's own, where it is not there.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct NoiseSchedule {
    /// Between these two.
    pub beta_schedule: BetaSchedule,
    /// The first.
    pub beta_start: f64,
    /// The last.
    pub beta_end: f64,
    /// How many.
    pub num_train_timesteps: i64,
}

impl Default for NoiseSchedule {
    fn default() -> Self {
        let beta_schedule = BetaSchedule::ScaledLinear;
        Self { beta_schedule, beta_start: 0.00085, beta_end: 0.012, num_train_timesteps: 1000 }
    }
}

impl NoiseSchedule {
    /// What is left of the picture at timestep `t` (0 to `num_train_timesteps` - 1), 0 to 1: the product of all 1 - beta up to it, in
    /// float32 as there.
    ///
    /// # Errors
    /// Where there is no such timestep.
    pub fn alpha_cumprod(&self, t: i64) -> Result<f64, TchError> {
        let (options, count) = ((Kind::Float, tch::Device::Cpu), self.num_train_timesteps);
        let betas = match self.beta_schedule {
            BetaSchedule::Linear => Tensor::f_linspace(self.beta_start, self.beta_end, count, options)?,
            BetaSchedule::ScaledLinear => {
                Tensor::f_linspace(self.beta_start.sqrt(), self.beta_end.sqrt(), count, options)?.f_square()?
            }
        };
        betas.f_neg()?.f_add_scalar(1.0)?.f_cumprod(0, Kind::Float)?.f_double_value(&[t])
    }
}
