//! `coz train` and `coz measure`: how the built-in model was made, and how good it is.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;

use super::backbone;
use super::inputs::pictures_in;
use crate::base::{Backbone, DeviceChoice, MemoryPlan, Progress, UserError};
use crate::imaging::metrics::luma_psnr;
use crate::imaging::{Filter, Picture, codec, resize};
use crate::pipelines::sr;
use crate::pipelines::sr::StepInput;
use crate::train::fit::{Plan, fit};

/// Options of `coz train`.
#[derive(Args)]
pub(super) struct TrainArguments {
    /// File to write, safetensors in half precision
    #[arg(short, long, default_value = "assets/builtin_x4.safetensors")]
    output: PathBuf,
    /// Weights to start from instead of random ones; --features and --depth must be theirs
    #[arg(long)]
    from: Option<PathBuf>,
    /// Minutes to train
    #[arg(long, default_value_t = 80.0)]
    minutes: f64,
    /// Channels inside
    #[arg(long, default_value_t = 48)]
    features: i64,
    /// Convolutions inside
    #[arg(long, default_value_t = 16)]
    depth: i64,
    /// Learning rate at the start
    #[arg(long, default_value_t = 1e-3)]
    rate: f64,
    /// Seed of weights and scenes
    #[arg(long, default_value_t = 7)]
    seed: u64,
}

/// Runs `coz train`.
pub(super) fn train(arguments: &TrainArguments) -> anyhow::Result<ExitCode> {
    let plan = Plan {
        features: arguments.features,
        depth: arguments.depth,
        duration: Duration::from_secs_f64(arguments.minutes.max(0.0) * 60.0),
        rate: arguments.rate,
        from: arguments.from.clone(),
        seed: arguments.seed,
    };
    let bar = ProgressBar::new(1000);
    fit(&plan, &arguments.output, |step, loss, done| {
        bar.set_position((done * 1000.0) as u64);
        bar.set_message(format!("step {step}, loss {loss:.5}"));
        if bar.is_hidden() {
            eprintln!("step {step}, loss {loss:.5}, {:.1} %", done * 100.0);
        }
    })?;
    bar.finish_and_clear();
    eprintln!("wrote {}", arguments.output.display());
    Ok(ExitCode::SUCCESS)
}

/// Options of `coz measure`.
#[derive(Args)]
pub(super) struct MeasureArguments {
    /// Pictures or folders of pictures
    #[arg(required = true)]
    input: Vec<PathBuf>,
    /// The model: builtin, nearest, bicubic, or the file of a network
    #[arg(long, default_value = "builtin", value_parser = backbone)]
    backbone: Backbone,
    /// Where it runs: auto, cpu, cuda or cuda:NUMBER
    #[arg(long, default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
}

const SCALE: u32 = 4;

/// Runs `coz measure`: each picture is reduced x4 by bicubic and brought back.
pub(super) fn measure(arguments: &MeasureArguments) -> anyhow::Result<ExitCode> {
    let mut resolver = sr::open(&arguments.backbone, arguments.device, MemoryPlan::Auto, 0).map_err(UserError::from)?;
    let mut gains = Vec::new();
    println!("{:<28}{:>10}{:>10}{:>8}", "x4, luma PSNR in dB", "bicubic", "model", "gain");
    for input in &arguments.input {
        for file in pictures_in(input)? {
            let picture = codec::open(&file).map_err(UserError::from)?;
            let (width, height) = (picture.width() / SCALE, picture.height() / SCALE);
            let sharp = picture.crop(0, 0, width * SCALE, height * SCALE);
            let cut = resize(&sharp, width, height, Filter::Bicubic);
            let enlarged = resize(&cut, sharp.width(), sharp.height(), Filter::Bicubic);
            let enlarged = Arc::new(enlarged);
            let input = StepInput { cut: Arc::new(cut), enlarged: enlarged.clone(), prompt: String::new(), seed: 0 };
            let restored = resolver.restore(&input, &mut Progress::new(&mut |_, _| true)).map_err(UserError::from)?;
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let of = |picture: &Picture| luma_psnr(&sharp, picture, SCALE);
            let (bicubic, model) = (of(&enlarged), of(&restored));
            println!("{name:<28}{bicubic:>10.2}{model:>10.2}{:>+8.2}", model - bicubic);
            gains.push(model - bicubic);
        }
    }
    let mean = gains.iter().sum::<f64>() / gains.len() as f64;
    println!("{:<48}{mean:>+8.2}", "mean");
    Ok(ExitCode::SUCCESS)
}
