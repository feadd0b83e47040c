//! Single-image networks: they take the cut pixels themselves, tile by tile, and their output is brought to the wanted size
//! by bicubic. One that doubles is applied twice where more is wanted.

mod tiles;

use std::cell::OnceCell;
use std::path::Path;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use tiles::{Tiling, paste_faded};

use super::{FullImageInput, PartialResult, PipelineError, StepInput, SuperResolver};
use crate::base::{Backbone, Cancelled, Progress, Stage, StepEstimate, sha256_of};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::sd3::diffusion_model;
use crate::imaging::{Filter, Picture, resize};
use crate::networks::single_image;
use crate::networks::single_image::{Context, SingleImageNetwork};
use crate::runtime::tensor::{picture_from_tensor, tensor_from_picture};
use crate::runtime::weights::Weights;
use crate::runtime::{memory, speed};

/// Trained by `coz train`; see docs/benchmarks.md.
const BUILT_IN: &[u8] = include_bytes!("../../../../assets/builtin_x4.safetensors");

/// No published network enlarges by more.
const LARGEST_SCALE: u32 = 16;
/// What is to be known of a network that does not enlarge.
const CLEANER: &str = "it cleans pictures and does not enlarge them: bicubic does, after it";
/// Least side of the picture by which time and memory are measured, in pixels.
const PROBE: i64 = 32;

/// What one forward pass of it takes.
#[derive(Clone, Copy)]
struct Probe {
    /// Of the picture, in pixels.
    side: i64,
    secs: f64,
    /// At its width: whatever the height, and for every row.
    bytes: [f64; 2],
}

impl Probe {
    /// Of one pass over a picture of this size.
    fn bytes(&self, width: u32, height: u32) -> f64 {
        let [fixed, a_row] = self.bytes;
        (fixed + a_row * f64::from(height)) * f64::from(width) / self.side as f64
    }
}

/// An upscaling network, loaded.
pub struct Upscaler {
    network: Box<dyn SingleImageNetwork>,
    architecture: &'static str,
    /// What the network's output is resized by.
    output_scale: f64,
    device: Device,
    name: String,
    probe: OnceCell<Probe>,
}

/// SHA-256 of the built-in model's file.
pub(super) fn built_in_digest() -> String {
    sha256_of(BUILT_IN)
}

impl Upscaler {
    /// The network that ships inside the program.
    pub fn built_in(device: Device) -> Result<Self, PipelineError> {
        Self::from_weights(&Weights::embedded("the built-in model", BUILT_IN)?, device)
    }

    /// A community file, `.pth`, safetensors or ncnn's pair; which network it is, its keys say.
    pub fn open(file: &Path, device: Device) -> Result<Self, PipelineError> {
        Self::from_weights(&Weights::open(file)?, device)
    }

    /// The network of a backbone of this kind.
    pub fn of(backbone: &Backbone, device: Device) -> Result<Self, PipelineError> {
        backbone.network_file().map_or_else(|| Self::built_in(device), |file| Self::open(file, device))
    }

    fn from_weights(weights: &Weights, device: Device) -> Result<Self, PipelineError> {
        let Some((architecture, network)) = single_image::load(weights, device, Kind::Float)? else {
            let has = |start: &str| weights.keys_from(start).next().is_some_and(|key| key.starts_with(start));
            if let Some(model) = diffusion_model(&has) {
                return Err(PipelineError::DiffusionModel { file: weights.file().to_owned(), model });
            }
            let first_key = weights.shapes().keys().next().map(ToString::to_string).unwrap_or_default();
            return Err(PipelineError::UnknownNetwork { file: weights.file().to_owned(), first_key });
        };
        let (output_scale, name) = (weights.output_scale(), weights.file().display().to_string());
        let scale = network.scale() as f64 * output_scale;
        let upscaler = Self { network, architecture, output_scale, device, name, probe: OnceCell::new() };
        if (scale - f64::from(upscaler.scale())).abs() > 1e-6 || !(1..=LARGEST_SCALE).contains(&upscaler.scale()) {
            let found = format!("it enlarges by {scale}, expected a whole number from 1 to {LARGEST_SCALE}");
            return Err(CheckpointError::format(weights.file(), found).into());
        }
        Ok(upscaler)
    }

    /// The network, as its authors call it.
    pub fn architecture(&self) -> &'static str {
        self.architecture
    }

    /// How many times larger its output is.
    pub fn scale(&self) -> u32 {
        (self.network.scale() as f64 * self.output_scale).round() as u32
    }

    /// What is to be known of its results.
    pub fn remark(&self) -> Option<&'static str> {
        (self.scale() == 1).then_some(CLEANER)
    }

    /// How often it is applied to make pictures of `from` pixels as wide as `to`.
    fn passes(&self, from: u32, to: u32) -> u32 {
        if self.scale() == 2 && to > 2 * from { 2 } else { 1 }
    }

    /// How a picture of this size is cut into tiles. The cut of a step is not, where tiles would differ in tone.
    fn tiling(&self, (width, height): (u32, u32), is_step: bool) -> Result<Tiling, PipelineError> {
        let (context, longest) = (self.network.context(), width.max(height));
        if context != Context::Global {
            return Ok(Tiling::of(context, longest, |_| true));
        }
        if is_step {
            return Ok(Tiling::WHOLE);
        }
        let free = memory::free_memory(self.device).map_or(f64::INFINITY, |free| free as f64);
        let probe = self.probe()?;
        // Half of it: what other programs take meanwhile, and the picture itself, need room too.
        Ok(Tiling::of(context, longest, |side| probe.bytes(side, side) <= free / 2.0))
    }

    /// What a picture of this size takes for a result of this width, by what a small one took.
    pub fn estimate(&self, size: (u32, u32), result: u32, is_step: bool) -> Result<StepEstimate, PipelineError> {
        let probe = self.probe()?;
        let mut estimate = StepEstimate { secs: 0.0, bytes: 0, smaller: Vec::new(), remark: self.remark() };
        for pass in 0..self.passes(size.0, result) {
            let (width, height) = (size.0 * self.scale().pow(pass), size.1 * self.scale().pow(pass));
            let tiling = self.tiling((width, height), is_step)?;
            let all = |length: u32| tiling.spans(length).map(|span| f64::from(span.length)).sum::<f64>();
            let longest = |length: u32| tiling.spans(length).map(|span| span.length).max().unwrap_or(0);
            // The picture that is put together, and the same at the size asked for, in 8 bits; where tiles fade, a row of them.
            let results = if tiling.is_faded() { 3 } else { 2 };
            let results = results * 3 * u64::from(width) * u64::from(height) * u64::from(self.scale()).pow(2);
            estimate.bytes = estimate.bytes.max(probe.bytes(longest(width), longest(height)) as u64 + results);
            estimate.secs += probe.secs * all(width) * all(height) / probe.side.pow(2) as f64;
        }
        Ok(estimate)
    }

    /// Finds out what a pass takes, as long as that is of use.
    ///
    /// # Errors
    /// [`PipelineError::Cancelled`] where it is not.
    pub fn measure(&self, is_active: &dyn Fn() -> bool) -> Result<(), PipelineError> {
        self.probe_while(is_active).map(drop)
    }

    /// Measured once.
    fn probe(&self) -> Result<Probe, PipelineError> {
        self.probe_while(&|| true)
    }

    fn probe_while(&self, is_active: &dyn Fn() -> bool) -> Result<Probe, PipelineError> {
        if let Some(probe) = self.probe.get() {
            return Ok(*probe);
        }
        // What is padded up to multiples of a window would take as long as more pixels.
        let side = match self.network.context() {
            Context::Windows(window) => (PROBE + window - 1) / window.max(1) * window.max(1),
            _ => PROBE,
        };
        let on_progress = || |_| if is_active() { Ok(()) } else { Err(Cancelled) };
        let picture = |height: i64| Tensor::f_zeros([1, 3, height, side], (Kind::Float, self.device));
        let taken = |height: i64| -> Result<f64, PipelineError> {
            let picture = picture(height)?;
            let (output, bytes) = memory::peak_of(|| self.forward(&picture, &mut on_progress()));
            drop(output?);
            Ok(bytes as f64)
        };
        // A network that enlarges in strips takes more with every row, but not in proportion.
        let (low, high) = (taken(side)?, taken(2 * side)?);
        let a_row = (high - low).max(0.0) / side as f64;
        let bytes = [low - a_row * side as f64, a_row];
        let small = picture(side)?;
        let secs = speed::fastest(|| self.forward(&small, &mut on_progress()))?;
        Ok(*self.probe.get_or_init(|| Probe { side, secs, bytes }))
    }

    /// One tile, `[1, 3, H, W]` -> `[1, 3, scale * H, scale * W]`.
    fn forward(
        &self,
        tile: &Tensor,
        on_progress: &mut dyn FnMut(f32) -> Result<(), Cancelled>,
    ) -> Result<Tensor, PipelineError> {
        on_progress(0.0)?;
        let output = self.network.forward(tile, &mut |fraction| on_progress(fraction).is_ok())?;
        let output = output.ok_or(PipelineError::Cancelled)?;
        if self.output_scale == 1.0 {
            return Ok(output);
        }
        let scale = i64::from(self.scale());
        let size = [tile.size()[2] * scale, tile.size()[3] * scale];
        Ok(output.f_upsample_bicubic2d(size, false, None, None)?)
    }

    /// The whole picture, made as wide as `width` or the network's scale towards it.
    fn upscale(
        &self,
        picture: &Picture,
        width: u32,
        is_step: bool,
        progress: &mut Progress,
        on_partial: &mut dyn FnMut(PartialResult),
    ) -> Result<Picture, PipelineError> {
        if self.passes(picture.width(), width) == 1 {
            return self.upscale_once(picture, is_step, (0.0, 1.0), progress, on_partial);
        }
        // The second pass sees four times as many pixels.
        let first = self.upscale_once(picture, is_step, (0.0, 0.2), progress, &mut |_| ())?;
        self.upscale_once(&first, is_step, (0.2, 1.0), progress, on_partial)
    }

    /// The whole picture at `scale` times its size, restored tile by tile; `share` of the progress is this.
    fn upscale_once(
        &self,
        picture: &Picture,
        is_step: bool,
        share: (f32, f32),
        progress: &mut Progress,
        on_partial: &mut dyn FnMut(PartialResult),
    ) -> Result<Picture, PipelineError> {
        let scale = self.scale();
        let tiling = self.tiling((picture.width(), picture.height()), is_step)?;
        let (columns, rows) = (tiling.spans(picture.width()).count(), tiling.spans(picture.height()).count());
        let mut whole = Picture::from_fn(picture.width() * scale, picture.height() * scale, |_, _| [0; 3]);
        for (row, down) in tiling.spans(picture.height()).enumerate() {
            let top = (down.from + down.skipped) * scale;
            let band_height = if tiling.is_faded() { down.kept * scale } else { 0 };
            let mut band = Picture::from_fn(picture.width() * scale, band_height, |_, _| [0; 3]);
            for (column, across) in tiling.spans(picture.width()).enumerate() {
                let number = row * columns + column;
                let mut on_progress = |fraction: f32| {
                    let done = (number as f32 + fraction) / (columns * rows) as f32;
                    progress.at(Stage::Restoring, share.0 + (share.1 - share.0) * done)
                };
                let input = picture.crop(across.from.into(), down.from.into(), across.length, down.length);
                let output = self.forward(&tensor_from_picture(&input, self.device)?, &mut on_progress)?;
                if !output.f_isfinite()?.f_all()?.f_double_value(&[])?.eq(&1.0) {
                    return Err(PipelineError::NotFinite { model: self.name.clone() });
                }
                let kept = picture_from_tensor(&output)?.crop(
                    (across.skipped * scale).into(),
                    (down.skipped * scale).into(),
                    across.kept * scale,
                    down.kept * scale,
                );
                let left = (across.from + across.skipped) * scale;
                match tiling.is_faded() {
                    true => paste_faded(&mut band, &kept, [left, 0], [across.faded * scale, 0]),
                    false => whole.paste(&kept, left, top),
                }
                progress.tiles(number + 1, columns * rows);
                on_partial(PartialResult { left, top, picture: Arc::new(kept) });
            }
            if tiling.is_faded() {
                paste_faded(&mut whole, &band, [0, top], [0, down.faded * scale]);
            }
        }
        Ok(whole)
    }
}

impl SuperResolver for Upscaler {
    fn restore(&mut self, input: &StepInput, progress: &mut Progress) -> Result<Picture, PipelineError> {
        let output = self.upscale(&input.cut, input.enlarged.width(), true, progress, &mut |_| ())?;
        Ok(resize(&output, input.enlarged.width(), input.enlarged.height(), Filter::Bicubic))
    }

    fn restore_full_image(
        &mut self,
        input: &FullImageInput,
        _prompts: &[String],
        progress: &mut Progress,
        on_partial: &mut dyn FnMut(PartialResult),
    ) -> Result<Picture, PipelineError> {
        let output = self.upscale(&input.source, input.enlarged.width(), false, progress, on_partial)?;
        Ok(resize(&output, input.enlarged.width(), input.enlarged.height(), Filter::Bicubic))
    }

    fn estimate(&mut self, cut: (u32, u32), (width, _): (u32, u32)) -> Result<Option<StepEstimate>, PipelineError> {
        Self::estimate(self, cut, width, true).map(Some)
    }

    fn estimate_full_image(
        &mut self,
        source: (u32, u32),
        (width, _): (u32, u32),
    ) -> Result<Option<StepEstimate>, PipelineError> {
        Self::estimate(self, source, width, false).map(Some)
    }
}
