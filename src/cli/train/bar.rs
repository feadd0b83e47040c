//! A bar with the last step's numbers; lines now and then where there is no terminal.

use std::cell::Cell;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use super::say;
use crate::base::secs_label;
use crate::train::distributed::World;

/// Seconds between two lines where there is no terminal.
const LINE: f64 = 60.0;

/// Only the first process shows one.
pub(super) struct Bar {
    bar: ProgressBar,
    is_shown: bool,
    last_line: Cell<Option<Instant>>,
}

impl Bar {
    /// For so many steps.
    pub(super) fn new(steps: usize, world: &World) -> Self {
        let is_shown = world.is_first();
        let bar = if is_shown { ProgressBar::new(steps as u64) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} steps, {eta} left") {
            bar.set_style(style);
        }
        Self { bar, is_shown, last_line: Cell::default() }
    }

    /// It begins behind this step.
    pub(super) fn begin(&self, step: usize) {
        self.bar.set_position(step as u64);
        self.bar.reset_eta();
    }

    /// A step was made, of which this is to be said.
    pub(super) fn step(&self, step: usize, text: &str) {
        self.bar.set_position(step as u64);
        self.bar.set_message(text.to_owned());
        if self.is_line_due() {
            let left = secs_label(self.bar.eta().as_secs_f64());
            say(&format!("step {step}/{}: {text}, {left} left", self.bar.length().unwrap_or_default()));
        }
    }

    /// Something goes on within a step.
    pub(super) fn message(&self, text: &str) {
        self.bar.set_message(text.to_owned());
    }

    fn is_line_due(&self) -> bool {
        let is_due = self.last_line.get().is_none_or(|last| last.elapsed().as_secs_f64() >= LINE);
        let is_due = self.is_shown && self.bar.is_hidden() && is_due;
        if is_due {
            self.last_line.set(Some(Instant::now()));
        }
        is_due
    }

    /// A line of its own.
    pub(super) fn say(&self, text: &str) {
        if self.is_shown {
            self.bar.suspend(|| say(text));
        }
    }

    /// The end.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
