//! A full image instead of a box: how it is worked through (`inference_coz_full.py`).

use serde::{Deserialize, Serialize};

/// How Chain-of-Zoom's own model works through a full image (the options of `inference_coz_full.py`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tiling {
    /// Side of the tiles that are restored, in pixels of the latent.
    #[serde(rename = "latent")]
    pub latent_tile: u32,
    /// How far they lie over each other.
    pub overlap: u32,
    /// Side of the tiles that are encoded, in pixels.
    #[serde(rename = "encoder")]
    pub encoder_tile: u32,
    /// Side of the tiles that are decoded, in pixels of the latent.
    #[serde(rename = "decoder")]
    pub decoder_tile: u32,
    /// Encoded and decoded as if there were no tiles, rather than fast as the reference does.
    pub exact: bool,
}

impl Default for Tiling {
    fn default() -> Self {
        Self { latent_tile: 64, overlap: 16, encoder_tile: 1024, decoder_tile: 128, exact: false }
    }
}

/// A full image that is to be enlarged, or was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FullImage {
    /// By which tiles.
    pub tiling: Tiling,
    /// A prompt for each tile, where each has its own: columns from the left, each from the top.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompts: Vec<String>,
}
