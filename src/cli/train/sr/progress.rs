//! What a training shows while it runs.

use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use super::say;
use crate::base::{bytes_label, secs_label};
use crate::train::distributed::World;
use crate::train::sr::losses::Losses;
use crate::train::sr::options::{Event, Options, Step};

/// Seconds between two lines where there is no terminal.
const LINE: f64 = 60.0;

/// A bar with the last step's numbers; lines now and then where there is no terminal. Only the first process shows any.
pub(super) struct Progress {
    bar: ProgressBar,
    is_shown: bool,
    images: usize,
    output: String,
    last_line: std::cell::Cell<Option<Instant>>,
    skipped: std::cell::Cell<usize>,
}

impl Progress {
    pub(super) fn new(options: &Options, world: &World) -> Self {
        let is_shown = world.is_first();
        let bar = if is_shown { ProgressBar::new(options.steps as u64) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} steps, {eta} left") {
            bar.set_style(style);
        }
        let images = options.batch * options.accumulation * world.size();
        let output = options.output.display().to_string();
        Self { bar, is_shown, images, output, last_line: Default::default(), skipped: Default::default() }
    }

    /// Shows what a training says.
    pub(super) fn show(&self, event: &Event) {
        match event {
            Event::Begins(step, plan) => {
                self.bar.set_position(*step as u64);
                self.bar.reset_eta();
                self.say(&format!(
                    "memory plan: {plan}{}",
                    if *step > 0 { format!("; going on behind step {step}") } else { String::new() }
                ));
            }
            Event::Warning(warning) => self.say(&format!("{warning}; the training goes on")),
            Event::Validation(step, [l2, lpips, psnr, niqe]) => {
                let niqe = if niqe.is_finite() { format!(", NIQE {niqe:.2}") } else { String::new() };
                self.say(&format!("validation at step {step}: l2 {l2:.4}, LPIPS {lpips:.4}, PSNR {psnr:.2} dB{niqe}"));
            }
            Event::Step(step) => self.step(step),
        }
    }

    fn step(&self, step: &Step) {
        if step.is_skipped {
            self.skipped.set(self.skipped.get() + 1);
            self.say(&format!("step {}: its gradients are not finite, it is skipped", step.number));
        }
        let Losses { l2, lpips, vsd, diff } = step.losses;
        let rate = self.images as f64 / step.seconds.max(1e-9);
        let peak = step.peak_memory.map(|bytes| format!(", {} at most", bytes_label(bytes))).unwrap_or_default();
        let text = format!("l2 {l2:.4}, lpips {lpips:.4}, vsd {vsd:.4}, diff {diff:.4}, {rate:.2} images/s{peak}");
        self.bar.set_position(step.number as u64);
        self.bar.set_message(text.clone());
        let is_time = self.last_line.get().is_none_or(|last| last.elapsed().as_secs_f64() >= LINE);
        if self.is_shown && self.bar.is_hidden() && is_time {
            self.last_line.set(Some(Instant::now()));
            let left = secs_label(self.bar.eta().as_secs_f64());
            say(&format!("step {}/{}: {text}, {left} left", step.number, self.bar.length().unwrap_or_default()));
        }
    }

    /// The end behind this step.
    pub(super) fn end(&self, step: usize) {
        self.bar.finish_and_clear();
        let skipped = match self.skipped.get() {
            0 => String::new(),
            skipped => format!("; {skipped} steps were skipped"),
        };
        self.say(&format!("the checkpoint of step {step} is in {}{skipped}", self.output));
    }

    fn say(&self, text: &str) {
        if self.is_shown {
            self.bar.suspend(|| say(text));
        }
    }
}
