//! NIQE (Mittal, Soundararajan, Bovik: Making a "Completely Blind" Image Quality Analyzer, 2013): how far the statistics of
//! a picture's blocks are from those of good photos. Lower is better; it needs no reference and no network.
//!
//! The photos' statistics are the authors' own (assets/niqe.safetensors; their notice stands beside it).

use std::array::from_fn;
use std::sync::LazyLock;

use nalgebra::{SMatrix, SVector, SymmetricEigen};
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};

use super::{Picture, grey};

/// Side of a block at the picture's own size; half of it at half the size.
pub(super) const BLOCK: usize = 96;
/// Numbers that describe a block at one size.
const FEATURES: usize = 18;
/// The same at both.
const ALL: usize = 2 * FEATURES;
/// Pixels of a window to each side of its middle.
const REACH: usize = 3;
const WINDOW: usize = 2 * REACH + 1;
const SIGMA: f64 = 7.0 / 6.0;
/// Keeps the root from being taken of less than nothing.
const TINY: f64 = 2.2e-16;
/// Shapes of distributions that are tried: from 0.2, by 0.001, to 10.
const SHAPES: usize = 9801;
/// Rows and columns to the neighbours whose products are looked at.
const SHIFTS: [(usize, usize); 4] = [(0, 1), (1, 0), (1, 1), (1, usize::MAX)];

type Features = SVector<f64, ALL>;
type Covariance = SMatrix<f64, ALL, ALL>;

/// What good photos are like: the authors' own statistics, or others.
pub struct Niqe {
    mean: Features,
    covariance: Covariance,
}

/// Weights of a window, as they are in single precision.
static GAUSSIAN: LazyLock<[[f64; WINDOW]; WINDOW]> = LazyLock::new(|| {
    let square = |at: usize| (at as f64 - REACH as f64).powi(2);
    let raw: [[f64; WINDOW]; WINDOW] =
        from_fn(|y| from_fn(|x| (-(square(y) + square(x)) / (2.0 * SIGMA * SIGMA)).exp()));
    let sum: f64 = raw.iter().flatten().sum();
    raw.map(|row| row.map(|weight| f64::from((weight / sum) as f32)))
});

/// For each shape: what it makes of the ratio that is measured, `sqrt(G(1/a) / G(3/a))`, and `G(2/a) / G(1/a)`.
struct Shape {
    ratio: f64,
    width: f64,
    mean: f64,
}

static TABLE: LazyLock<Vec<Shape>> = LazyLock::new(|| {
    let gamma = libm::tgamma;
    let shape = |i: usize| {
        let alpha = alpha(i);
        let [one, two, three] = [1.0, 2.0, 3.0].map(|factor| gamma(factor / alpha));
        Shape { ratio: two * two / (one * three), width: (one / three).sqrt(), mean: two / one }
    };
    (0..SHAPES).map(shape).collect()
});

fn alpha(i: usize) -> f64 {
    0.2 + 0.001 * i as f64
}

/// One plane of numbers.
struct Plane {
    width: usize,
    height: usize,
    data: Vec<f64>,
}

impl Plane {
    /// Brightness in whole levels (`.299 R + .587 G + .114 B`, in single precision), cut to multiples of a block.
    fn luma(picture: &Picture) -> Self {
        let whole = |length: u32| length as usize / BLOCK * BLOCK;
        let (width, height) = (whole(picture.width()), whole(picture.height()));
        let row = |y: usize| picture.row(y as u32).chunks_exact(3).take(width).map(grey).collect::<Vec<_>>();
        Self { width, height, data: (0..height).flat_map(row).collect() }
    }

    /// Half as large, by MATLAB's bicubic: its kernel is as wide as eight pixels, and edges are mirrored.
    fn halved(&self) -> Self {
        let across = halve_rows(self);
        let down = halve_rows(&across.transposed());
        down.transposed()
    }

    fn transposed(&self) -> Self {
        let data = (0..self.width).flat_map(|x| (0..self.height).map(move |y| self.data[y * self.width + x])).collect();
        Self { width: self.height, height: self.width, data }
    }

    /// Less the mean of a pixel's surroundings, divided by their deviation and one (MSCN coefficients).
    fn normalised(&self) -> Self {
        let padded_width = self.width + 2 * REACH;
        let row = |y: usize| {
            let y = y.saturating_sub(REACH).min(self.height - 1);
            &self.data[y * self.width..(y + 1) * self.width]
        };
        let padded: Vec<f64> = (0..self.height + 2 * REACH)
            .flat_map(|y| (0..padded_width).map(move |x| row(y)[x.saturating_sub(REACH).min(self.width - 1)]))
            .collect();
        let mut data = vec![0.0; self.data.len()];
        data.par_chunks_mut(self.width).enumerate().for_each(|(y, out)| {
            let (mut mean, mut square) = (vec![0.0; self.width], vec![0.0; self.width]);
            for (dy, weights) in GAUSSIAN.iter().enumerate() {
                for (dx, &weight) in weights.iter().enumerate() {
                    let start = (y + dy) * padded_width + dx;
                    let seen = &padded[start..start + self.width];
                    for ((mean, square), &level) in mean.iter_mut().zip(&mut square).zip(seen) {
                        *mean += weight * level;
                        *square += weight * (level * level);
                    }
                }
            }
            for (x, out) in out.iter_mut().enumerate() {
                let deviation = ((square[x] - mean[x] * mean[x]).abs() + TINY).sqrt();
                *out = (self.data[y * self.width + x] - mean[x]) / (deviation + 1.0);
            }
        });
        Self { data, ..*self }
    }

    /// The block in this row and column of blocks, each so many pixels a side.
    fn block(&self, row: usize, column: usize, side: usize) -> Vec<f64> {
        let start = row * side * self.width + column * side;
        (0..side).flat_map(|y| self.data[start + y * self.width..][..side].iter().copied()).collect()
    }
}

/// Each row half as long.
fn halve_rows(plane: &Plane) -> Plane {
    let cubic = |x: f64| match x {
        x if x <= 1.0 => 1.5 * x.powi(3) - 2.5 * x.powi(2) + 1.0,
        x => -0.5 * x.powi(3) + 2.5 * x.powi(2) - 4.0 * x + 2.0,
    };
    // The middle of a new pixel lies between two old ones; four to each side count.
    let raw: [f64; 8] = from_fn(|i| cubic((i as f64 - 3.5).abs() / 2.0));
    let sum: f64 = raw.iter().sum();
    let weights = raw.map(|weight| weight / sum);
    let (width, last) = (plane.width / 2, plane.width as isize - 1);
    let mirrored = |x: isize| {
        (if x < 0 {
            -1 - x
        } else if x > last {
            2 * last + 1 - x
        } else {
            x
        }) as usize
    };
    let halved = |row: &[f64]| -> Vec<f64> {
        let at = |x: usize, i: usize| row[mirrored(2 * x as isize + i as isize - 3)];
        (0..width).map(|x| weights.iter().enumerate().map(|(i, weight)| weight * at(x, i)).sum()).collect()
    };
    let data = plane.data.chunks_exact(plane.width).flat_map(halved).collect();
    Plane { width, height: plane.height, data }
}

/// An asymmetric generalised Gaussian fitted to numbers: place of its shape in the table, and its widths to the left and
/// right. What has no width is not a number.
fn fitted(values: impl Iterator<Item = f64>) -> (usize, f64, f64) {
    let (mut left, mut right, mut sum, mut square, mut all) = ((0.0, 0.0), (0.0, 0.0), 0.0, 0.0, 0.0);
    for x in values {
        let side = if x < 0.0 {
            Some(&mut left)
        } else if x > 0.0 {
            Some(&mut right)
        } else {
            None
        };
        if let Some((squares, count)) = side {
            *squares += x * x;
            *count += 1.0;
        }
        sum += x.abs();
        square += x * x;
        all += 1.0;
    }
    let deviation = |(squares, count): (f64, f64)| (squares / count).sqrt();
    let (left, right) = (deviation(left), deviation(right));
    let skew = left / right;
    let ratio = (sum / all).powi(2) / (square / all);
    let ratio = ratio * (skew.powi(3) + 1.0) * (skew + 1.0) / (skew.powi(2) + 1.0).powi(2);
    // The table grows; of two as near the first is meant. What is not a number is nearest to the first, too.
    let above = TABLE.partition_point(|shape| shape.ratio < ratio);
    let distance = |i: usize| (TABLE[i].ratio - ratio).abs();
    let nearest = match above {
        _ if ratio.is_nan() => 0,
        0 => 0,
        SHAPES => SHAPES - 1,
        above if distance(above - 1) <= distance(above) => above - 1,
        above => above,
    };
    let width = TABLE[nearest].width;
    (nearest, left * width, right * width)
}

/// What describes a block of so many pixels a side.
fn features(block: &[f64], side: usize) -> [f64; FEATURES] {
    let mut found = Vec::with_capacity(FEATURES);
    let (shape, left, right) = fitted(block.iter().copied());
    found.extend([alpha(shape), (left + right) / 2.0]);
    for (down, across) in SHIFTS {
        // Round the block's edges, in both directions.
        let neighbour = |at: usize| {
            let y = (at / side + side - down) % side;
            let x = (at % side + side).wrapping_sub(across) % side;
            block[y * side + x]
        };
        let (shape, left, right) = fitted(block.iter().enumerate().map(|(at, x)| x * neighbour(at)));
        found.extend([alpha(shape), (right - left) * TABLE[shape].mean, left, right]);
    }
    from_fn(|i| found[i])
}

impl Niqe {
    /// By the photos of its authors.
    #[expect(clippy::expect_used, reason = "the file is part of the program")]
    pub fn published() -> Self {
        Self::read(include_bytes!("../../../assets/niqe.safetensors")).expect("it is whole")
    }

    /// By the statistics in a safetensors file: `mu_pris_param`, 36 float64, and `cov_pris_param`, 36 x 36.
    ///
    /// # Errors
    /// What of it is not there.
    pub fn read(file: &[u8]) -> Result<Self, String> {
        let file = SafeTensors::deserialize(file).map_err(|error| format!("it is no safetensors file ({error})"))?;
        let numbers = |name: &str, count: usize| -> Result<Vec<f64>, String> {
            let tensor = file.tensor(name).map_err(|_| format!("{name} is missing"))?;
            match tensor.dtype() {
                _ if tensor.shape().iter().product::<usize>() != count => {}
                Dtype::F64 => return Ok(tensor.data().chunks_exact(8).map(bytemuck::pod_read_unaligned).collect()),
                Dtype::F32 => {
                    return Ok(tensor
                        .data()
                        .chunks_exact(4)
                        .map(bytemuck::pod_read_unaligned::<f32>)
                        .map(f64::from)
                        .collect());
                }
                _ => {}
            }
            let found = format!("{:?} {:?}", tensor.dtype(), tensor.shape());
            Err(format!("{name} is {found}, expected {count} floating-point numbers"))
        };
        let (mean, covariance) = (numbers("mu_pris_param", ALL)?, numbers("cov_pris_param", ALL * ALL)?);
        if !mean.iter().chain(&covariance).all(|number| number.is_finite()) {
            return Err("not all of it are numbers".into());
        }
        Ok(Self { mean: Features::from_vec(mean), covariance: Covariance::from_row_slice(&covariance) })
    }

    /// The score of a picture; none where it is smaller than 96 x 96, or flat.
    pub fn score(&self, picture: &Picture) -> Option<f64> {
        let full = Plane::luma(picture);
        if full.data.is_empty() {
            return None;
        }
        let scales = [(full.normalised(), BLOCK), (full.halved().normalised(), BLOCK / 2)];
        let (rows, columns) = (full.height / BLOCK, full.width / BLOCK);
        let described = |block: usize| {
            let [own, half] = scales
                .each_ref()
                .map(|(plane, side)| features(&plane.block(block / columns, block % columns, *side), *side));
            Features::from_fn(|i, _| if i < FEATURES { own[i] } else { half[i - FEATURES] })
        };
        let blocks: Vec<Features> = (0..rows * columns).into_par_iter().map(described).collect();
        // Each mean is that of the blocks that have the feature.
        let mean = Features::from_fn(|i, _| {
            let known = blocks.iter().map(|block| block[i]).filter(|value| !value.is_nan());
            let (sum, count) = known.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
            sum / count
        });
        let whole: Vec<&Features> = blocks.iter().filter(|block| block.iter().all(|value| !value.is_nan())).collect();
        let covariance = match whole.len() {
            0 => return None,
            1 => Covariance::zeros(),
            count => {
                let middle = whole.iter().fold(Features::zeros(), |sum, block| sum + **block) / count as f64;
                let spread = |sum: Covariance, block: &&Features| {
                    let apart = **block - middle;
                    sum + apart * apart.transpose()
                };
                whole.iter().fold(Covariance::zeros(), spread) / (count as f64 - 1.0)
            }
        };
        let apart = self.mean - mean;
        let eigen = SymmetricEigen::new((self.covariance + covariance) / 2.0);
        let smallest = eigen.eigenvalues.amax() * ALL as f64 * f64::EPSILON;
        let along = eigen.eigenvectors.transpose() * apart;
        let known = along.iter().zip(eigen.eigenvalues.iter()).filter(|(_, value)| value.abs() > smallest);
        let score = known.map(|(along, value)| along * along / value).sum::<f64>().sqrt();
        score.is_finite().then_some(score)
    }
}
