//! A whole picture instead of a box: how it is worked through, and what a model is given of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::image::Picture;

/// How Chain-of-Zoom's own model works through a whole picture (the options of `inference_coz_full.py`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tiling {
    /// Side of the tiles that are restored, in pixels of the latent.
    pub latent: u32,
    /// How far they lie over each other.
    pub overlap: u32,
    /// Side of the tiles that are encoded, in pixels.
    pub encoder: u32,
    /// Side of the tiles that are decoded, in pixels of the latent.
    pub decoder: u32,
    /// Encoded and decoded as if there were no tiles, rather than fast as the reference does.
    pub exact: bool,
}

impl Default for Tiling {
    fn default() -> Self {
        Self { latent: 64, overlap: 16, encoder: 1024, decoder: 128, exact: false }
    }
}

/// A whole picture that is to be enlarged, or was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whole {
    /// By which tiles.
    pub tiling: Tiling,
    /// Words for each tile, where each has its own: columns from the left, each from the top.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompts: Vec<String>,
}

/// What a super-resolution model is given of a whole picture.
#[derive(Clone, Debug)]
pub struct WholeInput {
    /// The picture.
    pub source: Arc<Picture>,
    /// The same enlarged by Lanczos to the size of the result.
    pub enlarged: Arc<Picture>,
    /// By which tiles.
    pub tiling: Tiling,
    /// For models that draw noise.
    pub seed: u64,
}

/// What is heard of a whole picture beside stages.
#[derive(Clone, Debug)]
pub enum Seen {
    /// Some tiles are done of the stage.
    Tiles {
        /// How many.
        done: usize,
        /// Of how many.
        of: usize,
    },
    /// A piece of the result.
    Piece {
        /// Its left edge in the result.
        left: u32,
        /// Its top edge.
        top: u32,
        /// Its pixels.
        picture: Arc<Picture>,
    },
}
