//! How a sharp picture becomes the low-quality one that the backbone learns to restore: Real-ESRGAN's two rounds of blur, resizing,
//! noise and JPEG (arXiv 2107.10833), with the parameters of OSEDiff's training.

mod draw;
mod jpeg;
mod kernels;
pub mod operators;
pub mod replay;

use std::fmt;

pub use draw::draw;
pub use kernels::Kernel;
use operators::Photons;
pub use operators::Resize;
use serde::{Deserialize, Deserializer};
use tch::{TchError, Tensor};

use crate::runtime::allocator;

/// One operator with its parameters.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// Blur, or a sinc filter.
    Filter2d {
        /// By this.
        kernel: Kernel,
    },
    /// Another size.
    Resize {
        /// How.
        mode: Resize,
        /// Height and width.
        out_hw: [i64; 2],
        /// Where the size came from a scale: that.
        #[serde(default)]
        scale_factor: Option<f64>,
    },
    /// Normally distributed noise.
    Gaussian {
        /// Its deviation in levels.
        sigma: f64,
        /// The same for all channels.
        #[serde(deserialize_with = "truth")]
        gray: bool,
        /// What it is drawn by.
        drawn: Drawn,
    },
    /// Noise of counted photons.
    Poisson {
        /// How many times it is added.
        scale: f64,
        /// The same for all channels.
        #[serde(deserialize_with = "truth")]
        gray: bool,
        /// What it is drawn by.
        drawn: Drawn,
    },
    /// JPEG as a formula.
    Jpeg {
        /// 1 to 100.
        quality: f64,
    },
}

/// In a line, for people.
impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let channels = |gray: &bool| if *gray { "grey" } else { "colour" };
        match self {
            Self::Filter2d { kernel } => write!(f, "{kernel}"),
            Self::Resize { mode, out_hw: [height, width], .. } => write!(f, "{mode:?} to {width} x {height}"),
            Self::Gaussian { sigma, gray, .. } => write!(f, "Gaussian noise {sigma:.1}, {}", channels(gray)),
            Self::Poisson { scale, gray, .. } => write!(f, "Poisson noise {scale:.2}, {}", channels(gray)),
            Self::Jpeg { quality } => write!(f, "JPEG {quality:.0}"),
        }
    }
}

/// What noise is drawn by.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Drawn {
    /// A seed.
    Seed(u64),
    /// Names of tensors in a file.
    Named {
        /// Of the one for all channels.
        #[serde(default)]
        gray: Option<String>,
        /// Of the one for each.
        #[serde(default)]
        color: Option<String>,
    },
}

/// `true`, `false`, 1 or 0.
fn truth<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Truth {
        Bool(bool),
        Number(f64),
    }
    Ok(match Truth::deserialize(deserializer)? {
        Truth::Bool(value) => value,
        Truth::Number(value) => value != 0.0,
    })
}

/// Where noise comes from: asked for what an operator's noise is drawn by, whether it is grey, and either its shape (normally
/// distributed noise) or the expected counts.
pub type Noise<'a, E> = &'a mut dyn FnMut(&Drawn, bool, Expected) -> Result<Tensor, E>;

/// What is drawn.
pub enum Expected {
    /// Normally distributed numbers of this shape.
    Normal(Vec<i64>),
    /// Counts with these means.
    Counts(Tensor),
}

/// A picture `[1, 3, H, W]` in [0, 1] after all operators, in whole levels, 0 to 255.
///
/// # Errors
/// What libtorch says, and those of `noise`.
pub fn degraded<E: From<TchError>>(x: &Tensor, ops: &[Op], noise: Noise<E>) -> Result<Tensor, E> {
    let _kept = allocator::keep_blocks();
    let mut x = x.shallow_clone();
    for op in ops {
        x = match op {
            Op::Filter2d { kernel } => operators::filter2d(&x, kernel)?,
            Op::Resize { mode, out_hw, scale_factor } => operators::resize(&x, *mode, *out_hw, *scale_factor)?,
            Op::Gaussian { sigma, gray, drawn } => {
                let (_, _, height, width) = x.size4()?;
                let shape = if *gray { vec![height, width] } else { x.size() };
                operators::gaussian_noise(&x, &noise(drawn, *gray, Expected::Normal(shape))?, *sigma)?
            }
            Op::Poisson { scale, gray, drawn } => {
                let photons = Photons::of(&x, *gray)?;
                let counts = noise(drawn, *gray, Expected::Counts(photons.rates()?))?;
                operators::poisson_noise(&x, &photons, &counts, *scale)?
            }
            Op::Jpeg { quality } => operators::jpeg(&x, *quality)?,
        };
    }
    Ok(operators::to_levels(&x)?)
}

/// Noise by seeds, the same with any number of threads.
///
/// # Errors
/// What libtorch says.
pub fn seeded_noise(drawn: &Drawn, _: bool, expected: Expected) -> Result<Tensor, TchError> {
    let Drawn::Seed(seed) = drawn else {
        return Err(TchError::Torch("noise of a file, and there is none".into()));
    };
    match expected {
        Expected::Normal(shape) => crate::runtime::rng::randn(*seed, &shape),
        Expected::Counts(rates) => crate::runtime::rng::poisson(*seed, &rates),
    }
}
