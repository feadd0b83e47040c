//! How fast a device computes, measured in a moment: what the time of a step is told from.

use std::time::{Duration, Instant};

use tch::{Device, Kind, TchError, Tensor};

/// It is measured so often at most, and no more after so long.
const PROBES: usize = 6;
const LONGEST: Duration = Duration::from_millis(150);

/// Seconds that `work` takes, whose result is waited for. The first runs also set up libraries; the fastest was disturbed
/// least.
///
/// # Errors
/// Those of `work`.
pub fn fastest<E: From<TchError>>(mut work: impl FnMut() -> Result<Tensor, E>) -> Result<f64, E> {
    let (begin, mut secs) = (Instant::now(), f64::INFINITY);
    for i in 0..PROBES {
        let start = Instant::now();
        // Reading a number waits for the device.
        work()?.f_sum(Kind::Float)?.f_double_value(&[])?;
        secs = secs.min(start.elapsed().as_secs_f64());
        if i > 0 && begin.elapsed() > LONGEST {
            break;
        }
    }
    Ok(secs)
}

/// Floating-point operations a second in products of matrices.
///
/// # Errors
/// Where libtorch fails.
pub fn of_products(device: Device, kind: Kind) -> Result<f64, TchError> {
    const ROWS: i64 = 512;
    const SIDE: i64 = 1024;
    let (x, weight) = (Tensor::f_ones([ROWS, SIDE], (kind, device))?, Tensor::f_ones([SIDE, SIDE], (kind, device))?);
    let secs = fastest(|| x.f_linear(&weight, None::<&Tensor>))?;
    Ok((2 * ROWS * SIDE * SIDE) as f64 / secs)
}

/// Floating-point operations a second in convolutions of 3 x 3.
///
/// # Errors
/// Where libtorch fails.
pub fn of_convolutions(device: Device, kind: Kind) -> Result<f64, TchError> {
    const CHANNELS: i64 = 128;
    const SIDE: i64 = 64;
    let x = Tensor::f_ones([1, CHANNELS, SIDE, SIDE], (kind, device))?;
    let weight = Tensor::f_ones([CHANNELS, CHANNELS, 3, 3], (kind, device))?;
    let secs = fastest(|| x.f_conv2d(&weight, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1))?;
    Ok((2 * 9 * CHANNELS * CHANNELS * SIDE * SIDE) as f64 / secs)
}
