//! The parameters of a degradation, drawn anew for every picture.

use std::f64::consts::PI;
use std::ops::RangeInclusive;

use fastrand::Rng;

use super::kernels::{Kernel, Kind};
use super::operators::Resize;
use super::{Drawn, Op};

/// How much smaller the low-quality picture is before it is brought back to size.
const SCALE: i64 = 4;
const SINC: f64 = 0.1;
/// Of the other kernels.
const KINDS: [(Kind, f64); 6] = [
    (Kind::Iso, 0.45),
    (Kind::Aniso, 0.25),
    (Kind::GeneralizedIso, 0.12),
    (Kind::GeneralizedAniso, 0.03),
    (Kind::PlateauIso, 0.12),
    (Kind::PlateauAniso, 0.03),
];
const QUALITY: RangeInclusive<f64> = 30.0..=95.0;
const GREY: f64 = 0.4;

/// What the two rounds differ in.
struct Round {
    sigma: RangeInclusive<f64>,
    /// Probabilities of becoming larger, and of becoming smaller; the rest keeps its size.
    resize: [f64; 2],
    larger: RangeInclusive<f64>,
    smaller: RangeInclusive<f64>,
    noise: RangeInclusive<f64>,
    poisson: RangeInclusive<f64>,
}

const FIRST: Round = Round {
    sigma: 0.2..=3.0,
    resize: [0.2, 0.7],
    larger: 1.0..=1.5,
    smaller: 0.15..=1.0,
    noise: 1.0..=30.0,
    poisson: 0.05..=3.0,
};
const SECOND: Round = Round {
    sigma: 0.2..=1.5,
    resize: [0.3, 0.4],
    larger: 1.0..=1.2,
    smaller: 0.3..=1.0,
    noise: 1.0..=25.0,
    poisson: 0.05..=2.5,
};

fn uniform(rng: &mut Rng, range: &RangeInclusive<f64>) -> f64 {
    range.start() + (range.end() - range.start()) * rng.f64()
}

fn kernel_size(rng: &mut Rng) -> i64 {
    7 + 2 * rng.i64(0..8)
}

fn sinc(rng: &mut Rng, size: i64, lowest: f64) -> Kernel {
    Kernel { kind: Kind::Sinc, size, omega_c: uniform(rng, &(lowest..=PI)), ..Kernel::PULSE }
}

fn blur(rng: &mut Rng, sigma: &RangeInclusive<f64>) -> Kernel {
    let size = kernel_size(rng);
    if rng.f64() < SINC {
        return sinc(rng, size, if size < 13 { PI / 3.0 } else { PI / 5.0 });
    }
    let mut left = rng.f64();
    let found = KINDS.iter().find(|(_, probability)| {
        left -= probability;
        left < 0.0
    });
    let kind = found.map_or(Kind::PlateauAniso, |(kind, _)| *kind);
    let (sigma_x, sigma_y, theta) = (uniform(rng, sigma), uniform(rng, sigma), uniform(rng, &(-PI..=PI)));
    let beta = match kind {
        Kind::GeneralizedIso | Kind::GeneralizedAniso if rng.bool() => uniform(rng, &(0.5..=1.0)),
        Kind::GeneralizedIso | Kind::GeneralizedAniso => uniform(rng, &(1.0..=4.0)),
        Kind::PlateauIso | Kind::PlateauAniso if rng.bool() => 1.0,
        Kind::PlateauIso | Kind::PlateauAniso => uniform(rng, &(1.0..=2.0)),
        _ => 1.0,
    };
    Kernel { kind, size, sigma_x, sigma_y, theta, beta, omega_c: 0.0 }
}

fn mode(rng: &mut Rng) -> Resize {
    [Resize::Area, Resize::Bilinear, Resize::Bicubic][rng.usize(..3)]
}

/// By how much a round resizes.
fn scale(rng: &mut Rng, round: &Round) -> f64 {
    let [larger, smaller] = round.resize;
    match rng.f64() {
        p if p < larger => uniform(rng, &round.larger),
        p if p < larger + smaller => uniform(rng, &round.smaller),
        _ => 1.0,
    }
}

fn noise(rng: &mut Rng, round: &Round) -> Op {
    let (is_gaussian, gray) = (rng.bool(), rng.f64() < GREY);
    let drawn = Drawn::Seed(rng.u64(..));
    match is_gaussian {
        true => Op::Gaussian { sigma: uniform(rng, &round.noise), gray, drawn },
        false => Op::Poisson { scale: uniform(rng, &round.poisson), gray, drawn },
    }
}

/// The degradation of a picture of this height and width, whose result is as large.
pub fn draw(rng: &mut Rng, [height, width]: [i64; 2]) -> Vec<Op> {
    let mut ops = vec![Op::Filter2d { kernel: blur(rng, &FIRST.sigma) }];
    let factor = scale(rng, &FIRST);
    let scaled = |length: i64, factor: f64| ((length as f64 * factor).floor() as i64).max(1);
    ops.push(Op::Resize {
        mode: mode(rng),
        out_hw: [scaled(height, factor), scaled(width, factor)],
        scale_factor: Some(factor),
    });
    ops.push(noise(rng, &FIRST));
    ops.push(Op::Jpeg { quality: uniform(rng, &QUALITY) });
    if rng.f64() < 0.8 {
        ops.push(Op::Filter2d { kernel: blur(rng, &SECOND.sigma) });
    }
    let factor = scale(rng, &SECOND) / SCALE as f64;
    let out_hw = [scaled(height, factor), scaled(width, factor)];
    ops.push(Op::Resize { mode: mode(rng), out_hw, scale_factor: None });
    ops.push(noise(rng, &SECOND));
    let small = Op::Resize { mode: mode(rng), out_hw: [height / SCALE, width / SCALE], scale_factor: None };
    let sharpened = match rng.f64() < 0.8 {
        true => {
            let size = kernel_size(rng);
            sinc(rng, size, PI / 3.0)
        }
        false => Kernel::PULSE,
    };
    let (filter, jpeg) = (Op::Filter2d { kernel: sharpened }, Op::Jpeg { quality: uniform(rng, &QUALITY) });
    match rng.bool() {
        true => ops.extend([small, filter, jpeg]),
        false => ops.extend([jpeg, small, filter]),
    }
    ops.push(Op::Resize { mode: mode(rng), out_hw: [height, width], scale_factor: None });
    ops
}
