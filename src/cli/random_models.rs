//! `coz random-models`: full-size or tiny models to measure and try with; `cargo xtask make-random-models` calls it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::base::UserError;
use crate::synthetic;
use crate::synthetic::Size;

#[derive(Args)]
pub(super) struct Arguments {
    /// Folder to be made
    folder: PathBuf,
    /// As large as the published models: 24 GB
    #[arg(long, conflicts_with = "tiny")]
    full: bool,
    /// A few MB (the default)
    #[arg(long)]
    tiny: bool,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let size = if arguments.full { Size::Full } else { Size::Tiny };
    synthetic::write(&arguments.folder, size, &mut |part| eprintln!("{part}")).map_err(|error| {
        UserError::new("The models could not be made", error.to_string(), "Name a new folder with enough room.")
    })?;
    println!("{}", arguments.folder.display());
    Ok(ExitCode::SUCCESS)
}
