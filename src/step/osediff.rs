//! Chain-of-Zoom's own restoring model: OSEDiff on Stable Diffusion 3 (`osediff_sd3.py`), one step from the encoded
//! picture to the restored latent.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::{Progress, Stage, StepError, StepInput, SuperResolver};
use crate::image::Picture;
use crate::image::tensor::{picture_from_tensor_truncated, tensor_from_picture};
use crate::models::sd3::lora::{AdaLoras, merged_encoder};
use crate::models::sd3::mmdit::{self, Mmdit};
use crate::models::sd3::vae::{self, Vae};
use crate::models::text::clip::ClipText;
use crate::models::text::t5::T5Encoder;
use crate::models::text::tokenizer::{ClipTokenizer, T5Tokenizer};
use crate::models::{Loader, Weights};

/// Tokens of a prompt, for CLIP and for T5.
const CLIP_TOKENS: usize = 77;
const T5_TOKENS: usize = 512;
/// The first timestep of a scheduler that takes one step.
const TIME: f64 = 1000.0;

/// In which numbers a model computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    #[default]
    Fp32,
    /// 16 bits, the VAE in 32: its numbers leave the range of these.
    Fp16,
    /// 16 bits with the range of 32.
    Bf16,
}

/// Where the model's files are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sd3Files {
    /// A folder in the layout of `stabilityai/stable-diffusion-3-medium-diffusers`.
    pub model: PathBuf,
    /// The transformer's LoRA, `model_20001.pkl`.
    pub lora: Option<PathBuf>,
    /// The encoder with its LoRA, `vae_encoder_20001.pt`.
    pub vae: Option<PathBuf>,
    /// In which numbers it computes.
    #[serde(default)]
    pub precision: Precision,
}

impl Sd3Files {
    /// A model's folder, with the files of Chain-of-Zoom's training where they lie in it, beside it, or in a `ckpt`
    /// folder there, as the reference keeps them.
    pub fn in_folder(model: &Path) -> Self {
        let beside = model.parent().unwrap_or(model);
        let find = |parts: &[&str]| {
            let places = [model.to_owned(), beside.to_owned(), model.join("ckpt"), beside.join("ckpt")];
            let named = places.iter().flat_map(|place| parts.iter().map(|part| place.join(part)));
            named.into_iter().find(|file| file.is_file())
        };
        let lora = find(&["model_20001.pkl", "SR_LoRA/model_20001.pkl"]);
        let vae = find(&["vae_encoder_20001.pt", "SR_VAE/vae_encoder_20001.pt"]);
        Self { model: model.to_owned(), lora, vae, precision: Precision::default() }
    }
}

/// The words as numbers: `[1, 77 + 512, joint]` and `[1, pooled]`.
struct Embeds {
    prompt: Tensor,
    pooled: Tensor,
}

/// The model, loaded.
pub struct Osediff {
    tokenizers: ([ClipTokenizer; 2], T5Tokenizer),
    clips: [ClipText; 2],
    t5: T5Encoder,
    mmdit: Mmdit,
    vae: Vae,
    vae_config: vae::Config,
    /// What the sides of a picture must be divisible by: a patch of the latent, in pixels.
    multiple: u32,
    /// Of the transformer; the VAE's own is next to it.
    kind: Kind,
    vae_kind: Kind,
    device: Device,
    /// Of the prompt used last.
    embeds: Option<(String, Embeds)>,
}

fn config<C: DeserializeOwned>(folder: &Path) -> Result<C, StepError> {
    let file = folder.join("config.json");
    let wrong = |found: String| StepError::Folder { file: file.clone(), found };
    let text = std::fs::read(&file).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))
}

impl Osediff {
    /// Reads all parts onto one device.
    pub fn open(files: &Sd3Files, device: Device) -> Result<Self, StepError> {
        let kind = match files.precision {
            Precision::Fp32 => Kind::Float,
            Precision::Fp16 => Kind::Half,
            Precision::Bf16 => Kind::BFloat16,
        };
        let vae_kind = if kind == Kind::Half { Kind::Float } else { kind };
        let part = |name: &str| files.model.join(name);
        let text_weights = |name: &str| Weights::open_folder(&part(name), "model");
        let network_weights = |name: &str| Weights::open_folder(&part(name), "diffusion_pytorch_model");

        let clip = |name: &str| -> Result<ClipText, StepError> {
            let weights = text_weights(name)?;
            Ok(ClipText::load(Loader::new(&weights, "", device, kind), &config(&part(name))?)?)
        };
        let clips = [clip("text_encoder")?, clip("text_encoder_2")?];
        let weights = text_weights("text_encoder_3")?;
        let t5 = T5Encoder::load(Loader::new(&weights, "", device, kind), &config(&part("text_encoder_3"))?)?;
        let tokenizers = (
            [ClipTokenizer::open(&part("tokenizer"))?, ClipTokenizer::open(&part("tokenizer_2"))?],
            T5Tokenizer::open(&part("tokenizer_3"))?,
        );
        let loras = match &files.lora {
            Some(file) => AdaLoras::read(&Weights::open(file)?)?,
            None => AdaLoras::default(),
        };
        let weights = network_weights("transformer")?;
        let mmdit_config: mmdit::Config = config(&part("transformer"))?;
        let mmdit = Mmdit::load(Loader::new(&weights, "", device, kind), &mmdit_config, loras)?;
        let vae_config: vae::Config = config(&part("vae"))?;
        let halvings = vae_config.block_out_channels.len().saturating_sub(1).min(8);
        let multiple = (mmdit_config.patch_size.clamp(1, 64) as u32) << halvings;
        let own = files.vae.as_ref().map(|file| merged_encoder(&Weights::open(file)?)).transpose()?;
        let weights = network_weights("vae")?;
        let encoder = own.as_ref().map(|own| Loader::new(own, "", device, vae_kind));
        let vae = Vae::load(Loader::new(&weights, "", device, vae_kind), encoder, &vae_config)?;
        Ok(Self { tokenizers, clips, t5, mmdit, vae, vae_config, multiple, kind, vae_kind, device, embeds: None })
    }

    /// What the text encoders say of a prompt.
    fn encode(&self, prompt: &str) -> Result<Embeds, StepError> {
        let ids = |ids: Result<Vec<i64>, String>| -> Result<Tensor, StepError> {
            let ids = ids.map_err(StepError::Internal)?;
            Ok(Tensor::f_from_slice(&ids)?.f_unsqueeze(0)?.f_to_device(self.device)?)
        };
        let ([first, second], t5) = &self.tokenizers;
        let first = self.clips[0].forward(&ids(first.encode(prompt, CLIP_TOKENS))?)?;
        let second = self.clips[1].forward(&ids(second.encode(prompt, CLIP_TOKENS))?)?;
        let long = self.t5.forward(&ids(t5.encode(prompt, T5_TOKENS))?)?;
        let clip = Tensor::f_cat(&[&first.penultimate, &second.penultimate], -1)?;
        // Zeros up to T5's width; where that is less, what is beyond it is cut off, as the reference's padding does.
        let clip = clip.f_constant_pad_nd([0, long.size()[2] - clip.size()[2]])?;
        Ok(Embeds {
            prompt: Tensor::f_cat(&[&clip, &long], 1)?,
            pooled: Tensor::f_cat(&[&first.pooled, &second.pooled], -1)?,
        })
    }
}

impl SuperResolver for Osediff {
    fn restore(&mut self, input: &StepInput, progress: &mut Progress) -> Result<Picture, StepError> {
        let (width, height) = (input.enlarged.width(), input.enlarged.height());
        let model = || "Chain-of-Zoom SD3".to_owned();
        let multiple = self.multiple;
        if width % multiple != 0 || height % multiple != 0 {
            return Err(StepError::Sides { model: model(), multiple, width, height });
        }
        progress.at(Stage::Text, 0.0)?;
        if self.embeds.as_ref().is_none_or(|(prompt, _)| *prompt != input.prompt) {
            self.embeds = Some((input.prompt.clone(), self.encode(&input.prompt)?));
        }
        let Some((_, embeds)) = &self.embeds else { return Err(StepError::Internal("no embeds".into())) };

        progress.at(Stage::Encoding, 0.1)?;
        let picture = tensor_from_picture(&input.enlarged, self.device)?.f_mul_scalar(2)?.f_sub_scalar(1)?;
        let (mean, log_variance) = self.vae.encoder.forward(&picture.f_to_kind(self.vae_kind)?)?;
        // Drawn in 32 bits on the CPU, so that a seed means the same everywhere.
        tch::manual_seed(input.seed as i64);
        let noise = Tensor::f_randn(mean.size(), (Kind::Float, Device::Cpu))?.f_to_device(self.device)?;
        let deviation = log_variance.f_to_kind(Kind::Float)?.f_mul_scalar(0.5)?.f_exp()?;
        // The shift is not taken off here: so the reference trained it.
        let z = mean
            .f_to_kind(Kind::Float)?
            .f_add(&deviation.f_mul(&noise)?)?
            .f_mul_scalar(self.vae_config.scaling_factor)?;

        // From a quarter of the step to three: the rest is shorter.
        let mut between = |fraction: f32| progress.at(Stage::Denoising, 0.25 + 0.5 * fraction);
        let latent = z.f_to_kind(self.kind)?;
        let velocity = self.mmdit.forward(&latent, TIME, &embeds.prompt, &embeds.pooled, &mut between)?;
        let z = z.f_sub(&velocity.f_to_kind(Kind::Float)?)?;

        progress.at(Stage::Decoding, 0.75)?;
        let shift = self.vae_config.shift_factor.unwrap_or(0.0);
        let latent = z.f_div_scalar(self.vae_config.scaling_factor)?.f_add_scalar(shift)?;
        let decoded = self.vae.decoder.forward(&latent.f_to_kind(self.vae_kind)?)?.f_to_kind(Kind::Float)?;
        if !decoded.f_isfinite()?.f_all()?.f_double_value(&[])?.eq(&1.0) {
            return Err(StepError::NotFinite { model: model() });
        }
        Ok(picture_from_tensor_truncated(&decoded.f_clamp(-1.0, 1.0)?.f_mul_scalar(0.5)?.f_add_scalar(0.5)?)?)
    }
}
