//! `coz full`: the reference's `inference_coz_full.py`, whole pictures enlarged in tiles.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};

use super::batch::{self, BatchArguments, Task, Worker};
use super::prompt::PromptArguments;
use super::sd3::Sd3Arguments;
use super::zoom::Align;
use crate::engine::{Job, Restorer};
use crate::export::tree::Tree;
use crate::image::codec;
use crate::problem::Problem;
use crate::prompt::Extractor;
use crate::region::Region;
use crate::step::{Backbone, Tiling, Whole};

/// New tokens for a tile, where none are told.
const TOKENS: u32 = 16;

/// Options of `coz full`. The snake_case spellings of the reference work too.
#[derive(Args)]
#[command(
    after_help = "Writes OUTPUT/per-sample/NAME/0.png (the picture), 1_input.png (the same enlarged by Lanczos) and 1.png\n\
    (the result), with --save-prompts the words of each tile as txt/0_TILE.txt; also OUTPUT/per-scale/scaleI/NAME.png.\n\
    Exit code: 0 all done, 1 something failed, 2 wrong options, 130 stopped by Ctrl+C."
)]
pub struct Arguments {
    #[command(flatten)]
    batch: BatchArguments,
    /// What the words are found by
    #[arg(long, alias = "rec_type", value_enum, default_value_t = RecursionType::RecursiveMultiscale)]
    rec_type: RecursionType,
    /// How often each picture is enlarged
    #[arg(long, alias = "rec_num", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    rec_num: u32,
    /// Enlargement
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=16))]
    upscale: u32,
    /// Colour matching to the plainly enlarged picture
    #[arg(long, alias = "align_method", value_enum, default_value_t = Align::Nofix)]
    align_method: Align,
    /// Seed of the noise, for models that draw some
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Super-resolution model: builtin, nearest, bicubic, sd3, or an ESRGAN-family file (.pth, .safetensors) [default: sd3
    /// where one of its files is told, else builtin]
    #[arg(long)]
    backbone: Option<String>,
    #[command(flatten)]
    words: PromptArguments,
    #[command(flatten)]
    sd3: Sd3Arguments,
    #[command(flatten)]
    tiles: TileArguments,
    /// An option of the reference that is for boxes
    #[arg(long, alias = "process_size", hide = true)]
    process_size: Option<u32>,
}

/// How a whole picture is worked through.
#[derive(Args)]
#[command(next_help_heading = "Tiles of --backbone sd3")]
struct TileArguments {
    /// Side of the tiles that are restored, in pixels of the latent (8 of the picture)
    #[arg(long, alias = "latent_tiled_size", default_value_t = Tiling::default().latent, value_parser = clap::value_parser!(u32).range(2..=4096))]
    latent_tiled_size: u32,
    /// How far these lie over each other
    #[arg(long, alias = "latent_tiled_overlap", default_value_t = Tiling::default().overlap, value_parser = clap::value_parser!(u32).range(0..=4096))]
    latent_tiled_overlap: u32,
    /// Side of the tiles that are encoded, in pixels
    #[arg(long, alias = "vae_encoder_tiled_size", default_value_t = Tiling::default().encoder, value_parser = clap::value_parser!(u32).range(8..=16384))]
    vae_encoder_tiled_size: u32,
    /// Side of the tiles that are decoded, in pixels of the latent
    #[arg(long, alias = "vae_decoder_tiled_size", default_value_t = Tiling::default().decoder, value_parser = clap::value_parser!(u32).range(2..=4096))]
    vae_decoder_tiled_size: u32,
    /// How tiles of the autoencoder know of each other
    #[arg(long, alias = "vae_mode", value_enum, default_value_t = VaeMode::Fast)]
    vae_mode: VaeMode,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum VaeMode {
    /// By a small copy of the picture, as the reference does
    Fast,
    /// As if there were no tiles; several times as long
    Exact,
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
    /// The tile and the whole picture
    RecursiveMultiscale,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (model, extractor) = match arguments.rec_type {
        RecursionType::Nearest => (Backbone::Nearest, Extractor::Own),
        RecursionType::Bicubic => (Backbone::Bicubic, Extractor::Own),
        _ => {
            let model = arguments.sd3.model(arguments.backbone.as_deref())?;
            (model, arguments.words.extractor(arguments.sd3.precision())?)
        }
    };
    let task = Task {
        steps: arguments.rec_num,
        model: model.name(),
        idle: arguments.process_size.map(|_| "--process_size").into_iter().collect(),
        each: &|worker, file, tree| enlarge(arguments, &model, &extractor, worker, file, tree),
    };
    batch::run(&arguments.batch, &task)
}

/// One picture, into its folders.
fn enlarge(
    arguments: &Arguments,
    model: &Backbone,
    extractor: &Extractor,
    worker: &mut Worker,
    file: &Path,
    tree: &Tree,
) -> Result<(), Problem> {
    let first = Arc::new(codec::open(file)?);
    let restores = !matches!(arguments.rec_type, RecursionType::Nearest | RecursionType::Bicubic);
    let mut chain = worker.begin(tree, first.clone(), true, restores)?;
    let (width, height) = (first.width(), first.height());
    let tiles = &arguments.tiles;
    let tiling = Tiling {
        latent: tiles.latent_tiled_size,
        overlap: tiles.latent_tiled_overlap,
        encoder: tiles.vae_encoder_tiled_size,
        decoder: tiles.vae_decoder_tiled_size,
        exact: tiles.vae_mode == VaeMode::Exact,
    };
    let larger = |side: u32| side.saturating_mul(arguments.upscale);
    let job = Job {
        source: first,
        regions: vec![Region { x: 0, y: 0, width, height }; arguments.rec_num as usize],
        size: (larger(width), larger(height)),
        prompt: arguments.words.prompt.clone(),
        found: None,
        extractor: extractor.clone(),
        asking: arguments.words.asking(arguments.rec_type == RecursionType::RecursiveMultiscale, TOKENS),
        whole: Some(Whole { tiling, prompts: Vec::new() }),
        seed: arguments.seed,
        restorer: Restorer {
            backbone: model.clone(),
            device: worker.device,
            memory: arguments.sd3.memory(),
            align: arguments.align_method.into(),
        },
    };
    worker.run(job, &mut chain)?;
    chain.finish(height)
}
