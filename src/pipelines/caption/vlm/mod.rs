//! Prompts by a vision-language model, Qwen2.5-VL: what it is asked, what it is shown, and how its answer is written
//! (`inference_coz.py`, `get_validation_prompt`).

mod chat;
pub mod generate;
pub mod pictures;
pub mod processor;

use std::sync::{Arc, Weak};

use tch::{Device, Kind, Tensor};

use self::processor::{ImageFeatures, Processor, chat_of};
use super::{CaptionInput, Captioner, required};
use crate::base::{ENCODED, MemoryPlan, Progress, PromptSource, Stage};
use crate::imaging::Picture;
use crate::networks::qwen::Qwen;
use crate::networks::qwen::adapter::Adapter;
use crate::networks::qwen::generation::{Sampler, SamplingParams};
use crate::pipelines::PipelineError;
use crate::runtime::weights::{Loader, Weights};
use crate::runtime::{LazyModel, accelerator, allocator, memory, precision};

/// Pictures whose features are kept, a few MB each.
const CACHED_IMAGES: usize = 16;
/// Share of captioning that is done when the question is read, about.
const PREFILLED: f32 = 0.4;

/// Features of a picture that may be asked for again.
struct CachedImage {
    picture: Weak<Picture>,
    image: ImageFeatures,
}

/// The model.
pub struct Vlm {
    processor: Processor,
    networks: LazyModel<Qwen>,
    device: Device,
    kind: Kind,
    plan: MemoryPlan,
    /// Of pictures that are still in use, the newest last.
    cache: Vec<CachedImage>,
}

impl Vlm {
    /// Opens all files and compares every name and shape; weights are read with the first question.
    pub fn open(source: &PromptSource, device: Device) -> Result<Self, PipelineError> {
        let model = required(source, "model")?;
        let processor = Processor::open(model)?;
        let adapter = source.files.get("adapter").map(Adapter::open).transpose()?.unwrap_or_default();
        let weights = Weights::open_folder(model, "model")?;
        let kind = precision::for_weights(source.precision, &weights, device);
        let config = processor.config.clone();
        let networks = LazyModel::new(vec![weights.clone()], move |mode, on_read| {
            let mut loader = Loader::new(&weights, "", device, kind).mode(mode).on_read(on_read);
            Qwen::load(&mut loader, &config, &adapter)
        })?;
        Ok(Self { processor, networks, device, kind, plan: MemoryPlan::Resident, cache: Vec::new() })
    }

    /// Has the features of these pictures at the end of what is kept, in their order.
    fn encode_images(&mut self, pictures: &[Arc<Picture>], progress: &mut Progress) -> Result<(), PipelineError> {
        self.cache.retain(|known| known.picture.strong_count() > 0);
        for (i, picture) in pictures.iter().enumerate() {
            let known = self.cache.iter().position(|seen| std::ptr::eq(seen.picture.as_ptr(), Arc::as_ptr(picture)));
            let cached = match known {
                Some(known) => self.cache.remove(known),
                None => {
                    let vision = &self.networks.get(progress)?.vision;
                    let share = ENCODED / pictures.len() as f32;
                    let mut on_progress = |fraction| {
                        progress.at(Stage::Prompting, share * (i as f32 + fraction)).map_err(PipelineError::from)
                    };
                    let image = self.processor.encode_image(vision, picture, self.device, &mut on_progress)?;
                    CachedImage { picture: Arc::downgrade(picture), image }
                }
            };
            self.cache.push(cached);
        }
        let surplus = self.cache.len().saturating_sub(CACHED_IMAGES.max(pictures.len()));
        self.cache.drain(..surplus);
        Ok(())
    }

    fn answer(
        &mut self,
        input: &CaptionInput,
        progress: &mut Progress,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<String, PipelineError> {
        // Read before blocks are kept, or the gaps between its tensors would be too.
        self.networks.get(progress)?;
        let _kept = allocator::keep_blocks();
        let request = &input.request;
        let pictures = input.pictures();
        self.encode_images(&pictures, progress)?;
        let images = self.cache[self.cache.len() - pictures.len()..].iter().map(|cached| &cached.image);
        let language = &self.networks.get(progress)?.language;
        let chat = chat_of(request, pictures.len());
        let prompt = self.processor.encode_chat(language, &chat, &images.collect::<Vec<_>>())?;
        let (count, ids) = (prompt.ids.len() as i64, Tensor::f_from_slice(&prompt.ids)?.f_to_device(self.device)?);

        let room = request.max_new_tokens as i64;
        let mut cache = language.cache(count + room)?;
        let penalty = self.processor.repetition_penalty();
        let params = SamplingParams { penalty, temperature: request.temperature, seed: request.seed };
        let mut sampler = Sampler::new(&ids, room, params)?;
        let mut on_progress = |fraction: f32| {
            progress.at(Stage::Prompting, ENCODED + (PREFILLED - ENCODED) * fraction).map_err(PipelineError::from)
        };
        let mut logits =
            language.forward(&prompt.embedded, &prompt.positions, &mut cache, &mut on_progress)?.f_get(0)?;
        // No number is most likely then: all tokens would be the first one.
        if !bool::try_from(logits.f_isfinite()?.f_all()?)? {
            return Err(PipelineError::not_finite("Qwen2.5-VL", self.kind));
        }
        let mut written = Vec::new();
        for i in 0..room {
            let next = sampler.sample(&logits)?;
            let id = next.f_int64_value(&[])?;
            written.push(id);
            let text = self.processor.text(&written)?;
            // A letter of several bytes may be only half there.
            on_text(text.trim_end_matches('\u{fffd}'));
            if self.processor.ends().contains(&id) || i + 1 == room {
                break;
            }
            let done = PREFILLED + (1.0 - PREFILLED) * (i + 1) as f32 / room as f32;
            let mut on_progress = |_| progress.at(Stage::Prompting, done).map_err(PipelineError::from);
            let position = prompt.positions_behind(i, 1)?;
            logits = language.forward(&language.embed(&next)?, &position, &mut cache, &mut on_progress)?.f_get(0)?;
        }
        self.processor.text(&written)
    }
}

impl Captioner for Vlm {
    fn caption(
        &mut self,
        input: &CaptionInput,
        progress: &mut Progress,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<String, PipelineError> {
        progress.at(Stage::Prompting, 0.0)?;
        let answer = self.answer(input, progress, on_text);
        let waited = accelerator::wait(self.device).map_err(PipelineError::from);
        self.networks.unload_unless_kept();
        answer.and_then(|answer| waited.map(|()| answer)).map_err(|error| error.with_plan(self.plan))
    }

    fn bytes(&self) -> u64 {
        self.networks.bytes(self.kind.elt_size_in_bytes())
    }

    fn set_plan(&mut self, plan: MemoryPlan) {
        self.plan = plan;
        self.networks.set_keep(plan != MemoryPlan::Streamed);
    }

    fn bytes_loaded(&self) -> u64 {
        if self.networks.is_open() { memory::weights_in_memory(self.plan, [self.bytes(), 0, 0]) } else { 0 }
    }

    fn bytes_to_load(&self) -> u64 {
        memory::weights_in_memory(self.plan, [self.bytes(), 0, 0]) - self.bytes_loaded() + memory::ACTIVATIONS
    }

    fn offload(&mut self, needed: u64) {
        if self.plan != MemoryPlan::Resident && !memory::has_room(self.device, needed) {
            self.networks.unload_and_trim();
        }
    }
}
