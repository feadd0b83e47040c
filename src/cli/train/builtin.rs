//! `coz train builtin`: how the network inside the program was made.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;

use crate::train::fit::{Plan, fit};

/// Options of `coz train builtin`.
#[derive(Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// File to write, safetensors in half precision
    #[arg(short, long, default_value = "assets/builtin_x4.safetensors")]
    output: PathBuf,
    /// Weights to start from instead of random ones; --features and --depth must be theirs
    #[arg(long)]
    from: Option<PathBuf>,
    /// Minutes to train
    #[arg(long, default_value_t = 80.0)]
    minutes: f64,
    /// Channels inside
    #[arg(long, default_value_t = 48)]
    features: i64,
    /// Convolutions inside
    #[arg(long, default_value_t = 16)]
    depth: i64,
    /// Learning rate at the start
    #[arg(long, default_value_t = 1e-3)]
    rate: f64,
    /// Seed of weights and scenes
    #[arg(long, default_value_t = 7)]
    seed: u64,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let plan = Plan {
        features: arguments.features,
        depth: arguments.depth,
        duration: Duration::from_secs_f64(arguments.minutes.max(0.0) * 60.0),
        rate: arguments.rate,
        from: arguments.from.clone(),
        seed: arguments.seed,
    };
    let bar = ProgressBar::new(1000);
    fit(&plan, &arguments.output, |step, loss, done| {
        bar.set_position((done * 1000.0) as u64);
        bar.set_message(format!("step {step}, loss {loss:.5}"));
        if bar.is_hidden() {
            eprintln!("step {step}, loss {loss:.5}, {:.1} %", done * 100.0);
        }
    })?;
    bar.finish_and_clear();
    eprintln!("wrote {}", arguments.output.display());
    Ok(ExitCode::SUCCESS)
}
