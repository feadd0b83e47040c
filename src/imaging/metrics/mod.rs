//! Metrics that need no network. A new one between two pictures of one size is a file here and a line in [`METRICS`].

mod niqe;
pub mod psnr;

pub use niqe::niqe;
pub use psnr::luma_psnr;

use super::Picture;

/// A metric.
pub struct Metric {
    /// As the literature calls it.
    pub label: &'static str,
    /// Behind its values.
    pub unit: &'static str,
    /// Its value, with so many pixels left out on each side.
    pub compute: fn(&Picture, &Picture, u32) -> f64,
}

/// All of them, in the order in which they are listed.
pub static METRICS: [&Metric; 1] = [&psnr::PSNR];
