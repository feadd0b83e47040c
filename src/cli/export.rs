//! `coz export`: pictures side by side.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::pictures_in;
use crate::export::{sheet, strip};
use crate::image::{Picture, codec};
use crate::problem::Problem;

/// Options of `coz export`.
#[derive(Args)]
#[command(after_help = "Example:\n  coz zoom -i photo.jpg -o out && coz export -i out/per-sample/photo -o strip.png")]
pub struct Arguments {
    /// A sample folder of `coz zoom` (its states 0.png, 1.png, ...), any other folder of pictures, or pictures in order
    #[arg(short, long, required = true, num_args = 1..)]
    input: Vec<PathBuf>,
    /// File to write: .png, .jpg or .webp
    #[arg(short, long)]
    output: PathBuf,
    /// How the pictures are laid out
    #[arg(long, value_enum, default_value_t = Layout::Strip)]
    layout: Layout,
    /// Height of the strip, or side of the sheet's cells, in pixels
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(16..=4096))]
    size: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Layout {
    /// Side by side
    Strip,
    /// In a grid
    Sheet,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut files = Vec::new();
    for input in &arguments.input {
        let states: Vec<PathBuf> =
            (0..).map(|i| input.join(format!("{i}.png"))).take_while(|file| file.is_file()).collect();
        files.extend(if states.is_empty() { pictures_in(input)? } else { states });
    }
    let pictures = files.iter().map(|file| codec::open(file)).collect::<Result<Vec<_>, _>>().map_err(Problem::from)?;
    let pictures: Vec<&Picture> = pictures.iter().collect();
    let laid_out = match arguments.layout {
        Layout::Strip => strip::strip(&pictures, arguments.size),
        Layout::Sheet => sheet::sheet(&pictures, arguments.size),
    };
    codec::save(&laid_out, &arguments.output).map_err(Problem::from)?;
    eprintln!("{} pictures on {}", pictures.len(), arguments.output.display());
    Ok(ExitCode::SUCCESS)
}
