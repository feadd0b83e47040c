//! `coz zoom`: the reference's `inference_coz.py` on our engine, with its option names and output folders.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use crossbeam_channel::RecvTimeoutError;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::prompt::PromptArguments;
use super::sd3::Sd3Arguments;
use super::{backbone, pictures_in};
use crate::digest;
use crate::engine::{Done, Engine, Event, Job, Made, Restorer};
use crate::export::provenance;
use crate::export::tree::Tree;
use crate::history::recipe::{PROGRAM, Recipe, Source, Step};
use crate::image::{AlignMethod, Filter, Picture, codec, resize};
use crate::problem::Problem;
use crate::prompt::Extractor;
use crate::region::Region;
use crate::step::{Backbone, DeviceChoice};

/// Options of `coz zoom`. The snake_case spellings of the reference work too.
#[derive(Args)]
#[command(
    after_help = "Writes OUTPUT/per-sample/NAME/{0..N}.png (with the enlarged crops as I_input.png and all states side\n\
    by side as NAME.png), OUTPUT/per-scale/scaleI/NAME.png and OUTPUT/recursive/NAME.png.\n\
    Exit code: 0 all done, 1 something failed, 2 wrong options, 130 stopped by Ctrl+C."
)]
pub struct Arguments {
    /// Picture, or folder of pictures
    #[arg(short, long, alias = "input_image")]
    input: PathBuf,
    /// Folder for the results
    #[arg(short, long, alias = "output_dir")]
    output: PathBuf,
    /// What a step does
    #[arg(long, alias = "rec_type", value_enum, default_value_t = RecursionType::Recursive)]
    rec_type: RecursionType,
    /// Number of steps [default: one for each --crop-box, else 4]
    #[arg(long, alias = "rec_num", value_parser = clap::value_parser!(u32).range(1..=32))]
    rec_num: Option<u32>,
    /// Side of every state in pixels
    #[arg(long, alias = "process_size", default_value_t = 512, value_parser = clap::value_parser!(u32).range(16..=4096))]
    process_size: u32,
    /// Enlargement of a step
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=16))]
    upscale: u32,
    /// Colour matching to the enlarged crop
    #[arg(long, alias = "align_method", value_enum, default_value_t = Align::Nofix)]
    align_method: Align,
    /// Seed of the noise, for models that draw some
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Write each step's words to txt/I.txt
    #[arg(long, alias = "save_prompts")]
    save_prompts: bool,
    /// Box of step I, in pixels of the state it is cut from, instead of the centre; repeat for each step
    #[arg(long, alias = "crop_box", value_name = "X,Y,W,H", value_parser = crop_box)]
    crop_box: Vec<Region>,
    /// Super-resolution model: builtin, nearest, bicubic, sd3, or an ESRGAN-family file (.pth, .safetensors) [default: sd3
    /// where one of its files is told, else builtin]
    #[arg(long)]
    backbone: Option<String>,
    #[command(flatten)]
    words: PromptArguments,
    #[command(flatten)]
    sd3: Sd3Arguments,
    /// Where models run: auto, cpu, cuda, cuda:NUMBER, or cuda:N,cuda:M for words and pictures
    #[arg(long, default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Leave out pictures whose results are all there
    #[arg(long)]
    resume: bool,
    /// Do only the I-th of every N pictures, for several machines or devices
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<(usize, usize)>,
    /// Options of the reference that change nothing here
    #[command(flatten)]
    idle: Idle,
    /// Print a summary as JSON instead of progress bars
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// The model asked for.
    fn model(&self) -> Result<Backbone, Problem> {
        let usual = if self.sd3.is_told() { "sd3" } else { "builtin" };
        match self.backbone.as_deref().unwrap_or(usual) {
            "sd3" => self.sd3.files().map(Backbone::Sd3),
            other => backbone(other)
                .map_err(|details| Problem::new("The model is not clear", details, "See `coz zoom --help`.")),
        }
    }

    /// What finds words; without a model there is nobody to hear them.
    fn extractor(&self) -> Result<Extractor, Problem> {
        match self.rec_type {
            RecursionType::Nearest | RecursionType::Bicubic => Ok(Extractor::Own),
            _ => self.words.extractor(self.sd3.precision()),
        }
    }

    /// Whether every step goes on from the one before.
    fn is_recursive(&self) -> bool {
        matches!(self.rec_type, RecursionType::Recursive | RecursionType::RecursiveMultiscale)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum RecursionType {
    /// Crop 1/upscale^i of the first state, nearest neighbour: no model
    Nearest,
    /// The same with bicubic
    Bicubic,
    /// Crop 1/upscale^i of the first state, one super-resolution pass
    Onestep,
    /// Crop 1/upscale of the state before, one super-resolution pass, again and again
    Recursive,
    /// The same; prompt extractors also see the state before
    RecursiveMultiscale,
}

#[derive(Clone, Copy, ValueEnum)]
enum Align {
    /// None
    Nofix,
    /// Mean and deviation of each channel
    Adain,
    /// Lowest wavelet band
    Wavelet,
}

fn crop_box(text: &str) -> Result<Region, String> {
    let numbers: Result<Vec<u32>, _> = text.split(',').map(|number| number.trim().parse()).collect();
    match numbers.as_deref() {
        Ok(&[x, y, width, height]) if width > 0 && height > 0 => Ok(Region { x, y, width, height }),
        _ => Err(format!("expected X,Y,W,H in whole pixels with W and H above 0, found {text:?}")),
    }
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
    problem: Option<Problem>,
}

#[derive(Serialize)]
struct StateSummary {
    file: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<Region>,
    #[serde(skip_serializing_if = "String::is_empty")]
    prompt: String,
    /// Of the result, reduced again, with its region: luma PSNR in dB.
    #[serde(skip_serializing_if = "Option::is_none")]
    agreement: Option<f64>,
    seconds: f64,
}

/// What the reference's command takes and nothing depends on here: LoRAs are always merged and say their rank themselves, and
/// tiles are for whole pictures.
#[derive(Args)]
struct Idle {
    #[arg(long, alias = "merge_and_unload_lora", hide = true)]
    merge_and_unload_lora: bool,
    #[arg(long, alias = "lora_rank", hide = true)]
    lora_rank: Option<String>,
    #[arg(long, alias = "vae_encoder_tiled_size", hide = true)]
    vae_encoder_tiled_size: Option<String>,
    #[arg(long, alias = "vae_decoder_tiled_size", hide = true)]
    vae_decoder_tiled_size: Option<String>,
    #[arg(long, alias = "latent_tiled_size", hide = true)]
    latent_tiled_size: Option<String>,
    #[arg(long, alias = "latent_tiled_overlap", hide = true)]
    latent_tiled_overlap: Option<String>,
}

impl Idle {
    /// Those that were given.
    fn given(&self) -> Vec<&'static str> {
        let all = [
            (self.merge_and_unload_lora, "--merge_and_unload_lora"),
            (self.lora_rank.is_some(), "--lora_rank"),
            (self.vae_encoder_tiled_size.is_some(), "--vae_encoder_tiled_size"),
            (self.vae_decoder_tiled_size.is_some(), "--vae_decoder_tiled_size"),
            (self.latent_tiled_size.is_some(), "--latent_tiled_size"),
            (self.latent_tiled_overlap.is_some(), "--latent_tiled_overlap"),
        ];
        all.into_iter().filter(|(is_given, _)| *is_given).map(|(_, name)| name).collect()
    }
}

fn shard(text: &str) -> Result<(usize, usize), String> {
    let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    numbers
        .filter(|&(i, n): &(usize, usize)| 1 <= i && i <= n)
        .ok_or_else(|| format!("expected I/N with I from 1 to N, found {text:?}"))
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let files = pictures_in(&arguments.input)?;
    std::fs::create_dir_all(&arguments.output).map_err(|error| {
        let details = format!("{}: {error}", arguments.output.display());
        Problem::new("The output folder cannot be made", details, "Choose a folder you may write to.")
    })?;
    let interrupted = super::interruption();
    let idle = arguments.idle.given();
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
        files.retain(|(_, stem)| !Tree::new(&arguments.output, stem).is_finished(steps(arguments) as usize));
    }
    let finished = all - files.len();
    if finished > 0 {
        eprintln!("{finished} of {all} pictures were finished before");
    }
    let model = arguments.model()?;
    let mut run = Run {
        arguments,
        model: model.clone(),
        extractor: arguments.extractor()?,
        engine: Engine::start(Arc::new(|| ()))?,
        interrupted: interrupted.clone(),
        bar: progress_bar(arguments, files.len()),
    };
    let mut images = Vec::new();
    for (file, stem) in &files {
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
        run.bar.set_message(stem.clone());
        let tree = Tree::new(&arguments.output, stem);
        let mut image =
            ImageSummary { input: file.clone(), folder: tree.sample_folder(), states: vec![], problem: None };
        if let Err(problem) = run.zoom(file, &tree, &mut image.states) {
            run.bar.suspend(|| eprintln!("{}: {problem}", file.display()));
            image.problem = Some(problem);
        }
        images.push(image);
    }
    run.bar.finish_and_clear();
    let failed = images.iter().filter(|image| image.problem.is_some()).count();
    if arguments.json {
        let summary = Summary {
            version: env!("CARGO_PKG_VERSION"),
            backbone: model.name(),
            device: arguments.device.among(crate::step::cuda_devices()),
            seconds: start.elapsed().as_secs_f64(),
            images: &images,
        };
        println!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        let (done, seconds) = (images.len() - failed, start.elapsed().as_secs_f64());
        eprintln!("{done} of {} pictures done in {seconds:.1} s: {}", images.len(), arguments.output.display());
    }
    Ok(match failed {
        _ if interrupted.load(Ordering::Relaxed) => ExitCode::from(super::INTERRUPTED),
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn steps(arguments: &Arguments) -> u32 {
    arguments.rec_num.unwrap_or(if arguments.crop_box.is_empty() { 4 } else { arguments.crop_box.len() as u32 })
}

fn progress_bar(arguments: &Arguments, files: usize) -> ProgressBar {
    if arguments.json {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(files as u64 * u64::from(steps(arguments)));
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} steps, {elapsed} of about {duration}")
    {
        bar.set_style(style);
    }
    bar
}

/// File names without ending; where two files share one, the ending stays, so that no result overwrites another.
fn stems(files: &[PathBuf]) -> Vec<String> {
    let stem = |file: &Path| file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    files
        .iter()
        .map(|file| {
            let shared = files.iter().filter(|other| stem(other) == stem(file)).count() > 1;
            if shared { file.file_name().unwrap_or_default().to_string_lossy().into_owned() } else { stem(file) }
        })
        .collect()
}

/// What all pictures of a run share.
struct Run<'a> {
    arguments: &'a Arguments,
    model: Backbone,
    extractor: Extractor,
    engine: Engine,
    interrupted: Arc<AtomicBool>,
    bar: ProgressBar,
}

impl Run<'_> {
    /// One picture's chain, into its folders.
    fn zoom(&mut self, file: &Path, tree: &Tree, states: &mut Vec<StateSummary>) -> Result<(), Problem> {
        let first = Arc::new(first_state(&codec::open(file)?, self.arguments.process_size));
        tree.state(0, &first, None, None)?;
        let photo = tree.state_file(0);
        let mut recipe = Recipe {
            program: PROGRAM.into(),
            photo: Source {
                name: "0.png".into(),
                file: photo.canonicalize().ok(),
                sha256: digest::sha256(&photo).ok(),
            },
            width: first.width(),
            height: first.height(),
            steps: Vec::new(),
        };
        states.push(StateSummary {
            file: tree.state_file(0),
            region: None,
            prompt: String::new(),
            agreement: None,
            seconds: 0.0,
        });
        let mut pictures = vec![first.clone()];
        let mut keep = |made: Made| -> Result<(), Problem> {
            let i = pictures.len();
            // Without a model there is no input to it, nor words for it.
            let restored = !matches!(self.arguments.rec_type, RecursionType::Nearest | RecursionType::Bicubic);
            if !self.arguments.is_recursive() {
                // Every step starts from the first state.
                recipe.steps.clear();
            }
            let (width, height) = (made.picture.width(), made.picture.height());
            recipe.steps.push(Step { making: made.making.clone(), width, height });
            let xmp = provenance::packet(&recipe);
            tree.state(i, &made.picture, restored.then_some(&*made.enlarged), Some(&xmp))?;
            if self.arguments.save_prompts && restored {
                tree.prompt(i - 1, &made.making.prompt)?;
            }
            states.push(StateSummary {
                file: tree.state_file(i),
                region: Some(made.making.region),
                prompt: made.making.prompt,
                agreement: made.making.agreement.filter(|agreement| agreement.is_finite()),
                seconds: made.making.elapsed.as_secs_f64(),
            });
            pictures.push(made.picture);
            Ok(())
        };
        for regions in regions(self.arguments, &first)? {
            let job = Job {
                source: first.clone(),
                regions,
                size: (first.width(), first.height()),
                prompt: self.arguments.words.prompt.clone(),
                found: None,
                extractor: self.extractor.clone(),
                asking: self.arguments.words.asking(self.arguments.rec_type == RecursionType::RecursiveMultiscale),
                seed: self.arguments.seed,
                restorer: Restorer {
                    backbone: match self.arguments.rec_type {
                        RecursionType::Nearest => Backbone::Nearest,
                        RecursionType::Bicubic => Backbone::Bicubic,
                        _ => self.model.clone(),
                    },
                    device: self.arguments.device,
                    memory: self.arguments.sd3.memory(),
                    align: match self.arguments.align_method {
                        Align::Nofix => AlignMethod::NoFix,
                        Align::Adain => AlignMethod::Adain,
                        Align::Wavelet => AlignMethod::Wavelet,
                    },
                },
            };
            self.finish(job, &mut keep)?;
        }
        tree.finish(&pictures.iter().map(|picture| &**picture).collect::<Vec<_>>(), first.height())?;
        Ok(())
    }

    /// Waits for a job, handing on each state as it is made; stops it when interrupted.
    fn finish(&mut self, job: Job, keep: &mut dyn FnMut(Made) -> Result<(), Problem>) -> Result<(), Problem> {
        let id = self.engine.run(job);
        loop {
            match self.engine.events().recv_timeout(Duration::from_millis(100)) {
                Ok(Event::Made { job, made, .. }) if job == id => {
                    keep(*made)?;
                    self.bar.inc(1);
                }
                Ok(Event::Finished { job, done }) if job == id => {
                    return match done {
                        Done::Completed => Ok(()),
                        Done::Cancelled => Err(Problem::new("Cancelled", "what was made so far is kept", "")),
                        Done::Failed(problem) => Err(problem),
                    };
                }
                Ok(_) | Err(RecvTimeoutError::Timeout) if self.interrupted.load(Ordering::Relaxed) => {
                    self.engine.cancel()
                }
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let hint = "Please report it with `coz doctor`.";
                    return Err(Problem::new("Something broke inside", "the engine's thread ended", hint));
                }
            }
        }
    }
}

/// The boxes of each job: one recursive chain, or one job a step where every step starts from x_0.
fn regions(arguments: &Arguments, first: &Picture) -> Result<Vec<Vec<Region>>, Problem> {
    let recursive = arguments.is_recursive();
    let region = |i: u32| {
        let divisor = arguments.upscale.saturating_pow(if recursive { 1 } else { i + 1 });
        let central = Region::central(first.width(), first.height(), divisor);
        arguments.crop_box.get(i as usize).copied().unwrap_or(central)
    };
    let all: Vec<Region> = (0..steps(arguments)).map(region).collect();
    if let Some(&outside) = all.iter().find(|region| !region.fits(first.width(), first.height())) {
        let (width, height) = (first.width(), first.height());
        return Err(crate::step::StepError::Outside { region: outside, width, height }.into());
    }
    Ok(if recursive { vec![all] } else { all.into_iter().map(|region| vec![region]).collect() })
}

/// x_0 as the reference makes it (`resize_and_center_crop`): short side to `size` by Lanczos, then the central square.
/// Where truncation leaves a side one pixel short, the crop starts at -1 and the missing pixels are black, as there.
pub fn first_state(picture: &Picture, size: u32) -> Picture {
    let scale = f64::from(size) / f64::from(picture.short_side());
    let scaled = |length: u32| ((f64::from(length) * scale) as u32).max(1);
    let resized = resize(picture, scaled(picture.width()), scaled(picture.height()), Filter::Lanczos);
    let corner = |length: u32| (i64::from(length) - i64::from(size)).div_euclid(2);
    resized.crop(corner(resized.width()), corner(resized.height()), size, size)
}
