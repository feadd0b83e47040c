//! `coz selftest`: whether this machine computes what it should.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::base::DeviceChoice;
use crate::selftest;
use crate::selftest::Outcome;

#[derive(Args)]
#[command(after_help = "Exit code: 0 where every check passes.\n\
    The models are tiny ones that the program holds; nothing is downloaded.")]
pub(super) struct Arguments {
    /// What is tested: auto, cpu, cuda or cuda:NUMBER
    #[arg(long, default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Only these checks, by name
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// Print the outcomes as JSON
    #[arg(long)]
    json: bool,
    /// Fail as a broken device does; the self-test tells it to itself
    #[arg(long, hide = true)]
    lose_device: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    checks: &'a [Outcome],
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.lose_device {
        selftest::lose_device(arguments.device)?;
    }
    let checks = selftest::chosen(&arguments.only)?;
    if !arguments.json {
        println!("{}", selftest::headline(arguments.device)?);
    }
    let mut outcomes = Vec::new();
    selftest::run(&checks, arguments.device, &mut |outcome| {
        match arguments.json {
            false => println!("{}", selftest::format_line(&outcome)),
            true if !outcome.ok => eprintln!("{}", selftest::format_line(&outcome)),
            true => {}
        }
        outcomes.push(outcome);
        true
    })?;
    match arguments.json {
        true => println!("{}", serde_json::to_string_pretty(&Report { checks: &outcomes })?),
        false => println!("{}", selftest::summary(&outcomes)),
    }
    Ok(if outcomes.iter().all(|outcome| outcome.ok) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
