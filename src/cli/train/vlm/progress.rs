//! What a training of the prompt extractor shows while it runs.

use std::cell::Cell;

use crate::base::bytes_label;
use crate::cli::train::bar::Bar;
use crate::train::distributed::World;
use crate::train::vlm::options::{Event, Options, RewardStatistics, Step};

pub(super) struct Progress {
    bar: Bar,
    output: String,
    flat: Cell<usize>,
    skipped_groups: Cell<f64>,
}

/// Rewards by their terms.
fn line(rewards: &RewardStatistics) -> String {
    let [critic, phrase, repetition, total] = rewards.mean;
    format!("reward {total:.3} (critic {critic:.3}, phrase {phrase:.3}, repetition {repetition:.3})")
}

impl Progress {
    pub(super) fn new(options: &Options, world: &World) -> Self {
        let (bar, output) = (Bar::new(options.steps, world), options.output.display().to_string());
        Self { bar, output, flat: Cell::default(), skipped_groups: Cell::default() }
    }

    /// Shows what a training says.
    pub(super) fn show(&self, event: &Event) {
        match event {
            Event::Begins(step, plan) => {
                self.bar.begin(*step);
                let goes_on = if *step > 0 { format!("; going on behind step {step}") } else { String::new() };
                self.bar.say(&format!("memory plan: {plan}{goes_on}"));
            }
            Event::Rollout(phase, done, all) => self.bar.message(&format!("{phase} {}/{all}", done + 1)),
            Event::Samples(_) => (),
            Event::Step(step) => self.step(step),
            Event::Validation(step, rewards, length) => {
                self.bar.say(&format!("validation at step {step}: {}, {length:.1} tokens", line(rewards)));
            }
            Event::Warning(warning) => self.bar.say(&format!("{warning}; the training goes on")),
            Event::Stops(why) => self.bar.say(&format!("{why}: there is nothing more to be learned from them")),
        }
    }

    fn step(&self, step: &Step) {
        self.skipped_groups.set(self.skipped_groups.get() + step.skipped_groups);
        if step.norm == 0.0 {
            self.flat.set(self.flat.get() + 1);
        }
        if !step.norm.is_finite() {
            self.bar.say(&format!("step {}: its gradients are not finite, it is skipped", step.number));
        }
        let peak = step.peak_memory.map(|bytes| format!(", {} at most", bytes_label(bytes))).unwrap_or_default();
        let rewards = line(&step.rewards);
        let (kl, length, [seconds, ..]) = (step.kl, step.length, step.seconds);
        self.bar.step(step.number, &format!("{rewards}, KL {kl:.4}, {length:.1} tokens, {seconds:.1} s a step{peak}"));
    }

    /// The end behind this step.
    pub(super) fn end(&self, step: usize) {
        self.bar.finish();
        let mut text = match step {
            0 => "nothing was trained yet".to_owned(),
            step => format!("the checkpoint of step {step} is in {}", self.output),
        };
        if self.flat.get() > 0 {
            text += &format!("; {} steps had no gradient and moved nothing", self.flat.get());
        }
        if self.skipped_groups.get() > 0.0 {
            text += &format!("; {} groups had less than two ratings", self.skipped_groups.get());
        }
        self.bar.say(&text);
    }
}
