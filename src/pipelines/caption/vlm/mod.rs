//! Prompts by a vision-language model, Qwen2.5-VL: what it is asked, what it is shown, and how its answer is written
//! (`inference_coz.py`, `get_validation_prompt`).

mod chat;
pub mod pictures;

use std::path::Path;
use std::sync::{Arc, Weak};

use serde_json::Value;
use tch::{Device, Kind, Tensor};

use self::chat::Chat;
use self::pictures::{ImageProcessor, PicturesError};
use super::{CaptionInput, Captioner, required};
use crate::base::{CaptionRequest, ENCODED, MemoryPlan, Progress, PromptSource, Stage};
use crate::imaging::Picture;
use crate::networks::qwen::Qwen;
use crate::networks::qwen::adapter::Adapter;
use crate::networks::qwen::config::Config;
use crate::networks::qwen::generation::{Sampler, SamplingParams};
use crate::networks::qwen::positions::{Grid, of_tokens};
use crate::pipelines::PipelineError;
use crate::runtime::weights::{Loader, Weights};
use crate::runtime::{LazyModel, accelerator, allocator, memory, precision};

/// Pictures whose features are kept, a few MB each.
const CACHED_IMAGES: usize = 16;
/// Share of captioning that is done when the question is read, about.
const PREFILLED: f32 = 0.4;

/// Features of a picture, by the vision tower.
struct ImageFeatures {
    picture: Weak<Picture>,
    grid: Grid,
    /// `[tokens, D]`.
    features: Tensor,
}

/// The model.
pub struct Vlm {
    chat: Chat,
    processor: ImageProcessor,
    config: Config,
    networks: LazyModel<Qwen>,
    device: Device,
    kind: Kind,
    plan: MemoryPlan,
    /// Of pictures that are still in use, the newest last.
    cache: Vec<ImageFeatures>,
}

fn config(folder: &Path) -> Result<(Config, Value), PipelineError> {
    let file = folder.join("config.json");
    let wrong = |found: String| PipelineError::Folder { file: file.clone(), found };
    let text = std::fs::read(&file).map_err(|error| wrong(error.to_string()))?;
    let value = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    Ok((Config::parse(&text).map_err(wrong)?, value))
}

impl From<PicturesError> for PipelineError {
    fn from(error: PicturesError) -> Self {
        match error {
            PicturesError::Config { file, found } => Self::Folder { file, found },
            PicturesError::Torch(error) => Self::Torch(error),
            narrow @ PicturesError::Narrow { .. } => Self::Narrow(narrow.to_string()),
        }
    }
}

impl Vlm {
    /// Opens all files and compares every name and shape; weights are read with the first question.
    pub fn open(source: &PromptSource, device: Device) -> Result<Self, PipelineError> {
        let model = required(source, "model")?;
        let (config, value) = config(model)?;
        let chat = Chat::open(model, &value)?;
        let processor = ImageProcessor::open(model)?;
        let vision = &config.vision;
        let ours = [vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size];
        let theirs = [processor.patch_size, processor.temporal_patch_size, processor.merge_size].map(i64::from);
        if ours != theirs {
            let found =
                format!("its patches are {ours:?} (side, pictures, merged), those of its image processor {theirs:?}");
            return Err(PipelineError::Folder { file: model.join("config.json"), found });
        }
        let adapter = source.files.get("adapter").map(Adapter::open).transpose()?.unwrap_or_default();
        let weights = Weights::open_folder(model, "model")?;
        let kind = precision::for_weights(source.precision, &weights, device);
        let of_networks = config.clone();
        let networks = LazyModel::new(vec![weights.clone()], move |mode, on_read| {
            let mut loader = Loader::new(&weights, "", device, kind).mode(mode).on_read(on_read);
            Qwen::load(&mut loader, &of_networks, &adapter)
        })?;
        Ok(Self { chat, processor, config, networks, device, kind, plan: MemoryPlan::Resident, cache: Vec::new() })
    }

    /// Has the features of these pictures at the end of what is kept, in their order.
    fn encode_images(&mut self, pictures: &[Arc<Picture>], progress: &mut Progress) -> Result<(), PipelineError> {
        self.cache.retain(|known| known.picture.strong_count() > 0);
        for (i, picture) in pictures.iter().enumerate() {
            let known = self.cache.iter().position(|seen| std::ptr::eq(seen.picture.as_ptr(), Arc::as_ptr(picture)));
            let features = match known {
                Some(known) => self.cache.remove(known),
                None => {
                    let (patches, grid) = self.processor.patches(picture)?;
                    let vision = &self.networks.get(progress)?.vision;
                    let share = ENCODED / pictures.len() as f32;
                    let mut on_progress = |fraction| {
                        progress.at(Stage::Prompting, share * (i as f32 + fraction)).map_err(PipelineError::from)
                    };
                    let features = vision.forward(&patches.f_to_device(self.device)?, grid, &mut on_progress)?;
                    ImageFeatures { picture: Arc::downgrade(picture), grid, features }
                }
            };
            self.cache.push(features);
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
        let message = CaptionRequest::default_message(request.include_parent);
        let pictures = match request.include_parent {
            true => vec![input.parent.clone(), input.enlarged.clone()],
            false => vec![input.enlarged.clone()],
        };
        self.encode_images(&pictures, progress)?;
        let images = &self.cache[self.cache.len() - pictures.len()..];
        let language = &self.networks.get(progress)?.language;

        let (merge, image_token) = (self.config.vision.spatial_merge_size, self.config.image_token);
        let grids: Vec<Grid> = images.iter().map(|known| known.grid).collect();
        let counts: Vec<i64> = grids.iter().map(|grid| grid.tokens(merge)).collect();
        let ids = self.chat.ids(request.message.as_deref().unwrap_or(message), image_token, &counts)?;
        let (positions, delta) = of_tokens(&ids, image_token, &grids, merge).map_err(PipelineError::Internal)?;
        let positions = Tensor::f_from_slice(&positions.concat())?.f_view([3, -1])?;
        let count = ids.len() as i64;
        let ids = Tensor::f_from_slice(&ids)?.f_to_device(self.device)?;
        let places = ids.f_eq(image_token)?.f_nonzero()?.f_squeeze_dim(1)?;
        let features = Tensor::f_cat(&images.iter().map(|image| &image.features).collect::<Vec<_>>(), 0)?;
        let embedded = language.embed(&ids)?.f_index_copy(1, &places, &features.f_unsqueeze(0)?)?;

        let room = request.max_new_tokens as i64;
        let mut cache = language.cache(count + room)?;
        let params =
            SamplingParams { penalty: self.chat.penalty, temperature: request.temperature, seed: request.seed };
        let mut sampler = Sampler::new(&ids, room, params)?;
        let mut on_progress = |fraction: f32| {
            progress.at(Stage::Prompting, ENCODED + (PREFILLED - ENCODED) * fraction).map_err(PipelineError::from)
        };
        let mut logits = language.forward(&embedded, &positions, &mut cache, &mut on_progress)?;
        // No number is most likely then: all tokens would be the first one.
        if !bool::try_from(logits.f_isfinite()?.f_all()?)? {
            return Err(PipelineError::not_finite("Qwen2.5-VL", self.kind));
        }
        let mut written = Vec::new();
        for i in 0..room {
            let next = sampler.sample(&logits)?;
            let id = next.f_int64_value(&[])?;
            written.push(id);
            let text = self.chat.text(&written)?;
            // A letter of several bytes may be only half there.
            on_text(text.trim_end_matches('\u{fffd}'));
            if self.chat.ends.contains(&id) || i + 1 == room {
                break;
            }
            let done = PREFILLED + (1.0 - PREFILLED) * (i + 1) as f32 / room as f32;
            let mut on_progress = |_| progress.at(Stage::Prompting, done).map_err(PipelineError::from);
            let position = Tensor::f_full([3, 1], count + i + delta, (Kind::Int64, Device::Cpu))?;
            logits = language.forward(&language.embed(&next)?, &position, &mut cache, &mut on_progress)?;
        }
        self.chat.text(&written)
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
