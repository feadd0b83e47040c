//! `coz train` and `coz measure`: how the built-in model was made, and how good it is.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;

use super::{backbone, pictures_in};
use crate::image::psnr::luma_psnr;
use crate::image::{Filter, codec, resize};
use crate::problem::Problem;
use crate::step::{Backbone, DeviceChoice, MemoryPlan, Progress, StepInput};
use crate::train::fit::{Plan, fit};

/// Options of `coz train`.
#[derive(Args)]
pub struct TrainArguments {
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
pub fn train(arguments: &TrainArguments) -> anyhow::Result<ExitCode> {
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
pub struct MeasureArguments {
    /// Pictures or folders of pictures
    #[arg(required = true)]
    input: Vec<PathBuf>,
    /// The model: builtin, nearest, bicubic, or an ESRGAN-family file
    #[arg(long, default_value = "builtin", value_parser = backbone)]
    backbone: Backbone,
    /// Where it runs: auto, cpu, cuda or cuda:NUMBER
    #[arg(long, default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
}

const SCALE: u32 = 4;

/// Runs `coz measure`: each picture is reduced x4 by bicubic and brought back.
pub fn measure(arguments: &MeasureArguments) -> anyhow::Result<ExitCode> {
    let mut resolver = arguments.backbone.load(arguments.device, MemoryPlan::Auto, 0).map_err(Problem::from)?;
    let mut gains = Vec::new();
    println!("{:<28}{:>10}{:>10}{:>8}", "luma PSNR, x4, dB", "bicubic", "model", "gain");
    for input in &arguments.input {
        for file in pictures_in(input)? {
            let picture = codec::open(&file).map_err(Problem::from)?;
            let (width, height) = (picture.width() / SCALE, picture.height() / SCALE);
            let sharp = picture.crop(0, 0, width * SCALE, height * SCALE);
            let cut = resize(&sharp, width, height, Filter::Bicubic);
            let enlarged = resize(&cut, sharp.width(), sharp.height(), Filter::Bicubic);
            let bicubic = luma_psnr(&sharp, &enlarged, SCALE);
            let input = StepInput { cut: Arc::new(cut), enlarged: Arc::new(enlarged), prompt: String::new(), seed: 0 };
            let restored = resolver.restore(&input, &mut Progress::new(&mut |_, _| true)).map_err(Problem::from)?;
            let model = luma_psnr(&sharp, &restored, SCALE);
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            println!("{name:<28}{bicubic:>10.2}{model:>10.2}{:>+8.2}", model - bicubic);
            gains.push(model - bicubic);
        }
    }
    println!("{:<48}{:>+8.2}", "mean", gains.iter().sum::<f64>() / gains.len() as f64);
    Ok(ExitCode::SUCCESS)
}
