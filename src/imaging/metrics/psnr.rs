//! Peak signal-to-noise ratio on luma, as the super-resolution literature reports it.

use super::{Metric, Picture};

/// The metric.
pub static PSNR: Metric = Metric { label: "luma PSNR", unit: "dB", compute: luma_psnr };

/// Luma of ITU-R BT.601 in [16, 235], as MATLAB's `rgb2ycbcr` gives it.
fn luma([r, g, b]: [u8; 3]) -> f64 {
    16.0 + (65.481 * f64::from(r) + 128.553 * f64::from(g) + 24.966 * f64::from(b)) / 255.0
}

/// Decibels between two pictures of one size, `border` pixels left out on each side. Infinite where they are equal.
pub fn luma_psnr(a: &Picture, b: &Picture, border: u32) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for y in border..a.height().saturating_sub(border) {
        for x in border..a.width().saturating_sub(border) {
            sum += (luma(a.pixel(x, y)) - luma(b.pixel(x, y))).powi(2);
            count += 1.0;
        }
    }
    10.0 * (255.0f64.powi(2) * count / sum).log10()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_level_of_grey_is_just_below_fifty_decibels() {
        let a = Picture::from_fn(9, 9, |_, _| [100; 3]);
        let b = Picture::from_fn(9, 9, |_, _| [101; 3]);
        // 20 log10(255 / (219 / 255)), the step of luma's narrower range.
        assert!((luma_psnr(&a, &b, 0) - 49.453).abs() < 0.001);
        assert_eq!(luma_psnr(&a, &a, 2), f64::INFINITY);
    }
}
