//! A full image instead of a box: how it is worked through (`inference_coz_full.py`).

use serde::{Deserialize, Serialize};

/// How tiles of the autoencoder know of each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub enum VaeMode {
    /// By a small copy of the picture, as Chain-of-Zoom does.
    #[default]
    Fast,
    /// By the means of what all tiles have, as OSEDiff does.
    Averaged,
    /// As if there were no tiles; several times as long.
    Exact,
}

/// As sessions and settings have it: at first there were two, and it was said whether it is the exact one.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    IsExact(bool),
    Other(Other),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Other {
    Averaged,
}

impl From<VaeMode> for Written {
    fn from(mode: VaeMode) -> Self {
        match mode {
            VaeMode::Fast => Self::IsExact(false),
            VaeMode::Exact => Self::IsExact(true),
            VaeMode::Averaged => Self::Other(Other::Averaged),
        }
    }
}

impl From<Written> for VaeMode {
    fn from(written: Written) -> Self {
        match written {
            Written::IsExact(false) => Self::Fast,
            Written::IsExact(true) => Self::Exact,
            Written::Other(Other::Averaged) => Self::Averaged,
        }
    }
}

/// How a diffusion model works through a full image (the options of `inference_coz_full.py`).
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
    /// How these know of each other.
    #[serde(rename = "exact")]
    pub vae_mode: VaeMode,
}

impl Tiling {
    /// Chain-of-Zoom's.
    pub const CHAIN_OF_ZOOM: Self =
        Self { latent_tile: 64, overlap: 16, encoder_tile: 1024, decoder_tile: 128, vae_mode: VaeMode::Fast };
    /// OSEDiff's.
    pub const OSEDIFF: Self =
        Self { latent_tile: 96, overlap: 32, encoder_tile: 1024, decoder_tile: 224, vae_mode: VaeMode::Averaged };
}

impl Tiling {
    /// A model's own, but for what a user has changed of Chain-of-Zoom's; the fast way stands for the model's own way.
    pub fn or(self, usual: Self) -> Self {
        let either = |own: u32, default: u32, usual: u32| if own == default { usual } else { own };
        let default = Self::CHAIN_OF_ZOOM;
        Self {
            latent_tile: either(self.latent_tile, default.latent_tile, usual.latent_tile),
            overlap: either(self.overlap, default.overlap, usual.overlap),
            encoder_tile: either(self.encoder_tile, default.encoder_tile, usual.encoder_tile),
            decoder_tile: either(self.decoder_tile, default.decoder_tile, usual.decoder_tile),
            vae_mode: if self.vae_mode == VaeMode::Fast { usual.vae_mode } else { self.vae_mode },
        }
    }
}

impl Default for Tiling {
    fn default() -> Self {
        Self::CHAIN_OF_ZOOM
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
