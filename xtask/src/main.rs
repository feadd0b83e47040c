//! The two commands a newcomer needs, `cargo xtask run` and `cargo xtask test`, and what they are made of.

mod check;
mod dist;
mod imports;
mod libtorch;
mod measure;
mod packages;
mod screen;
mod show;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};

const USAGE: &str = "\
cargo xtask run [IMAGE]   set up what is missing, build, open the viewer
cargo xtask test          set up what is missing, check, run all tests
cargo xtask check         formatting, lints, layers, documentation
cargo xtask setup         libtorch, system packages, the program and the Real-ESRGAN models, once per machine
cargo xtask bench         measure resizing, canvas and one step
cargo xtask measure       measure the viewer on a virtual screen: start, memory, rest, films
cargo xtask make-random-models DIR [--full|--tiny]
                          models of the published layouts without their weights, to measure and try with
cargo xtask dist          archives to install from: program, launcher, menu entry, icon; one with libtorch and models
cargo xtask show PHOTO    make the README's pictures and a film from a photo";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = arguments.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    let outcome = match command {
        "setup" => set_up(packages::WINDOW).and_then(|()| release()).map(|()| models()),
        "run" => set_up(packages::WINDOW)
            .and_then(|()| release())
            .map(|()| models())
            .and_then(|()| cargo(&["run", "--release", "--bin", "coz", "--"], rest)),
        "bench" => set_up(packages::BUILD).and_then(|()| cargo(&["bench"], rest)),
        "make-random-models" => set_up(packages::BUILD)
            .and_then(|()| release())
            .and_then(|()| cargo(&["run", "--quiet", "--release", "--bin", "coz", "--", "random-models"], rest)),
        "measure" => set_up(packages::TEST).and_then(|()| release()).and_then(|()| measure::all(&root())),
        "show" if rest.len() == 1 => {
            set_up(packages::TEST).and_then(|()| release()).and_then(|()| show::all(&root(), Path::new(&rest[0])))
        }
        "dist" => set_up(packages::BUILD).and_then(|()| dist::all(&root())),
        "check" => set_up(packages::BUILD).and_then(|()| check::all(&root())),
        "test" => set_up(packages::TEST)
            .and_then(|()| check::all(&root()))
            .and_then(|()| cargo(&["test", "--quiet", "--package", "xtask"], &[]))
            .and_then(|()| cargo(&["test"], rest)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn set_up(packages: &[&str]) -> anyhow::Result<()> {
    packages::ensure(packages)?;
    libtorch::ensure(&root())
}

/// The repository: cargo tells where the package lies now, which need not be where it was compiled.
fn root() -> PathBuf {
    let package =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.parent().unwrap_or(Path::new(".")).to_owned()
}

fn release() -> anyhow::Result<()> {
    cargo(&["build", "--release", "--bin", "coz"], &[])
}

/// Gets the Real-ESRGAN models, unless they are here; without them the built-in network does.
fn models() {
    let download =
        ["run", "--quiet", "--release", "--bin", "coz", "--", "models", "download", "realesrgan", "--tries", "1"];
    if let Err(error) = cargo(&download, &[]) {
        eprintln!("Going on without the Real-ESRGAN models, with the built-in network: {error:#}");
    }
}

fn cargo(arguments: &[&str], rest: &[String]) -> anyhow::Result<()> {
    run(Command::new(env!("CARGO")).args(arguments).args(rest))
}

/// Runs a command to its end, its output visible; an error where it fails.
fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}
