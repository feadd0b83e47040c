//! Words for a step: where they come from, what their finder sees, and what it says.

pub mod tags;
pub mod vlm;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::image::Picture;
use crate::step::{DeviceChoice, MemoryPlan, Progress, StepError};
use tags::{TagFiles, Tagger};
use vlm::{Vlm, VlmFiles};

/// Where words come from: the reference's `--prompt_type`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Extractor {
    /// The user's own words, or none (`null`).
    #[default]
    Own,
    /// Tags, by RAM with DAPE (`dape`).
    Tags(TagFiles),
    /// Qwen2.5-VL, as published (`vlm_base`) or with an adapter (`vlm`).
    Vlm(VlmFiles),
}

/// The kinds of them, as people choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtractorKind {
    /// The user's own words.
    Own,
    /// Tags.
    Tags,
    /// Qwen2.5-VL as published.
    Vlm,
    /// The same with Chain-of-Zoom's adapter.
    Tuned,
}

/// Where their files are, as told; what is not is looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Places {
    /// Qwen2.5-VL's folder, or a name such as `Qwen/Qwen2.5-VL-3B-Instruct`.
    pub vlm: Option<PathBuf>,
    /// Its adapter's folder.
    pub adapter: Option<PathBuf>,
    /// The tagger's checkpoint.
    pub ram: Option<PathBuf>,
    /// Its changes by DAPE.
    pub dape: Option<PathBuf>,
    /// Its tags.
    pub tags: Option<PathBuf>,
    /// Their thresholds.
    pub thresholds: Option<PathBuf>,
}

impl Extractor {
    /// Which kind it is.
    pub fn kind(&self) -> ExtractorKind {
        match self {
            Self::Own => ExtractorKind::Own,
            Self::Tags(_) => ExtractorKind::Tags,
            Self::Vlm(files) if files.adapter.is_none() => ExtractorKind::Vlm,
            Self::Vlm(_) => ExtractorKind::Tuned,
        }
    }

    /// The file or folder it is known by; `None` for the user's own words.
    pub fn main_file(&self) -> Option<&Path> {
        match self {
            Self::Own => None,
            Self::Tags(files) => Some(&files.ram),
            Self::Vlm(files) => Some(files.adapter.as_ref().unwrap_or(&files.model)),
        }
    }

    /// Opens what it needs; `None` where that is nothing. Weights are read with the first question.
    pub fn open(&self, device: DeviceChoice) -> Result<Option<Box<dyn Prompter>>, StepError> {
        let device = device.resolve()?.text;
        Ok(match self {
            Self::Own => None,
            Self::Tags(files) => Some(Box::new(Tagger::open(files, device)?)),
            Self::Vlm(files) => Some(Box::new(Vlm::open(files, device)?)),
        })
    }
}

/// How a vision-language model is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Asking {
    /// What is asked, instead of the reference's words.
    pub message: Option<String>,
    /// The state before is shown too (`recursive_multiscale`).
    pub both: bool,
    /// The answer is cut off there.
    pub max_new_tokens: usize,
    /// 0: always the likeliest word.
    pub temperature: f64,
    /// Of the draws, where there is a temperature.
    pub seed: u64,
}

impl Default for Asking {
    fn default() -> Self {
        Self { message: None, both: false, max_new_tokens: 32, temperature: 0.0, seed: 0 }
    }
}

/// What a prompter may look at.
#[derive(Clone, Debug)]
pub struct PromptInput {
    /// The state the region is cut from (x_{i-1} of the paper).
    pub previous: Arc<Picture>,
    /// The region, enlarged to the working size by bicubic.
    pub enlarged: Arc<Picture>,
    /// For those that are asked.
    pub asking: Asking,
}

/// Finds the words for a region. Lives on the engine's thread.
pub trait Prompter: Send {
    /// The words for this region; `told` hears all that is found so far, again and again.
    ///
    /// # Errors
    /// [`StepError::Cancelled`] where `progress` says so, which is asked often.
    fn propose(
        &mut self,
        input: &PromptInput,
        progress: &mut Progress,
        told: &mut dyn FnMut(&str),
    ) -> Result<String, StepError>;

    /// Bytes of its weights in memory.
    fn bytes(&self) -> u64;

    /// Follows this plan from now on.
    fn follow(&mut self, plan: MemoryPlan);

    /// Makes room for other models, unless its plan is to stay.
    fn rest(&mut self);
}

/// The words found and the user's own, as the reference joins them.
pub fn joined(found: &str, own: &str) -> String {
    if own.is_empty() { found.to_owned() } else { format!("{found}, {own},") }
}
