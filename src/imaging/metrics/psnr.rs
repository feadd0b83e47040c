//! Peak signal-to-noise ratio, of colours and of luma.

use super::{Picture, are_of_one_size, luma};

/// Keeps identical pictures from being infinitely alike: they are at 80 dB.
const EPSILON: f64 = 1e-8;

/// Of the colours, in dB; `None` where the pictures differ in size.
pub fn psnr(a: &Picture, b: &Picture) -> Option<f64> {
    let square = |(a, b): (&u8, &u8)| (f64::from(*a) - f64::from(*b)).powi(2);
    let all = a.rgb().iter().zip(b.rgb()).map(square);
    are_of_one_size(a, b).then(|| decibels(all.sum::<f64>() / a.rgb().len() as f64 / 255.0f64.powi(2)))
}

/// The same of the luma of YCbCr, unrounded.
pub fn psnr_y(a: &Picture, b: &Picture) -> Option<f64> {
    let square = |(a, b): (&[u8], &[u8])| f64::from(luma(a) - luma(b)).powi(2);
    let all = a.rgb().chunks_exact(3).zip(b.rgb().chunks_exact(3)).map(square);
    are_of_one_size(a, b).then(|| decibels(all.sum::<f64>() / (a.rgb().len() / 3) as f64))
}

fn decibels(mean_square: f64) -> f64 {
    10.0 * (1.0 / (mean_square + EPSILON)).log10()
}

/// Luma of ITU-R BT.601 in [16, 235], as MATLAB's `rgb2ycbcr` gives it.
fn wide_luma([r, g, b]: [u8; 3]) -> f64 {
    16.0 + (65.481 * f64::from(r) + 128.553 * f64::from(g) + 24.966 * f64::from(b)) / 255.0
}

/// Decibels between two pictures of one size, `border` pixels left out on each side. Infinite where they are equal.
pub fn luma_psnr(a: &Picture, b: &Picture, border: u32) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for y in border..a.height().saturating_sub(border) {
        for x in border..a.width().saturating_sub(border) {
            sum += (wide_luma(a.pixel(x, y)) - wide_luma(b.pixel(x, y))).powi(2);
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
        // The same step, of 219 levels between black and white; nothing left out, and an end to it.
        assert!((psnr_y(&a, &b).unwrap() - 49.453).abs() < 0.01);
        assert!((psnr(&a, &b).unwrap() - 48.128).abs() < 0.01);
        assert!((psnr(&a, &a).unwrap() - 80.0).abs() < 1e-9);
        assert_eq!(psnr(&a, &Picture::from_fn(9, 8, |_, _| [0; 3])), None);
    }
}
