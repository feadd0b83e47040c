//! How a chain was made, as text: what exports carry, and what sessions are described by. With the photo at hand, a
//! recipe makes the chain again.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{FullImage, ModelUsed, Region};

/// What a camera wrote of its photo: EXIF, from the header of its TIFF structure on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Exif(#[serde(with = "hex::serde")] pub Vec<u8>);

/// Where the photo came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// For titles and file names.
    pub name: String,
    /// Its file; `None` where it was pasted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// SHA-256 of that file, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// What its camera wrote, as far as it still holds for what is made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exif: Option<Exif>,
}

impl Source {
    /// What may be told to others: nothing of this machine's folders.
    pub fn without_place(&self) -> Self {
        Self { file: None, ..self.clone() }
    }

    /// The name without its ending.
    pub fn stem(&self) -> String {
        std::path::Path::new(&self.name).file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// One step of a chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecipeStep {
    /// How it was made.
    #[serde(flatten)]
    pub record: StepRecord,
    /// Width of its result.
    pub width: u32,
    /// Height of its result.
    pub height: u32,
}

/// A chain from the photo to one state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// The program and its version.
    pub program: String,
    /// The photo.
    pub photo: Source,
    /// Its width.
    pub width: u32,
    /// Its height.
    pub height: u32,
    /// One a state, in order; each region lies in its parent.
    pub steps: Vec<RecipeStep>,
}

/// As programs name themselves in files.
pub const PROGRAM: &str = concat!("Chain-of-Zoom ", env!("CARGO_PKG_VERSION"));

/// All states of a chain or session that a file tells of have at most so many pixels together; the photo has a limit of its
/// own.
pub const MOST_PIXELS: u64 = 1 << 30;

impl Recipe {
    /// Whether a model made any of its pixels.
    pub fn is_generated(&self) -> bool {
        self.steps.iter().any(|step| step.record.model.is_some())
    }

    /// Whether its boxes fit into each other, and there are not too many nor too large ones; what comes from a file may say
    /// anything.
    pub fn is_valid(&self) -> bool {
        const LARGEST: u32 = 16384;
        const MOST_STEPS: usize = 256;
        let mut size = (self.width, self.height);
        let mut pixels = 0;
        let are_valid = self.steps.iter().all(|step| {
            let fits = step.record.region.fits(size.0, size.1);
            size = (step.width, step.height);
            pixels += u64::from(step.width) * u64::from(step.height);
            fits && (1..=LARGEST).contains(&step.width) && (1..=LARGEST).contains(&step.height)
        });
        are_valid && self.steps.len() <= MOST_STEPS && pixels <= MOST_PIXELS
    }
}

/// How a state came to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The box it shows, in its parent's pixels.
    pub region: Region,
    /// The prompt; [`Backbone::takes_prompt`](super::Backbone::takes_prompt) says whether the model was given it.
    pub prompt: String,
    /// `None` where the box was only reduced and no model ran.
    pub model: Option<ModelUsed>,
    /// The noise's seed.
    pub seed: u64,
    /// PSNR of its luma, reduced again, against what it was made from, in dB; `None` where no model ran.
    #[serde(default, rename = "agreement")]
    pub consistency: Option<f64>,
    /// How it was worked through, where it is a full image enlarged.
    #[serde(default, rename = "whole", skip_serializing_if = "Option::is_none")]
    pub full_image: Option<FullImage>,
    /// How long it took.
    #[serde(rename = "seconds", with = "seconds")]
    pub elapsed: Duration,
}

mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(elapsed: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(elapsed.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
