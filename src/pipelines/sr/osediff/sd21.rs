//! The OSEDiff of its authors, on Stable Diffusion 2.1-base (`osediff.py`, `test_osediff.py` of cswry/OSEDiff): a seventh of what Stable
//! Diffusion 3 takes.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tch::{Device, Kind, Tensor};

use super::{
    DIFFUSION_WEIGHTS, Denoiser, LatentRules, Osediff, Parts, PipelineError, SuperResolver, Target, TextEncoder,
    model_folder,
};
use crate::base::{Backbone, MemoryPlan, Progress, Stage};
use crate::networks::sd2::lora::OsediffLora;
use crate::networks::sd2::schedule::NoiseSchedule;
use crate::networks::sd2::unet;
use crate::networks::sd2::unet::Unet;
use crate::networks::text::clip;
use crate::networks::text::clip::ClipText;
use crate::networks::text::tokenizer::ClipTokenizer;
use crate::networks::vae;
use crate::networks::vae::Vae;
use crate::runtime::device::Devices;
use crate::runtime::weights::{Loader, Weights};
use crate::runtime::{LazyModel, accelerator};

fn config<C: DeserializeOwned>(folder: &Path) -> Result<C, PipelineError> {
    let file = folder.join("config.json");
    let wrong = |found: String| PipelineError::Folder { file: file.clone(), found };
    let text = std::fs::read(&file).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))
}

/// The only timestep: all noise, to the scheduler.
const TIMESTEP: i64 = 999;
/// No model was trained with more.
const MOST_TIMESTEPS: i64 = 100_000;
/// Tokens of a prompt, where the text encoder takes so many.
const TOKENS: usize = 77;

/// CLIP's text encoder of OpenCLIP ViT-H; its weights come and go by the memory plan.
struct PromptEncoder {
    tokenizer: ClipTokenizer,
    clip: LazyModel<ClipText>,
    kind: Kind,
    device: Device,
    /// Of a prompt.
    tokens: usize,
    activations: u64,
    /// Numbers of a token.
    width: i64,
}

impl PromptEncoder {
    fn open(model: &Path, device: Device, kind: Kind) -> Result<Self, PipelineError> {
        let folder = model.join("text_encoder");
        let (weights, config) = (Weights::open_folder(&folder, "model")?, config::<clip::Config>(&folder)?);
        let tokens = usize::try_from(config.max_position_embeddings).map_or(TOKENS, |most| most.min(TOKENS));
        let (activations, width) = (config.activations(tokens as u64), config.hidden_size);
        let clip = LazyModel::new(vec![weights.clone()], move |mode, on_read| {
            ClipText::load(&mut Loader::new(&weights, "", device, kind).mode(mode).on_read(on_read), &config)
        })?;
        Ok(Self {
            tokenizer: ClipTokenizer::open(&model.join("tokenizer"))?,
            clip,
            kind,
            device,
            tokens,
            activations,
            width,
        })
    }
}

impl TextEncoder for PromptEncoder {
    /// `[1, tokens, width]`.
    type Embeds = Tensor;

    fn encode(
        &mut self,
        prompts: &[String],
        device: Device,
        progress: &mut Progress,
    ) -> Result<Vec<Tensor>, PipelineError> {
        let ids: Result<Vec<_>, _> = prompts.iter().map(|prompt| self.tokenizer.encode(prompt, self.tokens)).collect();
        let ids = Tensor::f_from_slice(&ids.map_err(PipelineError::Internal)?.concat())?;
        let ids = ids.f_view([prompts.len() as i64, -1])?.f_to_device(self.device)?;
        let states = self.clip.get(progress)?.forward(&ids)?.last;
        self.clip.unload_unless_kept();
        accelerator::wait(self.device)?;
        progress.at(Stage::Text, 1.0)?;
        let states = states.f_to_device(device)?;
        // Of its own memory: the others' may go before it.
        (0..prompts.len() as i64).map(|i| Ok(Tensor::f_cat(&[states.f_narrow(0, i, 1)?], 0)?)).collect()
    }

    fn set_keep(&mut self, keep: bool) {
        self.clip.set_keep(keep);
    }

    fn weight_bytes(&self, all: bool) -> u64 {
        if all || !self.clip.is_open() { self.clip.bytes(self.kind.elt_size_in_bytes()) } else { 0 }
    }

    fn activations(&self) -> u64 {
        self.activations
    }

    fn operations(&self) -> f64 {
        self.clip.bytes(1) as f64 * self.tokens as f64
    }
}

/// The latent without the noise that the UNet finds in it.
struct NoisePrediction {
    kind: Kind,
    config: unet::Config,
    /// `alphas_cumprod` at the timestep.
    alpha: f64,
}

impl Denoiser for NoisePrediction {
    type Network = Unet;
    type Embeds = Tensor;

    fn restored(
        &self,
        unet: &Unet,
        z: &Tensor,
        embeds: &[&Tensor],
        on_progress: &mut dyn FnMut(f32) -> Result<(), PipelineError>,
    ) -> Result<Tensor, PipelineError> {
        let prompt = Tensor::f_cat(embeds, 0)?;
        let noise = unet.forward(&z.f_to_kind(self.kind)?, TIMESTEP as f64, &prompt, on_progress)?;
        let noise = noise.f_to_kind(Kind::Float)?.f_mul_scalar((1.0 - self.alpha).sqrt())?;
        Ok(z.f_sub(&noise)?.f_div_scalar(self.alpha.sqrt())?)
    }

    fn operations(&self, latent_pixels: f64, _numbers: f64) -> f64 {
        self.config.operations(latent_pixels, TOKENS as f64)
    }

    fn activations(&self, latent_pixels: f64) -> f64 {
        self.config.activations(latent_pixels)
    }
}

/// `scheduler/scheduler_config.json`.
#[derive(Default, Deserialize)]
struct Scheduler {
    prediction_type: Option<String>,
    #[serde(flatten)]
    schedule: NoiseSchedule,
}

/// How noisy the networks take a picture to be. Stable Diffusion 2.1 itself has the same networks as its base and predicts something
/// else with them.
fn schedule(model: &Path) -> Result<NoiseSchedule, PipelineError> {
    let file = model.join("scheduler").join("scheduler_config.json");
    let wrong = |found: String| PipelineError::Folder { file: file.clone(), found };
    let Scheduler { prediction_type, schedule } = match std::fs::read(&file) {
        Ok(text) => serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Scheduler::default(),
        Err(error) => return Err(wrong(error.to_string())),
    };
    if let Some(other) = prediction_type.filter(|kind| kind != "epsilon") {
        return Err(wrong(format!(
            "prediction_type is {other}, as of Stable Diffusion 2.1 for 768 x 768; OSEDiff was trained on 2.1-base, which has \
             epsilon"
        )));
    }
    let count = schedule.num_train_timesteps;
    match (TIMESTEP + 1..=MOST_TIMESTEPS).contains(&count) {
        true => Ok(schedule),
        false => Err(wrong(format!("num_train_timesteps is {count}, and OSEDiff's timestep is {TIMESTEP}"))),
    }
}

/// Parts of different models may each be whole.
fn check_parts(model: &Path, unet: &unet::Config, vae: &vae::Config, text_width: i64) -> Result<(), PipelineError> {
    let channels = [unet.in_channels, unet.out_channels, vae.latent_channels];
    let found = match channels.iter().all(|&channels| channels == vae.latent_channels) {
        false => {
            format!("it takes and makes {} and {} channels; the VAE has {}", channels[0], channels[1], channels[2])
        }
        true if unet.cross_attention_dim != text_width => {
            format!("it attends to {} numbers a token; the text encoder makes {text_width}", unet.cross_attention_dim)
        }
        true => return Ok(()),
    };
    Err(PipelineError::Folder { file: model.join("unet").join("config.json"), found })
}

/// Opens all files and compares every name and shape with the configs; weights are read when they are needed.
pub(in crate::pipelines::sr) fn open(
    backbone: &Backbone,
    devices: Devices,
    memory: MemoryPlan,
    other_model_bytes: u64,
) -> Result<Box<dyn SuperResolver>, PipelineError> {
    let target = Target::of(backbone, devices);
    let Target { kind, vae_kind, .. } = target;
    let model = model_folder(backbone)?;
    let folder = |name: &str| model.join(name);
    let schedule = schedule(model)?;
    let missing = || PipelineError::Internal("the model was chosen without its LoRAs".into());
    let loras = OsediffLora::open(backbone.files.get("osediff").ok_or_else(missing)?)?;

    let config_of_unet: unet::Config = config(&folder("unet"))?;
    let weights = Weights::open_folder(&folder("unet"), DIFFUSION_WEIGHTS)?;
    let denoiser = NoisePrediction { kind, config: config_of_unet.clone(), alpha: schedule.alpha_cumprod(TIMESTEP)? };
    let of_unet = loras.unet.clone();
    let network = LazyModel::new(vec![weights.clone()], move |mode, on_read| {
        let loader = Loader::new(&weights, "", devices.picture, kind).mode(mode).on_read(on_read);
        Unet::load(&mut loader.merging(of_unet.clone()), &config_of_unet)
    })?;

    let text = PromptEncoder::open(model, devices.text, kind)?;
    let text_width = text.width;
    let vae_config: vae::Config = config(&folder("vae"))?;
    let weights = Weights::open_folder(&folder("vae"), DIFFUSION_WEIGHTS)?;
    let (of_vae, config) = (loras.vae, vae_config.clone());
    let vae = LazyModel::new(vec![weights.clone()], move |mode, on_read| {
        let loader = Loader::new(&weights, "", devices.picture, vae_kind).mode(mode).on_read(on_read);
        Vae::load(&mut loader.merging(of_vae.clone()), None, &config)
    })?;

    check_parts(model, &denoiser.config, &vae_config, text_width)?;
    let latent = LatentRules { patch: 1, longest: i64::MAX, tiles_steps: true, epsilon: 0.0 };
    let parts = Parts { text, denoiser, network, vae, vae_config, latent };
    Ok(Box::new(Osediff::new(backbone.spec, parts, target, memory, other_model_bytes)))
}
