//! How results are written.

use clap::Args;

use crate::imaging::Format;
use crate::imaging::formats::{QUALITY, written_endings};

/// The options.
#[derive(Args)]
pub(in crate::cli) struct ResultArguments {
    /// Format of the results: png, jpg, webp (without loss) or tif
    #[arg(long, value_name = "ENDING", default_value = "png", value_parser = format)]
    pub format: Format,
    /// Quality of JPEG, 1 to 100
    #[arg(long, default_value_t = QUALITY, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub quality: u8,
}

fn format(ending: &str) -> Result<Format, String> {
    let found = Format::named(ending.trim_start_matches('.'));
    found.ok_or_else(|| format!("expected {}, found {ending:?}", written_endings()))
}
