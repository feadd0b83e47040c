//! Structural similarity (Wang, Bovik, Sheikh, Simoncelli 2004), of one channel in whole levels.

use std::array::from_fn;
use std::sync::LazyLock;

use rayon::prelude::*;

use super::{Picture, are_of_one_size, grey, luma};

/// Side of the window, of which only whole ones count.
pub(super) const WINDOW: usize = 11;
const SIGMA: f64 = 1.5;
const K: [f64; 2] = [0.01, 0.03];
const RANGE: f64 = 255.0;

static GAUSSIAN: LazyLock<[f64; WINDOW]> = LazyLock::new(|| {
    let raw: [f64; WINDOW] = from_fn(|i| (-(i as f64 - (WINDOW / 2) as f64).powi(2) / (2.0 * SIGMA * SIGMA)).exp());
    let sum: f64 = raw.iter().sum();
    raw.map(|weight| weight / sum)
});

/// Of the brightness; `None` where the pictures differ in size, or are smaller than a window.
pub fn ssim(a: &Picture, b: &Picture) -> Option<f64> {
    similarity(a, b, grey)
}

/// Of the luma of YCbCr, as papers on super-resolution report it.
pub fn ssim_y(a: &Picture, b: &Picture) -> Option<f64> {
    similarity(a, b, |pixel| f64::from((luma(pixel) * 255.0).round_ties_even()))
}

fn similarity(a: &Picture, b: &Picture, channel: fn(&[u8]) -> f64) -> Option<f64> {
    let (width, height) = (a.width() as usize, a.height() as usize);
    if !are_of_one_size(a, b) || width.min(height) < WINDOW {
        return None;
    }
    let plane = |picture: &Picture| picture.rgb().chunks_exact(3).map(channel).collect::<Vec<f64>>();
    let (a, b) = (plane(a), plane(b));
    let [c1, c2] = K.map(|k| (k * RANGE).powi(2));
    let of_row = |top: usize| {
        // Means down the window first, then across: of both, of their squares, of their product.
        let mut down = vec![[0.0; 5]; width];
        for (dy, weight) in GAUSSIAN.iter().enumerate() {
            let row = (top + dy) * width..(top + dy + 1) * width;
            for ((sums, &a), &b) in down.iter_mut().zip(&a[row.clone()]).zip(&b[row]) {
                for (sum, value) in sums.iter_mut().zip([a, b, a * a, b * b, a * b]) {
                    *sum += weight * value;
                }
            }
        }
        let at = |window: &[[f64; 5]]| {
            let [ma, mb, aa, bb, ab]: [f64; 5] =
                from_fn(|i| GAUSSIAN.iter().zip(window).map(|(w, sums)| w * sums[i]).sum());
            let contrast = (2.0 * (ab - ma * mb) + c2) / (aa - ma * ma + bb - mb * mb + c2);
            contrast.max(0.0) * (2.0 * ma * mb + c1) / (ma * ma + mb * mb + c1)
        };
        down.windows(WINDOW).map(at).sum::<f64>()
    };
    let (rows, columns) = (height + 1 - WINDOW, width + 1 - WINDOW);
    // In order, so that the sum is the same with any number of threads.
    let sums: Vec<f64> = (0..rows).into_par_iter().map(of_row).collect();
    Some(sums.iter().sum::<f64>() / (rows * columns) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_as_alike_itself_as_can_be_and_less_so_another() {
        let a = Picture::from_fn(20, 30, |x, y| [(x * 11) as u8, (y * 7) as u8, 90]);
        let b = Picture::from_fn(20, 30, |x, y| [((x + y) % 2 * 255) as u8, 60, 90]);
        assert!((ssim(&a, &a).unwrap() - 1.0).abs() < 1e-12);
        assert!(ssim(&a, &b).unwrap() < 0.99);
        assert!((ssim_y(&a, &b).unwrap() - ssim_y(&b, &a).unwrap()).abs() < 1e-12);
        assert_eq!(ssim(&a, &Picture::from_fn(20, 29, |_, _| [0; 3])), None);
        let small = Picture::from_fn(20, 10, |_, _| [0; 3]);
        assert_eq!(ssim(&small, &small), None);
    }
}
