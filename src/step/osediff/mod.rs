//! Chain-of-Zoom's own restoring model: OSEDiff on Stable Diffusion 3 (`osediff_sd3.py`), one step from the encoded
//! picture to the restored latent.

mod files;
mod whole;

use std::path::Path;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use tch::{Device, Kind, TchError, Tensor};

pub use files::{Precision, Sd3Files};

use super::device::Devices;
use super::memory::{MemoryPlan, Part, free_memory};
use super::{Progress, Stage, StepError, StepInput, SuperResolver, WholeInput};
use crate::image::Picture;
use crate::image::tensor::{picture_from_tensor_truncated, tensor_from_picture};
use crate::models::sd3::lora::{AdaLoras, merged_encoder};
use crate::models::sd3::mmdit::{self, Mmdit};
use crate::models::sd3::vae::{self, Vae};
use crate::models::text::clip::ClipText;
use crate::models::text::t5::T5Encoder;
use crate::models::text::tokenizer::{ClipTokenizer, T5Tokenizer};
use crate::models::{Loader, Weights, accelerator, heap};

/// Tokens of a prompt, for CLIP and for T5.
const CLIP_TOKENS: usize = 77;
const T5_TOKENS: usize = 512;
/// The first timestep of a scheduler that takes one step.
const TIME: f64 = 1000.0;
/// Prompts whose embeds are kept, 5 MB each in 16 bits.
const PROMPTS: usize = 32;
/// Prompts that are encoded in one pass: T5 is read once for all of them.
const TOGETHER: usize = 8;

/// The words as numbers: `[1, 77 + 512, joint]` and `[1, pooled]`.
struct Embeds {
    prompt: Tensor,
    pooled: Tensor,
}

/// The distribution of a picture's latents, in float32: `[1, C, H / 8, W / 8]` each.
struct Posterior {
    mean: Tensor,
    deviation: Tensor,
}

impl Posterior {
    /// From mean and log variance.
    fn of((mean, log_variance): &(Tensor, Tensor)) -> Result<Self, StepError> {
        let deviation = log_variance.f_to_kind(Kind::Float)?.f_mul_scalar(0.5)?.f_exp()?;
        Ok(Self { mean: mean.f_to_kind(Kind::Float)?, deviation })
    }
}

/// A sample of the latents.
fn noisy(posterior: &Posterior, seed: u64, device: Device) -> Result<Tensor, StepError> {
    // Drawn in 32 bits on the CPU, so that a seed means the same everywhere.
    tch::manual_seed(seed as i64);
    let noise = Tensor::f_randn(posterior.mean.size(), (Kind::Float, Device::Cpu))?.f_to_device(device)?;
    Ok(posterior.mean.f_add(&posterior.deviation.f_mul(&noise)?)?)
}

/// What was decoded, from [-1, 1] to [0, 1].
fn levels(decoded: &Tensor) -> Result<Tensor, TchError> {
    decoded.f_clamp(-1.0, 1.0)?.f_mul_scalar(0.5)?.f_add_scalar(0.5)
}

/// The model: its weights come and go by the memory plan.
pub struct Osediff {
    tokenizers: ([ClipTokenizer; 2], T5Tokenizer),
    clips: [Part<ClipText>; 2],
    t5: Part<T5Encoder>,
    mmdit: Part<Mmdit>,
    vae: Part<Vae>,
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
    /// The same of a whole picture.
    whole: Option<whole::EncodedWhole>,
}

fn config<C: DeserializeOwned>(folder: &Path) -> Result<C, StepError> {
    let file = folder.join("config.json");
    let wrong = |found: String| StepError::Folder { file: file.clone(), found };
    let text = std::fs::read(&file).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))
}

impl Osediff {
    /// Opens all files and compares every name and shape with the configs; weights are read when they are needed.
    /// Another model needs `beside` bytes where the text encoders are.
    pub fn open(files: &Sd3Files, devices: Devices, memory: MemoryPlan, beside: u64) -> Result<Self, StepError> {
        let (kind, vae_kind) = files.precision_on(devices.picture).kinds();
        let folder = |name: &str| files.model.join(name);
        let clip = |name: &str| -> Result<Part<ClipText>, StepError> {
            let (weights, config) = (Weights::open_folder(&folder(name), "model")?, config(&folder(name))?);
            Part::new(vec![weights.clone()], move |reading, told| {
                Ok(ClipText::load(
                    &mut Loader::new(&weights, "", devices.text, kind).reading(reading).telling(told),
                    &config,
                )?)
            })
        };
        let clips = [clip("text_encoder")?, clip("text_encoder_2")?];
        let t5_folder = folder("text_encoder_3");
        let (weights, t5_config) = (Weights::open_folder(&t5_folder, "model")?, config(&t5_folder)?);
        let t5 = Part::new(vec![weights.clone()], move |reading, told| {
            Ok(T5Encoder::load(
                &mut Loader::new(&weights, "", devices.text, kind).reading(reading).telling(told),
                &t5_config,
            )?)
        })?;
        let tokenizers = (
            [ClipTokenizer::open(&folder("tokenizer"))?, ClipTokenizer::open(&folder("tokenizer_2"))?],
            T5Tokenizer::open(&folder("tokenizer_3"))?,
        );

        let loras = files.lora.as_deref().map(Weights::open).transpose()?;
        let weights = Weights::open_folder(&folder("transformer"), "diffusion_pytorch_model")?;
        let mmdit_config: mmdit::Config = config(&folder("transformer"))?;
        let (patch, width) = (mmdit_config.patch_size.clamp(1, 64) as u32, mmdit_config.width().max(1) as u64);
        let longest = mmdit_config.pos_embed_max_size.saturating_mul(patch.into());
        let mmdit = Part::new(vec![weights.clone()], move |reading, told| {
            let mut loader = Loader::new(&weights, "", devices.picture, kind).reading(reading).telling(told);
            let loras = loras.as_ref().map(AdaLoras::read).transpose()?.unwrap_or_default();
            Ok(Mmdit::load(&mut loader, &mmdit_config, loras)?)
        })?;

        let vae_config: vae::Config = config(&folder("vae"))?;
        let halvings = vae_config.halvings();
        let own = files.vae.as_deref().map(Weights::open).transpose()?;
        let weights = Weights::open_folder(&folder("vae"), "diffusion_pytorch_model")?;
        let of_vae = vae_config.clone();
        let vae = Part::new(vec![weights.clone()], move |reading, told| {
            let loader = |weights: &Weights| Loader::new(weights, "", devices.picture, vae_kind).reading(reading);
            let own = own.as_ref().map(merged_encoder).transpose()?;
            Ok(Vae::load(&mut loader(&weights).telling(told), own.as_ref().map(loader).as_mut(), &of_vae)?)
        })?;

        let mut model = Self {
            tokenizers,
            clips,
            t5,
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
            plan: memory,
            embeds: Vec::new(),
            encoded: None,
            whole: None,
        };
        if memory == MemoryPlan::Auto {
            model.plan = model.fitting_plan(beside);
        }
        let plan = model.plan;
        model.clips.iter_mut().for_each(|part| part.plan(plan == MemoryPlan::Resident));
        model.t5.plan(plan == MemoryPlan::Resident);
        model.mmdit.plan(plan != MemoryPlan::Streamed);
        model.vae.plan(plan != MemoryPlan::Streamed);
        Ok(model)
    }

    /// The plan for the memory that is free now.
    fn fitting_plan(&self, beside: u64) -> MemoryPlan {
        let Devices { text, picture } = self.devices;
        let size = self.kind.elt_size_in_bytes();
        let text_bytes = self.clips.iter().map(|part| part.bytes(size)).sum::<u64>() + self.t5.bytes(size);
        let picture_bytes = self.mmdit.bytes(size) + self.vae.bytes(self.vae_kind.elt_size_in_bytes());
        let plan = |device: Device, words: u64, text: u64, picture: u64| match free_memory(device) {
            Some(free) => MemoryPlan::fitting([words, text, picture], free, device == Device::Cpu),
            None => MemoryPlan::Staged,
        };
        match text == picture {
            true => plan(picture, beside, text_bytes, picture_bytes),
            // Each has its own: what the tighter one can hold goes for both.
            false => plan(text, beside, text_bytes, 0).max(plan(picture, 0, 0, picture_bytes)),
        }
    }

    /// What the text encoders say of some prompts.
    fn encode(&mut self, prompts: &[String], progress: &mut Progress) -> Result<Vec<Embeds>, StepError> {
        let device = self.devices.text;
        let together = |ids: Result<Vec<Vec<i64>>, String>| -> Result<Tensor, StepError> {
            let ids = ids.map_err(StepError::Internal)?;
            Ok(Tensor::f_from_slice(&ids.concat())?.f_view([prompts.len() as i64, -1])?.f_to_device(device)?)
        };
        let (tokenizers, tokenizer) = &self.tokenizers;
        let mut said = Vec::new();
        for (part, tokenizer) in self.clips.iter_mut().zip(tokenizers) {
            let ids = prompts.iter().map(|prompt| tokenizer.encode(prompt, CLIP_TOKENS)).collect();
            said.push(part.read(progress)?.forward(&together(ids)?)?);
            part.done();
            progress.at(Stage::Text, 0.05 * said.len() as f32)?;
        }
        let t5 = self.t5.read(progress)?;
        let mut between = |fraction: f32| progress.at(Stage::Text, 0.1 + 0.9 * fraction);
        let ids = prompts.iter().map(|prompt| tokenizer.encode(prompt, T5_TOKENS)).collect();
        let long = t5.forward(&together(ids)?, &mut between)?;
        self.t5.done();
        let both = |part: fn(&crate::models::text::clip::Encoded) -> &Tensor| {
            Tensor::f_cat(&said.iter().map(part).collect::<Vec<_>>(), -1)
        };
        // Zeros up to T5's width; where that is less, what is beyond it is cut off, as the reference's padding does.
        let clip = both(|said| &said.penultimate)?;
        let clip = clip.f_constant_pad_nd([0, long.size()[2] - clip.size()[2]])?;
        accelerator::wait(device);
        let prompt = Tensor::f_cat(&[&clip, &long], 1)?.f_to_device(self.devices.picture)?;
        let pooled = both(|said| &said.pooled)?.f_to_device(self.devices.picture)?;
        let each = |i: i64| -> Result<Embeds, StepError> {
            // Of its own memory: the others' may go before it.
            let own = |x: &Tensor| -> Result<Tensor, TchError> { Tensor::f_cat(&[x.f_narrow(0, i, 1)?], 0) };
            Ok(Embeds { prompt: own(&prompt)?, pooled: own(&pooled)? })
        };
        (0..prompts.len() as i64).map(each).collect()
    }

    /// Has the prompts' embeds, at most [`PROMPTS`], as the last ones kept.
    fn hear(&mut self, prompts: &[String], progress: &mut Progress) -> Result<(), StepError> {
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
        for some in new.chunks(TOGETHER) {
            progress.at(Stage::Text, 0.0)?;
            let embeds = self.encode(some, progress)?;
            self.embeds.extend(some.iter().cloned().zip(embeds));
        }
        let surplus = self.embeds.len().saturating_sub(PROMPTS);
        self.embeds.drain(..surplus);
        Ok(())
    }

    /// The prompt's embeds, where they are kept.
    fn heard(&self, prompt: &str) -> Option<&Embeds> {
        self.embeds.iter().find(|(known, _)| known == prompt).map(|(_, embeds)| embeds)
    }

    /// Has the picture encoded.
    fn look(&mut self, picture: &Arc<Picture>, progress: &mut Progress) -> Result<(), StepError> {
        let (width, height) = (picture.width(), picture.height());
        let multiple = self.multiple;
        if width % multiple != 0 || height % multiple != 0 {
            return Err(StepError::Sides { model: MODEL.into(), multiple, width, height });
        }
        if self.encoded.as_ref().is_some_and(|(known, _)| Arc::ptr_eq(known, picture)) {
            return Ok(());
        }
        let vae = self.vae.read(progress)?;
        let mut between = |fraction: f32| progress.at(Stage::Encoding, fraction);
        between(0.0)?;
        let pixels = tensor_from_picture(picture, self.devices.picture)?.f_mul_scalar(2)?.f_sub_scalar(1)?;
        let encoded = vae.encoder.forward(&pixels.f_to_kind(self.vae_kind)?, &mut between)?;
        self.see_no_more();
        self.encoded = Some((picture.clone(), Posterior::of(&encoded)?));
        Ok(())
    }

    /// The VAE has done its part for now.
    fn see_no_more(&mut self) {
        accelerator::wait(self.devices.picture);
        self.vae.done();
        if self.plan == MemoryPlan::Streamed {
            heap::give_back();
            accelerator::give_back();
        }
    }

    fn restored(&mut self, input: &StepInput, progress: &mut Progress) -> Result<Picture, StepError> {
        self.look(&input.enlarged, progress)?;
        self.hear(std::slice::from_ref(&input.prompt), progress)?;
        let mmdit = self.mmdit.read(progress)?;
        let (Some((_, posterior)), Some((_, embeds))) = (&self.encoded, self.embeds.last()) else {
            return Err(StepError::Internal("nothing was encoded".into()));
        };
        // The shift is not taken off here: so the reference trained it.
        let z = noisy(posterior, input.seed, self.devices.picture)?.f_mul_scalar(self.vae_config.scaling_factor)?;

        let mut between = |fraction: f32| progress.at(Stage::Denoising, fraction);
        let latent = z.f_to_kind(self.kind)?;
        let velocity = mmdit.forward(&latent, TIME, &embeds.prompt, &embeds.pooled, &mut between)?;
        self.mmdit.done();
        let z = z.f_sub(&velocity.f_to_kind(Kind::Float)?)?;

        accelerator::wait(self.devices.picture);
        progress.at(Stage::Decoding, 0.0)?;
        let shift = self.vae_config.shift_factor.unwrap_or(0.0);
        let latent = z.f_div_scalar(self.vae_config.scaling_factor)?.f_add_scalar(shift)?;
        let vae = self.vae.read(progress)?;
        let mut between = |fraction: f32| progress.at(Stage::Decoding, fraction);
        let decoded = vae.decoder.forward(&latent.f_to_kind(self.vae_kind)?, &mut between)?;
        self.see_no_more();
        if !decoded.f_isfinite()?.f_all()?.f_double_value(&[])?.eq(&1.0) {
            return Err(match self.kind {
                Kind::Half => StepError::Overflow { model: MODEL.into() },
                _ => StepError::NotFinite { model: MODEL.into() },
            });
        }
        Ok(picture_from_tensor_truncated(&levels(&decoded)?)?)
    }
}

const MODEL: &str = "Chain-of-Zoom SD3";

impl SuperResolver for Osediff {
    fn prepare(&mut self, enlarged: &Arc<Picture>, progress: &mut Progress) -> Result<(), StepError> {
        self.look(enlarged, progress).map_err(|error| error.with_plan(self.plan))
    }

    fn restore(&mut self, input: &StepInput, progress: &mut Progress) -> Result<Picture, StepError> {
        self.restored(input, progress).map_err(|error| error.with_plan(self.plan))
    }

    fn tiles(&mut self, input: &WholeInput, progress: &mut Progress) -> Result<Vec<Arc<Picture>>, StepError> {
        self.tiles_of(input, progress).map_err(|error| error.with_plan(self.plan))
    }

    fn restore_whole(
        &mut self,
        input: &WholeInput,
        prompts: &[String],
        progress: &mut Progress,
    ) -> Result<Picture, StepError> {
        self.restored_whole(input, prompts, progress).map_err(|error| error.with_plan(self.plan))
    }

    fn rest(&mut self) {
        if self.plan != MemoryPlan::Resident {
            self.mmdit.make_room();
        }
    }

    fn plan(&self) -> Option<MemoryPlan> {
        Some(self.plan)
    }
}
