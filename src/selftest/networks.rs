//! Networks in float32 against what diffusers, transformers and PyTorch make of the same weights.

use serde::de::DeserializeOwned;
use tch::{Kind, Tensor};

use super::fixtures::Cases;
use super::{Context, Value, quiet, relative_difference};
use crate::networks::sd2::lora::OsediffLora;
use crate::networks::sd2::unet::Unet;
use crate::networks::sd3::lora::{AdaLoras, merged_encoder};
use crate::networks::sd3::mmdit::Mmdit;
use crate::networks::text::clip::{ClipText, ClipTextWithProjection};
use crate::networks::text::t5::T5Encoder;
use crate::networks::vae::Vae;
use crate::networks::{RrdbNet, SrvggNetCompact};
use crate::pipelines::PipelineError;
use crate::runtime::accelerator;
use crate::runtime::weights::{Loader, Weights};

impl Context {
    fn loader(&self, weights: &Weights) -> Loader<'static> {
        Loader::new(weights, "", self.devices.picture, Kind::Float)
    }

    fn case(&self, cases: &Cases, name: &str) -> Result<Tensor, PipelineError> {
        cases.on(self.devices.picture, name)
    }
}

fn of_transformer(context: &Context, loras: AdaLoras, expected: &str) -> Value {
    let cases = context.fixtures.cases("sd3")?;
    let weights = context.fixtures.weights("sd3/transformer/diffusion_pytorch_model.safetensors")?;
    let config = context.fixtures.config("sd3/transformer/config.json")?;
    let model = Mmdit::load(&mut context.loader(&weights), &config, loras)?;
    let case = |name: &str| context.case(&cases, &format!("transformer.{name}"));
    let velocity = model.forward(&case("latent")?, 1000.0, &case("prompt")?, &case("pooled")?, &mut quiet)?;
    Ok(Some(relative_difference(&velocity, &case(expected)?)?))
}

pub(super) fn transformer(context: &Context) -> Value {
    of_transformer(context, AdaLoras::default(), "velocity")
}

pub(super) fn transformer_lora(context: &Context) -> Value {
    let weights = context.fixtures.weights("sd3/model_20001.pkl")?;
    of_transformer(context, AdaLoras::read(&weights)?, "velocity_lora")
}

pub(super) fn unet(context: &Context) -> Value {
    let cases = context.fixtures.cases("sd21")?;
    let weights = context.fixtures.weights("sd21/unet/diffusion_pytorch_model.safetensors")?;
    let loras = OsediffLora::open(&context.fixtures.path("sd21/osediff.pkl"))?;
    let config = context.fixtures.config("sd21/unet/config.json")?;
    let model = Unet::load(&mut context.loader(&weights).merging(loras.unet), &config)?;
    let case = |name: &str| context.case(&cases, &format!("unet.even.{name}"));
    let noise = model.forward(&case("latent")?, 999.0, &case("embeds")?, &mut quiet)?;
    Ok(Some(relative_difference(&noise, &case("rank_4")?)?))
}

pub(super) fn clip_h(context: &Context) -> Value {
    let cases = context.fixtures.cases("sd21")?;
    let weights = context.fixtures.weights("sd21/text_encoder/model.safetensors")?;
    let config = context.fixtures.config("sd21/text_encoder/config.json")?;
    let clip = ClipText::load(&mut context.loader(&weights), &config)?;
    let states = clip.forward(&context.case(&cases, "text.1.ids")?.f_unsqueeze(0)?)?.last;
    Ok(Some(relative_difference(&states, cases.tensor("text.1.embeds")?)?))
}

fn vae(context: &Context, own: Option<&Weights>) -> Result<Vae, PipelineError> {
    let weights = context.fixtures.weights("sd3/vae/diffusion_pytorch_model.safetensors")?;
    let mut own = own.map(|weights| context.loader(weights));
    let config = context.fixtures.config("sd3/vae/config.json")?;
    Ok(Vae::load(&mut context.loader(&weights), own.as_mut(), &config)?)
}

fn of_encoder(context: &Context, own: Option<&Weights>, expected: &str) -> Value {
    let cases = context.fixtures.cases("sd3")?;
    let (mean, _) = vae(context, own)?.encoder.forward(&context.case(&cases, "vae.picture")?, &mut quiet)?;
    Ok(Some(relative_difference(&mean, cases.tensor(expected)?)?))
}

pub(super) fn vae_encoder(context: &Context) -> Value {
    of_encoder(context, None, "vae.mean")
}

pub(super) fn vae_encoder_lora(context: &Context) -> Value {
    let own = merged_encoder(&context.fixtures.weights("sd3/vae_encoder_20001.pt")?)?;
    of_encoder(context, Some(&own), "vae.mean_lora")
}

pub(super) fn vae_decoder(context: &Context) -> Value {
    let cases = context.fixtures.cases("sd3")?;
    let decoded = vae(context, None)?.decoder.forward(&context.case(&cases, "vae.latent")?, &mut quiet)?;
    Ok(Some(relative_difference(&decoded, cases.tensor("vae.decoded")?)?))
}

pub(super) fn vae_decoder_tf32(context: &Context) -> Value {
    if !context.is_cuda() {
        return Ok(None);
    }
    accelerator::allow_tf32(true);
    let value = vae_decoder(context);
    accelerator::allow_tf32(false);
    value
}

fn of_text<C: DeserializeOwned>(
    context: &Context,
    name: &str,
    expected: &str,
    forward: impl FnOnce(&mut Loader, &C, &Tensor) -> Result<Tensor, PipelineError>,
) -> Value {
    let cases = context.fixtures.cases("sd3")?;
    let weights = context.fixtures.weights(&format!("sd3/{name}/model.safetensors"))?;
    let config = context.fixtures.config(&format!("sd3/{name}/config.json"))?;
    let states = forward(&mut context.loader(&weights), &config, &context.case(&cases, &format!("{name}.ids"))?)?;
    Ok(Some(relative_difference(&states, cases.tensor(&format!("{name}.{expected}"))?)?))
}

pub(super) fn clip(context: &Context) -> Value {
    of_text(context, "text_encoder", "penultimate", |loader, config, ids| {
        Ok(ClipTextWithProjection::load(loader, config)?.forward(ids)?.0.penultimate)
    })
}

pub(super) fn clip_2(context: &Context) -> Value {
    of_text(context, "text_encoder_2", "penultimate", |loader, config, ids| {
        Ok(ClipTextWithProjection::load(loader, config)?.forward(ids)?.0.penultimate)
    })
}

pub(super) fn t5(context: &Context) -> Value {
    of_text(context, "text_encoder_3", "states", |loader, config, ids| {
        T5Encoder::load(loader, config)?.forward(ids, &mut quiet)
    })
}

pub(super) fn rrdb(context: &Context) -> Value {
    let (cases, weights) = (context.fixtures.cases("networks")?, context.fixtures.weights("networks/rrdb_x4.pth")?);
    let network = RrdbNet::load(&weights, "params_ema.", context.devices.picture, Kind::Float)?;
    let output = network.forward(&context.case(&cases, "rrdb_x4.input")?, &mut |_, _| true)?;
    let output = output.ok_or(PipelineError::Cancelled)?;
    Ok(Some(relative_difference(&output, cases.tensor("rrdb_x4.output")?)?))
}

pub(super) fn compact(context: &Context) -> Value {
    let (cases, weights) = (context.fixtures.cases("networks")?, context.fixtures.weights("networks/compact_x4.pth")?);
    let network = SrvggNetCompact::load(&weights, "params.", context.devices.picture, Kind::Float)?;
    let output = network.forward(&context.case(&cases, "compact_x4.input")?)?;
    Ok(Some(relative_difference(&output, cases.tensor("compact_x4.output")?)?))
}
