//! What `coz zoom` and `coz full` share: many pictures, models loaded once, one progress bar, and what is done already
//! left out.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use crossbeam_channel::RecvTimeoutError;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::args::opening::OpeningArguments;
use super::interruption::Interruption;
use super::pictures_in;
use crate::base;
use crate::base::{DeviceChoice, PROGRAM, Recipe, RecipeStep, Region, Source, Stage, TileProgress, UserError};
use crate::document::export::tree::Tree;
use crate::document::provenance;
use crate::engine::{Engine, Event, Job, JobOutcome, StepOutput};
use crate::imaging::codec::{DecodedPicture, Opening};
use crate::imaging::{Picture, codec};
use crate::runtime::device::cuda_devices;

/// The options that both commands have.
#[derive(Args)]
pub(super) struct BatchArguments {
    /// Picture, or folder of pictures
    #[arg(short, long, alias = "input_image")]
    pub input: PathBuf,
    /// Folder for the results
    #[arg(short, long, alias = "output_dir")]
    pub output: PathBuf,
    /// Write each step's prompt to txt/I.txt
    #[arg(long, alias = "save_prompts")]
    pub save_prompts: bool,
    /// Where models run: auto, cpu, cuda, cuda:NUMBER, or cuda:N,cuda:M for prompts and pictures
    #[arg(long, default_value_t = DeviceChoice::Auto)]
    pub device: DeviceChoice,
    /// Leave out pictures whose results are all there
    #[arg(long)]
    resume: bool,
    /// Do only the I-th of every N pictures, for several machines or devices
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<(usize, usize)>,
    /// So many pictures at a time, each with models of its own; with --device auto they share out all CUDA devices
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: u32,
    /// Print a summary as JSON instead of progress bars
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    opening: OpeningArguments,
    /// Options of the reference that change nothing here
    #[command(flatten)]
    idle: Idle,
}

/// What the reference's commands take and nothing depends on here: LoRAs are always merged and say their rank themselves.
#[derive(Args)]
struct Idle {
    #[arg(long, alias = "merge_and_unload_lora", hide = true)]
    merge_and_unload_lora: bool,
    #[arg(long, alias = "lora_rank", hide = true)]
    lora_rank: Option<String>,
}

fn shard(text: &str) -> Result<(usize, usize), String> {
    let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    numbers
        .filter(|&(i, n): &(usize, usize)| 1 <= i && i <= n)
        .ok_or_else(|| format!("expected I/N with I from 1 to N, found {text:?}"))
}

#[derive(Serialize)]
struct Summary<'a> {
    version: &'static str,
    backbone: String,
    device: String,
    seconds: f64,
    images: &'a [ImageSummary],
}

#[derive(Serialize)]
struct ImageSummary {
    input: PathBuf,
    folder: PathBuf,
    states: Vec<StateSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<UserError>,
}

#[derive(Serialize)]
struct StateSummary {
    file: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<Region>,
    #[serde(skip_serializing_if = "String::is_empty")]
    prompt: String,
    /// Of the result, reduced again, with its region: luma PSNR in dB.
    #[serde(rename = "agreement", skip_serializing_if = "Option::is_none")]
    consistency: Option<f64>,
    seconds: f64,
}

/// What is done with each picture.
pub(super) struct Task<'a> {
    /// How many states a picture gets.
    pub steps: u32,
    /// The model, for people.
    pub model: String,
    /// Options that were given and have no effect in this command.
    pub idle: Vec<&'static str>,
    /// One picture into its folders.
    pub each: &'a (dyn Fn(&mut Worker, &Path, &Tree) -> Result<(), UserError> + Sync),
}

/// Does it with all pictures.
pub(super) fn run(arguments: &BatchArguments, task: &Task) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let files = pictures_in(&arguments.input)?;
    std::fs::create_dir_all(&arguments.output).map_err(|error| {
        let details = format!("{}: {error}", arguments.output.display());
        UserError::new("The output folder cannot be made", details, "Choose a folder you may write to.")
    })?;
    let interruption = Interruption::watch();
    let given = &arguments.idle;
    let mut idle = task.idle.clone();
    idle.extend(given.merge_and_unload_lora.then_some("--merge_and_unload_lora"));
    idle.extend(given.lora_rank.as_ref().map(|_| "--lora_rank"));
    if !idle.is_empty() {
        eprintln!("{}: without effect here", idle.join(", "));
    }
    let stems = stems(&files);
    let mut files: Vec<(PathBuf, String)> = files.into_iter().zip(stems).collect();
    if let Some((i, n)) = arguments.shard {
        files = files.into_iter().skip(i - 1).step_by(n).collect();
    }
    let all = files.len();
    if arguments.resume {
        files.retain(|(_, stem)| !Tree::new(&arguments.output, stem).is_finished(task.steps as usize));
    }
    let finished = all - files.len();
    if finished > 0 {
        eprintln!("{finished} of {all} pictures were finished before");
    }
    let bar = progress_bar(arguments, files.len() as u64 * u64::from(task.steps));
    let jobs = (arguments.jobs as usize).clamp(1, files.len().max(1));
    let devices = devices(arguments.device, jobs);
    let (next, images) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let engines: Result<Vec<Engine>, _> = devices.iter().map(|_| Engine::start(Arc::new(|| ()))).collect();
    std::thread::scope(|scope| {
        for (engine, device) in engines?.into_iter().zip(devices) {
            let (bar, interruption, files, next, images) = (bar.clone(), interruption.clone(), &files, &next, &images);
            let (save_prompts, opening) = (arguments.save_prompts, arguments.opening.opening());
            let mut worker = Worker { engine, device, interruption, bar, opening, save_prompts, states: Vec::new() };
            scope.spawn(move || {
                while let Some((file, stem)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if worker.interruption.is_requested() {
                        break;
                    }
                    worker.bar.set_message(stem.clone());
                    let tree = Tree::new(&arguments.output, stem);
                    let done = (task.each)(&mut worker, file, &tree);
                    if let Err(problem) = &done {
                        worker.bar.suspend(|| eprintln!("{}: {problem}", file.display()));
                    }
                    let (states, folder) = (std::mem::take(&mut worker.states), tree.sample_folder());
                    let image = ImageSummary { input: file.clone(), folder, states, problem: done.err() };
                    images.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(image);
                }
            });
        }
        Ok::<(), std::io::Error>(())
    })?;
    bar.finish_and_clear();
    let mut images = images.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    images.sort_by(|a, b| a.input.cmp(&b.input));
    let failed = images.iter().filter(|image| image.problem.is_some()).count();
    if arguments.json {
        let summary = Summary {
            version: env!("CARGO_PKG_VERSION"),
            backbone: task.model.clone(),
            device: arguments.device.among(cuda_devices()),
            seconds: start.elapsed().as_secs_f64(),
            images: &images,
        };
        println!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        let (done, seconds) = (images.len() - failed, start.elapsed().as_secs_f64());
        eprintln!("{done} of {} pictures done in {seconds:.1} s: {}", images.len(), arguments.output.display());
    }
    Ok(match failed {
        _ if interruption.is_requested() => interruption.exit_code(),
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Where each of so many jobs runs.
fn devices(choice: DeviceChoice, jobs: usize) -> Vec<DeviceChoice> {
    let number = |i: usize, count: usize| DeviceChoice::Cuda(i % count);
    match (choice, if jobs > 1 { cuda_devices() } else { 0 }) {
        (DeviceChoice::Auto, count) if count > 1 => (0..jobs).map(|i| number(i, count)).collect(),
        _ => vec![choice; jobs],
    }
}

fn progress_bar(arguments: &BatchArguments, steps: u64) -> ProgressBar {
    if arguments.json {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(steps);
    let template = "{msg} {wide_bar} {pos}/{len} steps{prefix}, {elapsed} of about {duration}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// File names without ending; where two files share one, the ending stays, so that no result overwrites another.
fn stems(files: &[PathBuf]) -> Vec<String> {
    let stem = |file: &Path| file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut counts = std::collections::HashMap::new();
    files.iter().for_each(|file| *counts.entry(stem(file)).or_insert(0) += 1);
    files
        .iter()
        .map(|file| match counts[&stem(file)] {
            1 => stem(file),
            _ => file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        })
        .collect()
}

/// Works through pictures one after another, with models of its own.
pub(super) struct Worker {
    engine: Engine,
    /// Where its models run.
    pub device: DeviceChoice,
    interruption: Interruption,
    bar: ProgressBar,
    opening: Opening,
    save_prompts: bool,
    /// Of the picture at hand.
    states: Vec<StateSummary>,
}

/// A picture's states on their way to its folders.
pub(super) struct Chain<'a> {
    tree: &'a Tree,
    recipe: Recipe,
    pictures: Vec<Arc<Picture>>,
    /// Every state goes on from the one before, rather than from the first.
    is_recursive: bool,
    /// What models are given is kept too.
    has_inputs: bool,
}

impl Worker {
    /// Opens a picture, and says what is to be said of it.
    pub(super) fn open(&self, file: &Path) -> Result<Picture, UserError> {
        let DecodedPicture { picture, remarks } = codec::open_watched(file, &self.opening, &mut |_| true)?;
        for remark in remarks {
            self.print_line(&format!("{}: {remark}", file.display()));
        }
        Ok(picture)
    }

    /// Prints a line beside the progress bar.
    pub(super) fn print_line(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// Begins with the first state.
    pub(super) fn begin<'a>(
        &mut self,
        tree: &'a Tree,
        first: Arc<Picture>,
        is_recursive: bool,
        has_inputs: bool,
    ) -> Result<Chain<'a>, UserError> {
        tree.state(0, &first, None, None)?;
        let photo = tree.state_file(0);
        let recipe = Recipe {
            program: PROGRAM.into(),
            photo: Source { name: "0.png".into(), file: photo.canonicalize().ok(), sha256: base::sha256(&photo).ok() },
            width: first.width(),
            height: first.height(),
            steps: Vec::new(),
        };
        self.states.push(StateSummary {
            file: photo,
            region: None,
            prompt: String::new(),
            consistency: None,
            seconds: 0.0,
        });
        Ok(Chain { tree, recipe, pictures: vec![first], is_recursive, has_inputs })
    }

    /// Runs a job and keeps each state as it is made; stops when interrupted.
    pub(super) fn run(&mut self, job: Job, chain: &mut Chain) -> Result<(), UserError> {
        let id = self.engine.run(job);
        let mut stage = Stage::Prompting;
        loop {
            match self.engine.events().recv_timeout(Duration::from_millis(100)) {
                Ok(Event::StepDone { job, output, .. }) if job == id => {
                    self.keep(*output, chain)?;
                    self.bar.set_prefix("");
                    self.bar.inc(1);
                }
                Ok(Event::Finished { job, outcome }) if job == id => {
                    return match outcome {
                        JobOutcome::Completed => Ok(()),
                        JobOutcome::Cancelled => Err(UserError::new("Cancelled", "what was made so far is kept", "")),
                        JobOutcome::Failed(problem) => Err(problem),
                    };
                }
                Ok(_) | Err(RecvTimeoutError::Timeout) if self.interruption.is_requested() => self.engine.cancel(),
                Ok(Event::Progress { stage: now, .. }) => stage = now,
                Ok(Event::Estimated { backbone, estimate }) => {
                    self.print_line(&format!("{}: {estimate}", backbone.name()));
                }
                Ok(Event::Tiles { tiles: TileProgress { done, total }, .. }) => {
                    self.bar.set_prefix(format!(", {}: {done} of {total} tiles", stage.name()));
                }
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let hint = "Please report it with `coz doctor`.";
                    return Err(UserError::new("Something broke inside", "the engine's thread ended", hint));
                }
            }
        }
    }

    fn keep(&mut self, output: StepOutput, chain: &mut Chain) -> Result<(), UserError> {
        let (i, tree) = (chain.pictures.len(), chain.tree);
        if !chain.is_recursive {
            // Every step starts from the first state.
            chain.recipe.steps.clear();
        }
        let (width, height) = (output.picture.width(), output.picture.height());
        chain.recipe.steps.push(RecipeStep { record: output.record.clone(), width, height });
        let xmp = provenance::xmp(&chain.recipe);
        tree.state(i, &output.picture, chain.has_inputs.then_some(&*output.enlarged), Some(&xmp))?;
        if self.save_prompts && chain.has_inputs {
            tree.prompts(i - 1, &output.record)?;
        }
        self.states.push(StateSummary {
            file: tree.state_file(i),
            region: Some(output.record.region),
            prompt: output.record.prompt,
            consistency: output.record.consistency.filter(|consistency| consistency.is_finite()),
            seconds: output.record.elapsed.as_secs_f64(),
        });
        chain.pictures.push(output.picture);
        Ok(())
    }
}

impl Chain<'_> {
    /// Writes all states side by side.
    pub(super) fn finish(self, height: u32) -> Result<(), UserError> {
        Ok(self.tree.finish(&self.pictures, height, &provenance::xmp(&self.recipe))?)
    }
}
