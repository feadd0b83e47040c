//! Resizing exactly as Pillow does it (`src/libImaging/Resample.c` and `Geometry.c`).
//!
//! Two passes, each rounded to 8 bits; the filter's support grows with the reduction (antialiasing); weights are
//! fixed-point numbers with 22 fractional bits. The chain is autoregressive, so a difference of one level here would
//! grow with every step: hence the exact arithmetic instead of a faster library.
//!
//! The horizontal pass comes first, except where so many more rows than columns go that the other order is cheaper: so does
//! Pillow 13. (Pillow 12 and before never made the exception. No step of a chain resizes so; pictures of odd sizes are, for
//! the vision-language model.)

use std::ops::Range;

use super::Picture;
use crate::base::Region;

/// How pixels in between are made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The pixel under the centre, nothing mixed.
    Nearest,
    /// Triangle, support 1.
    Bilinear,
    /// Keys' cubic with a = -0.5, support 2.
    Bicubic,
    /// Windowed sinc, support 3.
    Lanczos,
}

const PRECISION_BITS: u32 = 32 - 8 - 2;

impl Filter {
    fn support(self) -> f64 {
        match self {
            Filter::Nearest => 0.5,
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) };
        match self {
            Filter::Nearest => 1.0,
            Filter::Bilinear => (1.0 - x.abs()).max(0.0),
            Filter::Bicubic => match x.abs() {
                x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
                x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
                _ => 0.0,
            },
            Filter::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Filter::Lanczos => 0.0,
        }
    }
}

/// For one output position: the first input position and the weights from there on.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// `precompute_coeffs` and `normalize_coeffs_8bpc` of Pillow, for some output positions of an axis.
fn taps(in_size: usize, out_size: usize, range: Range<usize>, filter: Filter) -> Vec<Taps> {
    let scale = in_size as f64 / out_size as f64;
    let filter_scale = scale.max(1.0);
    let support = filter.support() * filter_scale;
    range
        .map(|out| {
            let center = (out as f64 + 0.5) * scale;
            let first = ((center - support + 0.5) as i64).max(0) as usize;
            let end = ((center + support + 0.5) as usize).min(in_size);
            let weights: Vec<f64> =
                (first..end).map(|x| filter.weight((x as f64 - center + 0.5) * (1.0 / filter_scale))).collect();
            let sum: f64 = weights.iter().sum();
            let fixed = |w: f64| {
                let w = if sum == 0.0 { w } else { w / sum } * f64::from(1 << PRECISION_BITS);
                (w + 0.5f64.copysign(w)) as i32
            };
            Taps { first, weights: weights.into_iter().map(fixed).collect() }
        })
        .collect()
}

/// One axis of a resize.
struct Axis {
    /// What of the source it looks at.
    source: Range<u32>,
    /// `None` where nothing changes.
    taps: Option<Vec<Taps>>,
    /// How many pixels go along it; below zero where it grows.
    shrinks_by: i64,
}

impl Axis {
    fn new(in_size: u32, out_size: u32, part: Range<u32>, filter: Filter) -> Self {
        let shrinks_by = i64::from(in_size) - i64::from(out_size);
        if shrinks_by == 0 {
            return Self { source: part, taps: None, shrinks_by };
        }
        let taps = taps(in_size as usize, out_size as usize, part.start as usize..part.end as usize, filter);
        let first = taps.iter().map(|tap| tap.first).min().unwrap_or(0);
        let end = taps.iter().map(|tap| tap.first + tap.weights.len()).max().unwrap_or(0);
        Self { source: first as u32..end as u32, taps: Some(taps), shrinks_by }
    }
}

/// The same, of a source that begins later.
fn shifted(mut taps: Vec<Taps>, by: u32) -> Vec<Taps> {
    taps.iter_mut().for_each(|tap| tap.first -= by as usize);
    taps
}

fn clip8(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Resizes to `width` x `height` (at least 1 x 1), bit for bit as `PIL.Image.resize` on an RGB image.
pub fn resize(picture: &Picture, width: u32, height: u32, filter: Filter) -> Picture {
    let (width, height) = (width.max(1), height.max(1));
    resize_part(picture, width, height, Region { x: 0, y: 0, width, height }, filter)
}

/// The same pixels, of a part of the result only, which must lie inside it: the rest is never made.
pub fn resize_part(picture: &Picture, width: u32, height: u32, part: Region, filter: Filter) -> Picture {
    if filter == Filter::Nearest {
        return nearest(picture, width, height, part);
    }
    let across = Axis::new(picture.width(), width, part.x..part.x + part.width, filter);
    let down = Axis::new(picture.height(), height, part.y..part.y + part.height, filter);
    let (columns, rows) = (across.source, down.source);
    let is_down_first = down.shrinks_by > 0 && down.shrinks_by > 2 * across.shrinks_by;
    match (across.taps, down.taps) {
        (None, None) if (part.width, part.height) == (width, height) => picture.clone(),
        (None, None) => picture.crop(part.x.into(), part.y.into(), part.width, part.height),
        (None, Some(down)) => vertical(picture, columns, &down),
        (Some(across), None) => horizontal(picture, rows, &across),
        (Some(across), Some(down)) if is_down_first => {
            let lower = vertical(picture, columns.clone(), &down);
            horizontal(&lower, 0..lower.height(), &shifted(across, columns.start))
        }
        (Some(across), Some(down)) => {
            let wider = horizontal(picture, rows.clone(), &across);
            vertical(&wider, 0..wider.width(), &shifted(down, rows.start))
        }
    }
}

fn horizontal(picture: &Picture, rows: Range<u32>, taps: &[Taps]) -> Picture {
    let height = rows.end - rows.start;
    let mut rgb = Vec::with_capacity(taps.len() * height as usize * 3);
    for y in rows {
        let row = picture.row(y);
        for tap in taps {
            let mut sum = [1 << (PRECISION_BITS - 1); 3];
            let pixels = row[tap.first * 3..].as_chunks::<3>().0;
            for (pixel, &weight) in pixels.iter().zip(&tap.weights) {
                for c in 0..3 {
                    sum[c] += i32::from(pixel[c]) * weight;
                }
            }
            rgb.extend(sum.map(clip8));
        }
    }
    assembled(taps.len() as u32, height, rgb)
}

fn vertical(picture: &Picture, columns: Range<u32>, taps: &[Taps]) -> Picture {
    let bytes = columns.start as usize * 3..columns.end as usize * 3;
    let mut rgb = Vec::with_capacity(bytes.len() * taps.len());
    let mut sums = vec![0; bytes.len()];
    for tap in taps {
        sums.fill(1 << (PRECISION_BITS - 1));
        for (y, &weight) in (tap.first..).zip(&tap.weights) {
            for (sum, &value) in sums.iter_mut().zip(&picture.row(y as u32)[bytes.clone()]) {
                *sum += i32::from(value) * weight;
            }
        }
        rgb.extend(sums.iter().map(|&sum| clip8(sum)));
    }
    assembled(columns.end - columns.start, taps.len() as u32, rgb)
}

/// Pillow walks the source with a running sum; so does this, to land on the same pixel at exact halves.
fn nearest(picture: &Picture, width: u32, height: u32, part: Region) -> Picture {
    let sources = |in_size: u32, out_size: u32, from: u32, count: u32| -> Vec<u32> {
        let step = f64::from(in_size) / f64::from(out_size);
        std::iter::successors(Some(step * 0.5), |at| Some(at + step))
            .skip(from as usize)
            .take(count as usize)
            .map(|at| (at as u32).min(in_size - 1))
            .collect()
    };
    let columns = sources(picture.width(), width, part.x, part.width);
    let rows = sources(picture.height(), height, part.y, part.height);
    Picture::from_fn(part.width, part.height, |x, y| picture.pixel(columns[x as usize], rows[y as usize]))
}

fn assembled(width: u32, height: u32, rgb: Vec<u8>) -> Picture {
    #[expect(clippy::expect_used, reason = "each pass pushes exactly one pixel per output position")]
    Picture::from_rgb(width, height, rgb).expect("resampling fills the whole picture")
}

/// x_0 as the reference makes it: short side to `size` by Lanczos, then the central square.
/// Where truncation leaves a side one pixel short, the crop starts at -1 and the missing pixels are black, as there.
pub fn resize_and_center_crop(picture: &Picture, size: u32) -> Picture {
    let scale = f64::from(size) / f64::from(picture.short_side());
    let scaled = |length: u32| ((f64::from(length) * scale) as u32).max(1);
    let (width, height) = (scaled(picture.width()), scaled(picture.height()));
    let corner = |length: u32| (i64::from(length) - i64::from(size)).div_euclid(2);
    // Only the square is made: of a stripe the rest would be a thousand times as much.
    let (left, top) = (corner(width), corner(height));
    let (x, y) = (left.max(0) as u32, top.max(0) as u32);
    let part = Region { x, y, width: size.min(width - x), height: size.min(height - y) };
    resize_part(picture, width, height, part, Filter::Lanczos).crop(left.min(0), top.min(0), size, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_stays_flat() {
        let flat = Picture::from_fn(37, 11, |_, _| [3, 128, 255]);
        for filter in [Filter::Nearest, Filter::Bilinear, Filter::Bicubic, Filter::Lanczos] {
            let out = resize(&flat, 5, 90, filter);
            assert!(out.rgb().as_chunks::<3>().0.iter().all(|p| *p == [3, 128, 255]), "{filter:?}");
        }
    }

    #[test]
    fn a_part_is_what_the_whole_has_there() {
        let picture = Picture::from_fn(61, 47, |x, y| [(x * 5) as u8, (y * 7) as u8, (x * y) as u8]);
        for (width, height) in [(61, 47), (122, 94), (20, 15), (200, 20), (20, 200), (61, 90), (90, 47)] {
            for filter in [Filter::Nearest, Filter::Bilinear, Filter::Bicubic, Filter::Lanczos] {
                let whole = resize(&picture, width, height, filter);
                for part in [Region::square(3, 4, 10), Region { x: width - 7, y: 0, width: 7, height: 15 }] {
                    let expected = whole.crop(part.x.into(), part.y.into(), part.width, part.height);
                    assert!(
                        resize_part(&picture, width, height, part, filter) == expected,
                        "{width} {height} {filter:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn one_pixel_becomes_any_size() {
        let dot = Picture::from_fn(1, 1, |_, _| [7, 8, 9]);
        assert_eq!(resize(&dot, 3, 2, Filter::Bicubic).pixel(2, 1), [7, 8, 9]);
    }
}
