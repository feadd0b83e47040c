//! `coz train sr --dry_run`: what a training takes, by its first steps.

use std::process::ExitCode;

use crate::base::{MemoryPlan, UserError, bytes_label, free_space, secs_label};
use crate::pipelines::caption::tags::Tagger;
use crate::runtime::{accelerator, memory};
use crate::train::TrainError;
use crate::train::distributed::World;
use crate::train::sr::data::Dataset;
use crate::train::sr::options::{Event, Options, Step};
use crate::train::sr::state;
use crate::train::sr::trainer::train;

/// Steps, two where they take long.
const STEPS: usize = 3;
const LONG: f64 = 10.0;

/// Runs the command; what the steps write does not stay.
pub(super) fn run(options: &Options, tagger: Option<Tagger>) -> anyhow::Result<ExitCode> {
    let failed = |error| UserError::from(TrainError::unwritten(&options.output, error));
    let folder = tempfile::tempdir().map_err(failed)?;
    let trial = Options {
        output: folder.path().to_owned(),
        steps: options.steps.min(STEPS),
        resume: None,
        tensorboard: None,
        ..options.clone()
    };
    let items = Dataset::open(&options.lists).map_err(UserError::from)?.len();
    let images = options.batch * options.accumulation;
    let (steps, side) = (options.steps, options.lists.side);
    let epochs = (steps * images) as f64 / items as f64;
    println!("data     {items} items an epoch, {side} x {side}; {steps} steps are {epochs:.1} epochs");
    let (mut all_steps, mut memory_plan) = (Vec::new(), MemoryPlan::Auto);
    let mut on_event = |event: Event| {
        match event {
            Event::Step(step) => all_steps.push(*step),
            Event::Begins(_, plan) => memory_plan = plan,
            _ => (),
        }
        all_steps.len() < 2 || all_steps.iter().all(|step| step.seconds < LONG)
    };
    let has_tagger = tagger.is_some();
    let (result, counted) = memory::peak_of(|| train(&trial, &mut World::alone(), tagger, &mut on_event));
    let made = result.map_err(UserError::from)?;
    // The first step warms up. Where prompts are made ahead, those of all steps are made in it.
    let prompts = |step: &Step| step.prompt_seconds;
    let last = all_steps.last().map_or(0.0, |step| step.seconds - step.prompt_seconds);
    let of_prompts = match has_tagger && memory_plan != MemoryPlan::Resident {
        true => all_steps.iter().map(prompts).sum::<f64>() / all_steps.len().max(1) as f64,
        false => all_steps.last().map_or(0.0, prompts),
    };
    let seconds = last + of_prompts;
    let all = secs_label(seconds * steps as f64);
    println!("time     {} a step of {images} images: {steps} steps take {all}", secs_label(seconds));
    let peak = accelerator::memory(options.device).map_or(counted, |memory| memory.peak);
    println!("memory   {} in tensors at most, weights and all; plan {memory_plan}", bytes_label(peak));
    let files = state::files(folder.path(), made);
    let bytes: u64 = files.iter().filter_map(|file| Some(file.metadata().ok()?.len())).sum();
    let is_last_saved = steps % options.checkpointing_steps == 1 % options.checkpointing_steps;
    let times = steps.div_ceil(options.checkpointing_steps) + usize::from(!is_last_saved);
    let times = times.min(options.checkpoints_total_limit.unwrap_or(usize::MAX));
    let free = free_space(&options.output).map(|free| format!("; {} are free", bytes_label(free))).unwrap_or_default();
    let all = bytes_label(bytes * times as u64);
    println!("files    {times} checkpoints of {}: {all}{free}", bytes_label(bytes));
    Ok(ExitCode::SUCCESS)
}
