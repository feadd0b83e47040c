//! Full images (`inference_coz_full.py`), and steps too large for one piece: the picture is encoded in tiles, the latent is cut into tiles that lie over
//! each other, each is restored with a prompt of its own, and the results are blended and decoded in tiles.

use std::sync::Arc;

use tch::{Device, Kind, TchError, Tensor};

use super::{CACHED_PROMPTS, Denoiser, Osediff, Posterior, TextEncoder, sample, to_unit_range};
use crate::base::{MemoryPlan, Progress, Stage, Tiling, VaeMode};
use crate::imaging::Picture;
use crate::networks::vae::tiles::{DECODER_PADDING, VaeTiles};
use crate::pipelines::{FullImageInput, PartialResult, PipelineError};
use crate::runtime::accelerator;
use crate::runtime::memory::free_memory;
use crate::runtime::tensor::{levels_from_picture, picture_from_tensor_truncated};

/// Tiles that are restored in one pass, at most.
const BATCH: usize = 8;
/// How much more pixels the decoder's tiles have than the picture, with what they see of their neighbours.
const OVERLAPS: f64 = 1.2;
/// Of the Gaussian by which tiles are blended, in tiles.
const VARIANCE: f64 = 0.01;

/// A full image that was encoded.
pub(super) struct EncodedFullImage {
    enlarged: Arc<Picture>,
    tiling: Tiling,
    posterior: Posterior,
}

/// Where the latent is cut: equal tiles, and the corners of each.
struct Cuts {
    side: [i64; 2],
    corners: Vec<[i64; 2]>,
}

impl Cuts {
    /// Of a latent of so many columns and rows; columns of tiles from the left, each from the top.
    fn of(size: [i64; 2], tiling: &Tiling, patch: i64, longest: i64) -> Self {
        let tile = i64::from(tiling.latent_tile).min(longest).min(size[0]).min(size[1]);
        let tile = (tile / patch * patch).max(patch);
        // Tiles that shrank to a narrow picture may be smaller than the overlap.
        let stride = match tile - i64::from(tiling.overlap) {
            stride if stride > 0 => stride,
            _ => tile - tile / 4,
        };
        let starts = |length: i64| {
            let count = (length - tile + stride - 1) / stride + 1;
            (0..count).map(move |i| (i * stride).min(length - tile))
        };
        let corners = starts(size[0]).flat_map(|x| starts(size[1]).map(move |y| [x, y])).collect();
        Self { side: [tile; 2], corners }
    }

    fn part(&self, x: &Tensor, [left, top]: [i64; 2]) -> Result<Tensor, TchError> {
        x.f_narrow(2, top, self.side[1])?.f_narrow(3, left, self.side[0])
    }

    /// How much each pixel of a tile counts: `[1, 1, h, w]` in float64. Across, the middle is that of the pixels; down,
    /// half a pixel further: so does the reference.
    fn weights(&self) -> Result<Tensor, TchError> {
        let [width, height] = self.side;
        let bell = |length: i64, middle: f64| -> Vec<f64> {
            let n = length as f64;
            let weight = |i: i64| (-(i as f64 - middle).powi(2) / (n * n) / (2.0 * VARIANCE)).exp();
            (0..length).map(|i| weight(i) / (2.0 * std::f64::consts::PI * VARIANCE).sqrt()).collect()
        };
        let across = Tensor::f_from_slice(&bell(width, (width - 1) as f64 / 2.0))?;
        let down = Tensor::f_from_slice(&bell(height, height as f64 / 2.0))?;
        down.f_outer(&across)?.f_view([1, 1, height, width])
    }
}

/// The picture with its last column and row repeated up to sides that the model takes.
fn padded(picture: &Picture, [width, height]: [u32; 2]) -> Picture {
    let (right, bottom) = (picture.width() - 1, picture.height() - 1);
    Picture::from_fn(width, height, |x, y| picture.pixel(x.min(right), y.min(bottom)))
}

impl<T: TextEncoder<Embeds = D::Embeds>, D: Denoiser> Osediff<T, D> {
    /// Sides that the picture is padded to.
    fn sides(&self, picture: &Picture, tiling: &Tiling) -> [u32; 2] {
        let up = |by: u32| [picture.width(), picture.height()].map(|side| side.next_multiple_of(by.max(1)));
        let reduction = self.multiple / self.parts.latent.patch;
        // Tiles have sides of whole patches by themselves; a latent that is not cut needs them.
        let sides = up(reduction);
        match self.is_cut(sides.map(|side| i64::from(side / reduction)), tiling) {
            true => sides.map(|side| side.max(self.multiple)),
            false => up(self.multiple),
        }
    }

    /// Pixels of a side that the decoder sees at most at once of a step in tiles.
    pub(super) fn decoded_at_once(&self) -> u32 {
        (self.spec.tiling.decoder_tile + 2 * DECODER_PADDING as u32) << self.parts.vae_config.halvings()
    }

    /// Products and sums of a step in tiles to a picture of this size, by a network of so many numbers.
    pub(super) fn operations_in_tiles(&self, sides: [u32; 2], numbers: f64) -> f64 {
        let size = sides.map(|side| i64::from(side >> self.parts.vae_config.halvings()));
        let cuts = match self.is_cut(size, &self.spec.tiling) {
            true => Cuts::of(size, &self.spec.tiling, self.parts.latent.patch.into(), self.parts.latent.longest),
            false => Cuts { side: size, corners: vec![[0, 0]] },
        };
        let pixels = (cuts.side[0] * cuts.side[1]) as f64;
        cuts.corners.len() as f64 * self.parts.denoiser.operations(pixels, numbers)
    }

    /// A latent of no more pixels than a tile is not cut, unless it is longer than the model has positions for.
    fn is_cut(&self, [width, height]: [i64; 2], tiling: &Tiling) -> bool {
        let tile = i64::from(tiling.latent_tile);
        width * height > tile * tile || width.max(height) > self.parts.latent.longest
    }

    /// In the averaged way the decoder's tiles wait for each other behind the last enlargement, beside what a residual block adds.
    fn check_waiting(&self, input: &FullImageInput) -> Result<(), PipelineError> {
        let (width, height) = (input.enlarged.width(), input.enlarged.height());
        let decoder_tile = input.tiling.decoder_tile.saturating_mul(self.multiple / self.parts.latent.patch);
        if input.tiling.vae_mode != VaeMode::Averaged || width.max(height) <= decoder_tile {
            return Ok(());
        }
        let channels: i64 = self.parts.vae_config.block_out_channels.iter().take(2).sum();
        let numbers = f64::from(width) * f64::from(height) * OVERLAPS * channels as f64;
        let needed = (numbers * self.target.vae_kind.elt_size_in_bytes() as f64) as u64;
        match free_memory(Device::Cpu) {
            Some(free) if needed > free => Err(PipelineError::TilesWillNotFit { needed, free, width, height }),
            _ => Ok(()),
        }
    }

    /// Has the full image encoded.
    pub(super) fn encode_full_image(
        &mut self,
        input: &FullImageInput,
        progress: &mut Progress,
    ) -> Result<(), PipelineError> {
        let known =
            |known: &EncodedFullImage| Arc::ptr_eq(&known.enlarged, &input.enlarged) && known.tiling == input.tiling;
        if self.full_image.as_ref().is_some_and(known) {
            return Ok(());
        }
        self.check_waiting(input)?;
        self.full_image = None;
        let sides = self.sides(&input.enlarged, &input.tiling);
        let picture = &input.enlarged;
        let pixels = match sides == [picture.width(), picture.height()] {
            true => levels_from_picture(picture)?,
            false => levels_from_picture(&padded(picture, sides))?,
        };
        let tiles = VaeTiles { size: input.tiling.encoder_tile.into(), mode: input.tiling.vae_mode };
        let vae = self.parts.vae.get(progress)?;
        let mut on_progress = |fraction: f32| progress.at(Stage::Encoding, fraction).map_err(PipelineError::from);
        on_progress(0.0)?;
        let place = (self.target.devices.picture, self.target.vae_kind);
        let encoded = vae.encoder.forward_tiled(&pixels, place, tiles, &mut on_progress)?;
        self.offload_vae()?;
        let posterior = Posterior::of(&encoded)?;
        self.full_image = Some(EncodedFullImage { enlarged: picture.clone(), tiling: input.tiling, posterior });
        Ok(())
    }

    /// The latent of the full image, and where it is cut.
    fn cuts(&self, input: &FullImageInput) -> Result<(Tensor, Cuts), PipelineError> {
        let Some(encoded) = &self.full_image else { return Err(PipelineError::Internal("nothing was encoded".into())) };
        let z = sample(&encoded.posterior, input.seed, self.target.devices.picture)?
            .f_mul_scalar(self.parts.vae_config.scaling_factor)?;
        let (_, _, height, width) = z.size4()?;
        let size = [width, height];
        let cuts = match self.is_cut(size, &input.tiling) {
            true => Cuts::of(size, &input.tiling, self.parts.latent.patch.into(), self.parts.latent.longest),
            false => Cuts { side: size, corners: vec![[0, 0]] },
        };
        Ok((z, cuts))
    }

    /// The picture of each tile, as it is before it is restored: the captioner is shown these.
    pub(super) fn decoded_tiles(
        &mut self,
        input: &FullImageInput,
        progress: &mut Progress,
    ) -> Result<Vec<Arc<Picture>>, PipelineError> {
        self.encode_full_image(input, progress)?;
        let (z, cuts) = self.cuts(input)?;
        let mut pictures = Vec::new();
        let tiles = VaeTiles { size: input.tiling.decoder_tile.into(), mode: input.tiling.vae_mode };
        for (n, &corner) in cuts.corners.iter().enumerate() {
            // The shift is not added here: so does the reference.
            let latent = cuts.part(&z, corner)?.f_div_scalar(self.parts.vae_config.scaling_factor)?.f_contiguous()?;
            let of = cuts.corners.len();
            let mut shown = Canvas::new(cuts.side.map(|side| side as u32 * self.multiple / self.parts.latent.patch));
            let vae = self.parts.vae.get(progress)?;
            let mut on_progress = |fraction: f32| {
                progress.at(Stage::Encoding, (n as f32 + fraction) / of as f32).map_err(PipelineError::from)
            };
            let mut on_piece = |at: [i64; 2], piece: Tensor| shown.paste(at, &piece).map(|_| ());
            vae.decoder.forward_tiled(&latent, self.target.vae_kind, tiles, &mut on_progress, &mut on_piece)?;
            pictures.push(Arc::new(shown.picture));
            progress.tiles(n + 1, of);
        }
        self.offload_vae()?;
        Ok(pictures)
    }

    /// The full image restored, each tile with its own prompt, or all with the only one.
    pub(super) fn restored_full_image(
        &mut self,
        input: &FullImageInput,
        prompts: &[String],
        progress: &mut Progress,
        on_partial: &mut dyn FnMut(PartialResult),
    ) -> Result<Picture, PipelineError> {
        self.encode_full_image(input, progress)?;
        let (z, cuts) = self.cuts(input)?;
        let of = cuts.corners.len();
        if prompts.len() != of && prompts.len() != 1 {
            return Err(PipelineError::Internal(format!("{} prompts for {of} tiles", prompts.len())));
        }
        let prompt = |n: usize| prompts[n.min(prompts.len() - 1)].clone();
        let weights = cuts.weights()?.f_to_device(z.device())?;
        let zeros = || Tensor::f_zeros(z.size(), (Kind::Double, z.device()));
        let (sum, weight) = (zeros()?, zeros()?);
        let batch = self.batch(&cuts);
        // As many tiles as embeds are kept of: they are encoded together.
        for first in (0..of).step_by(CACHED_PROMPTS) {
            let these: Vec<usize> = (first..(first + CACHED_PROMPTS).min(of)).collect();
            self.encode_prompts(&these.iter().map(|&n| prompt(n)).collect::<Vec<_>>(), progress)?;
            for some in these.chunks(batch) {
                let parts: Result<Vec<_>, _> = some.iter().map(|&n| cuts.part(&z, cuts.corners[n])).collect();
                let z = Tensor::f_cat(&parts?, 0)?;
                let cached = |prompt: &str| self.embeds.iter().find(|(known, _)| known == prompt);
                let embeds: Vec<_> = some.iter().filter_map(|&n| Some(&cached(&prompt(n))?.1)).collect();
                let network = self.parts.network.get(progress)?;
                let mut on_progress = |fraction: f32| {
                    progress
                        .at(Stage::Denoising, (some[0] as f32 + fraction * some.len() as f32) / of as f32)
                        .map_err(PipelineError::from)
                };
                let restored = self.parts.denoiser.restored(network, &z, &embeds, &mut on_progress)?;
                if of == 1 {
                    self.parts.network.unload_unless_kept();
                    return self.decoded(input, &restored, progress, on_partial);
                }
                for (i, &n) in some.iter().enumerate() {
                    let tile = restored.f_narrow(0, i as i64, 1)?.f_mul(&weights)?;
                    _ = cuts.part(&sum, cuts.corners[n])?.f_add_(&tile)?;
                    _ = cuts.part(&weight, cuts.corners[n])?.f_add_(&weights)?;
                }
                progress.tiles(some[some.len() - 1] + 1, of);
            }
            self.parts.network.unload_unless_kept();
        }
        accelerator::wait(self.target.devices.picture)?;
        let z = sum.f_div(&weight.f_add_scalar(self.parts.latent.epsilon)?)?.f_to_kind(Kind::Float)?;
        self.decoded(input, &z, progress, on_partial)
    }

    /// The blended latent as a picture, shown piece by piece.
    fn decoded(
        &mut self,
        input: &FullImageInput,
        z: &Tensor,
        progress: &mut Progress,
        on_partial: &mut dyn FnMut(PartialResult),
    ) -> Result<Picture, PipelineError> {
        progress.at(Stage::Decoding, 0.0)?;
        let latent = z.f_div_scalar(self.parts.vae_config.scaling_factor)?;
        let tiles = VaeTiles { size: input.tiling.decoder_tile.into(), mode: input.tiling.vae_mode };
        let mut result = Canvas::new([input.enlarged.width(), input.enlarged.height()]);
        let (label, kind, vae_kind) = (self.spec.label, self.target.kind, self.target.vae_kind);
        let vae = self.parts.vae.get(progress)?;
        let mut on_progress = |fraction: f32| progress.at(Stage::Decoding, fraction).map_err(PipelineError::from);
        let mut on_piece = |at: [i64; 2], piece: Tensor| {
            if !piece.f_isfinite()?.f_all()?.f_double_value(&[])?.eq(&1.0) {
                return Err(PipelineError::not_finite(label, kind));
            }
            let piece = result.paste(at, &piece)?;
            on_partial(PartialResult { left: at[0] as u32, top: at[1] as u32, picture: Arc::new(piece) });
            Ok(())
        };
        vae.decoder.forward_tiled(&latent, vae_kind, tiles, &mut on_progress, &mut on_piece)?;
        self.offload_vae()?;
        // Too large to be kept for a second time that may never come.
        self.full_image = None;
        Ok(result.picture)
    }

    /// How many tiles are restored at a time, by the memory that is free.
    fn batch(&self, cuts: &Cuts) -> usize {
        let device = self.target.devices.picture;
        if device == Device::Cpu && self.plan != MemoryPlan::Streamed {
            // Its cores are busy with one.
            return 1;
        }
        let Some(free) = free_memory(device) else { return 1 };
        let numbers = self.parts.denoiser.activations((cuts.side[0] * cuts.side[1]) as f64) as u64;
        let each = numbers * self.target.kind.elt_size_in_bytes() as u64;
        ((free / 2 / each.max(1)) as usize).clamp(1, BATCH)
    }
}

/// A picture that is painted piece by piece; what lies beyond its edges is left out.
struct Canvas {
    picture: Picture,
}

impl Canvas {
    fn new([width, height]: [u32; 2]) -> Self {
        Self { picture: Picture::from_fn(width, height, |_, _| [0; 3]) }
    }

    /// Takes a decoded piece, and hands back what is seen of it.
    fn paste(&mut self, [left, top]: [i64; 2], piece: &Tensor) -> Result<Picture, PipelineError> {
        let piece = picture_from_tensor_truncated(&to_unit_range(piece)?)?;
        let inside = |side: u32, from: i64, length: u32| length.min((i64::from(side) - from).max(1) as u32);
        let width = inside(self.picture.width(), left, piece.width());
        let height = inside(self.picture.height(), top, piece.height());
        let piece = piece.crop(0, 0, width, height);
        self.picture.paste(&piece, left as u32, top as u32);
        Ok(piece)
    }
}
