//! Captions of the items and their prompt embeds. Where memory is short, those of the next items are made together, and text
//! encoders and tagger leave before the trainer goes on.

use std::collections::VecDeque;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::samples::Samples;
use crate::base::{CaptionRequest, MemoryPlan, Progress};
use crate::checkpoint::sd3::Sd3;
use crate::imaging::Picture;
use crate::pipelines::caption::tags::Tagger;
use crate::pipelines::caption::{CaptionInput, Captioner};
use crate::pipelines::sr::{PromptEncoder, TextEncoder};
use crate::runtime::memory::free_memory;
use crate::train::TrainError;

/// Items whose prompt embeds are made together where the models take turns.
const PREFETCH: usize = 128;

/// A pair to learn from, with its prompt; on the CPU where it has been made ahead.
pub struct Item {
    /// Low quality, `[1, 3, S, S]` in [-1, 1].
    pub lq: Tensor,
    /// Ground truth.
    pub gt: Tensor,
    /// Prompt embeds, `[1, T, joint]` and `[1, pooled]`.
    pub embeds: [Tensor; 2],
}

/// What a tagger says of a picture; nothing without one.
///
/// # Errors
/// What libtorch says.
pub(super) fn caption(tagger: &mut Option<Tagger>, picture: &Picture) -> Result<String, TrainError> {
    let Some(tagger) = tagger else { return Ok(String::new()) };
    let picture = Arc::new(picture.clone());
    let input = CaptionInput { parent: picture.clone(), enlarged: picture, request: CaptionRequest::default() };
    Ok(tagger.caption(&input, &mut Progress::new(&mut |_, _| true), &mut |_| ())?)
}

/// The tagger and the text encoders.
pub struct Prompts {
    encoder: PromptEncoder,
    tagger: Option<Tagger>,
    device: Device,
    plan: MemoryPlan,
    prefetched: VecDeque<Item>,
    /// The last caption and its embeds: without a tagger, the only one.
    last: Option<(String, [Tensor; 2])>,
}

impl Prompts {
    /// Opens a model's text encoders; weights are read when they are needed.
    ///
    /// # Errors
    /// What is missing, or of another model.
    pub fn open(model: &Sd3, device: Device, dtype: Kind, tagger: Option<Tagger>) -> Result<Self, TrainError> {
        let encoder = PromptEncoder::open(model, device, dtype)?;
        Ok(Self { encoder, tagger, device, plan: MemoryPlan::Resident, prefetched: VecDeque::new(), last: None })
    }

    /// Follows a plan from now on: `resident` keeps tagger and text encoders beside the trainer, `staged` lets them take turns,
    /// `streamed` reads text encoders layer by layer in their turn. `auto` is one of these, by the memory that is free
    /// where the trainer is open and will need `step` bytes. Returns the plan.
    pub fn set_plan(&mut self, plan: MemoryPlan, step: u64) -> MemoryPlan {
        let models = self.encoder.weight_bytes(true) + self.tagger.as_ref().map_or(0, Captioner::bytes);
        let needed = models + self.encoder.activations();
        self.plan = match (plan, free_memory(self.device)) {
            (MemoryPlan::Auto, Some(free)) if free < needed => MemoryPlan::Streamed,
            (MemoryPlan::Auto, Some(free)) if free < needed + step => MemoryPlan::Staged,
            (MemoryPlan::Auto, _) => MemoryPlan::Resident,
            (plan, _) => plan,
        };
        let taggers = if self.plan == MemoryPlan::Resident { MemoryPlan::Resident } else { MemoryPlan::Staged };
        self.tagger.iter_mut().for_each(|tagger| tagger.set_plan(taggers));
        self.offload();
        self.plan
    }

    /// Several prompts follow: the text encoders are read once for all of them, unless there is no room.
    pub fn load(&mut self) {
        self.encoder.set_keep(self.plan != MemoryPlan::Streamed && self.tagger.is_some());
    }

    /// What is not to stay leaves memory.
    pub fn offload(&mut self) {
        // Without a tagger there is one prompt, and nothing of what encoded it is needed again.
        self.encoder.set_keep(self.plan == MemoryPlan::Resident && self.tagger.is_some());
        self.tagger.iter_mut().for_each(|tagger| tagger.offload(u64::MAX));
    }

    /// What the tagger says of a picture; nothing without one.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn caption(&mut self, picture: &Picture) -> Result<String, TrainError> {
        caption(&mut self.tagger, picture)
    }

    /// A prompt's embeds, always computed by itself: they do not depend on what else is encoded.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn embeds(&mut self, prompt: String) -> Result<[Tensor; 2], TrainError> {
        if let Some((last, embeds)) = &self.last
            && *last == prompt
        {
            return Ok(embeds.each_ref().map(Tensor::shallow_clone));
        }
        let place = if self.plan == MemoryPlan::Resident { self.device } else { Device::Cpu };
        let embeds = self.encoder.embeds(std::slice::from_ref(&prompt), place)?;
        self.last = Some((prompt, embeds.each_ref().map(Tensor::shallow_clone)));
        Ok(embeds)
    }

    /// The next items, of so many that will still be asked for.
    ///
    /// # Errors
    /// A photo that cannot be read; what libtorch says.
    pub fn next(&mut self, samples: &mut Samples, count: usize, all: usize) -> Result<Vec<Item>, TrainError> {
        if self.prefetched.len() < count {
            let is_alone = self.plan == MemoryPlan::Resident || self.tagger.is_none();
            let ahead = if is_alone { count } else { PREFETCH.max(count).min(all) };
            let samples = samples.take(ahead - self.prefetched.len()).collect::<Result<Vec<_>, _>>()?;
            let captions = samples.iter().map(|sample| self.caption(&sample.picture)).collect::<Result<Vec<_>, _>>()?;
            self.tagger.iter_mut().for_each(|tagger| tagger.offload(u64::MAX));
            self.load();
            for (sample, caption) in samples.into_iter().zip(captions) {
                let embeds = self.embeds(caption)?;
                self.prefetched.push_back(Item { lq: sample.lq, gt: sample.gt, embeds });
            }
            self.offload();
        }
        Ok(self.prefetched.drain(..count.min(self.prefetched.len())).collect())
    }
}
