//! `coz train vlm --dry_run`: prompts, completions and rewards of the first steps, and what a training takes.

use std::process::ExitCode;

use crate::base::{MemoryPlan, UserError, bytes_label, free_space, secs_label};
use crate::runtime::{accelerator, memory};
use crate::train::TrainError;
use crate::train::distributed::World;
use crate::train::vlm::checkpoint;
use crate::train::vlm::options::{Event, Options, Sample, Step};
use crate::train::vlm::pairs::Pairs;
use crate::train::vlm::trainer::train;

/// Rollouts, one where they take long.
const ROLLOUTS: usize = 2;
const LONG: f64 = 30.0;

/// Runs the command; what the steps write does not stay.
pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let failed = |error| UserError::from(TrainError::unwritten(&options.output, error));
    let folder = tempfile::tempdir().map_err(failed)?;
    let of_rollout = options.steps_of_rollout();
    let trial = Options {
        output: folder.path().to_owned(),
        steps: options.steps.min(ROLLOUTS * of_rollout),
        resume: None,
        tensorboard: None,
        validation: None,
        ..options.clone()
    };
    let pairs = Pairs::open(&options.pairs).map_err(UserError::from)?;
    let (count, held_out, side) = (pairs.len(), pairs.held_out_len(), options.pairs.side);
    println!("data     {count} pairs an epoch, {held_out} held out, {side} x {side}");
    println!("prompt   {}", options.message);
    let (mut steps, mut plan) = (Vec::<Step>::new(), MemoryPlan::Auto);
    let mut on_event = |event: Event| {
        match event {
            Event::Begins(_, found) => plan = found,
            Event::Samples(samples) => show(samples),
            Event::Step(step) => steps.push(*step),
            Event::Warning(warning) => eprintln!("{warning}"),
            _ => (),
        }
        steps.len() < of_rollout || steps.iter().all(|step| step.seconds[0] < LONG)
    };
    let (result, counted) = memory::peak_of(|| train(&trial, &mut World::alone(), &mut on_event));
    let made = result.map_err(UserError::from)?;
    // The first rollout warms up.
    let last = &steps[steps.len().saturating_sub(of_rollout)..];
    let mean = |of: fn(&Step) -> f64| last.iter().map(of).sum::<f64>() / last.len().max(1) as f64;
    let (seconds, sampling, rating) =
        (mean(|step| step.seconds[0]), mean(|step| step.seconds[1]), mean(|step| step.seconds[2]));
    println!(
        "time     {} a step, of that {} sampling and {} rating: {} steps take {}",
        secs_label(seconds),
        secs_label(sampling),
        secs_label(rating),
        options.steps,
        secs_label(seconds * options.steps as f64)
    );
    let peak = accelerator::memory(options.device).map_or(counted, |memory| memory.peak);
    println!("memory   {} in tensors at most, weights and all; plan {plan}", bytes_label(peak));
    let files = walkdir::WalkDir::new(checkpoint::folder(folder.path(), made)).into_iter().flatten();
    let bytes: u64 = files.filter_map(|file| Some(file.metadata().ok()?.len())).sum();
    let times = options.steps.div_ceil(options.checkpointing_steps);
    let times = times.min(options.checkpoints_total_limit.unwrap_or(usize::MAX));
    let free = free_space(&options.output).map(|free| format!("; {} are free", bytes_label(free))).unwrap_or_default();
    let all = bytes_label(bytes * times as u64);
    println!("files    {times} checkpoints of {}: {all}{free}", bytes_label(bytes));
    Ok(ExitCode::SUCCESS)
}

/// The completions of a group, each with its reward.
fn show(samples: &[Sample]) {
    let Some(first) = samples.first() else { return };
    println!("\n{}", first.file.display());
    for Sample { text, reward: [critic, phrase, repetition, total], .. } in samples {
        println!("  {total:.3} (critic {critic:.3}, phrase {phrase}, repetition {repetition:.3})  {text:?}");
    }
}
