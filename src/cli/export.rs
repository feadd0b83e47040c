//! `coz export`: pictures side by side, or a film.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use indicatif::{ProgressBar, ProgressStyle};

use super::chain;
use super::inputs::pictures_in;
use crate::base::{Recipe, UserError};
use crate::document;
use crate::document::export::tree::state_file;
use crate::document::export::{EXPORTERS, Layout};
use crate::document::provenance;
use crate::imaging::{Picture, codec};
use crate::scene::film;

/// Options of `coz export`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  coz zoom -i photo.jpg -o out && coz export -i out/per-sample/photo -o strip.png\n  \
    coz export --video -i session.coz -o film.mp4 --size 1080x1920 --caption"
)]
pub(super) struct Arguments {
    /// A session (.coz), a sample folder of `coz zoom` (its states 0.png, 1.png, ...), any other folder of pictures, or
    /// pictures in order
    #[arg(short, long, required = true, num_args = 1..)]
    input: Vec<PathBuf>,
    /// File to write: .png, .jpg or .webp; a film: .mp4 or .gif
    #[arg(short, long)]
    output: PathBuf,
    /// How the pictures are laid out
    #[arg(long, value_parser = layout(), default_value = "strip")]
    layout: Layout,
    /// Height of the strip, or side of the sheet's cells, in pixels [default: 512]; size of a film [default: 1920x1080]
    #[arg(long)]
    size: Option<String>,
    /// Make a film: one move from the whole photo into the last state; .mp4 and .gif say so too
    #[arg(long)]
    video: bool,
    #[command(flatten)]
    film: FilmArguments,
}

#[derive(Args)]
#[command(next_help_heading = "Films")]
struct FilmArguments {
    /// State to zoom into, by its number in the session [default: the one at hand]
    #[arg(long)]
    state: Option<usize>,
    /// Frames a second
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=120))]
    fps: u32,
    /// How long an enlargement by 4 takes
    #[arg(long, value_name = "SECONDS", default_value_t = 2.5, value_parser = |text: &str| seconds(text, 0.05))]
    seconds_per_4x: f64,
    /// Rest at each state
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, value_parser = |text: &str| seconds(text, 0.0))]
    hold: f64,
    /// Rest at the photo and at the last state
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = |text: &str| seconds(text, 0.0))]
    hold_end: f64,
    /// Start and stop at once
    #[arg(long)]
    no_easing: bool,
    /// From the last state out to the photo
    #[arg(long)]
    reverse: bool,
    /// Write magnification and prompt into the picture
    #[arg(long)]
    caption: bool,
}

fn seconds(text: &str, least: f64) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (least..=MOST_SECONDS).contains(seconds));
    seconds.ok_or_else(|| format!("expected a number from {least} to {MOST_SECONDS}, found {text:?}"))
}

/// Nobody waits longer.
const MOST_SECONDS: f64 = 600.0;

/// The exporters that put several pictures into one, by their ids.
fn layout() -> impl TypedValueParser<Value = Layout> {
    let all = || EXPORTERS.into_iter().filter_map(|exporter| Some((exporter, exporter.layout?)));
    let values = all().map(|(exporter, _)| PossibleValue::new(exporter.id).help(exporter.label));
    PossibleValuesParser::new(values).try_map(move |id| {
        let found = all().find(|(exporter, _)| exporter.id == id).map(|(_, layout)| layout);
        found.ok_or_else(|| format!("there is no layout {id:?}"))
    })
}

fn wrong_size(text: &str, expected: &str) -> UserError {
    UserError::new("The size is not clear", format!("expected {expected}, found {text:?}"), "See `coz export --help`.")
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.video || film::is_film(&arguments.output) {
        return film(arguments);
    }
    let size = arguments.size.as_deref().unwrap_or("512");
    let size = size.parse().ok().filter(|size| (16..=4096).contains(size));
    let size = size.ok_or_else(|| wrong_size(arguments.size.as_deref().unwrap_or_default(), "16 to 4096 pixels"))?;
    let (pictures, recipe) = pictures(&arguments.input)?;
    let laid_out = (arguments.layout)(&pictures, size);
    let metadata = recipe.as_ref().map(provenance::metadata).unwrap_or_default();
    codec::save_with(&laid_out, &arguments.output, &metadata).map_err(UserError::from)?;
    eprintln!("{} pictures on {}", pictures.len(), arguments.output.display());
    Ok(ExitCode::SUCCESS)
}

/// The pictures, and how the last of them that tells it was made.
fn pictures(inputs: &[PathBuf]) -> Result<(Vec<std::sync::Arc<Picture>>, Option<Recipe>), UserError> {
    let (mut pictures, mut recipe) = (Vec::new(), None);
    for input in inputs {
        if chain::is_session(input) {
            let history = chain::open(input)?.history;
            let chain = history.chain(history.current().id);
            for state in &chain {
                pictures.push(state.picture.load()?);
            }
            recipe = Some(document::recipe(history.source(), &chain));
            continue;
        }
        let states: Vec<PathBuf> = (0..).map_while(|i| state_file(input, i)).collect();
        for file in if states.is_empty() { pictures_in(input)? } else { states } {
            pictures.push(codec::open(&file)?.into());
            recipe = chain::recipe_of(&file).or(recipe);
        }
    }
    Ok((pictures, recipe))
}

fn film(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let [input] = arguments.input.as_slice() else {
        let details = "a film is made of one session or one sample folder";
        return Err(UserError::new("There are too many inputs", details, "Name one .coz file or one folder.").into());
    };
    let history = chain::open(input)?.history;
    let state = match arguments.film.state {
        None => history.current().id,
        Some(number) => {
            let outline = history.outline();
            let found = outline.get(number).map(|(_, state)| state.id);
            found.ok_or_else(|| {
                let details = format!("the session has the states 0 to {}, not {number}", outline.len() - 1);
                UserError::new("There is no such state", details, "`coz replay` lists the states.")
            })?
        }
    };
    let options = options(arguments)?;
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} frames, {per_sec}, {eta} left") {
        bar.set_style(style);
    }
    let start = std::time::Instant::now();
    let written = shoot(&history.branch(state), &options, &arguments.output, &bar)?;
    let seconds = start.elapsed().as_secs_f64();
    eprintln!(
        "{} frames, {:.1} s of film in {seconds:.1} s ({:.1} frames a second): {}",
        written.frames,
        written.seconds,
        f64::from(written.frames) / seconds,
        arguments.output.display()
    );
    Ok(ExitCode::SUCCESS)
}

fn shoot(
    branch: &crate::document::History,
    options: &film::Options,
    file: &Path,
    bar: &ProgressBar,
) -> Result<film::Written, UserError> {
    let stopped = super::interruption::Interruption::watch();
    let written = film::make(branch, options, file, &mut |done, all| {
        bar.set_length(all.into());
        bar.set_position(done.into());
        !stopped.is_requested()
    });
    bar.finish_and_clear();
    Ok(written?)
}

fn options(arguments: &Arguments) -> Result<film::Options, UserError> {
    let FilmArguments { fps, seconds_per_4x, hold, hold_end, no_easing, reverse, caption, .. } = arguments.film;
    let size = arguments.size.as_deref().unwrap_or("1920x1080");
    let sides: Vec<u32> = size.split(['x', 'X']).filter_map(|side| side.trim().parse().ok()).collect();
    let &[width, height] = sides.as_slice() else { return Err(wrong_size(size, "WIDTHxHEIGHT")) };
    Ok(film::Options { width, height, fps, seconds_per_4x, easing: !no_easing, hold, hold_end, reverse, caption }
        .clamped())
}
