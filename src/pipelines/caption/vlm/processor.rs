//! Messages and pictures to what the networks read, and token ids back to text (transformers' `Qwen2_5_VLProcessor`).

use std::path::Path;

use serde_json::{Value, json};
use tch::{Device, Tensor};

use super::chat::Chat;
use super::pictures::{ImageProcessor, PicturesError};
use crate::base::CaptionRequest;
use crate::imaging::Picture;
use crate::networks::qwen::config::Config;
use crate::networks::qwen::language::LanguageModel;
use crate::networks::qwen::positions::{Grid, of_tokens};
use crate::networks::qwen::vision::VisionTower;
use crate::pipelines::PipelineError;

/// What a model's folder says of its input and output.
pub struct Processor {
    chat: Chat,
    images: ImageProcessor,
    /// `config.json`.
    pub config: Config,
}

/// What the vision tower makes of a picture.
#[derive(Debug)]
pub struct ImageFeatures {
    /// Of its patches.
    pub grid: Grid,
    /// `[tokens, D]`.
    pub features: Tensor,
}

/// A chat as the language model reads it.
#[derive(Debug)]
pub struct EncodedPrompt {
    /// Of its tokens, images as often as they have features.
    pub ids: Vec<i64>,
    /// Time, row and column of each, `[3, N]` on the CPU.
    pub positions: Tensor,
    /// What is added to a later token's number to get its position.
    pub delta: i64,
    /// `[1, N, D]`.
    pub embedded: Tensor,
}

impl EncodedPrompt {
    /// Positions `[3, count]` of the tokens from number `start` on, behind the prompt.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn positions_behind(&self, start: i64, count: i64) -> Result<Tensor, PipelineError> {
        let first = self.ids.len() as i64 + start + self.delta;
        let positions = Tensor::f_arange_start(first, first + count, (tch::Kind::Int64, Device::Cpu))?;
        Ok(positions.f_expand([3, count], false)?)
    }
}

/// The chat of the reference's prompt extractor: a message from the system, so many images from the user.
pub fn caption_chat(message: &str, images: usize) -> Value {
    let images = vec![json!({ "type": "image" }); images];
    json!([{ "role": "system", "content": message }, { "role": "user", "content": images }])
}

/// The same for a region alone or with its parent, in the reference's words or in others.
pub(super) fn chat_of(request: &CaptionRequest, images: usize) -> Value {
    caption_chat(request.question(), images)
}

impl Processor {
    /// Reads a folder's small files.
    ///
    /// # Errors
    /// What is missing, or not as it should be.
    pub fn open(folder: &Path) -> Result<Self, PipelineError> {
        let file = folder.join("config.json");
        let wrong = |found: String| PipelineError::Folder { file: file.clone(), found };
        let text = std::fs::read(&file).map_err(|error| wrong(error.to_string()))?;
        let value = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        let config = Config::parse(&text).map_err(wrong)?;
        let chat = Chat::open(folder, &value)?;
        let images = ImageProcessor::open(folder)?;
        let vision = &config.vision;
        let ours = [vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size];
        let theirs = [images.patch_size, images.temporal_patch_size, images.merge_size].map(i64::from);
        if ours != theirs {
            let found =
                format!("its patches are {ours:?} (side, pictures, merged), those of its image processor {theirs:?}");
            return Err(PipelineError::Folder { file, found });
        }
        Ok(Self { chat, images, config })
    }

    /// An answer is over at any of these.
    pub fn ends(&self) -> &[i64] {
        &self.chat.ends
    }

    /// On tokens that were there before, where the folder asks for it.
    pub fn repetition_penalty(&self) -> f64 {
        self.chat.penalty
    }

    /// What the vision tower makes of a picture.
    ///
    /// # Errors
    /// A picture that is too narrow; what libtorch says; what `on_progress` returns.
    pub fn encode_image(
        &self,
        vision: &VisionTower,
        picture: &Picture,
        device: Device,
        on_progress: &mut dyn FnMut(f32) -> Result<(), PipelineError>,
    ) -> Result<ImageFeatures, PipelineError> {
        let (patches, grid) = self.images.patches(picture)?;
        let features = vision.forward(&patches.f_to_device(device)?, grid, on_progress)?;
        Ok(ImageFeatures { grid, features })
    }

    /// A chat with these images in it, up to where the answer begins.
    ///
    /// # Errors
    /// A template that fails, or names other images.
    pub fn encode_chat(
        &self,
        language: &LanguageModel,
        chat: &Value,
        images: &[&ImageFeatures],
    ) -> Result<EncodedPrompt, PipelineError> {
        let (merge, image_token) = (self.config.vision.spatial_merge_size, self.config.image_token);
        let grids: Vec<Grid> = images.iter().map(|image| image.grid).collect();
        let counts: Vec<i64> = grids.iter().map(|grid| grid.tokens(merge)).collect();
        let ids = self.chat.ids(chat, image_token, &counts)?;
        let (positions, delta) = of_tokens(&ids, image_token, &grids, merge).map_err(PipelineError::Internal)?;
        let positions = Tensor::f_from_slice(&positions.concat())?.f_view([3, -1])?;
        let on_device = Tensor::f_from_slice(&ids)?.f_to_device(language.device())?;
        let mut embedded = language.embed(&on_device)?;
        if !images.is_empty() {
            let places = on_device.f_eq(image_token)?.f_nonzero()?.f_squeeze_dim(1)?;
            let features = Tensor::f_cat(&images.iter().map(|image| &image.features).collect::<Vec<_>>(), 0)?;
            embedded = embedded.f_index_copy(1, &places, &features.f_unsqueeze(0)?)?;
        }
        Ok(EncodedPrompt { ids, positions, delta, embedded })
    }

    /// The token of a text that is one.
    pub fn token(&self, text: &str) -> Option<i64> {
        self.chat.token(text)
    }

    /// What an answer's ids say, without special tokens; not stripped.
    ///
    /// # Errors
    /// What the tokenizer says.
    pub fn text(&self, ids: &[i64]) -> Result<String, PipelineError> {
        self.chat.text(ids)
    }
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
