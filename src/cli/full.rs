//! `coz full`: the reference's `inference_coz_full.py`, full images enlarged in tiles.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::HumanDuration;

use super::args::{Align, BackboneArguments, PromptArguments};
use super::batch;
use super::batch::{BatchArguments, ChainKind, Task, Worker};
use super::run_record::{RunOptions, models};
use crate::base::{
    AlignMethod, BICUBIC, BUILT_IN, Backbone, BackboneKind, DeviceChoice, FullImage, NEAREST, PromptSource, Region,
    Tiling, UserError, VaeMode,
};
use crate::document::export::tree::Tree;
use crate::engine::{Job, LARGEST, Restorer};
use crate::hub;
use crate::imaging::Picture;
use crate::imaging::codec::{DecodedPicture, MAX_PIXELS, Opening};
use crate::pipelines::PipelineError;
use crate::pipelines::sr::Upscaler;
use crate::runtime::device;

/// The model, where none is given.
const DEFAULT: &str = "builtin";
/// New tokens for a tile, where nothing is said.
const TOKENS: u32 = 16;

/// Options of `coz full`. The snake_case spellings of the reference work too.
#[derive(Args)]
#[command(
    after_help = "Writes OUTPUT/per-sample/NAME/0.png (the picture), 1_input.png (the same enlarged by Lanczos) and 1.png\n\
    (the result), with --save-prompts the prompt of each tile as txt/0_TILE.txt; also OUTPUT/per-scale/scaleI/NAME.png.\n\
    Exit code: 0 all done, 1 something failed, 2 wrong options, 130 stopped by Ctrl+C."
)]
pub(super) struct Arguments {
    #[command(flatten)]
    batch: BatchArguments,
    /// What prompts are extracted from
    #[arg(long, alias = "rec_type", value_enum, default_value_t = RecursionType::RecursiveMultiscale)]
    rec_type: RecursionType,
    /// How often each picture is enlarged
    #[arg(long, alias = "rec_num", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    rec_num: u32,
    /// Enlargement
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=16))]
    upscale: u32,
    /// Enlargement instead, as Real-ESRGAN's command has it: native (the network's own) or a number such as 2 or 3.5
    #[arg(long, value_name = "native|N", conflicts_with = "upscale", value_parser = outscale)]
    outscale: Option<Outscale>,
    /// Colour matching to the plainly enlarged picture [default: adain for osediff-sd21, else nofix]
    #[arg(long, alias = "align_method", value_enum)]
    align_method: Option<Align>,
    /// Seed of the noise, for models that draw some
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Keep transparency: enlarged by the same model where it works pixel by pixel, else by bicubic; colours are as they look
    /// on the background
    #[arg(long)]
    keep_alpha: bool,
    /// Super-resolution model: auto (the best that is here), builtin, realesrgan, sd3, osediff-sd21, nearest, bicubic, or the
    /// file of a network such as ESRGAN, SPAN or DAT (.pth, .safetensors, .param with its .bin) [default: sd3 or osediff-sd21
    /// where files of its own are given, else builtin]
    #[arg(long)]
    backbone: Option<String>,
    #[command(flatten)]
    prompt: PromptArguments,
    #[command(flatten)]
    model: BackboneArguments,
    #[command(flatten)]
    tiles: TileArguments,
    /// An option of the reference that is for boxes
    #[arg(long, alias = "process_size", hide = true)]
    process_size: Option<u32>,
}

/// How a full image is worked through; what is not said is as the model has it.
#[derive(Args)]
#[command(next_help_heading = "Tiles of diffusion models (SD3, osediff-sd21)")]
struct TileArguments {
    /// Side of the tiles that are restored, in pixels of the latent (8 of the picture) [default: 64, 96]
    #[arg(long, alias = "latent_tiled_size", value_parser = clap::value_parser!(u32).range(2..=4096))]
    latent_tiled_size: Option<u32>,
    /// How far these lie over each other [default: 16, 32]
    #[arg(long, alias = "latent_tiled_overlap", value_parser = clap::value_parser!(u32).range(0..=4096))]
    latent_tiled_overlap: Option<u32>,
    /// Side of the tiles that are encoded, in pixels [default: 1024, 1024]
    #[arg(long, alias = "vae_encoder_tiled_size", value_parser = clap::value_parser!(u32).range(8..=16384))]
    vae_encoder_tiled_size: Option<u32>,
    /// Side of the tiles that are decoded, in pixels of the latent [default: 128, 224]
    #[arg(long, alias = "vae_decoder_tiled_size", value_parser = clap::value_parser!(u32).range(2..=4096))]
    vae_decoder_tiled_size: Option<u32>,
    /// How tiles of the autoencoder know of each other [default: fast, averaged]
    #[arg(long, alias = "vae_mode", value_enum)]
    vae_mode: Option<VaeModeArgument>,
}

impl TileArguments {
    fn tiling(&self, usual: Tiling) -> Tiling {
        Tiling {
            latent_tile: self.latent_tiled_size.unwrap_or(usual.latent_tile),
            overlap: self.latent_tiled_overlap.unwrap_or(usual.overlap),
            encoder_tile: self.vae_encoder_tiled_size.unwrap_or(usual.encoder_tile),
            decoder_tile: self.vae_decoder_tiled_size.unwrap_or(usual.decoder_tile),
            vae_mode: self.vae_mode.map_or(usual.vae_mode, VaeMode::from),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum VaeModeArgument {
    /// By a small copy of the picture, as Chain-of-Zoom does
    Fast,
    /// By the means of what all tiles have, as OSEDiff does; they all wait in memory
    Averaged,
    /// As if there were no tiles; several times as long
    Exact,
}

impl From<VaeModeArgument> for VaeMode {
    fn from(mode: VaeModeArgument) -> Self {
        match mode {
            VaeModeArgument::Fast => Self::Fast,
            VaeModeArgument::Averaged => Self::Averaged,
            VaeModeArgument::Exact => Self::Exact,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum RecursionType {
    /// Nearest neighbour: no model
    Nearest,
    /// Bicubic: no model
    Bicubic,
    /// The tile alone
    Onestep,
    /// The tile alone
    Recursive,
    /// The tile and the full image
    RecursiveMultiscale,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outscale {
    /// What the network makes, as it is.
    Native,
    /// Its result is resized to this many times the picture.
    Factor(f64),
}

fn outscale(text: &str) -> Result<Outscale, String> {
    match text.parse() {
        _ if text == "native" => Ok(Outscale::Native),
        Ok(factor) if (0.1..=16.0).contains(&factor) => Ok(Outscale::Factor(factor)),
        _ => Err(format!("expected native or a number from 0.1 to 16, found {text:?}")),
    }
}

impl Arguments {
    /// How many times larger results are.
    fn factor(&self, model: &Backbone) -> Result<f64, UserError> {
        match self.outscale {
            None => Ok(f64::from(self.upscale)),
            Some(Outscale::Factor(factor)) => Ok(factor),
            Some(Outscale::Native) => match network(model, DeviceChoice::Cpu)? {
                Some(network) => Ok(f64::from(network.scale())),
                None => {
                    let details = format!("{} has no scale of its own", model.name());
                    Err(UserError::new("The enlargement is not clear", details, "Say how much, such as --upscale 4."))
                }
            },
        }
    }
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments, options: &RunOptions) -> anyhow::Result<ExitCode> {
    let (model, prompt_source) = match arguments.rec_type {
        RecursionType::Nearest => ((&NEAREST).into(), PromptSource::default()),
        RecursionType::Bicubic => ((&BICUBIC).into(), PromptSource::default()),
        _ => {
            let model = arguments.model.model(arguments.backbone.as_deref(), DEFAULT)?;
            let include_parent = arguments.rec_type == RecursionType::RecursiveMultiscale;
            (model, arguments.prompt.prompt_source(arguments.model.precision(), include_parent)?)
        }
    };
    let factor = arguments.factor(&model)?;
    let format = arguments.batch.results.format;
    if arguments.keep_alpha && !format.has_alpha() {
        let details = format!("--keep-alpha, and .{} files know no transparency", format.extension());
        return Err(UserError::new("The format is not clear", details, "Choose --format png, webp or tif.").into());
    }
    let is_default = arguments.backbone.is_none() && model.is(&BUILT_IN) && !arguments.batch.json;
    let secs_per_pixel = if is_default { Some(SecsPerPixel::measure(arguments.batch.device)?) } else { None };
    let remark = match arguments.backbone {
        Some(_) if !arguments.batch.json => {
            network(&model, arguments.batch.device)?.and_then(|network| network.remark())
        }
        _ => None,
    };
    if let Some(remark) = remark {
        println!("{}: {remark}", model.name());
    }
    let task = Task {
        steps: arguments.rec_num,
        model: model.name(),
        models: models(&model, &prompt_source),
        opening: Opening {
            keep_alpha: arguments.keep_alpha,
            most_pixels: (MAX_PIXELS as f64 / factor.max(1.0).powi(2 * arguments.rec_num as i32)) as u64,
            ..arguments.batch.opening.opening()
        },
        options,
        idle: {
            let idle = arguments.process_size.map(|_| "--process_size".to_owned());
            idle.into_iter().chain(arguments.model.idle(&model)).collect()
        },
        each: &|worker, file, tree| {
            let run = Run {
                arguments,
                model: &model,
                factor,
                prompt_source: &prompt_source,
                secs_per_pixel: secs_per_pixel.as_ref(),
            };
            run.enlarge(worker, file, tree)
        },
    };
    batch::run(&arguments.batch, &task)
}

/// The single-image network of a model; `None` for models of other kinds.
fn network(model: &Backbone, device: DeviceChoice) -> Result<Option<Upscaler>, PipelineError> {
    let is_one = model.spec.kind == BackboneKind::SingleImage;
    is_one.then(|| Upscaler::of(model, device::resolve(device)?.picture)).transpose()
}

/// Seconds a pixel of the picture that the built-in network takes, and Real-ESRGAN.
struct SecsPerPixel {
    builtin: f64,
    /// `None` where it is not on this machine.
    realesrgan: Option<f64>,
}

impl SecsPerPixel {
    fn measure(device: DeviceChoice) -> Result<Self, UserError> {
        const SIDE: u32 = 1000;
        let of = |model: Backbone| -> Result<f64, PipelineError> {
            let network = network(&model, device)?;
            let estimate =
                network.map(|network| network.estimate((SIDE, SIDE), SIDE * network.scale(), false)).transpose()?;
            let secs = estimate.map_or(0.0, |estimate| estimate.secs);
            Ok(secs / f64::from(SIDE * SIDE))
        };
        // A damaged file is reported when it is asked for.
        let realesrgan = hub::realesrgan().and_then(|file| of(Backbone::file(file)).ok());
        Ok(Self { builtin: of(Backbone::default())?, realesrgan })
    }

    /// What a picture of so many pixels takes, and how to have more.
    fn line(&self, pixels: f64) -> String {
        let duration = |secs: f64| HumanDuration(Duration::from_secs_f64((secs * pixels).max(1.0)));
        let more = match self.realesrgan {
            Some(secs) => format!("--backbone realesrgan, about {}", duration(secs)),
            None => "`coz models download realesrgan` (45 MB), then --backbone realesrgan".into(),
        };
        format!("about {} with the built-in model; more detail: {more}", duration(self.builtin))
    }
}

/// What is the same for all pictures.
struct Run<'a> {
    arguments: &'a Arguments,
    model: &'a Backbone,
    factor: f64,
    prompt_source: &'a PromptSource,
    /// Where the model was not chosen, what it costs to choose another.
    secs_per_pixel: Option<&'a SecsPerPixel>,
}

impl Run<'_> {
    /// One picture, into its folders.
    fn enlarge(&self, worker: &mut Worker, file: &Path, tree: &Tree) -> Result<(), UserError> {
        let (arguments, model) = (self.arguments, self.model);
        let DecodedPicture { picture, alpha, exif, .. } = worker.open(file)?;
        let first = Arc::new(picture);
        let restores = !matches!(arguments.rec_type, RecursionType::Nearest | RecursionType::Bicubic);
        let largest = f64::from(first.width().max(first.height())) * self.factor.powi(arguments.rec_num as i32);
        if largest >= f64::from(LARGEST) + 1.0 {
            let scaled = |side: u32| (f64::from(side) * largest / f64::from(first.width().max(first.height()))) as u32;
            let (width, height) = (scaled(first.width()), scaled(first.height()));
            return Err(PipelineError::TooLarge { width, height, most: LARGEST }.into());
        }
        let kind = ChainKind { is_recursive: true, has_inputs: restores };
        let mut chain = worker.begin(tree, first.clone(), exif, kind)?;
        let (width, height) = (first.width(), first.height());
        if let Some(secs_per_pixel) = self.secs_per_pixel {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            // Every further step has a larger picture to enlarge.
            let steps = (0..arguments.rec_num).map(|i| self.factor.powi(2 * i as i32)).sum::<f64>();
            let line = secs_per_pixel.line(f64::from(width) * f64::from(height) * steps);
            worker.print_line(&format!("{name}: {line}"));
        }
        let tiling = arguments.tiles.tiling(model.spec.tiling);
        let larger = |side: u32| ((f64::from(side) * self.factor) as u32).max(1);
        let job = Job {
            source: first.into(),
            regions: vec![Region { x: 0, y: 0, width, height }; arguments.rec_num as usize],
            size: (larger(width), larger(height)),
            prompt: arguments.prompt.prompt.clone(),
            extracted_prompt: None,
            prompt_source: self.prompt_source.clone(),
            request: arguments.prompt.request(arguments.rec_type == RecursionType::RecursiveMultiscale, TOKENS),
            full_image: Some(FullImage { tiling, prompts: Vec::new() }),
            seed: arguments.seed,
            preview: false,
            restorer: Restorer {
                backbone: model.clone(),
                device: worker.device,
                memory: arguments.model.memory(),
                align: arguments.align_method.map_or(model.spec.align, AlignMethod::from),
            },
        };
        if let Some(alpha) = alpha {
            chain.keep_alphas(self.alphas(worker, &job, alpha)?);
        }
        worker.run(job, &mut chain)?;
        chain.finish(height)
    }

    /// The opacity of each state. A network draws its edges where it draws those of the colours; what makes up its detail
    /// would make up holes.
    fn alphas(&self, worker: &mut Worker, job: &Job, alpha: Picture) -> Result<Vec<Arc<Picture>>, UserError> {
        let is_faithful = self.model.spec.kind != BackboneKind::Diffusion;
        let backbone = if is_faithful { self.model.clone() } else { (&BICUBIC).into() };
        let restorer = Restorer { backbone, align: AlignMethod::NoFix, ..job.restorer.clone() };
        let alphas = worker.run_aside(Job { source: Arc::new(alpha).into(), restorer, ..job.clone() })?;
        // Greys in, greys out, but for what a network of colours makes of them.
        let grey = |picture: Arc<Picture>| {
            let mean = |[r, g, b]: [u8; 3]| ((u16::from(r) + u16::from(g) + u16::from(b) + 1) / 3) as u8;
            Arc::new(Picture::from_fn(picture.width(), picture.height(), |x, y| [mean(picture.pixel(x, y)); 3]))
        };
        Ok(alphas.into_iter().map(grey).collect())
    }
}
