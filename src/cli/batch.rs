//! What `coz zoom` and `coz full` share: many pictures, models loaded once, one progress bar, and what is done already
//! left out.

use std::collections::BTreeMap;
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
use super::args::results::ResultArguments;
use super::inputs::{Input, inputs};
use super::interruption::Interruption;
use super::lock::alone;
use super::run_record::{RunOptions, RunRecord};
use super::shard::shard;
use crate::base;
use crate::base::{DeviceChoice, Exif, PROGRAM, Recipe, RecipeStep, Region, Remedy, Source, TileProgress, UserError};
use crate::document::export::tree::Tree;
use crate::document::provenance;
use crate::engine::{Engine, Event, Job, JobOutcome, StepOutput};
use crate::imaging::codec::{Alpha, DecodedPicture, Opening, WHITE};
use crate::imaging::{ImageError, Metadata, Picture, codec, straight, without_hidden};
use crate::runtime::device::{spread, usable_devices};

/// The options that both commands have.
#[derive(Args)]
pub(super) struct BatchArguments {
    /// Picture, folder of pictures, or - for a list on the standard input, one path a line; repeat for several
    #[arg(short, long, alias = "input_image", required = true, allow_hyphen_values = true)]
    pub input: Vec<PathBuf>,
    /// Take pictures in folders within folders too
    #[arg(long)]
    subfolders: bool,
    /// Folder for the results
    #[arg(short, long, alias = "output_dir")]
    pub output: PathBuf,
    /// Write each step's prompt to txt/I.txt
    #[arg(long, alias = "save_prompts")]
    pub save_prompts: bool,
    /// Where models run: auto, cpu, cuda, cuda:NUMBER, or cuda:N,cuda:M for prompts and pictures
    #[arg(long, default_value_t = DeviceChoice::Auto)]
    pub device: DeviceChoice,
    /// Leave out pictures whose results are there already, made of the same picture with the same options and models
    #[arg(long)]
    resume: bool,
    /// Do only the I-th of every N pictures, for several machines or devices; auto: as Slurm, Kubernetes or torchrun say
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<(usize, usize)>,
    /// So many pictures at a time, each with models of its own; with --device auto they share out all CUDA devices
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: u32,
    /// Print a summary as JSON instead of progress bars
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub opening: OpeningArguments,
    #[command(flatten)]
    pub results: ResultArguments,
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
    /// It and all others, and what their files hold.
    pub models: BTreeMap<String, String>,
    /// How pictures are opened.
    pub opening: Opening,
    /// All options that were given.
    pub options: &'a RunOptions,
    /// Options that were given and have no effect in this command.
    pub idle: Vec<String>,
    /// One picture into its folders.
    pub each: &'a (dyn Fn(&mut Worker, &Path, &Tree) -> Result<(), UserError> + Sync),
}

/// Does it with all pictures.
pub(super) fn run(arguments: &BatchArguments, task: &Task) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let mut files = inputs(&arguments.input, arguments.subfolders, &arguments.output)?;
    std::fs::create_dir_all(&arguments.output).map_err(|error| {
        let details = format!("{}: {error}", arguments.output.display());
        UserError::new("The output folder cannot be made", details, "Choose a folder you may write to.")
    })?;
    let interruption = Interruption::watch();
    let given = &arguments.idle;
    let mut idle = task.idle.clone();
    idle.extend(given.merge_and_unload_lora.then(|| "--merge_and_unload_lora".to_owned()));
    idle.extend(given.lora_rank.as_ref().map(|_| "--lora_rank".to_owned()));
    if !idle.is_empty() {
        eprintln!("{}: without effect here", idle.join(", "));
    }
    if let Some((i, n)) = arguments.shard {
        files = files.into_iter().skip(i - 1).step_by(n).collect();
    }
    let all = files.len();
    let output = arguments.output.canonicalize().unwrap_or_else(|_| arguments.output.clone());
    let tree = |input: &Input| {
        let ResultArguments { format, quality } = arguments.results;
        Tree::new(&output, &input.stem).in_format(format, quality)
    };
    let record = |file: &Path| RunRecord::of(file, task.options, task.models.clone(), task.steps);
    if arguments.resume {
        files.retain(|input| {
            let found = finished(&tree(input), record(&input.file).ok().as_ref(), task.steps);
            if let Err(reason) = &found {
                eprintln!("{}: made again: {reason}", input.file.display());
            }
            found != Ok(true)
        });
    }
    let done_before = all - files.len();
    if done_before > 0 {
        eprintln!("{done_before} of {all} pictures were finished before");
    }
    let bar = progress_bar(arguments, files.len() as u64 * u64::from(task.steps));
    let jobs = (arguments.jobs as usize).clamp(1, files.len().max(1));
    let devices = spread(arguments.device, jobs);
    let (next, images) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let engines: Result<Vec<Engine>, _> = devices.iter().map(|_| Engine::start(Arc::new(|| ()))).collect();
    std::thread::scope(|scope| {
        for (engine, device) in engines?.into_iter().zip(devices) {
            let (bar, interruption, files, next, images) = (bar.clone(), interruption.clone(), &files, &next, &images);
            let (save_prompts, opening) = (arguments.save_prompts, task.opening);
            let mut worker =
                Worker { engine, device, interruption, bar, opening, save_prompts, record: None, states: Vec::new() };
            let (tree, record) = (&tree, &record);
            scope.spawn(move || {
                while let Some(input) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if worker.interruption.is_requested() {
                        break;
                    }
                    worker.bar.set_message(input.stem.clone());
                    let (file, tree) = (&input.file, tree(input));
                    let attempt = |worker: &mut Worker| {
                        if tree.would_remove(file) {
                            let details = format!("{} is where its own results belong", file.display());
                            let hint = "Choose another folder for the results.";
                            return Err(UserError::new("The picture would be replaced", details, hint));
                        }
                        let opened = |source| ImageError::Open { file: file.clone(), source };
                        let record = record(file).map_err(opened)?;
                        // Another run may have done it meanwhile.
                        if arguments.resume && finished(&tree, Some(&record), task.steps) == Ok(true) {
                            return Ok(());
                        }
                        worker.record = Some(record);
                        (task.each)(worker, file, &tree)
                    };
                    let mut done = alone(&tree.sample_folder(), || attempt(&mut worker));
                    if let Err(UserError { title, remedy: Some(Remedy::Device(other)), .. }) = &done
                        && arguments.device == DeviceChoice::Auto
                    {
                        worker.print_line(&format!("{}: {title}; again without it", file.display()));
                        (worker.device, worker.states) = (*other, Vec::new());
                        done = alone(&tree.sample_folder(), || attempt(&mut worker));
                    }
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
            device: arguments.device.among(&usable_devices()),
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

/// Whether results that are there are those that are wanted. Those of earlier versions, which do not say how they were made, are
/// taken for it.
///
/// # Errors
/// What is other about results that are there.
fn finished(tree: &Tree, wanted: Option<&RunRecord>, steps: u32) -> Result<bool, String> {
    if !tree.is_finished(steps as usize) {
        return Ok(false);
    }
    let there = RunRecord::read(&tree.sample_folder());
    wanted.zip(there).and_then(|(wanted, there)| wanted.difference(&there)).map_or(Ok(true), Err)
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
    /// Of the picture at hand: what its results are made of.
    record: Option<RunRecord>,
    /// Of the picture at hand.
    states: Vec<StateSummary>,
}

/// A picture's states on their way to its folders.
pub(super) struct Chain<'a> {
    tree: &'a Tree,
    recipe: Recipe,
    record: Option<RunRecord>,
    pictures: Vec<Arc<Picture>>,
    /// Opacity of the states to come, where it is kept.
    alphas: Vec<Arc<Picture>>,
    kind: ChainKind,
}

/// How states follow each other.
#[derive(Clone, Copy)]
pub(super) struct ChainKind {
    /// Every state goes on from the one before, rather than from the first.
    pub is_recursive: bool,
    /// What models are given is kept too.
    pub has_inputs: bool,
}

impl Worker {
    /// Opens a picture, and says what is to be said of it.
    pub(super) fn open(&self, file: &Path) -> Result<DecodedPicture, UserError> {
        let decoded = codec::open_watched(file, &self.opening, &mut |_| true)?;
        for remark in &decoded.remarks {
            self.print_line(&format!("{}: {remark}", file.display()));
        }
        Ok(decoded)
    }

    /// Prints a line beside the progress bar.
    pub(super) fn print_line(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// Begins with the first state; nothing of an earlier run stays.
    pub(super) fn begin<'a>(
        &mut self,
        tree: &'a Tree,
        first: Arc<Picture>,
        exif: Option<Exif>,
        kind: ChainKind,
    ) -> Result<Chain<'a>, UserError> {
        tree.clear()?;
        RunRecord::remove(&tree.sample_folder()).map_err(ImageError::from)?;
        tree.state(0, &first, None, None, &Metadata { xmp: None, exif: exif.clone() })?;
        let photo = tree.state_file(0);
        let name = photo.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let recipe = Recipe {
            program: PROGRAM.into(),
            photo: Source { name, file: None, sha256: base::sha256(&photo).ok(), exif },
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
        Ok(Chain { tree, recipe, record: self.record.take(), pictures: vec![first], alphas: Vec::new(), kind })
    }

    /// Runs a job whose results nobody sees, and gives them back.
    pub(super) fn run_aside(&mut self, job: Job) -> Result<Vec<Arc<Picture>>, UserError> {
        let mut pictures = Vec::new();
        self.run_with(job, &mut |_, output| {
            pictures.push(output.picture);
            Ok(())
        })?;
        Ok(pictures)
    }

    /// Runs a job and keeps each state as it is made; stops when interrupted.
    pub(super) fn run(&mut self, job: Job, chain: &mut Chain) -> Result<(), UserError> {
        self.run_with(job, &mut |worker, output| {
            worker.keep(output, chain)?;
            worker.bar.inc(1);
            Ok(())
        })
    }

    fn run_with(
        &mut self,
        job: Job,
        take: &mut dyn FnMut(&mut Self, StepOutput) -> Result<(), UserError>,
    ) -> Result<(), UserError> {
        let mut stage = job.first_stage();
        let id = self.engine.run(job);
        loop {
            match self.engine.events().recv_timeout(Duration::from_millis(100)) {
                Ok(Event::StepDone { job, output, .. }) if job == id => {
                    take(self, *output)?;
                    self.bar.set_prefix("");
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
        if !chain.kind.is_recursive {
            // Every step starts from the first state.
            chain.recipe.steps.clear();
        }
        let (width, height) = (output.picture.width(), output.picture.height());
        chain.recipe.steps.push(RecipeStep { record: output.record.clone(), width, height });
        let metadata = provenance::metadata(&chain.recipe);
        let input = chain.kind.has_inputs.then_some(&*output.enlarged);
        match chain.alphas.get(i - 1) {
            None => tree.state(i, &output.picture, None, input, &metadata)?,
            Some(alpha) => {
                let colours = match self.opening.alpha {
                    Alpha::Blend(background) => straight(&output.picture, alpha, background),
                    Alpha::Drop => without_hidden(&output.picture, alpha, WHITE),
                };
                tree.state(i, &colours, Some(alpha), input, &metadata)?;
            }
        }
        if self.save_prompts && chain.kind.has_inputs {
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
    /// States to come are written with this opacity, their colours taken off the background that they were laid over.
    pub(super) fn keep_alphas(&mut self, alphas: Vec<Arc<Picture>>) {
        self.alphas = alphas;
    }

    /// Writes how it was made, and all states side by side: what is there then is finished.
    pub(super) fn finish(self, height: u32) -> Result<(), UserError> {
        if let Some(record) = &self.record {
            record.write(&self.tree.sample_folder()).map_err(ImageError::from)?;
        }
        Ok(self.tree.finish(&self.pictures, height, &provenance::metadata(&self.recipe))?)
    }
}
