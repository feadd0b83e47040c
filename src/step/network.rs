//! Upscaling networks of the ESRGAN family: they take the cut pixels themselves, tile by tile, and what they make is
//! brought to the wanted size by bicubic.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use super::{Progress, Seen, Stage, StepError, StepInput, SuperResolver};
use crate::image::tensor::{picture_from_tensor, tensor_from_picture};
use crate::image::{Filter, Picture, resize};
use crate::models::{RrdbNet, SrvggNetCompact, Weights, WeightsError};

/// Trained by `coz train`; see docs/benchmarks.md.
const BUILT_IN: &[u8] = include_bytes!("../../assets/builtin_x4.safetensors");

/// Side of what one forward pass makes new of a large picture, in input pixels.
const TILE: u32 = 160;
/// Up to this side a picture is one tile: the cut of a step, but for the largest sizes of states.
const ONE_TILE: u32 = 512;
/// Context around it that is computed and thrown away, so that no seam shows.
const MARGIN: u32 = 16;
/// No published network enlarges by more.
const LARGEST_SCALE: u32 = 16;
/// Side of the picture by which speed is measured, in pixels.
const PROBE: i64 = 32;
/// It is measured so often at most, and no more after so long.
const PROBES: usize = 6;
const LONGEST_PROBE: Duration = Duration::from_millis(150);

enum Kernel {
    Compact(SrvggNetCompact),
    Rrdb(RrdbNet),
}

/// An upscaling network, loaded.
pub struct Network {
    kernel: Kernel,
    /// What the kernel's output is resized by.
    output_scale: f64,
    device: Device,
    name: String,
}

impl Network {
    /// The network that ships inside the program.
    pub fn built_in(device: Device) -> Result<Self, StepError> {
        Self::from_weights(&Weights::embedded("the built-in model", BUILT_IN)?, device)
    }

    /// A community file, `.pth`, safetensors or ncnn's pair: SRVGGNetCompact or RRDBNet, whichever its keys say.
    pub fn open(file: &Path, device: Device) -> Result<Self, StepError> {
        Self::from_weights(&Weights::open(file)?, device)
    }

    fn from_weights(weights: &Weights, device: Device) -> Result<Self, StepError> {
        // Real-ESRGAN wraps the tensors in a dictionary, the averaged ones first; others do not.
        for prefix in ["params_ema.", "params.", "state_dict.", "model_state_dict.", ""] {
            let kernel = if RrdbNet::recognises(weights, prefix) {
                Kernel::Rrdb(RrdbNet::load(weights, prefix, device, Kind::Float)?)
            } else if SrvggNetCompact::recognises(weights, prefix) {
                Kernel::Compact(SrvggNetCompact::load(weights, prefix, device, Kind::Float)?)
            } else {
                continue;
            };
            let (output_scale, name) = (weights.output_scale(), weights.file().display().to_string());
            let network = Self { kernel, output_scale, device, name };
            let scale = network.kernel_scale() * output_scale;
            if (scale - f64::from(network.scale())).abs() > 1e-6 || !(1..=LARGEST_SCALE).contains(&network.scale()) {
                let found = format!("it enlarges by {scale}, expected a whole number from 1 to {LARGEST_SCALE}");
                return Err(WeightsError::Format { file: weights.file().to_owned(), found }.into());
            }
            return Ok(network);
        }
        let first_key = weights.shapes().keys().next().map(ToString::to_string).unwrap_or_default();
        Err(StepError::UnknownNetwork { file: weights.file().to_owned(), first_key })
    }

    /// How many times larger its output is.
    pub fn scale(&self) -> u32 {
        (self.kernel_scale() * self.output_scale).round() as u32
    }

    fn kernel_scale(&self) -> f64 {
        match &self.kernel {
            Kernel::Compact(network) => network.scale() as f64,
            Kernel::Rrdb(network) => network.scale() as f64,
        }
    }

    /// Seconds that a picture of this size will take, measured on a small one.
    pub fn estimate_secs(&self, width: u32, height: u32) -> Result<f64, StepError> {
        let probe = Tensor::f_zeros([1, 3, PROBE, PROBE], (Kind::Float, self.device))?;
        let (begin, mut elapsed_secs) = (Instant::now(), f64::INFINITY);
        // The first runs also set up the libraries; the fastest was disturbed least.
        for i in 0..PROBES {
            let start = Instant::now();
            // Reading a number waits for the device.
            self.forward(&probe, &mut |_| Ok(()))?.f_sum(Kind::Float)?.f_double_value(&[])?;
            elapsed_secs = elapsed_secs.min(start.elapsed().as_secs_f64());
            if i > 0 && begin.elapsed() > LONGEST_PROBE {
                break;
            }
        }
        let tile = tile_side(width, height);
        let side =
            |length: u32| (0..length.div_ceil(tile)).map(|i| f64::from(Span::of(i, tile, length).length)).sum::<f64>();
        Ok(elapsed_secs * side(width) * side(height) / (PROBE * PROBE) as f64)
    }

    /// One tile, `[1, 3, H, W]` -> `[1, 3, scale * H, scale * W]`.
    fn forward(
        &self,
        tile: &Tensor,
        on_progress: &mut dyn FnMut(f32) -> Result<(), StepError>,
    ) -> Result<Tensor, StepError> {
        on_progress(0.0)?;
        let output = match &self.kernel {
            Kernel::Compact(network) => network.forward(tile)?,
            Kernel::Rrdb(network) => network
                .forward(tile, &mut |done, total| on_progress(done as f32 / total as f32).is_ok())?
                .ok_or(StepError::Cancelled)?,
        };
        if self.output_scale == 1.0 {
            return Ok(output);
        }
        let scale = i64::from(self.scale());
        let size = [tile.size()[2] * scale, tile.size()[3] * scale];
        Ok(output.f_upsample_bicubic2d(size, false, None, None)?)
    }

    /// The whole picture at `scale` times its size, restored tile by tile.
    fn upscale(&self, picture: &Picture, progress: &mut Progress) -> Result<Picture, StepError> {
        let (scale, tile) = (self.scale(), tile_side(picture.width(), picture.height()));
        let (columns, rows) = (picture.width().div_ceil(tile), picture.height().div_ceil(tile));
        let mut whole = Picture::from_fn(picture.width() * scale, picture.height() * scale, |_, _| [0; 3]);
        for (number, (row, column)) in (0..rows).flat_map(|row| (0..columns).map(move |c| (row, c))).enumerate() {
            let mut on_progress =
                |fraction: f32| progress.at(Stage::Restoring, (number as f32 + fraction) / (columns * rows) as f32);
            let across = Span::of(column, tile, picture.width());
            let down = Span::of(row, tile, picture.height());
            let input = picture.crop(across.from.into(), down.from.into(), across.length, down.length);
            let output = self.forward(&tensor_from_picture(&input, self.device)?, &mut on_progress)?;
            if !output.f_isfinite()?.f_all()?.f_double_value(&[])?.eq(&1.0) {
                return Err(StepError::NotFinite { model: self.name.clone() });
            }
            let kept = picture_from_tensor(&output)?.crop(
                (across.skipped * scale).into(),
                (down.skipped * scale).into(),
                across.kept * scale,
                down.kept * scale,
            );
            let (left, top) = (column * tile * scale, row * tile * scale);
            whole.paste(&kept, left, top);
            progress.seen(Seen::Tiles { done: number + 1, of: (columns * rows) as usize });
            progress.seen(Seen::Piece { left, top, picture: Arc::new(kept) });
        }
        Ok(whole)
    }
}

fn tile_side(width: u32, height: u32) -> u32 {
    if width.max(height) <= ONE_TILE { ONE_TILE } else { TILE }
}

/// One axis of a tile: what is fed in, and which part of it is kept.
struct Span {
    from: u32,
    length: u32,
    skipped: u32,
    kept: u32,
}

impl Span {
    fn of(index: u32, tile: u32, end: u32) -> Self {
        let start = index * tile;
        let kept = tile.min(end - start);
        let from = start.saturating_sub(MARGIN);
        let to = (start + kept + MARGIN).min(end);
        Self { from, length: to - from, skipped: start - from, kept }
    }
}

impl SuperResolver for Network {
    fn restore(&mut self, input: &StepInput, progress: &mut Progress) -> Result<Picture, StepError> {
        let made = self.upscale(&input.cut, progress)?;
        Ok(resize(&made, input.enlarged.width(), input.enlarged.height(), Filter::Bicubic))
    }

    fn estimate_secs(&mut self, width: u32, height: u32) -> Result<Option<f64>, StepError> {
        Network::estimate_secs(self, width, height).map(Some)
    }
}
