//! `coz train sr --dry_run`: what a training takes, by its first steps.

use std::process::ExitCode;

use walkdir::WalkDir;

use crate::base::{UserError, bytes_label, free_space, secs_label};
use crate::pipelines::caption::tags::Tagger;
use crate::runtime::{accelerator, memory};
use crate::train::TrainError;
use crate::train::sr::data::Dataset;
use crate::train::sr::model::Model;
use crate::train::sr::state;
use crate::train::sr::trainer::{Event, Options, train};

/// Steps, fewer where they take long: the first one warms up.
const STEPS: usize = 3;
const LONG: f64 = 10.0;

/// Runs the command; what the steps write does not stay.
pub(super) fn run(options: &Options, tagger: Option<Tagger>) -> anyhow::Result<ExitCode> {
    let failed = |error| UserError::from(TrainError::unwritten(&options.output, error));
    let folder = tempfile::tempdir().map_err(failed)?;
    let trial = Options {
        output: folder.path().to_owned(),
        steps: options.steps.min(STEPS),
        checkpointing_steps: STEPS + 1,
        ..options.clone()
    };
    let items = Dataset::open(&options.lists, options.resolution).map_err(UserError::from)?.len();
    let images = options.batch * options.accumulation;
    let (steps, resolution) = (options.steps, options.resolution);
    println!(
        "data     {items} items an epoch, {resolution} x {resolution}; {steps} steps are {:.1} epochs",
        (steps * images) as f64 / items as f64
    );
    let mut seconds: f64 = 0.0;
    let mut on_event = |event: Event| {
        if let Event::Step(step) = event {
            seconds = step.seconds;
        }
        seconds < LONG
    };
    let (result, counted) = memory::peak_of(|| train(&trial, tagger, &mut on_event));
    let made = result.map_err(UserError::from)?;
    println!(
        "time     {} a step of {images} images: {steps} steps take {}",
        secs_label(seconds),
        secs_label(seconds * steps as f64)
    );
    let peak = accelerator::memory(options.device).map_or(counted, |memory| memory.peak);
    println!("memory   {} at most in tensors, weights and all", bytes_label(peak));
    let files = WalkDir::new(folder.path().join(state::FOLDER)).into_iter();
    let files = files.chain(Model::files(folder.path(), made).into_iter().flat_map(WalkDir::new));
    let bytes: u64 = files.flatten().filter_map(|entry| Some(entry.metadata().ok()?.len())).sum();
    let times = steps.div_ceil(options.checkpointing_steps).min(options.checkpoints_total_limit.unwrap_or(usize::MAX));
    let free = free_space(&options.output).map(|free| format!(", and {} are free", bytes_label(free)));
    let all = bytes_label(bytes * times as u64);
    println!("files    {} {times} times: {all}{}", bytes_label(bytes), free.unwrap_or_default());
    Ok(ExitCode::SUCCESS)
}
