//! `coz selftest`: whether this machine computes what it should.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::interruption::Interruption;
use crate::base::{DeviceChoice, UserError};
use crate::selftest;
use crate::selftest::{Message, Outcome};

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
    /// Print messages for the window, a line each
    #[arg(long, hide = true)]
    messages: bool,
    /// Fail as a broken device does: a check of the self-test's own
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
    let headline = selftest::headline(arguments.device)?;
    let print = |message: Message| match serde_json::to_string(&message) {
        Ok(line) => println!("{line}"),
        Err(error) => tracing::error!("a message for the window: {error}"),
    };
    let is_for_people = !arguments.json && !arguments.messages;
    if arguments.messages {
        print(Message::Began { headline, checks: checks.len() });
    } else if is_for_people {
        println!("{headline}");
    }
    let interruption = Interruption::watch();
    let mut outcomes = Vec::new();
    selftest::run(&checks, arguments.device, &mut |outcome| {
        if arguments.messages {
            print(Message::Checked(Box::new((&outcome).into())));
        } else if is_for_people {
            println!("{}", selftest::format_line(&outcome));
        } else if !outcome.ok {
            eprintln!("{}", selftest::format_line(&outcome));
        }
        outcomes.push(outcome);
        !interruption.is_requested()
    })?;
    if interruption.is_requested() {
        return Ok(interruption.exit_code());
    }
    if outcomes.is_empty() {
        return Err(UserError::new("Nothing was tested", "none of these checks applies to the device", "").into());
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&Report { checks: &outcomes })?);
    } else if is_for_people {
        println!("{}", selftest::summary(&outcomes));
    }
    Ok(if outcomes.iter().all(|outcome| outcome.ok) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
