//! A full image instead of a box (`inference_coz_full.py`): what a model is given of it, and what it shows on the way.

use std::sync::Arc;

use crate::base::Tiling;
use crate::imaging::Picture;

/// What a super-resolution model is given of a full image.
#[derive(Clone, Debug)]
pub struct FullImageInput {
    /// The picture.
    pub source: Arc<Picture>,
    /// The same enlarged by Lanczos to the size of the result.
    pub enlarged: Arc<Picture>,
    /// By which tiles.
    pub tiling: Tiling,
    /// For models that draw noise.
    pub seed: u64,
}

/// A piece of the result of a full image.
#[derive(Clone, Debug)]
pub struct PartialResult {
    /// Its left edge in the result, in pixels.
    pub left: u32,
    /// Its top edge.
    pub top: u32,
    /// Its pixels.
    pub picture: Arc<Picture>,
}
