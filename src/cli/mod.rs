//! The command line: the viewer's door, and headless commands on the same engine.

mod args;
mod batch;
mod bench;
mod chain;
mod doctor;
mod evaluate;
mod export;
mod full;
mod inputs;
mod interruption;
mod lock;
mod measure;
mod models;
mod random_models;
mod replay;
mod run_record;
mod selftest;
mod shard;
mod train;
mod zoom;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use run_record::RunOptions;

use crate::base::{BACKBONES, Backbone, BackboneSpec, DeviceChoice, FILE, log};
use crate::hub;
use crate::runtime::log_warnings;

/// Zoom into a photo, x4 and x4 again, with a super-resolution model at every step.
#[derive(Parser)]
#[command(name = "coz", version, args_conflicts_with_subcommands = true, max_term_width = 100)]
#[command(after_help = "Examples:\n  coz photo.jpg                              open the viewer on a photo\n  \
    coz zoom -i photo.jpg -o out               four centred x4 steps: 256x, as the reference does\n  \
    coz zoom -i photos -o out --rec-num 3 --align-method wavelet --json\n  \
    coz full -i photo.jpg -o out               the full image x4\n  \
    coz evaluate out                           how good it is, by NIQE and other metrics\n  \
    coz export --video -i out/per-sample/photo -o film.mp4\n  \
    coz replay session.coz                     does it come out the same?\n  \
    coz models list                            what there is to download, and what is there\n  \
    coz selftest                               does this machine compute what it should?\n  \
    coz doctor                                 what a bug report needs")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Picture or session to open in the viewer; further ones wait in its menu
    images: Vec<PathBuf>,
    /// Where models run: auto, cpu, cuda or cuda:NUMBER (viewer: for this start only)
    #[arg(long)]
    device: Option<DeviceChoice>,
    /// Windows that broke before this one; the program tells it to itself
    #[arg(long, hide = true, default_value_t = 0)]
    restarts: u32,
}

#[derive(Subcommand)]
enum Command {
    /// Run a chain of zoom steps on pictures, without a window
    Zoom(Box<zoom::Arguments>),
    /// Enlarge full images, tile by tile, without a window
    Full(Box<full::Arguments>),
    /// Judge results by the paper's metrics, at every scale
    Evaluate(Box<evaluate::Arguments>),
    /// Put the pictures of a chain on a strip or a contact sheet, or make a film of it
    Export(export::Arguments),
    /// Make a session's states again and say whether they are the same
    Replay(replay::Arguments),
    /// List, download and verify the models
    Models(models::Arguments),
    /// Print what a bug report needs: versions, devices, folders, models
    Doctor,
    /// Test whether this machine computes what it should, with tiny models
    Selftest(selftest::Arguments),
    /// Measure Chain-of-Zoom's own model: time of each part, peak memory
    Bench(bench::Arguments),
    /// Write random models in the layouts of the published ones, to measure and try with
    RandomModels(random_models::Arguments),
    /// Train models: the LoRAs of Chain-of-Zoom's own, the network inside the program
    Train(Box<train::Arguments>),
    /// Measure a model against bicubic on pictures: x4, luma PSNR
    Measure(measure::Arguments),
}

/// Runs the program; problems go to the terminal in words.
pub fn main() -> ExitCode {
    // SAFETY: this is the program's first act; no other thread runs yet.
    unsafe {
        crate::runtime::allocator::use_large_pages();
        crate::runtime::trace::silence_profiler();
        silence_mesa();
    }
    let mut all = Arguments::command();
    let given = match train::expanded(std::env::args_os().collect()) {
        Ok(given) => given,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let matches = all.clone().get_matches_from(given);
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let options = matches.subcommand().map(|(name, matches)| {
        all.build();
        RunOptions::of(all.find_subcommand(name).unwrap_or(&all), matches)
    });
    // Without it everything works; `coz doctor` tells where it should be.
    _ = log::start();
    tracing::info!("coz {}, process {}", env!("CARGO_PKG_VERSION"), std::process::id());
    log_warnings();
    #[cfg(unix)]
    if arguments.command.is_some() {
        // A reader that has seen enough (`coz … | head`) ends the command quietly, as with any other tool.
        // SAFETY: the usual handling of a signal is put back.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    }
    if arguments.command.is_some() {
        // In the window the engine does this, so that nobody waits for it.
        crate::runtime::accelerator::cuda_support();
    }
    let outcome = match arguments.command {
        None => crate::viewer::run(arguments.images, arguments.device, arguments.restarts).map(|()| ExitCode::SUCCESS),
        Some(Command::Zoom(zoom)) => zoom::run(&zoom, &options.unwrap_or_default()),
        Some(Command::Full(full)) => full::run(&full, &options.unwrap_or_default()),
        Some(Command::Evaluate(evaluate)) => evaluate::run(&evaluate),
        Some(Command::Export(export)) => export::run(&export),
        Some(Command::Replay(replay)) => replay::run(&replay),
        Some(Command::Models(models)) => models::run(&models),
        Some(Command::Doctor) => doctor::run(),
        Some(Command::Selftest(selftest)) => selftest::run(&selftest),
        Some(Command::Bench(bench)) => bench::run(&bench),
        Some(Command::RandomModels(random)) => random_models::run(&random),
        Some(Command::Train(train)) => train::run(&train),
        Some(Command::Measure(measure)) => measure::run(&measure),
    };
    outcome.unwrap_or_else(|error| {
        tracing::error!("{error:#}");
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Graphics drivers look for a Wayland display, and without a folder for its socket say so on the terminal, once for each
/// thing asked of them. In this one there is none, and nothing to be said.
///
/// # Safety
/// No other thread runs yet.
unsafe fn silence_mesa() {
    const FOLDER: &str = "XDG_RUNTIME_DIR";
    if cfg!(target_os = "linux") && std::env::var_os(FOLDER).is_none() {
        // SAFETY: see above.
        unsafe { std::env::set_var(FOLDER, "/dev/null") };
    }
}

/// `auto`, `realesrgan`, a model by its id, a model file, or the name of one in the folder of models.
fn backbone(text: &str) -> Result<Backbone, String> {
    if let Some(spec) = BackboneSpec::named(text).filter(|spec| spec.files.is_empty()) {
        return Ok(spec.into());
    }
    Ok(match text {
        "auto" => hub::backbones(&hub::ModelPaths::of_user()).swap_remove(0),
        "realesrgan" => {
            let missing = "Real-ESRGAN is not on this machine: get it with `coz models download realesrgan`";
            Backbone::file(hub::realesrgan().ok_or(missing)?)
        }
        "" => {
            let ids = BACKBONES.map(|spec| spec.id).into_iter().filter(|id| *id != FILE.id);
            return Err(format!("expected auto, realesrgan, {} or a model file", ids.collect::<Vec<_>>().join(", ")));
        }
        file if Path::new(file).exists() => Backbone::file(file),
        name => Backbone::file(hub::model_file(name).unwrap_or_else(|| name.into())),
    })
}
