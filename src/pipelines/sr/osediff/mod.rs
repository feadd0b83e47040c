//! OSEDiff (arXiv 2406.08177): a diffusion model that restores in one step, from the encoded picture to the latent that is decoded
//! again. Chain-of-Zoom's own is one, on Stable Diffusion 3 ([`sd3`]); the authors' is on Stable Diffusion 2.1 ([`sd21`]). A further one
//! is a [`TextEncoder`] and a [`Denoiser`].

mod full_image;
pub(super) mod sd21;
pub(super) mod sd3;

use std::cell::OnceCell;
use std::path::Path;
use std::sync::Arc;

use tch::{Device, Kind, TchError, Tensor};

use super::{FullImageInput, PartialResult, PipelineError, StepInput, SuperResolver};
use crate::base::{Backbone, BackboneSpec, Content, MemoryPlan, Precision, Progress, Stage, StepEstimate};
use crate::checkpoint::sd3::Sd3;
use crate::imaging::Picture;
use crate::networks::vae;
use crate::networks::vae::Vae;
use crate::runtime::device::Devices;
use crate::runtime::memory::{fitting, free_memory};
use crate::runtime::tensor::{picture_from_tensor_truncated, tensor_from_picture};
use crate::runtime::weights::Weights;
use crate::runtime::{LazyModel, accelerator, allocator, memory, precision, rng, speed};

/// Prompts whose embeds are kept, at most 5 MB each in 16 bits.
const CACHED_PROMPTS: usize = 32;
/// Prompts that are encoded in one pass: weights are read once for all of them.
const PROMPT_BATCH: usize = 8;
/// The stem of the weights of denoising networks and VAEs.
const DIFFUSION_WEIGHTS: &str = "diffusion_pytorch_model";

/// Prompts to embeds; the weights come and go by the memory plan.
pub trait TextEncoder: Send {
    /// Of one prompt.
    type Embeds: Send;

    /// The embeds of some prompts, on `device`.
    ///
    /// # Errors
    /// What libtorch says; that somebody asked to stop.
    fn encode(
        &mut self,
        prompts: &[String],
        device: Device,
        progress: &mut Progress,
    ) -> Result<Vec<Self::Embeds>, PipelineError>;

    /// Whether weights stay in memory between prompts.
    fn set_keep(&mut self, keep: bool);

    /// Bytes of the weights: `all` of them, or those that are not in memory.
    fn weight_bytes(&self, all: bool) -> u64;

    /// Bytes that encoding a prompt takes beside the weights.
    fn activations(&self) -> u64;

    /// Products and sums that a prompt takes: one for each weight and token.
    fn operations(&self) -> f64;
}

/// How a latent is restored in one step.
trait Denoiser: Send {
    /// What does it.
    type Network: Send;
    /// What it is told of the picture.
    type Embeds: Send;

    /// The restored latent of `z`, `[B, C, h, w]` both in float32, with the embeds of a prompt for each. `on_progress` is told how much
    /// is done (0 to 1).
    fn restored(
        &self,
        network: &Self::Network,
        z: &Tensor,
        embeds: &[&Self::Embeds],
        on_progress: &mut dyn FnMut(f32) -> Result<(), PipelineError>,
    ) -> Result<Tensor, PipelineError>;

    /// Products and sums of a step on a latent of so many pixels, by a network of so many numbers.
    fn operations(&self, latent_pixels: f64, numbers: f64) -> f64;

    /// How many numbers are alive at a time for a latent of so many pixels, about.
    fn activations(&self, latent_pixels: f64) -> f64;
}

/// What a latent must be like, and how it is put together of tiles.
#[derive(Clone, Copy)]
struct LatentRules {
    /// Its sides are multiples of this.
    patch: u32,
    /// The longest side.
    longest: i64,
    /// A step whose picture or latent is larger than the model's tiles is done in these: the authors' OSEDiff does so.
    tiles_steps: bool,
    /// Added to the sum of the tiles' weights, which at the picture's very corners is not much larger.
    epsilon: f64,
}

/// The distribution of a picture's latents, in float32: `[1, C, H / 8, W / 8]` each.
struct Posterior {
    mean: Tensor,
    deviation: Tensor,
}

impl Posterior {
    /// From mean and log variance.
    fn of((mean, log_variance): &(Tensor, Tensor)) -> Result<Self, PipelineError> {
        let deviation = log_variance.f_to_kind(Kind::Float)?.f_mul_scalar(0.5)?.f_exp()?;
        Ok(Self { mean: mean.f_to_kind(Kind::Float)?, deviation })
    }
}

/// A sample of the latents.
fn sample(posterior: &Posterior, seed: u64, device: Device) -> Result<Tensor, PipelineError> {
    // Drawn in 32 bits on the CPU, so that a seed means the same everywhere.
    let noise = rng::randn(seed, &posterior.mean.size())?;
    let noise = noise.f_to_device(device)?;
    Ok(posterior.mean.f_add(&posterior.deviation.f_mul(&noise)?)?)
}

/// What was decoded, from [-1, 1] to [0, 1].
fn to_unit_range(decoded: &Tensor) -> Result<Tensor, TchError> {
    decoded.f_clamp(-1.0, 1.0)?.f_mul_scalar(0.5)?.f_add_scalar(0.5)
}

/// What makes up a model.
struct Parts<T, D: Denoiser> {
    text: T,
    denoiser: D,
    network: LazyModel<D::Network>,
    vae: LazyModel<Vae>,
    vae_config: vae::Config,
    latent: LatentRules,
}

/// The dtypes and devices of a model.
#[derive(Clone, Copy)]
struct Target {
    /// Of text encoders and denoiser; the VAE's own is next to it.
    kind: Kind,
    vae_kind: Kind,
    devices: Devices,
}

impl Target {
    fn of(backbone: &Backbone, devices: Devices) -> Self {
        let (kind, vae_kind) = precision::kinds(precision_on(backbone, devices.picture));
        Self { kind, vae_kind, devices }
    }
}

/// The model: its weights come and go by the memory plan.
struct Osediff<T, D: Denoiser> {
    spec: &'static BackboneSpec,
    parts: Parts<T, D>,
    /// What the sides of a picture must be divisible by: a patch of the latent, in pixels.
    multiple: u32,
    target: Target,
    plan: MemoryPlan,
    /// Of prompts used lately, the newest last.
    embeds: Vec<(String, D::Embeds)>,
    /// Of the picture encoded last.
    encoded: Option<(Arc<Picture>, Posterior)>,
    /// The same of a full image.
    full_image: Option<full_image::EncodedFullImage>,
    speeds: OnceCell<[f64; 3]>,
}

impl<T: TextEncoder<Embeds = D::Embeds>, D: Denoiser> Osediff<T, D> {
    /// Another model needs `other_model_bytes` where the text encoders are.
    fn new(
        spec: &'static BackboneSpec,
        parts: Parts<T, D>,
        target: Target,
        plan: MemoryPlan,
        other_model_bytes: u64,
    ) -> Self {
        let multiple = parts.latent.patch << parts.vae_config.halvings();
        let mut model = Self {
            spec,
            parts,
            multiple,
            target,
            plan,
            embeds: Vec::new(),
            encoded: None,
            full_image: None,
            speeds: OnceCell::new(),
        };
        model.set_plan(if plan == MemoryPlan::Auto { model.fitting_plan(other_model_bytes) } else { plan });
        model
    }

    /// The plan for the memory that is free now.
    fn fitting_plan(&self, other_model_bytes: u64) -> MemoryPlan {
        let Devices { text, picture } = self.target.devices;
        let [text_bytes, picture_bytes] = self.weight_bytes(true);
        let plan = |device: Device, captioner: u64, text: u64, picture: u64| match free_memory(device) {
            Some(free) => fitting([captioner, text, picture], free, device == Device::Cpu),
            None => MemoryPlan::Staged,
        };
        match self.is_on_one_device() {
            true => plan(picture, other_model_bytes, text_bytes, picture_bytes),
            // Each has its own: what the tighter one can hold goes for both.
            false => plan(text, other_model_bytes, text_bytes, 0).max(plan(picture, 0, 0, picture_bytes)),
        }
    }

    fn is_on_one_device(&self) -> bool {
        self.target.devices.text == self.target.devices.picture
    }

    /// Bytes of the weights: those for text, those for the picture; `all` of them, or those that are not in memory.
    fn weight_bytes(&self, all: bool) -> [u64; 2] {
        fn bytes<N>(part: &LazyModel<N>, kind: Kind, all: bool) -> u64 {
            if all || !part.is_open() { part.bytes(kind.elt_size_in_bytes()) } else { 0 }
        }
        let picture =
            bytes(&self.parts.network, self.target.kind, all) + bytes(&self.parts.vae, self.target.vae_kind, all);
        [self.parts.text.weight_bytes(all), picture]
    }

    /// Operations a second for text, denoiser and VAE; measured once.
    fn speeds(&self) -> Result<[f64; 3], PipelineError> {
        if let Some(speeds) = self.speeds.get() {
            return Ok(*speeds);
        }
        let Devices { text, picture } = self.target.devices;
        let of_picture = speed::of_products(picture, self.target.kind)?;
        let of_text = if text == picture { of_picture } else { speed::of_products(text, self.target.kind)? };
        let speeds = [of_text, of_picture, speed::of_convolutions(picture, self.target.vae_kind)?];
        Ok(*self.speeds.get_or_init(|| speeds))
    }

    /// Bytes that a step takes on the device that sees the picture, beside the weights.
    fn activations(&self, (width, height): (u32, u32)) -> u64 {
        let text = if self.is_on_one_device() { self.parts.text.activations() } else { 0 };
        let longest = if self.steps_in_tiles(width, height) { self.decoded_at_once() } else { u32::MAX };
        let (width, height) = (width.min(longest), height.min(longest));
        text.max(self.parts.vae_config.activations(f64::from(width) * f64::from(height)) as u64)
    }

    /// By the sizes of the networks and the device's speed.
    fn estimated(&self, (width, height): (u32, u32)) -> Result<StepEstimate, PipelineError> {
        let pixels = f64::from(width) * f64::from(height);
        let latent_pixels = pixels / 4f64.powi(self.parts.vae_config.halvings() as i32);
        let of_text = self.parts.text.operations();
        let numbers = self.parts.network.bytes(1) as f64;
        let of_denoiser = match self.steps_in_tiles(width, height) {
            true => self.operations_in_tiles([width, height], numbers),
            false => self.parts.denoiser.operations(latent_pixels, numbers),
        };
        let [text_speed, picture_speed, vae_speed] = self.speeds()?;
        let secs = 2.0 * of_text / text_speed
            + 2.0 * of_denoiser / picture_speed
            + self.parts.vae_config.operations(pixels) / vae_speed;

        let here = |[text, picture]: [u64; 2]| [if self.is_on_one_device() { text } else { 0 }, picture];
        let (all, missing) = (here(self.weight_bytes(true)), here(self.weight_bytes(false)));
        let activations = self.activations((width, height));
        let bytes = |plan: MemoryPlan| {
            // What is open and would not stay is free then. Of the system's memory it is mostly counted as free already:
            // files that are mapped.
            let given_up = match plan {
                MemoryPlan::Auto | MemoryPlan::Resident => 0,
                _ if self.target.devices.picture == Device::Cpu => 0,
                MemoryPlan::Staged => all[0] - missing[0],
                MemoryPlan::Streamed => all[0] - missing[0] + all[1] - missing[1],
            };
            (memory::weights_in_memory(plan, [0, missing[0], missing[1]]) + activations).saturating_sub(given_up)
        };
        let smaller = std::iter::successors(self.plan.smaller(), |plan| plan.smaller());
        let smaller = smaller.map(|plan| (plan, bytes(plan))).collect();
        Ok(StepEstimate { secs, bytes: bytes(self.plan), smaller, remark: None })
    }

    /// Has the prompts' embeds, at most [`CACHED_PROMPTS`], as the last ones kept.
    fn encode_prompts(&mut self, prompts: &[String], progress: &mut Progress) -> Result<(), PipelineError> {
        let mut new: Vec<String> = Vec::new();
        for prompt in prompts {
            match self.embeds.iter().position(|(known, _)| known == prompt) {
                Some(i) => {
                    let known = self.embeds.remove(i);
                    self.embeds.push(known);
                }
                None if new.contains(prompt) => {}
                None => new.push(prompt.clone()),
            }
        }
        for some in new.chunks(PROMPT_BATCH) {
            progress.at(Stage::Text, 0.0)?;
            let embeds = self.parts.text.encode(some, self.target.devices.picture, progress)?;
            self.embeds.extend(some.iter().cloned().zip(embeds));
        }
        let surplus = self.embeds.len().saturating_sub(CACHED_PROMPTS);
        self.embeds.drain(..surplus);
        Ok(())
    }

    /// Has the picture encoded.
    fn encode_image(&mut self, picture: &Arc<Picture>, progress: &mut Progress) -> Result<(), PipelineError> {
        let (width, height) = (picture.width(), picture.height());
        let multiple = self.multiple;
        if width % multiple != 0 || height % multiple != 0 {
            return Err(PipelineError::Sides { model: self.spec.label.into(), multiple, width, height });
        }
        if self.encoded.as_ref().is_some_and(|(known, _)| Arc::ptr_eq(known, picture)) {
            return Ok(());
        }
        let vae = self.parts.vae.get(progress)?;
        let mut on_progress = |fraction: f32| progress.at(Stage::Encoding, fraction).map_err(PipelineError::from);
        on_progress(0.0)?;
        let pixels = tensor_from_picture(picture, self.target.devices.picture)?.f_mul_scalar(2)?.f_sub_scalar(1)?;
        let encoded = vae.encoder.forward(&pixels.f_to_kind(self.target.vae_kind)?, &mut on_progress)?;
        self.offload_vae()?;
        self.encoded = Some((picture.clone(), Posterior::of(&encoded)?));
        Ok(())
    }

    /// The VAE is not needed for now.
    fn offload_vae(&mut self) -> Result<(), TchError> {
        accelerator::wait(self.target.devices.picture)?;
        self.parts.vae.unload_unless_kept();
        if self.plan == MemoryPlan::Streamed {
            allocator::trim();
            accelerator::trim();
        }
        Ok(())
    }

    /// Whether a step to this size is too large for the model in one piece.
    fn steps_in_tiles(&self, width: u32, height: u32) -> bool {
        let tiling = self.spec.tiling;
        let latent = |side: u32| u64::from(side >> self.parts.vae_config.halvings());
        let is_large = latent(width) * latent(height) > u64::from(tiling.latent_tile).pow(2)
            || width.max(height) > tiling.encoder_tile;
        self.parts.latent.tiles_steps && is_large
    }

    /// Such a step as the full image that it is then.
    fn in_tiles(&self, enlarged: &Arc<Picture>, seed: u64) -> Option<FullImageInput> {
        let tiling = self.spec.tiling;
        let full_image = || FullImageInput { source: enlarged.clone(), enlarged: enlarged.clone(), tiling, seed };
        self.steps_in_tiles(enlarged.width(), enlarged.height()).then(full_image)
    }

    fn restored(&mut self, input: &StepInput, progress: &mut Progress) -> Result<Picture, PipelineError> {
        self.encode_image(&input.enlarged, progress)?;
        self.encode_prompts(std::slice::from_ref(&input.prompt), progress)?;
        let network = self.parts.network.get(progress)?;
        let (Some((_, posterior)), Some((_, embeds))) = (&self.encoded, self.embeds.last()) else {
            return Err(PipelineError::Internal("nothing was encoded".into()));
        };
        // The shift is not taken off here: so the reference trained it.
        let z = sample(posterior, input.seed, self.target.devices.picture)?
            .f_mul_scalar(self.parts.vae_config.scaling_factor)?;
        let mut on_progress = |fraction: f32| progress.at(Stage::Denoising, fraction).map_err(PipelineError::from);
        let z = self.parts.denoiser.restored(network, &z, &[embeds], &mut on_progress)?;
        self.parts.network.unload_unless_kept();

        accelerator::wait(self.target.devices.picture)?;
        progress.at(Stage::Decoding, 0.0)?;
        let shift = self.parts.vae_config.shift_factor.unwrap_or(0.0);
        let latent = z.f_div_scalar(self.parts.vae_config.scaling_factor)?.f_add_scalar(shift)?;
        let vae = self.parts.vae.get(progress)?;
        let mut on_progress = |fraction: f32| progress.at(Stage::Decoding, fraction).map_err(PipelineError::from);
        let decoded = vae.decoder.forward(&latent.f_to_kind(self.target.vae_kind)?, &mut on_progress)?;
        self.offload_vae()?;
        if !decoded.f_isfinite()?.f_all()?.f_double_value(&[])?.eq(&1.0) {
            return Err(PipelineError::not_finite(self.spec.label, self.target.kind));
        }
        Ok(picture_from_tensor_truncated(&to_unit_range(&decoded)?)?)
    }
}

fn model_folder(backbone: &Backbone) -> Result<&Path, PipelineError> {
    let missing = || PipelineError::Internal("the model was chosen without its folder".into());
    backbone.files.get("model").ok_or_else(missing)
}

/// The weights of the denoising network, where they can be opened: of a folder the first that its row names with such a stem.
fn denoiser_weights(backbone: &Backbone) -> Option<Weights> {
    let (main, model) = (backbone.spec.files.first()?, model_folder(backbone).ok()?);
    if main.takes_single_file() {
        return Weights::open_part(&Sd3::at(model).ok()?.transformer).ok();
    }
    let folder = |content: &Content| match *content {
        Content::Weights(folder, DIFFUSION_WEIGHTS) => Some(folder),
        _ => None,
    };
    Weights::open_folder(&model.join(main.contents.iter().find_map(folder)?), DIFFUSION_WEIGHTS).ok()
}

/// The precision that a model computes in on a device: `auto` keeps 32 bits where the denoiser's file has them.
pub(super) fn precision_on(backbone: &Backbone, device: Device) -> Precision {
    match backbone.precision {
        Precision::Auto if denoiser_weights(backbone).is_some_and(|weights| weights.is_fp32()) => Precision::Fp32,
        explicit => precision::resolved(explicit, device),
    }
}

impl<T: TextEncoder<Embeds = D::Embeds>, D: Denoiser> SuperResolver for Osediff<T, D> {
    fn prepare(&mut self, enlarged: &Arc<Picture>, progress: &mut Progress) -> Result<(), PipelineError> {
        let prepared = match self.in_tiles(enlarged, 0) {
            Some(full_image) => self.encode_full_image(&full_image, progress),
            None => self.encode_image(enlarged, progress),
        };
        prepared.map_err(|error| error.with_plan(self.plan))
    }

    fn restore(&mut self, input: &StepInput, progress: &mut Progress) -> Result<Picture, PipelineError> {
        let restored = match self.in_tiles(&input.enlarged, input.seed) {
            Some(full_image) => {
                let prompt = std::slice::from_ref(&input.prompt);
                self.restored_full_image(&full_image, prompt, progress, &mut |_| {})
            }
            None => self.restored(input, progress),
        };
        restored.map_err(|error| error.with_plan(self.plan))
    }

    fn tiles(&mut self, input: &FullImageInput, progress: &mut Progress) -> Result<Vec<Arc<Picture>>, PipelineError> {
        self.decoded_tiles(input, progress).map_err(|error| error.with_plan(self.plan))
    }

    fn restore_full_image(
        &mut self,
        input: &FullImageInput,
        prompts: &[String],
        progress: &mut Progress,
        on_partial: &mut dyn FnMut(PartialResult),
    ) -> Result<Picture, PipelineError> {
        self.restored_full_image(input, prompts, progress, on_partial).map_err(|error| error.with_plan(self.plan))
    }

    fn estimate(&mut self, _cut: (u32, u32), result: (u32, u32)) -> Result<Option<StepEstimate>, PipelineError> {
        self.estimated(result).map(Some)
    }

    fn bytes_to_load(&self, result: (u32, u32)) -> u64 {
        let [text, picture] = self.weight_bytes(false);
        match self.is_on_one_device() {
            true => memory::weights_in_memory(self.plan, [0, text, picture]) + self.activations(result),
            false => memory::weights_in_memory(self.plan, [0, text, 0]) + self.parts.text.activations(),
        }
    }

    fn offload(&mut self, needed: u64) {
        let shares = self.plan != MemoryPlan::Resident && self.is_on_one_device();
        if shares && !memory::has_room(self.target.devices.picture, needed) {
            self.parts.network.unload_and_trim();
        }
    }

    fn plan(&self) -> Option<MemoryPlan> {
        Some(self.plan)
    }

    fn set_plan(&mut self, plan: MemoryPlan) {
        self.plan = plan;
        self.parts.text.set_keep(plan == MemoryPlan::Resident);
        self.parts.network.set_keep(plan != MemoryPlan::Streamed);
        self.parts.vae.set_keep(plan != MemoryPlan::Streamed);
    }
}
