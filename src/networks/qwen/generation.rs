//! One word after the other: the most likely one, or one drawn by a temperature, after a penalty on all that was there
//! before, prompt included (transformers' `RepetitionPenaltyLogitsProcessor`).

use tch::{Device, Kind, TchError, Tensor};

use crate::runtime::rng;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParams {
    /// Above 1: what was there before is less likely.
    pub penalty: f64,
    /// 0: always the most likely token.
    pub temperature: f64,
    /// Of the draws.
    pub seed: u64,
}

/// The tokens so far, on the model's device, with room for those to come.
pub struct Sampler {
    seen: Tensor,
    filled: i64,
    params: SamplingParams,
}

impl Sampler {
    /// After the prompt's ids `[N]`, at least one, with room for `room` more.
    pub fn new(ids: &Tensor, room: i64, params: SamplingParams) -> Result<Self, TchError> {
        let filled = ids.size1()?;
        // What is free yet repeats the first: so all of it counts at every step, and no step needs more room than another.
        let seen = Tensor::f_cat(&[ids, &ids.f_narrow(0, 0, 1)?.f_expand([room], false)?], 0)?;
        Ok(Self { seen, filled, params })
    }

    /// The next token's id `[1]`, on the device, by the logits `[vocabulary]`; it counts as seen from now on.
    pub fn sample(&mut self, logits: &Tensor) -> Result<Tensor, TchError> {
        let known = logits.f_gather(0, &self.seen, false)?;
        let likely = known.f_gt(0.0)?;
        let lowered = known
            .f_div_scalar(self.params.penalty)?
            .f_where_self(&likely, &known.f_mul_scalar(self.params.penalty)?)?;
        let scores = logits.f_scatter(0, &self.seen, &lowered)?;
        let next = if self.params.temperature > 0.0 {
            // Drawn on the CPU, so that a seed means the same everywhere.
            let shares =
                scores.f_div_scalar(self.params.temperature)?.f_softmax(0, Kind::Float)?.f_to_device(Device::Cpu)?;
            let seed = self.params.seed.wrapping_add(self.filled.cast_unsigned());
            rng::multinomial(seed, &shares)?.f_to_device(logits.device())?
        } else {
            scores.f_argmax(0, true)?
        };
        self.seen.f_narrow(0, self.filled, 1)?.f_copy_(&next)?;
        self.filled += 1;
        Ok(next)
    }
}
