//! Chain-of-Zoom's own restoring model: OSEDiff on Stable Diffusion 3 (`osediff_sd3.py`), one step from the encoded
//! picture to the restored latent.

mod full_image;
pub(super) mod prompts;

use std::cell::OnceCell;
use std::path::Path;
use std::sync::Arc;

use prompts::{CLIP_TOKENS, Embeds, PromptEncoder, T5_TOKENS};
use serde::de::DeserializeOwned;
use tch::{Device, Kind, TchError, Tensor};

use super::{FullImageInput, PartialResult, PipelineError, StepInput, SuperResolver};
use crate::base::{Backbone, MemoryPlan, Precision, Progress, Stage, StepEstimate};
use crate::imaging::Picture;
use crate::networks::sd3::lora::{AdaLoras, merged_encoder};
use crate::networks::sd3::mmdit::Mmdit;
use crate::networks::sd3::vae::Vae;
use crate::networks::sd3::{mmdit, vae};
use crate::runtime::device::Devices;
use crate::runtime::memory::{fitting, free_memory};
use crate::runtime::tensor::{picture_from_tensor_truncated, tensor_from_picture};
use crate::runtime::weights::{Loader, Weights};
use crate::runtime::{LazyModel, accelerator, allocator, memory, precision, rng, speed};

/// The first timestep of a scheduler that takes one step.
const TIMESTEP: f64 = 1000.0;
/// Prompts whose embeds are kept, 5 MB each in 16 bits.
const CACHED_PROMPTS: usize = 32;
/// Prompts that are encoded in one pass: T5 is read once for all of them.
const PROMPT_BATCH: usize = 8;

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

/// The model: its weights come and go by the memory plan.
pub(super) struct OsediffSd3 {
    text: PromptEncoder,
    mmdit: LazyModel<Mmdit>,
    vae: LazyModel<Vae>,
    vae_config: vae::Config,
    /// What the sides of a picture must be divisible by: a patch of the latent, in pixels.
    multiple: u32,
    /// Side of a patch in pixels of the latent, and channels of the transformer.
    patch: u32,
    width: u64,
    /// Side of a latent that it has positions for.
    longest: i64,
    /// Of the transformer; the VAE's own is next to it.
    kind: Kind,
    vae_kind: Kind,
    devices: Devices,
    plan: MemoryPlan,
    /// Of prompts used lately, the newest last.
    embeds: Vec<(String, Embeds)>,
    /// Of the picture encoded last.
    encoded: Option<(Arc<Picture>, Posterior)>,
    /// The same of a full image.
    full_image: Option<full_image::EncodedFullImage>,
    speeds: OnceCell<[f64; 3]>,
}

fn config<C: DeserializeOwned>(folder: &Path) -> Result<C, PipelineError> {
    let file = folder.join("config.json");
    let wrong = |found: String| PipelineError::Folder { file: file.clone(), found };
    let text = std::fs::read(&file).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))
}

impl OsediffSd3 {
    /// Opens all files and compares every name and shape with the configs; weights are read when they are needed.
    /// Another model needs `other_model_bytes` where the text encoders are.
    fn open(
        backbone: &Backbone,
        devices: Devices,
        plan: MemoryPlan,
        other_model_bytes: u64,
    ) -> Result<Self, PipelineError> {
        let (kind, vae_kind) = precision::kinds(precision_on(backbone, devices.picture));
        let model = model_folder(backbone)?;
        let folder = |name: &str| model.join(name);
        let text = PromptEncoder::open(model, devices.text, kind)?;

        let loras = backbone.files.get("lora").map(Weights::open).transpose()?;
        let weights = Weights::open_folder(&folder("transformer"), "diffusion_pytorch_model")?;
        let mmdit_config: mmdit::Config = config(&folder("transformer"))?;
        let (patch, width) = (mmdit_config.patch_size.clamp(1, 64) as u32, mmdit_config.width().max(1) as u64);
        let longest = mmdit_config.pos_embed_max_size.saturating_mul(patch.into());
        let mmdit = LazyModel::new(vec![weights.clone()], move |mode, on_read| {
            let mut loader = Loader::new(&weights, "", devices.picture, kind).mode(mode).on_read(on_read);
            let loras = loras.as_ref().map(AdaLoras::read).transpose()?.unwrap_or_default();
            Mmdit::load(&mut loader, &mmdit_config, loras)
        })?;

        let vae_config: vae::Config = config(&folder("vae"))?;
        let halvings = vae_config.halvings();
        let own = backbone.files.get("vae").map(Weights::open).transpose()?;
        let weights = Weights::open_folder(&folder("vae"), "diffusion_pytorch_model")?;
        let of_vae = vae_config.clone();
        let vae = LazyModel::new(vec![weights.clone()], move |mode, on_read| {
            let loader = |weights: &Weights| Loader::new(weights, "", devices.picture, vae_kind).mode(mode);
            let own = own.as_ref().map(merged_encoder).transpose()?;
            Vae::load(&mut loader(&weights).on_read(on_read), own.as_ref().map(loader).as_mut(), &of_vae)
        })?;

        let mut model = Self {
            text,
            mmdit,
            vae,
            vae_config,
            multiple: patch << halvings,
            patch,
            width,
            longest,
            kind,
            vae_kind,
            devices,
            plan,
            embeds: Vec::new(),
            encoded: None,
            full_image: None,
            speeds: OnceCell::new(),
        };
        model.set_plan(if plan == MemoryPlan::Auto { model.fitting_plan(other_model_bytes) } else { plan });
        Ok(model)
    }

    /// The plan for the memory that is free now.
    fn fitting_plan(&self, other_model_bytes: u64) -> MemoryPlan {
        let Devices { text, picture } = self.devices;
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
        self.devices.text == self.devices.picture
    }

    /// Bytes of the weights: those for text, those for the picture; `all` of them, or those that are not in memory.
    fn weight_bytes(&self, all: bool) -> [u64; 2] {
        fn bytes<N>(part: &LazyModel<N>, kind: Kind, all: bool) -> u64 {
            if all || !part.is_open() { part.bytes(kind.elt_size_in_bytes()) } else { 0 }
        }
        let picture = bytes(&self.mmdit, self.kind, all) + bytes(&self.vae, self.vae_kind, all);
        [self.text.weight_bytes(all), picture]
    }

    /// Operations a second for text, transformer and VAE; measured once.
    fn speeds(&self) -> Result<[f64; 3], PipelineError> {
        if let Some(speeds) = self.speeds.get() {
            return Ok(*speeds);
        }
        let Devices { text, picture } = self.devices;
        let of_picture = speed::of_products(picture, self.kind)?;
        let of_text = if text == picture { of_picture } else { speed::of_products(text, self.kind)? };
        let speeds = [of_text, of_picture, speed::of_convolutions(picture, self.vae_kind)?];
        Ok(*self.speeds.get_or_init(|| speeds))
    }

    /// Bytes that a step takes on the device that sees the picture, beside the weights.
    fn activations(&self, (width, height): (u32, u32)) -> u64 {
        let text = if self.is_on_one_device() { self.text.activations } else { 0 };
        text.max(self.vae_config.activations(f64::from(width) * f64::from(height)) as u64)
    }

    /// By the sizes of the networks and the device's speed.
    fn estimated(&self, (width, height): (u32, u32)) -> Result<StepEstimate, PipelineError> {
        let pixels = f64::from(width) * f64::from(height);
        let tokens = pixels / f64::from(self.multiple).powi(2) + (CLIP_TOKENS + T5_TOKENS) as f64;
        // A product and a sum for each weight and token; half of the transformer's weights see the picture's tokens, the
        // other half those of the prompt.
        let of_text = self.text.operations();
        let of_transformer = self.mmdit.bytes(1) as f64 / 2.0 * tokens;
        let [text_speed, picture_speed, vae_speed] = self.speeds()?;
        let secs = 2.0 * of_text / text_speed
            + 2.0 * of_transformer / picture_speed
            + self.vae_config.operations(pixels) / vae_speed;

        let here = |[text, picture]: [u64; 2]| [if self.is_on_one_device() { text } else { 0 }, picture];
        let (all, missing) = (here(self.weight_bytes(true)), here(self.weight_bytes(false)));
        let activations = self.activations((width, height));
        let bytes = |plan: MemoryPlan| {
            // What is open and would not stay is free then. Of the system's memory it is mostly counted as free already:
            // files that are mapped.
            let given_up = match plan {
                MemoryPlan::Auto | MemoryPlan::Resident => 0,
                _ if self.devices.picture == Device::Cpu => 0,
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
            let embeds = self.text.encode(some, self.devices.picture, progress)?;
            self.embeds.extend(some.iter().cloned().zip(embeds));
        }
        let surplus = self.embeds.len().saturating_sub(CACHED_PROMPTS);
        self.embeds.drain(..surplus);
        Ok(())
    }

    /// The prompt's embeds, where they are kept.
    fn cached_embeds(&self, prompt: &str) -> Option<&Embeds> {
        self.embeds.iter().find(|(known, _)| known == prompt).map(|(_, embeds)| embeds)
    }

    /// Has the picture encoded.
    fn encode_image(&mut self, picture: &Arc<Picture>, progress: &mut Progress) -> Result<(), PipelineError> {
        let (width, height) = (picture.width(), picture.height());
        let multiple = self.multiple;
        if width % multiple != 0 || height % multiple != 0 {
            return Err(PipelineError::Sides { model: MODEL.into(), multiple, width, height });
        }
        if self.encoded.as_ref().is_some_and(|(known, _)| Arc::ptr_eq(known, picture)) {
            return Ok(());
        }
        let vae = self.vae.get(progress)?;
        let mut on_progress = |fraction: f32| progress.at(Stage::Encoding, fraction).map_err(PipelineError::from);
        on_progress(0.0)?;
        let pixels = tensor_from_picture(picture, self.devices.picture)?.f_mul_scalar(2)?.f_sub_scalar(1)?;
        let encoded = vae.encoder.forward(&pixels.f_to_kind(self.vae_kind)?, &mut on_progress)?;
        self.offload_vae()?;
        self.encoded = Some((picture.clone(), Posterior::of(&encoded)?));
        Ok(())
    }

    /// The VAE is not needed for now.
    fn offload_vae(&mut self) -> Result<(), TchError> {
        accelerator::wait(self.devices.picture)?;
        self.vae.unload_unless_kept();
        if self.plan == MemoryPlan::Streamed {
            allocator::trim();
            accelerator::trim();
        }
        Ok(())
    }

    fn restored(&mut self, input: &StepInput, progress: &mut Progress) -> Result<Picture, PipelineError> {
        self.encode_image(&input.enlarged, progress)?;
        self.encode_prompts(std::slice::from_ref(&input.prompt), progress)?;
        let mmdit = self.mmdit.get(progress)?;
        let (Some((_, posterior)), Some((_, embeds))) = (&self.encoded, self.embeds.last()) else {
            return Err(PipelineError::Internal("nothing was encoded".into()));
        };
        // The shift is not taken off here: so the reference trained it.
        let z = sample(posterior, input.seed, self.devices.picture)?.f_mul_scalar(self.vae_config.scaling_factor)?;

        let mut on_progress = |fraction: f32| progress.at(Stage::Denoising, fraction).map_err(PipelineError::from);
        let latent = z.f_to_kind(self.kind)?;
        let velocity = mmdit.forward(&latent, TIMESTEP, &embeds.prompt, &embeds.pooled, &mut on_progress)?;
        self.mmdit.unload_unless_kept();
        let z = z.f_sub(&velocity.f_to_kind(Kind::Float)?)?;

        accelerator::wait(self.devices.picture)?;
        progress.at(Stage::Decoding, 0.0)?;
        let shift = self.vae_config.shift_factor.unwrap_or(0.0);
        let latent = z.f_div_scalar(self.vae_config.scaling_factor)?.f_add_scalar(shift)?;
        let vae = self.vae.get(progress)?;
        let mut on_progress = |fraction: f32| progress.at(Stage::Decoding, fraction).map_err(PipelineError::from);
        let decoded = vae.decoder.forward(&latent.f_to_kind(self.vae_kind)?, &mut on_progress)?;
        self.offload_vae()?;
        if !decoded.f_isfinite()?.f_all()?.f_double_value(&[])?.eq(&1.0) {
            return Err(PipelineError::not_finite(MODEL, self.kind));
        }
        Ok(picture_from_tensor_truncated(&to_unit_range(&decoded)?)?)
    }
}

const MODEL: &str = "Chain-of-Zoom SD3";

fn model_folder(backbone: &Backbone) -> Result<&Path, PipelineError> {
    let missing = || PipelineError::Internal("the model was chosen without its folder".into());
    backbone.files.get("model").ok_or_else(missing)
}

/// The precision that this model computes in on a device: `auto` keeps 32 bits where the transformer's file has them.
pub(super) fn precision_on(backbone: &Backbone, device: Device) -> Precision {
    let is_fp32 = || {
        let folder = model_folder(backbone).map(|model| model.join("transformer"));
        let weights = folder.and_then(|folder| Ok(Weights::open_folder(&folder, "diffusion_pytorch_model")?));
        weights.is_ok_and(|weights| weights.is_fp32())
    };
    match backbone.precision {
        Precision::Auto if is_fp32() => Precision::Fp32,
        explicit => precision::resolved(explicit, device),
    }
}

/// Opens the model.
pub(super) fn open(
    backbone: &Backbone,
    devices: Devices,
    memory: MemoryPlan,
    other_model_bytes: u64,
) -> Result<Box<dyn SuperResolver>, PipelineError> {
    Ok(Box::new(OsediffSd3::open(backbone, devices, memory, other_model_bytes)?))
}

impl SuperResolver for OsediffSd3 {
    fn prepare(&mut self, enlarged: &Arc<Picture>, progress: &mut Progress) -> Result<(), PipelineError> {
        self.encode_image(enlarged, progress).map_err(|error| error.with_plan(self.plan))
    }

    fn restore(&mut self, input: &StepInput, progress: &mut Progress) -> Result<Picture, PipelineError> {
        self.restored(input, progress).map_err(|error| error.with_plan(self.plan))
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
            false => memory::weights_in_memory(self.plan, [0, text, 0]) + self.text.activations,
        }
    }

    fn offload(&mut self, needed: u64) {
        let shares = self.plan != MemoryPlan::Resident && self.is_on_one_device();
        if shares && !memory::has_room(self.devices.picture, needed) {
            self.mmdit.unload_and_trim();
        }
    }

    fn plan(&self) -> Option<MemoryPlan> {
        Some(self.plan)
    }

    fn set_plan(&mut self, plan: MemoryPlan) {
        self.plan = plan;
        self.text.set_keep(plan == MemoryPlan::Resident);
        self.mmdit.set_keep(plan != MemoryPlan::Streamed);
        self.vae.set_keep(plan != MemoryPlan::Streamed);
    }
}
