//! `coz bench`: how long each part of a step of Chain-of-Zoom's own model takes, and what it needs in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use super::args::{BackboneArguments, PromptArguments};
use crate::base::{DeviceChoice, ENCODED, Progress, Stage, UserError};
use crate::imaging::{Filter, Picture, codec, resize};
use crate::pipelines::caption::{CaptionInput, Captioner};
use crate::pipelines::sr::StepInput;
use crate::pipelines::{PipelineError, caption, sr};
use crate::runtime::{device, memory};
use crate::{base, runtime};

#[derive(Args)]
#[command(
    after_help = "Prompts are extracted in each pass with --prompt-type, beside a picture's restoring or alone.\n\
    The first pass reads the weights; the others are measured, each with another prompt and seed.\n\
    `cargo xtask make-random-models DIR --full` makes models to measure with."
)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: BackboneArguments,
    #[command(flatten)]
    prompt: PromptArguments,
    /// Only extract prompts
    #[arg(long, alias = "words-only")]
    captioner_only: bool,
    /// The captioner is shown the parent state too
    #[arg(long, alias = "both-images")]
    include_parent: bool,
    /// Where models run: auto, cpu, cuda, cuda:NUMBER, or cuda:N,cuda:M for prompts and pictures
    #[arg(long, default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Picture to restore [default: a synthetic one]
    #[arg(short, long)]
    input: Option<PathBuf>,
    /// Side of the picture in pixels
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(16..=4096))]
    size: u32,
    /// Measured passes after the first
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=1000))]
    runs: u32,
    /// Keep the prompt, so that the text encoders run only once
    #[arg(long)]
    same_prompt: bool,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Figures {
    device: String,
    precision: String,
    memory: String,
    size: u32,
    /// Files opened, names and shapes compared.
    open_seconds: f64,
    /// The first pass, in which weights are read.
    first_seconds: f64,
    /// Medians over the measured passes, by stage.
    seconds: BTreeMap<&'static str, f64>,
    /// Tokens written in the last pass, where a model writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<usize>,
    /// Median of whole passes.
    pass_seconds: f64,
    /// Of the process.
    peak_memory: Option<u64>,
    /// Of tensors on the device that sees the picture; none on the processor.
    peak_device_memory: Option<u64>,
    /// Memory of the process after the first measured pass and after the last.
    memory_after: [Option<u64>; 2],
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let figures = measure(arguments)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} on {}, memory plan {}", figures.precision, figures.device, figures.memory);
    let line = |name: &str, seconds: f64| println!("{name:<24}{seconds:>9.3} s");
    line("open", figures.open_seconds);
    line("first pass", figures.first_seconds);
    for (name, seconds) in &figures.seconds {
        line(name, *seconds);
    }
    line("whole pass", figures.pass_seconds);
    let memory = |name: &str, bytes: Option<u64>| {
        if let Some(bytes) = bytes {
            println!("{name:<24}{:>9.2} GB", bytes as f64 / 1e9);
        }
    };
    memory("peak memory", figures.peak_memory);
    memory("on the device", figures.peak_device_memory);
    Ok(ExitCode::SUCCESS)
}

fn measure(arguments: &Arguments) -> Result<Figures, UserError> {
    let _no_grad = runtime::without_gradients();
    let size = arguments.size;
    let picture = match &arguments.input {
        Some(file) => resize(&codec::open(file)?, size, size, Filter::Bicubic),
        None => Picture::from_fn(size, size, |x, y| [x as u8, y as u8, (x ^ y) as u8]),
    };
    let start = Instant::now();
    let (device, plan, precision) = (arguments.device, arguments.model.memory(), arguments.model.precision());
    let mut captioner = caption::open(&arguments.prompt.prompt_source(precision)?, device)?;
    let captioner_bytes = captioner.as_ref().map_or(0, |captioner| captioner.bytes());
    let backbone = (!arguments.captioner_only).then(|| arguments.model.diffusion()).transpose()?;
    let mut resolver =
        backbone.as_ref().map(|backbone| sr::open(backbone, device, plan, captioner_bytes)).transpose()?;
    let plan = match resolver.as_ref().and_then(|resolver| resolver.plan()) {
        Some(plan) => plan,
        None => memory::plan_for_captioner(plan, captioner_bytes, device).map_err(PipelineError::from)?,
    };
    if let Some(captioner) = &mut captioner {
        captioner.set_plan(plan);
    }
    let open_seconds = start.elapsed().as_secs_f64();
    let mut tokens = None;
    let mut pass = |i: u32| -> Result<(BTreeMap<&'static str, f64>, f64), UserError> {
        let start = Instant::now();
        let enlarged = Arc::new(picture.clone());
        let mut spent = BTreeMap::new();
        let number = if arguments.same_prompt { 0 } else { i };
        let mut prompt = format!("fur, whiskers, an old fox in the snow, number {number}");
        if let Some(captioner) = &mut captioner {
            let input = CaptionInput {
                parent: Arc::new(picture.clone()),
                enlarged: enlarged.clone(),
                request: arguments.prompt.request(arguments.include_parent, 32),
            };
            if let Some(resolver) = &mut resolver {
                spent.extend(timed(|progress| resolver.prepare(&enlarged, progress))?);
                resolver.offload(captioner.bytes_to_load());
            }
            let (times, written) = captioned(&mut **captioner, &input)?;
            captioner.offload(resolver.as_ref().map_or(0, |resolver| resolver.bytes_to_load()));
            spent.extend(times);
            tokens = Some(written);
            prompt += &format!(", {number}");
        }
        if let Some(resolver) = &mut resolver {
            let input = StepInput { cut: enlarged.clone(), enlarged, prompt, seed: i.into() };
            for (stage, seconds) in timed(|progress| resolver.restore(&input, progress).map(drop))? {
                *spent.entry(stage).or_insert(0.0) += seconds;
            }
        }
        Ok((spent, start.elapsed().as_secs_f64()))
    };
    let (_, first_seconds) = pass(0)?;
    let mut passes = Vec::new();
    let mut memory_after = [None; 2];
    for i in 1..=arguments.runs {
        passes.push(pass(i)?);
        memory_after[usize::from(i > 1)] = base::memory::resident();
    }
    let stages: BTreeSet<&str> = passes.iter().flat_map(|(stages, _)| stages.keys().copied()).collect();
    let seconds = stages.into_iter().map(|stage| {
        let times = passes.iter().filter_map(|(stages, _)| stages.get(stage).copied());
        (stage, median(times.collect()))
    });
    let resolved = backbone.as_ref().map(|backbone| sr::resolved(backbone, device).precision);
    Ok(Figures {
        device: arguments.device.among(device::cuda_devices()),
        precision: resolved.unwrap_or(precision).to_string(),
        memory: plan.to_string(),
        size,
        open_seconds,
        first_seconds,
        seconds: seconds.collect(),
        tokens,
        pass_seconds: median(passes.iter().map(|(_, seconds)| *seconds).collect()),
        peak_memory: base::memory::peak_resident(),
        peak_device_memory: memory::on_device(device).map(|memory| memory.peak),
        memory_after,
    })
}

/// The time that work spends in each stage.
fn timed(
    work: impl FnOnce(&mut Progress) -> Result<(), PipelineError>,
) -> Result<BTreeMap<&'static str, f64>, UserError> {
    let mut spent = BTreeMap::new();
    let mut current = (Stage::Loading, Instant::now());
    let mut on_progress = |stage: Stage, _: f32| {
        let now = Instant::now();
        *spent.entry(current.0.name()).or_insert(0.0) += (now - current.1).as_secs_f64();
        current = (stage, now);
        true
    };
    work(&mut Progress::new(&mut on_progress))?;
    on_progress(Stage::Loading, 1.0);
    Ok(spent)
}

/// How long it took to write a prompt, by what was done, and how many tokens were written. Reading the question takes until the
/// first token is there; then the median of all others counts.
fn captioned(
    captioner: &mut dyn Captioner,
    input: &CaptionInput,
) -> Result<(BTreeMap<&'static str, f64>, usize), UserError> {
    let start = Instant::now();
    let (mut loading, mut reading) = (0.0, None);
    let mut since = start;
    let mut written = Vec::new();
    let mut on_progress = |stage: Stage, fraction: f32| {
        if stage == Stage::Loading {
            loading += since.elapsed().as_secs_f64();
        }
        since = Instant::now();
        if stage == Stage::Prompting && fraction >= ENCODED {
            reading.get_or_insert(since);
        }
        true
    };
    captioner.caption(input, &mut Progress::new(&mut on_progress), &mut |_| written.push(Instant::now()))?;
    let mut times = BTreeMap::from([("captioning", start.elapsed().as_secs_f64())]);
    if let (Some(reading), [first, ..]) = (reading, &written[..]) {
        times.insert("captioning: images", (reading - start).as_secs_f64() - loading);
        times.insert("captioning: prefill", (*first - reading).as_secs_f64());
        let tokens = written.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        times.insert("captioning: a token", median(tokens));
    }
    Ok((times, written.len()))
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(0.0)
}
