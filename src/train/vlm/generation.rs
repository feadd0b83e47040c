//! The first half of a step: pairs to groups of completions, and their ratings; policy and critic take turns where memory is short.

use std::time::Instant;

use tch::{Kind, Tensor};

use super::options::{Event, Options, Sample};
use super::pairs::Pair;
use super::rewards::Reward;
use super::rewards::critic;
use super::rollout::{CompletionGroup, Rollout};
use super::trainer::Training;
use crate::base::MemoryPlan;
use crate::pipelines::PipelineError;
use crate::train::TrainError;
use crate::train::distributed::Share;
use crate::train::seed::derived_seed;

impl Training<'_> {
    /// Samples and rates the next groups. Returns the seconds of both; `None` where it was asked to stop meanwhile.
    pub(super) fn roll_out(&mut self, on_event: &mut dyn FnMut(Event) -> bool) -> Result<Option<[f64; 2]>, TrainError> {
        let options = self.options;
        let count = options.groups_of_rollout();
        let [batch, rank, size] = [options.batch, self.world.rank(), self.world.size()].map(|number| number as u64);
        if !self.rollout.groups.is_empty() {
            self.position.items = self.next_items();
            self.rollout = Rollout::default();
        }
        let share = Share { first: self.position.items, batch, rank, size };
        let (start, mut groups, mut pairs) = (Instant::now(), Vec::new(), Vec::new());
        let mut asked = Vec::new();
        for i in 0..count {
            if !self.goes_on(Event::Rollout("sampling", i, count), on_event) {
                return Ok(None);
            }
            let item = share.item(i as u64);
            let pair = self.pairs.pair(options.seed, item)?;
            let seeds =
                (0..options.num_generations as u64).map(|i| derived_seed("completion", &[options.seed, item, i]));
            let prompt = self.policy.encode(&pair.pictures)?;
            let completions = self.policy.sample(&prompt, &options.sampling, &seeds.collect::<Vec<_>>())?;
            asked.push(self.texts(&completions)?);
            let ends = self.policy.processor.ends();
            let is_truncated = completions.iter().map(|ids| ids.last().is_none_or(|id| !ends.contains(id))).collect();
            let (prompt, rewards) = (Some(prompt), Vec::new());
            groups.push(CompletionGroup { item, prompt, completions, is_truncated, rewards, log_probs: None });
            pairs.push(pair);
        }
        let sampling = start.elapsed().as_secs_f64();
        let start = Instant::now();
        self.swap_in_critic();
        for (i, ((group, pair), texts)) in groups.iter_mut().zip(&pairs).zip(&asked).enumerate() {
            // Several processes go on until they meet.
            let may_stop = self.world.size() == 1;
            match self.rewards(pair, texts, ("rating", i, count), may_stop, on_event)? {
                Some(rewards) => group.rewards = rewards,
                None => return Ok(None),
            }
            let samples = texts.iter().zip(&group.rewards).map(|(text, reward)| Sample::new(pair, text, reward));
            self.is_stopped |= !on_event(Event::Samples(&samples.collect::<Vec<_>>()));
        }
        if self.is_stopped && self.world.size() == 1 {
            return Ok(None);
        }
        self.swap_in_policy()?;
        let rating = start.elapsed().as_secs_f64();
        if options.steps_of_rollout() > 1 {
            // Parameters change between the steps: what has sampled is remembered.
            for group in &mut groups {
                group.log_probs = self.old_log_probs(group)?;
            }
        }
        self.rollout = Rollout { options: of_rollout(options, self.policy.kind()), groups, used: 0 };
        Ok(Some([sampling, rating]))
    }

    /// The first item behind those of the rollout, of all processes.
    pub(super) fn next_items(&self) -> u64 {
        self.position.items + (self.options.groups_of_rollout() * self.world.size()) as u64
    }

    /// Of the tokens that count: by the policy as it is now, and by the reference.
    fn old_log_probs(&self, group: &CompletionGroup) -> Result<Option<[Tensor; 2]>, TrainError> {
        let completions: Vec<Vec<i64>> = self.rows(group).iter().map(|row| row.ids.to_vec()).collect();
        let prompt = group.prompt.as_ref().filter(|_| completions.iter().any(|ids| !ids.is_empty()));
        let Some(prompt) = prompt else { return Ok(None) };
        let log_probs = |pass: Option<u64>| {
            let found = self.policy.log_probs(prompt, &completions, self.options.sampling.temperature, pass)?;
            Ok::<_, TrainError>(found.log_probs)
        };
        Ok(Some([log_probs(Some(self.pass(group)))?, log_probs(None)?]))
    }

    /// Says something; where it is asked to stop and nobody waits for this process, it does at once.
    fn goes_on(&mut self, event: Event, on_event: &mut dyn FnMut(Event) -> bool) -> bool {
        self.is_stopped |= !on_event(event);
        !self.is_stopped || self.world.size() > 1
    }

    pub(super) fn texts(&self, completions: &[Vec<i64>]) -> Result<Vec<String>, TrainError> {
        let texts = completions.iter().map(|ids| Ok(self.policy.processor.text(ids)?.trim().to_owned()));
        texts.collect()
    }

    /// What texts about a pair are worth; `None` where it was asked to stop meanwhile.
    pub(super) fn rewards(
        &mut self,
        pair: &Pair,
        texts: &[String],
        (phase, done, all): (&'static str, usize, usize),
        may_stop: bool,
        on_event: &mut dyn FnMut(Event) -> bool,
    ) -> Result<Option<Vec<Reward>>, TrainError> {
        let options = &self.options.rewards;
        let Self { critic, is_stopped, .. } = self;
        let mut goes_on = || {
            *is_stopped |= !on_event(Event::Rollout(phase, done, all));
            !(*is_stopped && may_stop)
        };
        let ratings = match critic {
            Some(critic) => critic::ratings(&mut **critic, &pair.pictures, texts, &mut goes_on),
            None => Ok(vec![None; texts.len()]),
        };
        match ratings {
            Ok(ratings) => {
                let rated = texts.iter().zip(ratings).map(|(text, rating)| options.reward(text, rating));
                Ok(Some(rated.collect()))
            }
            Err(TrainError::Network(PipelineError::Cancelled)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn swap_in_critic(&mut self) {
        if self.plan == MemoryPlan::Staged {
            self.policy.unload();
        }
    }

    pub(super) fn swap_in_policy(&mut self) -> Result<(), TrainError> {
        if self.plan == MemoryPlan::Staged {
            self.critic.iter_mut().for_each(|critic| critic.unload());
            self.policy.load()?;
        }
        Ok(())
    }
}

/// A number of all options that must not change between the steps of one rollout.
pub(super) fn of_rollout(options: &Options, base_dtype: Kind) -> u64 {
    let Options { batch, accumulation, steps_per_generation, num_iterations, mask_truncated, .. } = options;
    let numbers = [*batch, *accumulation, *steps_per_generation, *num_iterations, usize::from(*mask_truncated)];
    let sampling = options.sampling;
    let numbers = numbers.into_iter().chain([sampling.max_completion_length]).map(|number| number as u64);
    let numbers = numbers.chain([sampling.temperature.to_bits(), options.lora.dropout.to_bits()]);
    derived_seed(&format!("{base_dtype:?} {}", options.message), &numbers.collect::<Vec<_>>())
}
