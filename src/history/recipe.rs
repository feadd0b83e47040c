//! How a chain was made, as text: what exports carry, and what sessions are described by. With the photo at hand, a
//! recipe makes the chain again.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Making, ScaleState};

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
}

impl Source {
    /// The name without its ending.
    pub fn stem(&self) -> String {
        std::path::Path::new(&self.name).file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// One step of a chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// How it was made.
    #[serde(flatten)]
    pub making: Making,
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
    /// One a state, in order; each region lies in the state before.
    pub steps: Vec<Step>,
}

/// As programs name themselves in files.
pub const PROGRAM: &str = concat!("Chain-of-Zoom ", env!("CARGO_PKG_VERSION"));

impl Recipe {
    /// Of a chain that begins with the photo.
    pub fn of(photo: &Source, chain: &[&ScaleState]) -> Self {
        let step = |state: &&ScaleState| {
            let (width, height) = (state.picture.width(), state.picture.height());
            state.making.clone().map(|making| Step { making, width, height })
        };
        Self {
            program: PROGRAM.into(),
            photo: photo.clone(),
            width: chain.first().map_or(0, |state| state.picture.width()),
            height: chain.first().map_or(0, |state| state.picture.height()),
            steps: chain.iter().filter_map(step).collect(),
        }
    }

    /// Whether a model made any of its pixels.
    pub fn is_generated(&self) -> bool {
        self.steps.iter().any(|step| step.making.model.is_some())
    }

    /// Whether its boxes fit into each other; what comes from a file may say anything.
    pub fn is_sane(&self) -> bool {
        const LARGEST: u32 = 16384;
        let mut size = (self.width, self.height);
        self.steps.iter().all(|step| {
            let fits = step.making.region.fits(size.0, size.1);
            size = (step.width, step.height);
            fits && (1..=LARGEST).contains(&step.width) && (1..=LARGEST).contains(&step.height)
        })
    }
}
