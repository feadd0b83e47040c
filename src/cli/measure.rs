//! `coz measure`: how good a model is, against bicubic.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::backbone;
use super::inputs::pictures_in;
use crate::base::{Backbone, DeviceChoice, MemoryPlan, Progress, UserError};
use crate::imaging::metrics::luma_psnr;
use crate::imaging::{Filter, Picture, codec, resize};
use crate::pipelines::sr;
use crate::pipelines::sr::StepInput;

/// Options of `coz measure`.
#[derive(Args)]
pub(super) struct Arguments {
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

/// Runs the command: each picture is reduced x4 by bicubic and brought back.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
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
