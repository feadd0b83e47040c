//! How long parts of a pass take, by what they report. On CUDA devices what is reported has only been asked for: the clock
//! waits until it is done.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

use crate::base::{ENCODED, Progress, Stage};
use crate::pipelines::PipelineError;
use crate::pipelines::caption::{CaptionInput, Captioner};
use crate::runtime::device::Devices;
use crate::runtime::{accelerator, trace};

/// Seconds by part.
pub(super) type Seconds = BTreeMap<&'static str, f64>;

/// The parts of captioning.
const CAPTIONING: &str = "captioning";
const IMAGES: &str = "captioning: images";
const PREFILL: &str = "captioning: prefill";
pub(super) const TOKEN: &str = "captioning: a token";

/// A clock for what runs on these devices.
#[derive(Clone, Copy)]
pub(super) struct Clock(pub Devices);

impl Clock {
    /// The time when the devices have done all they were given.
    pub(super) fn now(self) -> Result<Instant, PipelineError> {
        accelerator::wait(self.0.text)?;
        accelerator::wait(self.0.picture)?;
        Ok(Instant::now())
    }

    /// The time that work spends in each stage.
    pub(super) fn stages(
        self,
        work: impl FnOnce(&mut Progress) -> Result<(), PipelineError>,
    ) -> Result<Seconds, PipelineError> {
        let mut spent = Seconds::new();
        let mut current = (Stage::Loading, self.now()?);
        let mut span = Some(trace::span(Stage::Loading.name()));
        let mut failed = None;
        let mut on_progress = |stage: Stage, _: f32| {
            if stage == current.0 {
                return true;
            }
            match self.now() {
                Ok(now) => {
                    *spent.entry(current.0.name()).or_insert(0.0) += (now - current.1).as_secs_f64();
                    current = (stage, now);
                    // One ends before the next begins.
                    drop(span.take());
                    span = Some(trace::span(stage.name()));
                    true
                }
                Err(error) => {
                    failed = Some(error);
                    false
                }
            }
        };
        let outcome = work(&mut Progress::new(&mut on_progress));
        if let Some(error) = failed {
            return Err(error);
        }
        outcome?;
        *spent.entry(current.0.name()).or_insert(0.0) += (self.now()? - current.1).as_secs_f64();
        drop(span);
        Ok(spent)
    }

    /// How long it took to write a prompt, by what was done, and the time of each token. Reading the question takes until the
    /// first token is there.
    pub(super) fn captioning(
        self,
        captioner: &mut dyn Captioner,
        input: &CaptionInput,
    ) -> Result<(Seconds, Vec<f64>), PipelineError> {
        let _span = trace::span(CAPTIONING);
        let start = self.now()?;
        let (mut loading, mut reading) = (0.0, None);
        let mut since = start;
        let mut written = Vec::new();
        let mut on_progress = |stage: Stage, fraction: f32| {
            if stage == Stage::Loading {
                loading += since.elapsed().as_secs_f64();
            }
            if stage == Stage::Prompting && fraction >= ENCODED && reading.is_none() {
                // What fails here fails again, where it is reported.
                reading = self.now().ok();
            }
            since = Instant::now();
            true
        };
        captioner.caption(input, &mut Progress::new(&mut on_progress), &mut |_| written.push(Instant::now()))?;
        let mut times = Seconds::from([(CAPTIONING, (self.now()? - start).as_secs_f64())]);
        let tokens: Vec<f64> = written.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        if let (Some(reading), [first, ..]) = (reading, &written[..]) {
            times.insert(IMAGES, (reading - start).as_secs_f64() - loading);
            times.insert(PREFILL, (*first - reading).as_secs_f64());
            times.insert(TOKEN, Spread::of(tokens.clone()).median);
        }
        Ok((times, tokens))
    }
}

/// How a time varies from pass to pass, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) min: f64,
    pub(super) median: f64,
    pub(super) p90: f64,
    pub(super) max: f64,
}

impl Spread {
    /// Of some numbers; zeros of none.
    pub(super) fn of(mut numbers: Vec<f64>) -> Self {
        numbers.sort_by(f64::total_cmp);
        let last = numbers.len().saturating_sub(1);
        let at = |share: f64| numbers.get((last as f64 * share).round() as usize).copied().unwrap_or(0.0);
        Self { min: at(0.0), median: at(0.5), p90: at(0.9), max: at(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn spreads_are_taken_from_sorted_numbers() {
        let tens = (0..=10).rev().map(f64::from).collect();
        assert_eq!(Spread::of(tens), Spread { min: 0.0, median: 5.0, p90: 9.0, max: 10.0 });
        assert_eq!(Spread::of(vec![3.0]), Spread { min: 3.0, median: 3.0, p90: 3.0, max: 3.0 });
        assert_eq!(Spread::of(vec![]), Spread::default());
    }
}
