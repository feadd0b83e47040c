//! Words from a vision-language model, Qwen2.5-VL: what it is asked, what it is shown, and how its answer is written
//! (`inference_coz.py`, `get_validation_prompt`).

mod chat;
pub mod pictures;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use self::chat::Chat;
use self::pictures::{ImageProcessor, PicturesError};
use super::{PromptInput, Prompter};
use crate::image::Picture;
use crate::models::qwen::Qwen;
use crate::models::qwen::adapter::Adapter;
use crate::models::qwen::config::Config;
use crate::models::qwen::generation::{Choice, Chooser};
use crate::models::qwen::positions::{Grid, of_tokens};
use crate::models::{Loader, Reading, Weights, accelerator, heap};
use crate::step::{MemoryPlan, Part, Precision, Progress, Stage, StepError};

/// What the reference asks about one image.
pub const ONE_IMAGE: &str = "What is in this image? Give me a set of words.";
/// What it asks about the state before and the enlarged region.
pub const TWO_IMAGES: &str = "The second image is a zoom-in of the first image. Based on this knowledge, what is in the second image? \
                              Give me a set of words.";
/// Pictures whose features are kept, a few MB each.
const PICTURES: usize = 16;
/// How much of finding words is done when the images are seen: about.
pub const SEEN: f32 = 0.2;
/// The same when the question is read.
const READ: f32 = 0.4;

/// Where the model's files are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VlmFiles {
    /// A folder in the layout of `Qwen/Qwen2.5-VL-3B-Instruct`.
    pub model: PathBuf,
    /// A PEFT adapter's folder; Chain-of-Zoom's training is one.
    pub adapter: Option<PathBuf>,
    /// In which numbers it computes.
    #[serde(default)]
    pub precision: Precision,
}

/// What the tower says of a picture.
struct Seen {
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
    networks: Part<Qwen>,
    device: Device,
    kind: Kind,
    plan: MemoryPlan,
    /// Of pictures that are still in use, the newest last.
    seen: Vec<Seen>,
}

fn config(folder: &Path) -> Result<(Config, Value), StepError> {
    let file = folder.join("config.json");
    let wrong = |found: String| StepError::Folder { file: file.clone(), found };
    let text = std::fs::read(&file).map_err(|error| wrong(error.to_string()))?;
    let value = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    Ok((Config::parse(&text).map_err(wrong)?, value))
}

impl From<PicturesError> for StepError {
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
    pub fn open(files: &VlmFiles, device: Device) -> Result<Self, StepError> {
        let (config, value) = config(&files.model)?;
        let chat = Chat::open(&files.model, &value)?;
        let processor = ImageProcessor::open(&files.model)?;
        let vision = &config.vision;
        let ours = [vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size];
        let theirs = [processor.patch_size, processor.temporal_patch_size, processor.merge_size].map(i64::from);
        if ours != theirs {
            let found =
                format!("its patches are {ours:?} (side, pictures, merged), those of its image processor {theirs:?}");
            return Err(StepError::Folder { file: files.model.join("config.json"), found });
        }
        let adapter = files.adapter.as_deref().map(Adapter::open).transpose()?.unwrap_or_default();
        let weights = Weights::open_folder(&files.model, "model")?;
        let kind = files.precision.for_weights(&weights, device);
        let of_networks = config.clone();
        let networks = Part::new(vec![weights.clone()], move |reading: Reading, told| {
            let mut loader = Loader::new(&weights, "", device, kind).reading(reading).telling(told);
            Ok(Qwen::load(&mut loader, &of_networks, &adapter)?)
        })?;
        Ok(Self { chat, processor, config, networks, device, kind, plan: MemoryPlan::Resident, seen: Vec::new() })
    }

    /// Has the features of these pictures at the end of what is kept, in their order.
    fn see(&mut self, pictures: &[Arc<Picture>], progress: &mut Progress) -> Result<(), StepError> {
        self.seen.retain(|seen| seen.picture.strong_count() > 0);
        for (i, picture) in pictures.iter().enumerate() {
            let known = self.seen.iter().position(|seen| std::ptr::eq(seen.picture.as_ptr(), Arc::as_ptr(picture)));
            let seen = match known {
                Some(known) => self.seen.remove(known),
                None => {
                    let (patches, grid) = self.processor.patches(picture)?;
                    let vision = &self.networks.read(progress)?.vision;
                    let share = SEEN / pictures.len() as f32;
                    let mut between = |fraction| progress.at(Stage::Prompting, share * (i as f32 + fraction));
                    let features = vision.forward(&patches.f_to_device(self.device)?, grid, &mut between)?;
                    Seen { picture: Arc::downgrade(picture), grid, features }
                }
            };
            self.seen.push(seen);
        }
        let surplus = self.seen.len().saturating_sub(PICTURES.max(pictures.len()));
        self.seen.drain(..surplus);
        Ok(())
    }

    fn answer(
        &mut self,
        input: &PromptInput,
        progress: &mut Progress,
        told: &mut dyn FnMut(&str),
    ) -> Result<String, StepError> {
        // Read before blocks are kept, or the gaps between its tensors would be too.
        self.networks.read(progress)?;
        let _kept = heap::keep_blocks();
        let asking = &input.asking;
        let (pictures, message) = match asking.both {
            true => (vec![input.previous.clone(), input.enlarged.clone()], TWO_IMAGES),
            false => (vec![input.enlarged.clone()], ONE_IMAGE),
        };
        self.see(&pictures, progress)?;
        let seen = &self.seen[self.seen.len() - pictures.len()..];
        let language = &self.networks.read(progress)?.language;

        let (merge, image_token) = (self.config.vision.spatial_merge_size, self.config.image_token);
        let grids: Vec<Grid> = seen.iter().map(|seen| seen.grid).collect();
        let counts: Vec<i64> = grids.iter().map(|grid| grid.tokens(merge)).collect();
        let ids = self.chat.ids(asking.message.as_deref().unwrap_or(message), image_token, &counts)?;
        let (positions, delta) = of_tokens(&ids, image_token, &grids, merge).map_err(StepError::Internal)?;
        let positions = Tensor::f_from_slice(&positions.concat())?.f_view([3, -1])?;
        let count = ids.len() as i64;
        let ids = Tensor::f_from_slice(&ids)?.f_to_device(self.device)?;
        let places = ids.f_eq(image_token)?.f_nonzero()?.f_squeeze_dim(1)?;
        let features = Tensor::f_cat(&seen.iter().map(|seen| &seen.features).collect::<Vec<_>>(), 0)?;
        let embedded = language.embed(&ids)?.f_index_copy(1, &places, &features.f_unsqueeze(0)?)?;

        let room = asking.max_new_tokens as i64;
        let mut cache = language.cache(count + room)?;
        let choice = Choice { penalty: self.chat.penalty, temperature: asking.temperature, seed: asking.seed as i64 };
        let mut chooser = Chooser::new(&ids, room, choice)?;
        let mut between = |fraction: f32| progress.at(Stage::Prompting, SEEN + (READ - SEEN) * fraction);
        let mut logits = language.forward(&embedded, &positions, &mut cache, &mut between)?;
        let mut said = Vec::new();
        for i in 0..room {
            let next = chooser.choose(&logits)?;
            let id = next.f_int64_value(&[])?;
            said.push(id);
            let text = self.chat.text(&said)?;
            // A letter of several bytes may be only half there.
            told(text.trim_end_matches('\u{fffd}'));
            if self.chat.ends.contains(&id) || i + 1 == room {
                break;
            }
            let done = READ + (1.0 - READ) * (i + 1) as f32 / room as f32;
            let mut between = |_| progress.at(Stage::Prompting, done);
            let position = Tensor::f_full([3, 1], count + i + delta, (Kind::Int64, self.device))?;
            logits = language.forward(&language.embed(&next)?, &position, &mut cache, &mut between)?;
        }
        self.chat.text(&said)
    }
}

impl Prompter for Vlm {
    fn propose(
        &mut self,
        input: &PromptInput,
        progress: &mut Progress,
        told: &mut dyn FnMut(&str),
    ) -> Result<String, StepError> {
        progress.at(Stage::Prompting, 0.0)?;
        let answer = self.answer(input, progress, told);
        accelerator::wait(self.device);
        self.networks.done();
        answer.map_err(|error| error.with_plan(self.plan))
    }

    fn bytes(&self) -> u64 {
        self.networks.bytes(self.kind.elt_size_in_bytes())
    }

    fn follow(&mut self, plan: MemoryPlan) {
        if std::mem::replace(&mut self.plan, plan) != plan {
            self.networks.leave();
            self.networks.plan(plan != MemoryPlan::Streamed);
        }
    }

    fn rest(&mut self) {
        if self.plan != MemoryPlan::Resident {
            self.networks.make_room();
        }
    }
}
