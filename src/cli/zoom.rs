//! `coz zoom`: the reference's `inference_coz.py` on our engine, with its option names and output folders.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};

use super::args::{Align, BackboneArguments, PromptArguments};
use super::batch;
use super::batch::{BatchArguments, ChainKind, Task, Worker};
use super::run_record::{RunOptions, models};
use crate::base::{AlignMethod, BICUBIC, Backbone, NEAREST, PromptSource, Region, UserError};
use crate::document::export::tree::Tree;
use crate::engine::{Job, Restorer};
use crate::imaging::codec::DecodedPicture;
use crate::imaging::{Picture, resize_and_center_crop};
use crate::pipelines::PipelineError;

/// The model, where none is given.
const DEFAULT: &str = "auto";
/// New tokens for a step, where nothing is said.
const TOKENS: u32 = 32;

/// Options of `coz zoom`. The snake_case spellings of the reference work too.
#[derive(Args)]
#[command(
    after_help = "Writes OUTPUT/per-sample/NAME/{0..N}.png (with the enlarged crops as I_input.png and all states side\n\
    by side as NAME.png), OUTPUT/per-scale/scaleI/NAME.png and OUTPUT/recursive/NAME.png.\n\
    Exit code: 0 all done, 1 something failed, 2 wrong options, 130 stopped by Ctrl+C."
)]
pub(super) struct Arguments {
    #[command(flatten)]
    batch: BatchArguments,
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
    /// Colour matching to the enlarged crop [default: adain for osediff-sd21, else nofix]
    #[arg(long, alias = "align_method", value_enum)]
    align_method: Option<Align>,
    /// Seed of the noise, for models that draw some
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Box of step I, in pixels of the state it is cut from, instead of the centre; repeat for each step
    #[arg(long, alias = "crop_box", value_name = "X,Y,W,H", value_parser = crop_box)]
    crop_box: Vec<Region>,
    /// Super-resolution model: auto (the best that is here), builtin, realesrgan, sd3, osediff-sd21, nearest, bicubic, or the
    /// file of a network such as ESRGAN, SPAN or DAT (.pth, .safetensors, .param with its .bin) [default: sd3 or osediff-sd21
    /// where files of its own are given, else auto]
    #[arg(long)]
    backbone: Option<String>,
    #[command(flatten)]
    prompt: PromptArguments,
    #[command(flatten)]
    model: BackboneArguments,
    /// Options of the reference that are for full images
    #[command(flatten)]
    idle: TileOptions,
}

impl Arguments {
    /// Where prompts come from; without a model nobody takes them.
    fn prompt_source(&self) -> Result<PromptSource, UserError> {
        match self.rec_type {
            RecursionType::Nearest | RecursionType::Bicubic => Ok(PromptSource::default()),
            _ => self.prompt.prompt_source(self.model.precision(), self.includes_parent()),
        }
    }

    /// Whether captioners see the parent state too.
    fn includes_parent(&self) -> bool {
        self.rec_type == RecursionType::RecursiveMultiscale
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
    /// Crop 1/upscale of the parent state, one super-resolution pass, again and again
    Recursive,
    /// The same; captioners also see the parent state
    RecursiveMultiscale,
}

fn crop_box(text: &str) -> Result<Region, String> {
    let numbers: Result<Vec<u32>, _> = text.split(',').map(|number| number.trim().parse()).collect();
    match numbers.as_deref() {
        Ok(&[x, y, width, height]) if width > 0 && height > 0 => Ok(Region { x, y, width, height }),
        _ => Err(format!("expected X,Y,W,H in whole pixels with W and H above 0, found {text:?}")),
    }
}

/// What the reference's command takes and only full images need.
#[derive(Args)]
struct TileOptions {
    #[arg(long, alias = "vae_encoder_tiled_size", hide = true)]
    vae_encoder_tiled_size: Option<String>,
    #[arg(long, alias = "vae_decoder_tiled_size", hide = true)]
    vae_decoder_tiled_size: Option<String>,
    #[arg(long, alias = "latent_tiled_size", hide = true)]
    latent_tiled_size: Option<String>,
    #[arg(long, alias = "latent_tiled_overlap", hide = true)]
    latent_tiled_overlap: Option<String>,
}

impl TileOptions {
    /// Those that were given.
    fn given(&self) -> Vec<String> {
        let all = [
            (&self.vae_encoder_tiled_size, "--vae_encoder_tiled_size"),
            (&self.vae_decoder_tiled_size, "--vae_decoder_tiled_size"),
            (&self.latent_tiled_size, "--latent_tiled_size"),
            (&self.latent_tiled_overlap, "--latent_tiled_overlap"),
        ];
        all.into_iter().filter(|(value, _)| value.is_some()).map(|(_, name)| name.to_owned()).collect()
    }
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments, options: &RunOptions) -> anyhow::Result<ExitCode> {
    let (model, prompt_source) =
        (arguments.model.model(arguments.backbone.as_deref(), DEFAULT)?, arguments.prompt_source()?);
    let task = Task {
        steps: steps(arguments),
        model: model.name(),
        models: models(&model, &prompt_source),
        opening: arguments.batch.opening.opening(),
        options,
        idle: [arguments.idle.given(), arguments.model.idle(&model)].concat(),
        each: &|worker, file, tree| zoom(arguments, &model, &prompt_source, worker, file, tree),
    };
    batch::run(&arguments.batch, &task)
}

fn steps(arguments: &Arguments) -> u32 {
    arguments.rec_num.unwrap_or(if arguments.crop_box.is_empty() { 4 } else { arguments.crop_box.len() as u32 })
}

/// One picture's chain, into its folders.
fn zoom(
    arguments: &Arguments,
    model: &Backbone,
    prompt_source: &PromptSource,
    worker: &mut Worker,
    file: &Path,
    tree: &Tree,
) -> Result<(), UserError> {
    let DecodedPicture { picture, exif, .. } = worker.open(file)?;
    let first = Arc::new(resize_and_center_crop(&picture, arguments.process_size));
    drop(picture);
    // Without a model there is no input to it, nor a prompt for it.
    let restores = !matches!(arguments.rec_type, RecursionType::Nearest | RecursionType::Bicubic);
    let kind = ChainKind { is_recursive: arguments.is_recursive(), has_inputs: restores };
    let boxes = regions(arguments, &first)?;
    let mut chain = worker.begin(tree, first.clone(), exif, kind)?;
    for regions in boxes {
        let backbone = match arguments.rec_type {
            RecursionType::Nearest => (&NEAREST).into(),
            RecursionType::Bicubic => (&BICUBIC).into(),
            _ => model.clone(),
        };
        let job = Job {
            source: first.clone().into(),
            regions,
            size: (first.width(), first.height()),
            prompt: arguments.prompt.prompt.clone(),
            extracted_prompt: None,
            prompt_source: prompt_source.clone(),
            request: arguments.prompt.request(arguments.includes_parent(), TOKENS),
            full_image: None,
            seed: arguments.seed,
            preview: false,
            restorer: Restorer {
                device: worker.device,
                memory: arguments.model.memory(),
                align: arguments.align_method.map_or(backbone.spec.align, AlignMethod::from),
                backbone,
            },
        };
        worker.run(job, &mut chain)?;
    }
    chain.finish(first.height())
}

/// The boxes of each job: one recursive chain, or one job a step where every step starts from x_0.
fn regions(arguments: &Arguments, first: &Picture) -> Result<Vec<Vec<Region>>, UserError> {
    let recursive = arguments.is_recursive();
    let region = |i: u32| {
        let divisor = arguments.upscale.saturating_pow(if recursive { 1 } else { i + 1 });
        let central = Region::central(first.width(), first.height(), divisor);
        arguments.crop_box.get(i as usize).copied().unwrap_or(central)
    };
    let all: Vec<Region> = (0..steps(arguments)).map(region).collect();
    if let Some(&outside) = all.iter().find(|region| !region.fits(first.width(), first.height())) {
        let (width, height) = (first.width(), first.height());
        return Err(PipelineError::Outside { region: outside, width, height }.into());
    }
    Ok(if recursive { vec![all] } else { all.into_iter().map(|region| vec![region]).collect() })
}
