//! `coz train sr`: the mathematics of the reference's trainer, replayed from files.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::base::UserError;
use crate::train::sr::{degradation, replay};

/// Options of `coz train sr`. The snake_case spellings of the reference work too.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("work").required(true))]
pub(super) struct Arguments {
    /// Train through this case without chance: pictures, noise, times and first values come from its files. Writes
    /// OUTPUT/replay/ (losses.csv, grad_norms.csv, gradients and parameters of each step) and the last checkpoints
    #[arg(long, value_name = "CASE.json", group = "work")]
    replay: Option<PathBuf>,
    /// Degrade pictures without chance: operators, parameters and noise come from this file and the safetensors file beside it.
    /// Writes OUTPUT/lq.safetensors
    #[arg(long, alias = "replay_degradation", value_name = "TRACES.json", group = "work")]
    replay_degradation: Option<PathBuf>,
    /// Folder for the results
    #[arg(short, long, alias = "output_dir")]
    output: PathBuf,
    /// Compute again on the way back what is between a network's blocks, rather than keep it: little memory, more time
    #[arg(long, alias = "gradient_checkpointing")]
    gradient_checkpointing: bool,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if let Some(file) = &arguments.replay_degradation {
        let written = degradation::replay::replay(file, &arguments.output).map_err(UserError::from)?;
        eprintln!("wrote {}", written.display());
    }
    if let Some(file) = &arguments.replay {
        let checkpoints = arguments.gradient_checkpointing;
        let steps = replay::replay(file, &arguments.output, checkpoints).map_err(UserError::from)?;
        eprintln!("{steps} steps: {}", arguments.output.display());
    }
    Ok(ExitCode::SUCCESS)
}
