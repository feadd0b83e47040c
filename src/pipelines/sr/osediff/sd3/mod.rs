//! Chain-of-Zoom's own restoring model: OSEDiff on Stable Diffusion 3 (`osediff_sd3.py`).

pub(in crate::pipelines::sr) mod prompts;

use prompts::{CLIP_TOKENS, Embeds, PromptEncoder, T5_TOKENS};
use serde::de::DeserializeOwned;
use tch::{Kind, Tensor};

use super::{Denoiser, LatentRules, Osediff, Parts, PipelineError, SuperResolver, Target, model_folder};
use crate::base::{Backbone, MemoryPlan};
use crate::checkpoint::sd3::{Part, Sd3};
use crate::networks::sd3::lora::{AdaLoras, merged_encoder};
use crate::networks::sd3::mmdit;
use crate::networks::sd3::mmdit::Mmdit;
use crate::networks::vae;
use crate::networks::vae::Vae;
use crate::runtime::LazyModel;
use crate::runtime::device::Devices;
use crate::runtime::weights::{Loader, Weights};

/// The first timestep of a scheduler that takes one step.
const TIMESTEP: f64 = 1000.0;
/// Numbers that are alive at a time for each token and channel, about.
const NUMBERS_ALIVE: f64 = 40.0;

fn config<C: DeserializeOwned>(part: &Part) -> Result<C, PipelineError> {
    let (json, file) = part.config()?;
    C::deserialize(json).map_err(|error| PipelineError::Folder { file, found: error.to_string() })
}

/// The latent less the transformer's velocity.
struct Velocity {
    kind: Kind,
    patch: f64,
    /// Channels of the transformer.
    width: f64,
}

impl Velocity {
    fn tokens(&self, latent_pixels: f64) -> f64 {
        latent_pixels / self.patch.powi(2) + (CLIP_TOKENS + T5_TOKENS) as f64
    }
}

impl Denoiser for Velocity {
    type Network = Mmdit;
    type Embeds = Embeds;

    fn restored(
        &self,
        mmdit: &Mmdit,
        z: &Tensor,
        embeds: &[&Embeds],
        on_progress: &mut dyn FnMut(f32) -> Result<(), PipelineError>,
    ) -> Result<Tensor, PipelineError> {
        let prompt = Tensor::f_cat(&embeds.iter().map(|embeds| &embeds.prompt).collect::<Vec<_>>(), 0)?;
        let pooled = Tensor::f_cat(&embeds.iter().map(|embeds| &embeds.pooled).collect::<Vec<_>>(), 0)?;
        let velocity = mmdit.forward(&z.f_to_kind(self.kind)?, TIMESTEP, &prompt, &pooled, on_progress)?;
        Ok(z.f_sub(&velocity.f_to_kind(Kind::Float)?)?)
    }

    /// Half of the transformer's weights see the picture's tokens, the other half those of the prompt.
    fn operations(&self, latent_pixels: f64, numbers: f64) -> f64 {
        numbers / 2.0 * self.tokens(latent_pixels)
    }

    fn activations(&self, latent_pixels: f64) -> f64 {
        self.tokens(latent_pixels) * self.width * NUMBERS_ALIVE
    }
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
    let model = Sd3::open(model_folder(backbone)?)?;
    let text = PromptEncoder::open(&model, devices.text, kind)?;

    let loras = backbone.files.get("lora").map(Weights::open).transpose()?;
    let weights = Weights::open_part(&model.transformer)?;
    let mmdit_config: mmdit::Config = config(&model.transformer)?;
    let patch = mmdit_config.patch_size.clamp(1, 64) as u32;
    let longest = mmdit_config.pos_embed_max_size.saturating_mul(patch.into());
    let denoiser = Velocity { kind, patch: patch.into(), width: mmdit_config.width().max(1) as f64 };
    let network = LazyModel::new(vec![weights.clone()], move |mode, on_read| {
        let mut loader = Loader::new(&weights, "", devices.picture, kind).mode(mode).on_read(on_read);
        let loras = loras.as_ref().map(AdaLoras::read).transpose()?.unwrap_or_default();
        Mmdit::load(&mut loader, &mmdit_config, loras)
    })?;

    let vae_config: vae::Config = config(&model.vae)?;
    let own = backbone.files.get("vae").map(Weights::open).transpose()?;
    let weights = Weights::open_part(&model.vae)?;
    let of_vae = vae_config.clone();
    let vae = LazyModel::new(vec![weights.clone()], move |mode, on_read| {
        let loader = |weights: &Weights| Loader::new(weights, "", devices.picture, vae_kind).mode(mode);
        let own = own.as_ref().map(merged_encoder).transpose()?;
        Vae::load(&mut loader(&weights).on_read(on_read), own.as_ref().map(loader).as_mut(), &of_vae)
    })?;

    let latent = LatentRules { patch, longest, tiles_steps: false, epsilon: 1e-10 };
    let parts = Parts { text, denoiser, network, vae, vae_config, latent };
    Ok(Box::new(Osediff::new(backbone.spec, parts, target, memory, other_model_bytes)))
}
