//! How the learning rate changes in the course of a training (diffusers' `get_scheduler`, `optimization.py`).

use std::f64::consts::PI;

/// Its shape after the warm-up, by diffusers' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::EnumString, strum::VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum LrScheduler {
    /// As it is, from the first step on.
    Constant,
    /// As it is, after the warm-up.
    ConstantWithWarmup,
    /// Straight down to nothing.
    Linear,
    /// Half a wave down to nothing.
    Cosine,
    /// So many half waves, each from the top.
    CosineWithRestarts,
    /// A power of what remains, down to 1e-7.
    Polynomial,
}

/// Where polynomials end.
const LAST_RATE: f64 = 1e-7;

/// A shape over a number of steps.
#[derive(Clone, Copy, Debug)]
pub struct LrSchedule {
    /// What it looks like.
    pub scheduler: LrScheduler,
    /// Steps in which it rises from nothing.
    pub warmup_steps: usize,
    /// All steps.
    pub steps: usize,
    /// Half waves of [`LrScheduler::CosineWithRestarts`].
    pub cycles: usize,
    /// Of [`LrScheduler::Polynomial`].
    pub power: f64,
}

impl LrSchedule {
    /// The learning rate of a step, counted from 0, of one that is `rate` at the top.
    pub fn rate(&self, rate: f64, step: usize) -> f64 {
        let (step, warmup) = (step as f64, self.warmup_steps as f64);
        if self.scheduler == LrScheduler::Constant {
            return rate;
        }
        if step < warmup {
            return rate * step / warmup.max(1.0);
        }
        let progress = (step - warmup) / (self.steps as f64 - warmup).max(1.0);
        let wave = |progress: f64| 0.5 * (1.0 + (PI * progress).cos());
        let cycles = self.cycles as f64;
        match self.scheduler {
            LrScheduler::Constant | LrScheduler::ConstantWithWarmup => rate,
            LrScheduler::Linear => rate * (1.0 - progress).max(0.0),
            LrScheduler::Cosine => rate * wave(progress),
            LrScheduler::CosineWithRestarts if progress >= 1.0 => 0.0,
            LrScheduler::CosineWithRestarts => rate * wave((cycles * progress).fract()),
            LrScheduler::Polynomial => LAST_RATE + (rate - LAST_RATE) * (1.0 - progress).max(0.0).powf(self.power),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rates of steps 0, 3, 10, 19, 30 and 40 by diffusers 0.42.1, of 2e-3 with 6 steps of warm-up of 40.
    #[test]
    fn rates_equal_diffusers() {
        let cases = [
            (LrScheduler::Constant, [2e-3, 2e-3, 2e-3, 2e-3, 2e-3, 2e-3]),
            (LrScheduler::ConstantWithWarmup, [0.0, 1e-3, 2e-3, 2e-3, 2e-3, 2e-3]),
            (LrScheduler::Linear, [0.0, 1e-3, 0.0017647058823, 0.0012352941176, 0.0005882352941, 0.0]),
            (LrScheduler::Cosine, [0.0, 1e-3, 0.0019324722294, 0.0013612416671, 0.0003973653636, 0.0]),
            (LrScheduler::CosineWithRestarts, [0.0, 1e-3, 0.0014457383557, 0.0018951632913, 0.0019324722294, 0.0]),
            (LrScheduler::Polynomial, [0.0, 1e-3, 0.0015571155709, 0.0007630376297, 0.0001731017301, 1e-7]),
        ];
        for (scheduler, expected) in cases {
            let schedule = LrSchedule { scheduler, warmup_steps: 6, steps: 40, cycles: 3, power: 2.0 };
            for (step, expected) in [0, 3, 10, 19, 30, 40].into_iter().zip(expected) {
                let found = schedule.rate(2e-3, step);
                assert!((found - expected).abs() < 1e-9, "{scheduler} {step}: {found}, {expected}");
            }
        }
    }
}
