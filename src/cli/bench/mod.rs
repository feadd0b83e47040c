//! `coz bench`: how long each part of a step of Chain-of-Zoom's own model takes, and what it needs in memory.

mod clock;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use clock::{Clock, Seconds, Spread, TOKEN};
use serde::Serialize;

use super::args::{BackboneArguments, PromptArguments};
use crate::base::{DeviceChoice, UserError};
use crate::imaging::{Filter, Picture, codec, resize};
use crate::pipelines::caption::CaptionInput;
use crate::pipelines::sr::StepInput;
use crate::pipelines::{PipelineError, caption, sr};
use crate::runtime::trace::TraceError;
use crate::runtime::{accelerator, device, memory, trace};
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
    /// Record one more pass, operator by operator, for chrome://tracing or ui.perfetto.dev
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

/// Of the times of a pass: the whole of it.
const PASS: &str = "whole pass";

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
    seconds: Seconds,
    /// How they vary; `captioning: a token` over all tokens.
    spread: BTreeMap<&'static str, Spread>,
    /// Tokens written in the last pass, where a model writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<usize>,
    /// Median of whole passes.
    pass_seconds: f64,
    /// Of the process.
    peak_memory: Option<u64>,
    /// Of tensors on the device that sees the picture; none on the processor.
    peak_device_memory: Option<u64>,
    /// The most that libtorch has taken there, used or kept for later tensors.
    reserved_device_memory: Option<u64>,
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
    if let Some(tokens) = figures.spread.get(TOKEN) {
        line("slowest token", tokens.max);
    }
    let memory = |name: &str, bytes: Option<u64>| {
        if let Some(bytes) = bytes {
            println!("{name:<24}{:>9.2} GB", bytes as f64 / 1e9);
        }
    };
    memory("peak memory", figures.peak_memory);
    memory("on the device", figures.peak_device_memory);
    memory("reserved there", figures.reserved_device_memory);
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
    let prompt_source = arguments.prompt.prompt_source(precision, arguments.include_parent)?;
    let mut captioner = caption::open(&prompt_source, device)?;
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
    let devices = device::resolve(device).map_err(PipelineError::from)?;
    let clock = Clock(devices);
    let mut tokens = Vec::new();
    let mut pass = |i: u32| -> Result<Seconds, PipelineError> {
        let start = clock.now()?;
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
                spent.extend(clock.stages(|progress| resolver.prepare(&enlarged, progress))?);
                resolver.offload(captioner.bytes_to_load());
            }
            let (times, each) = clock.captioning(&mut **captioner, &input)?;
            captioner.offload(resolver.as_ref().map_or(0, |resolver| resolver.bytes_to_load((size, size))));
            spent.extend(times);
            tokens.push(each);
            prompt += &format!(", {number}");
        }
        if let Some(resolver) = &mut resolver {
            let input = StepInput { cut: enlarged.clone(), enlarged, prompt, seed: i.into() };
            for (stage, seconds) in clock.stages(|progress| resolver.restore(&input, progress).map(drop))? {
                *spent.entry(stage).or_insert(0.0) += seconds;
            }
        }
        spent.insert(PASS, (clock.now()? - start).as_secs_f64());
        Ok(spent)
    };
    let first_seconds = pass(0)?[PASS];
    let mut passes = Vec::new();
    let mut memory_after = [None; 2];
    for i in 1..=arguments.runs {
        passes.push(pass(i)?);
        memory_after[usize::from(i > 1)] = base::memory::resident();
    }
    let peaks = (base::memory::peak_resident(), accelerator::memory(devices.picture));
    if let Some(file) = &arguments.trace {
        let failed = |error: TraceError| {
            let hint = "Choose another file for --trace, or measure without it.";
            UserError::new("The timeline could not be recorded", error.to_string(), hint)
        };
        trace::recorded(file, devices.picture, || pass(arguments.runs + 1)).map_err(failed)??;
    }
    let mut times = BTreeMap::<&'static str, Vec<f64>>::new();
    for (stage, seconds) in passes.into_iter().flatten() {
        times.entry(stage).or_default().push(seconds);
    }
    let mut spread: BTreeMap<_, _> = times.into_iter().map(|(stage, times)| (stage, Spread::of(times))).collect();
    let pass_seconds = spread.get(PASS).map_or(0.0, |pass| pass.median);
    let medians = spread.iter().filter(|(stage, _)| **stage != PASS);
    let seconds = medians.map(|(stage, spread)| (*stage, spread.median)).collect();
    let measured = tokens.get(1..=arguments.runs as usize).unwrap_or_default();
    let each = measured.concat();
    if !each.is_empty() {
        spread.insert(TOKEN, Spread::of(each));
    }
    let resolved = backbone.as_ref().map(|backbone| sr::resolved(backbone, device).precision);
    Ok(Figures {
        device: arguments.device.among(&device::usable_devices()),
        precision: resolved.unwrap_or(precision).to_string(),
        memory: plan.to_string(),
        size,
        open_seconds,
        first_seconds,
        seconds,
        spread,
        tokens: measured.last().filter(|tokens| !tokens.is_empty()).map(|tokens| tokens.len() + 1),
        pass_seconds,
        peak_memory: peaks.0,
        peak_device_memory: peaks.1.map(|memory| memory.peak),
        reserved_device_memory: peaks.1.map(|memory| memory.reserved_peak),
        memory_after,
    })
}
