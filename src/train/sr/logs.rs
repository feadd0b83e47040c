//! The numbers of a training as files: `losses.csv`, `validation.csv`, their curves as SVG, and TensorBoard's events.

use std::path::PathBuf;

use super::losses::Losses;
use super::options::{Options, Step};
use crate::train::TrainError;
use crate::train::csv_log::CsvLog;
use crate::train::plot::Scale;
use crate::train::tensorboard::EventFile;

const LOSSES: [&str; 4] = ["l2", "lpips", "vsd", "diff"];
const NORMS: [&str; 3] = ["norm_gen", "norm_vae", "norm_reg"];
const SCORES: [&str; 4] = ["l2", "lpips", "psnr", "niqe"];

/// All of them.
pub(super) struct Logs {
    output: PathBuf,
    steps: CsvLog,
    validation: Option<CsvLog>,
    events: Option<EventFile>,
}

impl Logs {
    /// New ones; or those of a training that goes on after a step.
    ///
    /// # Errors
    /// Where they cannot be read or written.
    pub(super) fn open(options: &Options, after: usize) -> Result<Self, TrainError> {
        let out = &options.output;
        let columns = format!("step,{},{},lr,seconds", LOSSES.join(","), NORMS.join(","));
        let steps = CsvLog::open(out.join("losses.csv"), &columns, after)?;
        let columns = format!("step,{}", SCORES.join(","));
        let validation = options.validation.as_ref();
        let validation = validation.map(|_| CsvLog::open(out.join("validation.csv"), &columns, after)).transpose()?;
        let events = options.tensorboard.as_deref().map(EventFile::create).transpose()?;
        Ok(Self { output: out.clone(), steps, validation, events })
    }

    /// A step; `rate` is the learning rate of the transformer's LoRAs.
    ///
    /// # Errors
    /// Where it cannot be written now.
    pub(super) fn step(&mut self, step: &Step, rate: f64) -> Result<(), TrainError> {
        let Losses { l2, lpips, vsd, diff } = step.losses;
        let losses = [l2, lpips, vsd, diff];
        let seconds = (step.seconds * 1000.0).round() / 1000.0;
        let written = self.steps.add(step.number, losses.into_iter().chain(step.norms).chain([rate, seconds]));
        if let Some(events) = &mut self.events {
            let losses = LOSSES.iter().map(|name| format!("loss/{name}")).zip(losses);
            let norms = NORMS.iter().map(|name| format!("gradient/{name}")).zip(step.norms);
            let all: Vec<(String, f64)> = losses.chain(norms).chain([("lr".to_owned(), rate)]).collect();
            let all: Vec<(&str, f64)> = all.iter().map(|(name, number)| (name.as_str(), *number)).collect();
            events.add(step.number, &all)?;
        }
        written
    }

    /// What validation pictures came to: mean squared error, LPIPS, PSNR, NIQE.
    ///
    /// # Errors
    /// Where it cannot be written now.
    pub(super) fn validation(&mut self, step: usize, scores: [f64; 4]) -> Result<(), TrainError> {
        let written = self.validation.as_mut().map_or(Ok(()), |log| log.add(step, scores));
        if let Some(events) = &mut self.events {
            let all: Vec<String> = SCORES.iter().map(|name| format!("validation/{name}")).collect();
            let all: Vec<(&str, f64)> = all.iter().map(String::as_str).zip(scores).collect();
            events.add(step, &all)?;
        }
        written
    }

    /// Draws `losses.svg` and `validation.svg`.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub(super) fn draw(&self) -> Result<(), TrainError> {
        let columns = |names: &[&'static str]| names.iter().copied().enumerate().collect::<Vec<_>>();
        let scale = Scale::Logarithmic;
        self.steps.draw(&self.output.join("losses.svg"), "loss", scale, &columns(&LOSSES))?;
        match &self.validation {
            Some(log) => log.draw(&self.output.join("validation.svg"), "validation", scale, &columns(&SCORES[..2])),
            None => Ok(()),
        }
    }
}
