//! The numbers of a training as files: `log.csv`, `validation.csv`, their curves as SVG, and TensorBoard's events.

use std::path::PathBuf;

use super::options::{Options, RewardStatistics, Step};
use super::rewards::TERMS;
use crate::train::TrainError;
use crate::train::csv_log::CsvLog;
use crate::train::plot::Scale;
use crate::train::tensorboard::EventFile;

/// All of them.
pub(super) struct Logs {
    output: PathBuf,
    steps: CsvLog,
    validation: Option<CsvLog>,
    events: Option<EventFile>,
}

/// The terms, and the whole.
fn rewards() -> impl Iterator<Item = &'static str> {
    TERMS.into_iter().chain(["reward"])
}

/// Names and numbers of a step, the rewards first.
fn numbers(step: &Step) -> Vec<(String, f64)> {
    let RewardStatistics { mean, std } = step.rewards;
    let means = rewards().map(str::to_owned).zip(mean);
    let stds = rewards().map(|name| format!("{name}_std")).zip(std);
    let rounded = |seconds: f64| (seconds * 1000.0).round() / 1000.0;
    let [seconds, sampling, rating] = step.seconds.map(rounded);
    let others = [
        ("loss", step.loss),
        ("zero_std_share", step.zero_std_groups / step.groups),
        ("kl", step.kl),
        ("entropy", step.entropy),
        ("clipped_share", step.clipped_share),
        ("length", step.length),
        ("truncated_share", step.truncated_share),
        ("unrated", step.unrated),
        ("skipped_groups", step.skipped_groups),
        ("grad_norm", step.norm),
        ("lr", step.rate),
        ("seconds_sampling", sampling),
        ("seconds_rating", rating),
        ("seconds", seconds),
    ];
    means.chain(stds).chain(others.map(|(name, number)| (name.to_owned(), number))).collect()
}

impl Logs {
    /// New ones; or those of a training that goes on after a step.
    ///
    /// # Errors
    /// Where they cannot be read or written.
    pub(super) fn open(options: &Options, after: usize) -> Result<Self, TrainError> {
        let out = &options.output;
        let columns: Vec<String> = numbers(&Step::default()).into_iter().map(|(name, _)| name).collect();
        let steps = CsvLog::open(out.join("log.csv"), &format!("step,{}", columns.join(",")), after)?;
        let columns = format!("step,{},length", rewards().collect::<Vec<_>>().join(","));
        let validation = options.validation.map(|_| CsvLog::open(out.join("validation.csv"), &columns, after));
        let events = options.tensorboard.as_deref().map(EventFile::create).transpose()?;
        Ok(Self { output: out.clone(), steps, validation: validation.transpose()?, events })
    }

    /// A step.
    ///
    /// # Errors
    /// Where it cannot be written now.
    pub(super) fn step(&mut self, step: &Step) -> Result<(), TrainError> {
        let numbers = numbers(step);
        let written = self.steps.add(step.number, numbers.iter().map(|(_, number)| *number));
        if let Some(events) = &mut self.events {
            let named: Vec<(String, f64)> =
                numbers.into_iter().map(|(name, number)| (format!("train/{name}"), number)).collect();
            let named: Vec<(&str, f64)> = named.iter().map(|(name, number)| (name.as_str(), *number)).collect();
            events.add(step.number, &named)?;
        }
        written
    }

    /// Whether held-out pairs were looked at at this step.
    ///
    /// # Errors
    /// Where that cannot be read.
    pub(super) fn is_validated(&self, step: usize) -> Result<bool, TrainError> {
        let Some(log) = &self.validation else { return Ok(true) };
        Ok(log.rows()?.iter().any(|row| row.first() == Some(&(step as f64))))
    }

    /// What held-out pairs came to.
    ///
    /// # Errors
    /// Where it cannot be written now.
    pub(super) fn validation(&mut self, step: usize, found: &RewardStatistics, length: f64) -> Result<(), TrainError> {
        let numbers = || found.mean.into_iter().chain([length]);
        let written = self.validation.as_mut().map_or(Ok(()), |log| log.add(step, numbers()));
        if let Some(events) = &mut self.events {
            let names: Vec<String> = rewards().chain(["length"]).map(|name| format!("validation/{name}")).collect();
            let named: Vec<(&str, f64)> = names.iter().map(String::as_str).zip(numbers()).collect();
            events.add(step, &named)?;
        }
        written
    }

    /// Draws `rewards.svg`, `kl.svg` and `validation.svg`.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub(super) fn draw(&self) -> Result<(), TrainError> {
        let file = |what: &str| self.output.join(format!("{what}.svg"));
        let of_rewards: Vec<(usize, &str)> = rewards().enumerate().collect();
        let kl = numbers(&Step::default()).iter().position(|(name, _)| name == "kl").unwrap_or(0);
        self.steps.draw(&file("rewards"), "rewards", Scale::Linear, &of_rewards)?;
        self.steps.draw(&file("kl"), "kl", Scale::Linear, &[(kl, "kl")])?;
        match &self.validation {
            Some(log) => log.draw(&file("validation"), "validation", Scale::Linear, &of_rewards),
            None => Ok(()),
        }
    }
}
