//! What a training of the restoring model shows while it runs.

use std::cell::Cell;

use crate::base::bytes_label;
use crate::cli::train::bar::Bar;
use crate::train::distributed::World;
use crate::train::sr::losses::Losses;
use crate::train::sr::options::{Event, Options, Step};

pub(super) struct Progress {
    bar: Bar,
    images: usize,
    output: String,
    skipped: Cell<usize>,
}

impl Progress {
    pub(super) fn new(options: &Options, world: &World) -> Self {
        let images = options.batch * options.accumulation * world.size();
        let output = options.output.display().to_string();
        Self { bar: Bar::new(options.steps, world), images, output, skipped: Cell::default() }
    }

    /// Shows what a training says.
    pub(super) fn show(&self, event: &Event) {
        match event {
            Event::Begins(step, plan) => {
                self.bar.begin(*step);
                self.bar.say(&format!(
                    "memory plan: {plan}{}",
                    if *step > 0 { format!("; going on behind step {step}") } else { String::new() }
                ));
            }
            Event::Warning(warning) => self.bar.say(&format!("{warning}; the training goes on")),
            Event::Validation(step, [l2, lpips, psnr, niqe]) => {
                let niqe = if niqe.is_finite() { format!(", NIQE {niqe:.2}") } else { String::new() };
                let text = format!("l2 {l2:.4}, LPIPS {lpips:.4}, PSNR {psnr:.2} dB{niqe}");
                self.bar.say(&format!("validation at step {step}: {text}"));
            }
            Event::Step(step) => self.step(step),
        }
    }

    fn step(&self, step: &Step) {
        if step.is_skipped {
            self.skipped.set(self.skipped.get() + 1);
            self.bar.say(&format!("step {}: its gradients are not finite, it is skipped", step.number));
        }
        let Losses { l2, lpips, vsd, diff } = step.losses;
        let rate = self.images as f64 / step.seconds.max(1e-9);
        let peak = step.peak_memory.map(|bytes| format!(", {} at most", bytes_label(bytes))).unwrap_or_default();
        let text = format!("l2 {l2:.4}, lpips {lpips:.4}, vsd {vsd:.4}, diff {diff:.4}, {rate:.2} images/s{peak}");
        self.bar.step(step.number, &text);
    }

    /// The end behind this step.
    pub(super) fn end(&self, step: usize) {
        self.bar.finish();
        let skipped = match self.skipped.get() {
            0 => String::new(),
            skipped => format!("; {skipped} steps were skipped"),
        };
        self.bar.say(&format!("the checkpoint of step {step} is in {}{skipped}", self.output));
    }
}
