//! `coz train`: the trainers. One file a trainer.

mod bar;
mod builtin;
mod config_file;
mod processes;
mod shared;
mod sr;
mod vlm;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};

pub(super) use config_file::expanded;

/// Options of `coz train`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    trainer: Option<Trainer>,
    /// Without a trainer's name it is the one of the network inside the program
    #[command(flatten)]
    builtin: builtin::Arguments,
}

#[derive(Subcommand)]
enum Trainer {
    /// The network inside the program, from scenes that it draws itself
    Builtin(builtin::Arguments),
    /// The LoRAs of Chain-of-Zoom's own model, Stable Diffusion 3
    Sr(Box<sr::Arguments>),
    /// The LoRA of the prompt extractor, Qwen2.5-VL: by a critic, with GRPO
    Vlm(Box<vlm::Arguments>),
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.trainer {
        None => builtin::run(&arguments.builtin),
        Some(Trainer::Builtin(builtin)) => builtin::run(builtin),
        Some(Trainer::Sr(sr)) => sr::run(sr),
        Some(Trainer::Vlm(vlm)) => vlm::run(vlm),
    }
}

/// On a terminal that may be closed.
fn say(text: &str) {
    _ = writeln!(std::io::stderr(), "{text}");
}
