//! `coz models`: which models there are, where they are, and how to get them.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{DecimalBytes, HumanDuration, ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::base::UserError;
use crate::hub;
use crate::hub::{ASSETS, Found, ModelAsset, ModelPaths, Patience, Store, Transfer};

/// Options of `coz models`.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What there is, what it is for, and where it was found
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Download what is missing, into the Hugging Face cache (what came before a cut is kept) or the data folder
    Download {
        /// By the names that `coz models list` has, such as sd3, lora and encoder, or web-photo
        #[arg(value_parser = ModelAsset::named)]
        parts: Vec<&'static ModelAsset>,
        /// All of them
        #[arg(long, conflicts_with = "parts")]
        all: bool,
        /// Tries in a row that bring nothing before it gives up
        #[arg(long, default_value_t = Patience::default().tries, value_parser = clap::value_parser!(u32).range(1..=100))]
        tries: u32,
    },
    /// Compare every downloaded file with its hash
    Verify {
        /// Of these only
        #[arg(value_parser = ModelAsset::named)]
        parts: Vec<&'static ModelAsset>,
        /// Delete what is damaged in the cache, so that the next download brings it again
        #[arg(long)]
        delete: bool,
    },
    /// Print where a model is
    Path {
        /// Which
        #[arg(value_parser = ModelAsset::named)]
        part: &'static ModelAsset,
    },
}

#[derive(Serialize)]
struct Line {
    part: &'static ModelAsset,
    title: &'static str,
    group: &'static str,
    purpose: &'static str,
    licence: &'static str,
    page: String,
    addresses: Vec<String>,
    hash: Option<&'static str>,
    size: u64,
    #[serde(flatten)]
    found: Found,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let explicit = ModelPaths::of_user();
    match &arguments.command {
        Command::List { json } => {
            let line = |part: &'static ModelAsset| Line {
                part,
                title: part.title,
                group: part.group,
                purpose: part.purpose,
                licence: part.licence,
                page: part.page(),
                addresses: part.addresses(),
                hash: part.hash(),
                size: part.size,
                found: part.found(&explicit),
            };
            let lines: Vec<Line> = ASSETS.iter().map(line).collect();
            match json {
                true => println!("{}", serde_json::to_string_pretty(&lines)?),
                false => {
                    for lines in lines.chunk_by(|line, next| line.group == next.group) {
                        println!("{}", lines[0].group);
                        lines.iter().for_each(print);
                        println!();
                    }
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Download { parts, all, tries } => {
            let asked: Vec<&'static ModelAsset> = if *all { ASSETS.iter().collect() } else { parts.clone() };
            if asked.is_empty() {
                let hint = "Name parts, such as `coz models download sd3 lora encoder`, or --all.";
                let details = "no part is named, and the built-in model needs no files";
                return Err(UserError::new("There is nothing to do", details, hint).into());
            }
            let missing: Vec<&'static ModelAsset> =
                asked.iter().copied().filter(|part| !part.found(&explicit).is_whole()).collect();
            if missing.is_empty() {
                eprintln!("all of it is there: see `coz models list`");
                return Ok(ExitCode::SUCCESS);
            }
            download(missing, Patience { tries: *tries, ..Patience::default() })
        }
        Command::Verify { parts, delete } => {
            verify(if parts.is_empty() { ASSETS.iter().collect() } else { parts.clone() }, *delete)
        }
        Command::Path { part } => match part.found(&explicit).place {
            Some(place) => {
                println!("{}", place.display());
                Ok(ExitCode::SUCCESS)
            }
            None => {
                let hint = format!("Get it with `coz models download {}`.", part.id);
                Err(UserError::new("It is not on this machine", part.title, &hint).into())
            }
        },
    }
}

fn print(line: &Line) {
    let state = match &line.found {
        Found { place: None, .. } => "not here".to_owned(),
        Found { place: Some(place), missing } if missing.is_empty() => place.display().to_string(),
        Found { place: Some(place), missing } => format!("{}, {} files missing", place.display(), missing.len()),
    };
    let mark = if line.found.is_whole() { "+" } else { "-" };
    println!("{mark} {:<12} {} ({})", line.part.id, line.title, DecimalBytes(line.size));
    println!("            {}", line.purpose);
    println!("            {}; {}", line.licence, line.page);
    println!("            {state}");
}

fn download(parts: Vec<&'static ModelAsset>, patience: Patience) -> anyhow::Result<ExitCode> {
    let names: Vec<&str> = parts.iter().map(|part| part.id).collect();
    eprintln!("downloading {}", names.join(", "));
    let transfer = Arc::new(Transfer::default());
    let interruption = super::interruption::Interruption::watch();
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {decimal_bytes}/{decimal_total_bytes} {prefix}\n{msg}")
    {
        bar.set_style(style);
    }
    let seen = transfer.clone();
    let worker = std::thread::spawn(move || hub::download(&parts, &seen, patience));
    while !worker.is_finished() {
        if interruption.is_requested() {
            transfer.stop.store(true, Ordering::Relaxed);
        }
        bar.set_length(transfer.all.load(Ordering::Relaxed));
        bar.set_position(transfer.done.load(Ordering::Relaxed));
        bar.set_message(transfer.names().join(", "));
        if let Some((speed, left)) = transfer.pace() {
            let left = HumanDuration(Duration::from_secs_f64(left.min(1e9)));
            bar.set_prefix(format!("{}/s, {left} left", DecimalBytes(speed as u64)));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bar.finish_and_clear();
    match worker.join() {
        Ok(Ok(())) => {
            eprintln!("all of it is there: see `coz models list`");
            Ok(ExitCode::SUCCESS)
        }
        Ok(Err(hub::HubError::Cancelled)) => {
            eprintln!("stopped; what came from the hub is kept");
            Ok(interruption.exit_code())
        }
        Ok(Err(error)) => Err(UserError::from(error).into()),
        Err(_) => Err(UserError::new("Something broke inside", "the download ended", "Please report it.").into()),
    }
}

fn verify(parts: Vec<&'static ModelAsset>, delete: bool) -> anyhow::Result<ExitCode> {
    let mut repositories: Vec<_> = parts.iter().flat_map(|part| part.repositories()).copied().collect();
    repositories.sort();
    repositories.dedup();
    let (mut all, mut damaged): (usize, Vec<PathBuf>) = (0, Vec::new());
    for repository in repositories {
        let Some(store) = Store::of_user(repository) else { continue };
        let checked = store.verify(&mut |_| true).map_err(UserError::from)?;
        all += checked.len();
        damaged.extend(checked.into_iter().filter(|(_, is_whole)| !is_whole).map(|(file, _)| file));
    }
    let mut others = 0;
    for (file, checked) in parts.iter().filter_map(|part| part.check()) {
        all += 1;
        match checked {
            Ok(()) => {}
            Err(error @ hub::HubError::Write { .. }) => return Err(UserError::from(error).into()),
            Err(error) => {
                others += 1;
                println!("not as published: {error}");
                if delete {
                    // Unlike the cache's, it may be of the user's own making.
                    println!("kept, for it may be yours: remove {} to download it again", file.display());
                }
            }
        }
    }
    for file in &damaged {
        println!("damaged: {}", file.display());
        if delete {
            std::fs::remove_file(file)?;
        }
    }
    println!("{} of {all} downloaded files are as they should be", all - damaged.len() - others);
    Ok(if others == 0 && (damaged.is_empty() || delete) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
