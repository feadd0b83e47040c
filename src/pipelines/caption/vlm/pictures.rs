//! Pictures as Qwen2.5-VL takes them (transformers' `Qwen2VLImageProcessor`): sides rounded to whole squares of patches,
//! Pillow's bicubic, patches in the order of the squares that become one token.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use tch::{TchError, Tensor};

use crate::imaging::{Filter, Picture, resize};
use crate::networks::qwen::positions::Grid;

/// Longer than that a side must not be, compared with the other.
const LONGEST: f64 = 200.0;

/// Why a picture could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PicturesError {
    /// `preprocessor_config.json` is not as it should be.
    #[error("{}: {found}", file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// What was found.
        found: String,
    },
    /// The picture is a stripe.
    #[error("a picture of {width} x {height} is too narrow: no side may be more than 200 times the other")]
    Narrow {
        /// In pixels.
        width: u32,
        /// In pixels.
        height: u32,
    },
    /// libtorch failed.
    #[error("libtorch: {0}")]
    Torch(#[from] TchError),
}

/// `preprocessor_config.json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct ImageProcessor {
    /// Side of a patch in pixels.
    pub patch_size: u32,
    /// Pictures in a patch; a still counts that often.
    pub temporal_patch_size: u32,
    /// Side of the square of patches that becomes one token.
    pub merge_size: u32,
    min_pixels: Option<u64>,
    max_pixels: Option<u64>,
    size: Option<Edges>,
    image_mean: [f64; 3],
    image_std: [f64; 3],
}

/// The bounds under the names that newer libraries write; both are numbers of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
struct Edges {
    shortest_edge: u64,
    longest_edge: u64,
}

impl Default for ImageProcessor {
    /// What transformers takes where the file does not say it.
    fn default() -> Self {
        Self {
            patch_size: 14,
            temporal_patch_size: 2,
            merge_size: 2,
            min_pixels: None,
            max_pixels: None,
            size: None,
            image_mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            image_std: [0.268_629_54, 0.261_302_58, 0.275_777_11],
        }
    }
}

impl ImageProcessor {
    /// From a model's folder.
    pub fn open(folder: &Path) -> Result<Self, PicturesError> {
        let mut file = folder.join("preprocessor_config.json");
        if !file.exists() && folder.join("processor_config.json").exists() {
            // Newer libraries keep it there, below a name.
            file = folder.join("processor_config.json");
        }
        let wrong = |found: String| PicturesError::Config { file: file.clone(), found };
        let text = std::fs::read(&file).map_err(|error| wrong(error.to_string()))?;
        let whole: Value = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        let own = whole.get("image_processor").unwrap_or(&whole);
        let processor = Self::deserialize(own).map_err(|error| wrong(error.to_string()))?;
        if [processor.patch_size, processor.temporal_patch_size, processor.merge_size].contains(&0) {
            return Err(wrong("a size in it is 0".into()));
        }
        Ok(processor)
    }

    /// Width and height a picture is resized to (`smart_resize`): whole squares of patches, within the bounds, about the
    /// same shape.
    pub fn resized(&self, width: u32, height: u32) -> Result<(u32, u32), PicturesError> {
        let (w, h) = (f64::from(width), f64::from(height));
        if w.max(h) > LONGEST * w.min(h) {
            return Err(PicturesError::Narrow { width, height });
        }
        let edges = self.size;
        let (least, most) = (edges.map(|edges| edges.shortest_edge), edges.map(|edges| edges.longest_edge));
        let least = self.min_pixels.or(least).unwrap_or(56 * 56) as f64;
        let most = self.max_pixels.or(most).unwrap_or(28 * 28 * 1280) as f64;
        let square = f64::from(self.patch_size * self.merge_size);
        // Python's rounding: halves go to the even side.
        let rounded = |length: f64| (length / square).round_ties_even() * square;
        let (mut to_w, mut to_h) = (rounded(w), rounded(h));
        if to_w * to_h > most {
            let shrink = (h * w / most).sqrt();
            let fitted = |length: f64| ((length / shrink / square).floor() * square).max(square);
            (to_w, to_h) = (fitted(w), fitted(h));
        } else if to_w * to_h < least {
            let grow = (least / (h * w)).sqrt();
            let fitted = |length: f64| (length * grow / square).ceil() * square;
            (to_w, to_h) = (fitted(w), fitted(h));
        }
        Ok((to_w as u32, to_h as u32))
    }

    /// A picture's patches, `[rows * columns, 3 * T * P * P]`, float32, normalised; and how many rows and columns.
    pub fn patches(&self, picture: &Picture) -> Result<(Tensor, Grid), PicturesError> {
        let (width, height) = self.resized(picture.width(), picture.height())?;
        let resized = resize(picture, width, height, Filter::Bicubic);
        let [patch, merge] = [self.patch_size, self.merge_size].map(i64::from);
        let grid = Grid { rows: i64::from(height) / patch, columns: i64::from(width) / patch };
        // A level is scaled in 64 bits and normalised in 32, as numpy does it.
        let levels: Vec<[f32; 256]> = (0..3)
            .map(|channel| {
                let (mean, deviation) = (self.image_mean[channel] as f32, self.image_std[channel] as f32);
                std::array::from_fn(|level| ((level as f64 * (1.0 / 255.0)) as f32 - mean) / deviation)
            })
            .collect();
        let normalised: Vec<f32> = resized
            .rgb()
            .as_chunks::<3>()
            .0
            .iter()
            .flat_map(|rgb| [0, 1, 2].map(|i| levels[i][usize::from(rgb[i])]))
            .collect();
        let (rows, columns) = (grid.rows / merge, grid.columns / merge);
        let repeats = i64::from(self.temporal_patch_size);
        let patches = Tensor::f_from_slice(&normalised)?
            .f_view(&[rows, merge, patch, columns, merge, patch, 3][..])?
            .f_permute([0, 3, 1, 4, 6, 2, 5])? // [rows, columns, merge, merge, 3, P, P]
            .f_unsqueeze(5)?
            .f_expand([rows, columns, merge, merge, 3, repeats, patch, patch].as_slice(), false)?
            .f_reshape([grid.rows * grid.columns, 3 * repeats * patch * patch])?;
        Ok((patches, grid))
    }
}
