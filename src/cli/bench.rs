//! `coz bench`: how long each part of a step of Chain-of-Zoom's own model takes, and what it needs in memory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use super::sd3::Sd3Arguments;
use crate::image::{Filter, Picture, codec, resize};
use crate::problem::Problem;
use crate::step::{self, Backbone, DeviceChoice, Progress, Stage, StepInput, SuperResolver};

#[derive(Args)]
#[command(
    after_help = "The first pass reads the weights; the others are measured, each with another prompt and seed.\n\
    `cargo xtask make-random-models DIR --full` makes models to measure with."
)]
pub struct Arguments {
    #[command(flatten)]
    sd3: Sd3Arguments,
    /// Where models run: auto, cpu, cuda, cuda:NUMBER, or cuda:N,cuda:M for words and pictures
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
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let figures = measure(arguments)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} on {}, memory plan {}", figures.precision, figures.device, figures.memory);
    let line = |name: &str, seconds: f64| println!("{name:<18}{seconds:>9.3} s");
    line("open", figures.open_seconds);
    line("first pass", figures.first_seconds);
    for (name, seconds) in &figures.seconds {
        line(name, *seconds);
    }
    line("whole pass", figures.pass_seconds);
    let memory = |name: &str, bytes: Option<u64>| {
        if let Some(bytes) = bytes {
            println!("{name:<18}{:>9.2} GB", bytes as f64 / 1e9);
        }
    };
    memory("peak memory", figures.peak_memory);
    memory("on the device", figures.peak_device_memory);
    Ok(ExitCode::SUCCESS)
}

fn measure(arguments: &Arguments) -> Result<Figures, Problem> {
    let _no_grad = step::without_gradients();
    let size = arguments.size;
    let picture = match &arguments.input {
        Some(file) => resize(&codec::open(file)?, size, size, Filter::Bicubic),
        None => Picture::from_fn(size, size, |x, y| [x as u8, y as u8, (x ^ y) as u8]),
    };
    let backbone = Backbone::Sd3(arguments.sd3.files()?);
    let start = Instant::now();
    let mut resolver = backbone.load(arguments.device, arguments.sd3.memory(), 0)?;
    let open_seconds = start.elapsed().as_secs_f64();
    let mut pass = |i: u32| -> Result<(BTreeMap<&'static str, f64>, f64), Problem> {
        let enlarged = Arc::new(picture.clone());
        let number = if arguments.same_prompt { 0 } else { i };
        let prompt = format!("fur, whiskers, an old fox in the snow, number {number}");
        let input = StepInput { cut: enlarged.clone(), enlarged, prompt, seed: i.into() };
        timed(&mut *resolver, &input)
    };
    let (_, first_seconds) = pass(0)?;
    let mut passes = Vec::new();
    let mut memory_after = [None; 2];
    for i in 1..=arguments.runs {
        passes.push(pass(i)?);
        memory_after[usize::from(i > 1)] = step::memory_of_process();
    }
    let stages = [Stage::Loading, Stage::Encoding, Stage::Text, Stage::Denoising, Stage::Decoding];
    let seconds = stages.iter().filter_map(|stage| {
        let times: Vec<f64> = passes.iter().filter_map(|(stages, _)| stages.get(stage.name()).copied()).collect();
        (!times.is_empty()).then(|| (stage.name(), median(times)))
    });
    Ok(Figures {
        device: arguments.device.among(step::cuda_devices()),
        precision: backbone
            .settled(arguments.device)
            .precision()
            .map(|precision| precision.to_string())
            .unwrap_or_default(),
        memory: resolver.plan().map(|plan| plan.to_string()).unwrap_or_default(),
        size,
        open_seconds,
        first_seconds,
        seconds: seconds.collect(),
        pass_seconds: median(passes.iter().map(|(_, seconds)| *seconds).collect()),
        peak_memory: step::peak_memory_of_process(),
        peak_device_memory: step::peak_memory_of(arguments.device),
        memory_after,
    })
}

/// One pass: the time spent in each stage, and in all.
fn timed(resolver: &mut dyn SuperResolver, input: &StepInput) -> Result<(BTreeMap<&'static str, f64>, f64), Problem> {
    let start = Instant::now();
    let mut spent = BTreeMap::new();
    let mut current = (Stage::Loading, start);
    let mut told = |stage: Stage, _: f32| {
        let now = Instant::now();
        *spent.entry(current.0.name()).or_insert(0.0) += (now - current.1).as_secs_f64();
        current = (stage, now);
        true
    };
    resolver.restore(input, &mut Progress::new(&mut told))?;
    told(Stage::Loading, 1.0);
    Ok((spent, start.elapsed().as_secs_f64()))
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(0.0)
}
