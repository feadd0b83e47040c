//! How pictures are opened.

use clap::{Args, ValueEnum};

use crate::imaging::codec::{Alpha, Opening};

/// What becomes of transparency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AlphaArgument {
    /// All is laid over the background
    Blend,
    /// Colours stay as they are in the file, also where they cannot be seen, as in the reference
    Drop,
}

/// The options.
#[derive(Args)]
pub(in crate::cli) struct OpeningArguments {
    /// What becomes of transparency
    #[arg(long, value_enum, default_value = "blend")]
    alpha: AlphaArgument,
    /// What transparent pictures are laid over: white, black, grey, or RRGGBB in hexadecimal
    #[arg(long, value_name = "COLOUR", default_value = "white", value_parser = colour)]
    background: [u8; 3],
    /// Take what is there of pictures that are cut short; without, they fail
    #[arg(long)]
    allow_truncated: bool,
    /// Say in the results where the photo was taken, where its camera has written it
    #[arg(long)]
    keep_location: bool,
}

impl OpeningArguments {
    /// As they say.
    pub(in crate::cli) fn opening(&self) -> Opening {
        let alpha = match self.alpha {
            AlphaArgument::Blend => Alpha::Blend(self.background),
            AlphaArgument::Drop => Alpha::Drop,
        };
        let (allow_truncated, keep_location) = (self.allow_truncated, self.keep_location);
        Opening { alpha, allow_truncated, keep_location, ..Opening::default() }
    }
}

fn colour(text: &str) -> Result<[u8; 3], String> {
    match text {
        "white" => return Ok([255; 3]),
        "black" => return Ok([0; 3]),
        "grey" | "gray" => return Ok([128; 3]),
        _ => {}
    }
    let bytes = hex::decode(text.trim_start_matches('#')).ok().and_then(|bytes| <[u8; 3]>::try_from(bytes).ok());
    bytes.ok_or_else(|| format!("expected white, black, grey or a colour such as ff8800, found {text:?}"))
}
