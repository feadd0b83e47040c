//! Metrics that need no network. A new one is a file here, a row of [`METRICS`](crate::base::METRICS) and a line where
//! `evaluate::metrics` opens them.

mod niqe;
mod psnr;
mod ssim;

pub use niqe::Niqe;
pub use psnr::{luma_psnr, psnr, psnr_y};
pub use ssim::{ssim, ssim_y};

use super::Picture;

/// A picture with a shorter side has no NIQE.
pub const NIQE_SHORTEST_SIDE: u32 = niqe::BLOCK as u32;
/// Nor SSIM.
pub const SSIM_SHORTEST_SIDE: u32 = ssim::WINDOW as u32;

/// Levels as they stand in single precision, where scores come from: fractions of 1.
fn unit(pixel: &[u8]) -> [f32; 3] {
    [pixel[0], pixel[1], pixel[2]].map(|level| f32::from(level) / 255.0)
}

/// Brightness in whole levels, `.299 R + .587 G + .114 B`.
fn grey(pixel: &[u8]) -> f64 {
    let [r, g, b] = unit(pixel);
    f64::from(((0.299 * r + 0.587 * g + 0.114 * b) * 255.0).round_ties_even())
}

/// Luma of YCbCr (ITU-R BT.601) as a fraction of 1.
fn luma(pixel: &[u8]) -> f32 {
    let [r, g, b] = unit(pixel);
    (65.481 * r + 128.553 * g + 24.966 * b + 16.0) / 255.0
}

fn are_of_one_size(a: &Picture, b: &Picture) -> bool {
    (a.width(), a.height()) == (b.width(), b.height())
}
