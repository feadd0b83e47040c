//! Options that all trainers have, by the names that diffusers' and transformers' trainers give them.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::PossibleValuesParser;
use serde::Serialize;
use strum::VariantNames;

use super::say;
use crate::base::DeviceChoice;
use crate::train::adamw::AdamWConfig;
use crate::train::schedule::{LrSchedule, LrScheduler};

/// A number above zero.
pub(in crate::cli::train) fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&number| number > 0).ok_or_else(|| "expected a whole number above 0".into())
}

/// A rate, a weight or the like.
pub(in crate::cli::train) fn not_negative(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| "expected a number that is not below 0".into())
}

/// Of AdamW.
pub(in crate::cli::train) fn beta(text: &str) -> Result<f64, String> {
    not_negative(text).ok().filter(|beta| *beta < 1.0).ok_or_else(|| "expected a number from 0 to below 1".into())
}

/// Options of `coz train sr` and `coz train vlm`.
#[derive(Args, Serialize)]
#[group(skip)]
pub(super) struct Shared {
    /// TOML file with options by their snake_case names, e.g. `learning_rate = 5e-5`. Those given here win; a flag that is true
    /// there stays so. OUTPUT/config.toml is one: it holds all options of a run
    #[arg(long, alias = "config_file", value_name = "TOML")]
    #[serde(skip)]
    config_file: Option<PathBuf>,
    /// Folder for the results
    #[arg(short, long, alias = "output_dir")]
    pub(in crate::cli::train) output: PathBuf,
    /// Leave out photos that cannot be used, rather than stop
    #[arg(long, alias = "skip_bad")]
    pub(in crate::cli::train) skip_bad: bool,
    /// Where it runs: auto, cpu, cuda or cuda:NUMBER
    #[arg(long, default_value_t = DeviceChoice::Auto)]
    pub(in crate::cli::train) device: DeviceChoice,
    /// Seed of everything that is drawn
    #[arg(long, default_value_t = 123, value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    pub(in crate::cli::train) seed: u64,
    /// Keep so many checkpoints, the newest [default: all]
    #[arg(long, alias = "checkpoints_total_limit", value_name = "N", value_parser = positive)]
    pub(in crate::cli::train) checkpoints_total_limit: Option<usize>,
    /// Go on from the `latest` checkpoint in OUTPUT, where there is one; or from this one, into another OUTPUT where later ones are there:
    /// of `sr` a file of checkpoints_state, of `vlm` a folder checkpoint-S
    #[arg(long, alias = "resume_from_checkpoint", value_name = "FILE")]
    #[serde(skip)]
    pub(in crate::cli::train) resume_from_checkpoint: Option<PathBuf>,
    /// How the learning rates change: constant, constant_with_warmup, linear, cosine, cosine_with_restarts or polynomial
    #[arg(long, alias = "lr_scheduler", default_value = "constant", value_parser = PossibleValuesParser::new(LrScheduler::VARIANTS), hide_possible_values = true)]
    pub(in crate::cli::train) lr_scheduler: String,
    /// Steps of warm-up; `constant` has none
    #[arg(long, alias = "lr_warmup_steps", default_value_t = 500)]
    pub(in crate::cli::train) lr_warmup_steps: usize,
    /// Hard restarts of cosine_with_restarts
    #[arg(long, alias = "lr_num_cycles", default_value_t = 1, value_parser = positive)]
    pub(in crate::cli::train) lr_num_cycles: usize,
    /// Power of the polynomial scheduler
    #[arg(long, alias = "lr_power", default_value_t = 1.0, value_parser = not_negative)]
    pub(in crate::cli::train) lr_power: f64,
    /// Let CUDA devices round float32 to TF32 in convolutions
    #[arg(long, alias = "allow_tf32")]
    pub(in crate::cli::train) allow_tf32: bool,
    /// AdamW's beta1
    #[arg(long, alias = "adam_beta1", default_value_t = 0.9, value_parser = beta)]
    pub(in crate::cli::train) adam_beta1: f64,
    /// AdamW's epsilon
    #[arg(long, alias = "adam_epsilon", default_value_t = 1e-8, value_parser = not_negative)]
    pub(in crate::cli::train) adam_epsilon: f64,
    /// Clip the gradients to this norm, those of several networks each by themselves; 0: do not
    #[arg(long, alias = "max_grad_norm", default_value_t = 1.0, value_parser = not_negative)]
    pub(in crate::cli::train) max_grad_norm: f64,
    /// Keep only what is between the blocks of the networks, and compute the rest again for the gradients: less memory, more time
    #[arg(long, alias = "gradient_checkpointing")]
    pub(in crate::cli::train) gradient_checkpointing: bool,
    /// Seconds that processes which train together wait for each other. They are started by torchrun, Slurm or MPI
    #[arg(long, alias = "ddp_timeout", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(in crate::cli::train) ddp_timeout: u64,
    /// How gradients go between processes: over their store (store), or between CUDA devices by NVIDIA's library (nccl)
    #[arg(long, alias = "ddp_backend", default_value = "store", value_parser = ["store", "nccl"], hide_possible_values = true)]
    pub(in crate::cli::train) ddp_backend: String,
    /// Also write events for TensorBoard
    #[arg(long, alias = "report_to", default_value = "none", value_parser = ["none", "tensorboard"])]
    pub(in crate::cli::train) report_to: String,
    /// Folder in OUTPUT for those
    #[arg(long, alias = "logging_dir", value_name = "DIR", default_value = "logs")]
    pub(in crate::cli::train) logging_dir: PathBuf,
}

impl Shared {
    /// How the learning rate changes over so many steps.
    pub(super) fn schedule(&self, steps: usize) -> LrSchedule {
        LrSchedule {
            scheduler: self.lr_scheduler.parse().unwrap_or(LrScheduler::Constant),
            warmup_steps: self.lr_warmup_steps,
            steps,
            cycles: self.lr_num_cycles,
            power: self.lr_power,
        }
    }

    /// Of the optimizer.
    pub(super) fn adamw(&self, beta2: f64, weight_decay: f64) -> AdamWConfig {
        AdamWConfig {
            betas: [self.adam_beta1, beta2],
            epsilon: self.adam_epsilon,
            weight_decay,
            max_grad_norm: self.max_grad_norm,
        }
    }

    /// What to go on from; `latest` finds it in the folder of results.
    pub(super) fn resume(&self, latest: impl FnOnce(&Path) -> Option<PathBuf>) -> Option<PathBuf> {
        match &self.resume_from_checkpoint {
            Some(name) if name.as_os_str() == "latest" => {
                let latest = latest(&self.output);
                if latest.is_none() {
                    say(&format!("{} has no checkpoint to go on from: a new training begins", self.output.display()));
                }
                latest
            }
            file => file.clone(),
        }
    }

    /// Where events for TensorBoard go.
    pub(super) fn tensorboard(&self) -> Option<PathBuf> {
        (self.report_to == "tensorboard").then(|| self.output.join(&self.logging_dir))
    }
}
