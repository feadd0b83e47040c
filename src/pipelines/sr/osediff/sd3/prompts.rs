//! Prompts to embeds: Stable Diffusion 3's two CLIP encoders and T5, side by side (diffusers' `encode_prompt`).

use tch::{Device, Kind, TchError, Tensor};

use super::super::TextEncoder;
use super::config;
use crate::base::{Progress, Stage};
use crate::checkpoint::sd3::{Part, Sd3};
use crate::networks::text::clip::ClipTextWithProjection;
use crate::networks::text::t5;
use crate::networks::text::t5::T5Encoder;
use crate::networks::text::tokenizer::{ClipTokenizer, T5Tokenizer};
use crate::pipelines::PipelineError;
use crate::runtime::weights::{Loader, Weights};
use crate::runtime::{LazyModel, accelerator};

/// Tokens of a prompt, for CLIP and for T5.
pub(super) const CLIP_TOKENS: usize = 77;
pub(super) const T5_TOKENS: usize = 512;

/// Prompt embeds: `[1, 77 + 512, joint]` and `[1, pooled]`.
pub struct Embeds {
    /// What the transformer attends to.
    pub prompt: Tensor,
    /// What modulates it.
    pub pooled: Tensor,
}

/// The text encoders; their weights come and go by the memory plan.
pub struct PromptEncoder {
    tokenizers: ([ClipTokenizer; 2], T5Tokenizer),
    clips: [LazyModel<ClipTextWithProjection>; 2],
    t5: LazyModel<T5Encoder>,
    kind: Kind,
    device: Device,
    activations: u64,
}

impl PromptEncoder {
    /// Opens a model's encoders and compares every name and shape with the configs; weights are read when they are needed.
    ///
    /// # Errors
    /// What is missing, or of another model.
    pub fn open(model: &Sd3, device: Device, kind: Kind) -> Result<Self, PipelineError> {
        let clip = |part: &Part| -> Result<LazyModel<ClipTextWithProjection>, PipelineError> {
            let (weights, config) = (Weights::open_part(part)?, config(part)?);
            Ok(LazyModel::new(vec![weights.clone()], move |mode, on_read| {
                let mut loader = Loader::new(&weights, "", device, kind).mode(mode).on_read(on_read);
                ClipTextWithProjection::load(&mut loader, &config)
            })?)
        };
        let [clip_l, clip_g, t5] = &model.text_encoders;
        let clips = [clip(clip_l)?, clip(clip_g)?];
        let (weights, t5_config) = (Weights::open_part(t5)?, config::<t5::Config>(t5)?);
        let activations = t5_config.activations(T5_TOKENS as u64);
        let t5 = LazyModel::new(vec![weights.clone()], move |mode, on_read| {
            T5Encoder::load(&mut Loader::new(&weights, "", device, kind).mode(mode).on_read(on_read), &t5_config)
        })?;
        let [tokenizer_l, tokenizer_g, tokenizer_t5] = &model.tokenizers;
        let tokenizers =
            ([ClipTokenizer::open(tokenizer_l)?, ClipTokenizer::open(tokenizer_g)?], T5Tokenizer::open(tokenizer_t5)?);
        Ok(Self { tokenizers, clips, t5, kind, device, activations })
    }

    /// The embeds of some prompts together, `[B, T, joint]` and `[B, pooled]`; nobody waits for them.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn embeds(&mut self, prompts: &[String], device: Device) -> Result<[Tensor; 2], PipelineError> {
        let embeds = self.encode(prompts, device, &mut Progress::new(&mut |_, _| true))?;
        let prompt = Tensor::f_cat(&embeds.iter().map(|embeds| &embeds.prompt).collect::<Vec<_>>(), 0)?;
        Ok([prompt, Tensor::f_cat(&embeds.iter().map(|embeds| &embeds.pooled).collect::<Vec<_>>(), 0)?])
    }
}

impl TextEncoder for PromptEncoder {
    type Embeds = Embeds;

    fn encode(
        &mut self,
        prompts: &[String],
        device: Device,
        progress: &mut Progress,
    ) -> Result<Vec<Embeds>, PipelineError> {
        let together = |ids: Result<Vec<Vec<i64>>, String>| -> Result<Tensor, PipelineError> {
            let ids = ids.map_err(PipelineError::Internal)?;
            Ok(Tensor::f_from_slice(&ids.concat())?.f_view([prompts.len() as i64, -1])?.f_to_device(self.device)?)
        };
        let (tokenizers, tokenizer) = &self.tokenizers;
        let mut encoded = Vec::new();
        for (clip, tokenizer) in self.clips.iter_mut().zip(tokenizers) {
            let ids = prompts.iter().map(|prompt| tokenizer.encode(prompt, CLIP_TOKENS)).collect();
            encoded.push(clip.get(progress)?.forward(&together(ids)?)?);
            clip.unload_unless_kept();
            progress.at(Stage::Text, 0.05 * encoded.len() as f32)?;
        }
        let t5 = self.t5.get(progress)?;
        let mut on_progress =
            |fraction: f32| progress.at(Stage::Text, 0.1 + 0.9 * fraction).map_err(PipelineError::from);
        let ids = prompts.iter().map(|prompt| tokenizer.encode(prompt, T5_TOKENS)).collect();
        let long = t5.forward(&together(ids)?, &mut on_progress)?;
        self.t5.unload_unless_kept();
        let penultimate: Vec<_> = encoded.iter().map(|(encoded, _)| &encoded.penultimate).collect();
        let pooled: Vec<_> = encoded.iter().map(|(_, pooled)| pooled).collect();
        // Zeros up to T5's width; where that is less, what is beyond it is cut off, as the reference's padding does.
        let clip = Tensor::f_cat(&penultimate, -1)?;
        let clip = clip.f_constant_pad_nd([0, long.size()[2] - clip.size()[2]])?;
        accelerator::wait(self.device)?;
        let prompt = Tensor::f_cat(&[&clip, &long], 1)?.f_to_device(device)?;
        let pooled = Tensor::f_cat(&pooled, -1)?.f_to_device(device)?;
        let each = |i: i64| -> Result<Embeds, PipelineError> {
            // Of its own memory: the others' may go before it.
            let own = |x: &Tensor| -> Result<Tensor, TchError> { Tensor::f_cat(&[x.f_narrow(0, i, 1)?], 0) };
            Ok(Embeds { prompt: own(&prompt)?, pooled: own(&pooled)? })
        };
        (0..prompts.len() as i64).map(each).collect()
    }

    fn set_keep(&mut self, keep: bool) {
        self.clips.iter_mut().for_each(|clip| clip.set_keep(keep));
        self.t5.set_keep(keep);
    }

    fn weight_bytes(&self, all: bool) -> u64 {
        fn bytes<N>(part: &LazyModel<N>, kind: Kind, all: bool) -> u64 {
            if all || !part.is_open() { part.bytes(kind.elt_size_in_bytes()) } else { 0 }
        }
        self.clips.iter().map(|clip| bytes(clip, self.kind, all)).sum::<u64>() + bytes(&self.t5, self.kind, all)
    }

    fn activations(&self) -> u64 {
        self.activations
    }

    fn operations(&self) -> f64 {
        let of_clips = self.clips.iter().map(|clip| clip.bytes(1) as f64 * CLIP_TOKENS as f64).sum::<f64>();
        of_clips + self.t5.bytes(1) as f64 * T5_TOKENS as f64
    }
}
