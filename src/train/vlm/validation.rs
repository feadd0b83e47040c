//! What the policy says of pairs that it is not trained on: always the same ones, by the likeliest words, so that the numbers of two
//! moments, or of two runs, can be compared.

use super::options::{Event, RewardStatistics};
use super::statistics::{reward_sums, statistics};
use super::trainer::Training;
use crate::base::write_atomic;
use crate::pipelines::caption::vlm::generate::SamplingOptions;
use crate::train::TrainError;

impl Training<'_> {
    /// Where it is time for that: held-out pairs, always the same, by the likeliest words.
    pub(super) fn validate(
        &mut self,
        is_last: bool,
        on_event: &mut dyn FnMut(Event) -> bool,
    ) -> Result<(), TrainError> {
        let (Some((steps, most)), step) = (self.options.validation, self.position.step) else { return Ok(()) };
        let count = most.min(self.pairs.held_out_len());
        if !self.world.is_first() || count == 0 || (!step.is_multiple_of(steps) && !is_last) {
            return Ok(());
        }
        let sampling = SamplingOptions { temperature: 0.0, ..self.options.sampling };
        let (mut pairs, mut texts, mut length) = (Vec::new(), Vec::new(), 0);
        for i in 0..count {
            self.is_stopped |= !on_event(Event::Rollout("validation", i, count));
            if self.is_stopped {
                return Ok(());
            }
            let pair = match self.pairs.held_out(i) {
                Err(error @ TrainError::Format { .. }) if self.options.pairs.skip_bad => {
                    self.warnings.add(error);
                    continue;
                }
                pair => pair?,
            };
            let prompt = self.policy.encode(&pair.pictures)?;
            let completions = self.policy.sample(&prompt, &sampling, &[0])?;
            length += completions.iter().map(Vec::len).sum::<usize>();
            texts.extend(self.texts(&completions)?);
            pairs.push(pair);
        }
        self.swap_in_critic();
        let mut rewards = Vec::new();
        for (i, (pair, text)) in pairs.iter().zip(&texts).enumerate() {
            match self.rewards(pair, std::slice::from_ref(text), ("rating", i, count), true, on_event)? {
                Some(found) => rewards.extend(found),
                // Others may wait for its next step.
                None => return self.swap_in_policy(),
            }
        }
        self.swap_in_policy()?;
        let found: RewardStatistics = statistics(&reward_sums(rewards.iter()));
        let length = length as f64 / pairs.len() as f64;
        let lines = pairs.iter().zip(&texts).zip(&rewards).map(|((pair, text), reward)| {
            let name = pair.file.file_name().unwrap_or_default().to_string_lossy();
            format!("{name}\t{:.3}\t{}\n", reward.total, text.replace(['\n', '\t'], " "))
        });
        let text: String = lines.collect();
        let file = self.options.output.join(format!("validation/{step}.tsv"));
        let written = write_atomic(&file, |out| std::io::Write::write_all(out, text.as_bytes()));
        self.warnings.unless_written(written.map_err(TrainError::from))?;
        if let Some(logs) = &mut self.logs {
            let written = logs.validation(step, &found, length);
            self.warnings.unless_written(written)?;
        }
        self.is_stopped |= !on_event(Event::Validation(step, &found, length));
        Ok(())
    }
}
