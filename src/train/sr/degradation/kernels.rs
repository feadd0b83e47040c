//! Blur kernels of the degradation (Real-ESRGAN's `basicsr/data/degradations.py`), in double precision.

use std::f64::consts::PI;
use std::fmt;

use serde::Deserialize;
use tch::{TchError, Tensor};

/// What a kernel looks like, and how large it is.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "Described")]
pub struct Kernel {
    /// Its family.
    pub kind: Kind,
    /// Its side, an odd number.
    pub size: i64,
    /// Deviation along its first axis, in pixels.
    pub sigma_x: f64,
    /// And along its second one; the same where it is isotropic.
    pub sigma_y: f64,
    /// By how much its axes are turned, in radians.
    pub theta: f64,
    /// The exponent of generalised and plateau kernels.
    pub beta: f64,
    /// Where a sinc filter cuts off, in radians a pixel.
    pub omega_c: f64,
}

/// The same as files describe it: without a family it is a sinc filter where it has a cut-off, else a pulse.
#[derive(Deserialize)]
struct Described {
    kind: Option<Kind>,
    size: Option<i64>,
    sigma_x: Option<f64>,
    sigma_y: Option<f64>,
    theta: Option<f64>,
    beta: Option<f64>,
    omega_c: Option<f64>,
}

impl From<Described> for Kernel {
    fn from(described: Described) -> Self {
        let sigma_x = described.sigma_x.unwrap_or(1.0);
        Self {
            kind: described.kind.unwrap_or(if described.omega_c.is_some() { Kind::Sinc } else { Kind::Pulse }),
            size: described.size.unwrap_or(1),
            sigma_x,
            sigma_y: described.sigma_y.unwrap_or(sigma_x),
            theta: described.theta.unwrap_or(0.0),
            beta: described.beta.unwrap_or(1.0),
            omega_c: described.omega_c.unwrap_or(0.0),
        }
    }
}

/// A family of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A Gaussian, as wide in all directions.
    Iso,
    /// A Gaussian with two widths.
    Aniso,
    /// With an exponent of its own.
    GeneralizedIso,
    /// The same with two widths.
    GeneralizedAniso,
    /// Flat in the middle.
    PlateauIso,
    /// The same with two widths.
    PlateauAniso,
    /// A circular low pass, which rings.
    Sinc,
    /// One pixel: nothing changes.
    Pulse,
}

/// In a few words, for people.
impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, size, sigma_x, sigma_y, beta, omega_c, .. } = self;
        match kind {
            Kind::Pulse => write!(f, "no filter"),
            Kind::Sinc => write!(f, "sinc {size}, cut off at {omega_c:.2}"),
            Kind::Iso => write!(f, "blur {size}, sigma {sigma_x:.2}"),
            Kind::Aniso => write!(f, "blur {size}, sigma {sigma_x:.2} and {sigma_y:.2}"),
            Kind::GeneralizedIso | Kind::PlateauIso => write!(f, "{kind:?} {size}, sigma {sigma_x:.2}, beta {beta:.2}"),
            _ => write!(f, "{kind:?} {size}, sigma {sigma_x:.2} and {sigma_y:.2}, beta {beta:.2}"),
        }
    }
}

impl Kernel {
    /// The kernel that changes nothing.
    pub const PULSE: Self =
        Self { kind: Kind::Pulse, size: 1, sigma_x: 0.0, sigma_y: 0.0, theta: 0.0, beta: 0.0, omega_c: 0.0 };

    /// Its weights, `[size, size]` in float32, of sum 1.
    ///
    /// # Errors
    /// What libtorch says of a size below 1.
    pub fn weights(&self) -> Result<Tensor, TchError> {
        let size = if self.kind == Kind::Pulse { 1 } else { self.size };
        let middle = (size - 1) as f64 / 2.0;
        let offsets = (0..size * size).map(|at| ((at % size) as f64 - middle, (at / size) as f64 - middle));
        let raw: Vec<f64> = offsets.map(|(x, y)| self.value(x, y)).collect();
        let sum: f64 = raw.iter().sum();
        let weights: Vec<f32> = raw.iter().map(|value| (value / sum) as f32).collect();
        Tensor::f_from_slice(&weights)?.f_view([size, size])
    }

    /// Before it is divided by the sum, at so many pixels from the middle.
    fn value(&self, x: f64, y: f64) -> f64 {
        match self.kind {
            Kind::Pulse => 1.0,
            Kind::Sinc => {
                let (omega, r) = (self.omega_c, x.hypot(y));
                if r == 0.0 { omega * omega / (4.0 * PI) } else { omega * libm::j1(omega * r) / (2.0 * PI * r) }
            }
            Kind::Iso | Kind::Aniso => (-self.distance(x, y) / 2.0).exp(),
            Kind::GeneralizedIso | Kind::GeneralizedAniso => (-self.distance(x, y).powf(self.beta) / 2.0).exp(),
            Kind::PlateauIso | Kind::PlateauAniso => 1.0 / (1.0 + self.distance(x, y).powf(self.beta)),
        }
    }

    /// Squared, in deviations: `d^T Sigma^-1 d` with `Sigma = R diag(sx^2, sy^2) R^T`.
    fn distance(&self, x: f64, y: f64) -> f64 {
        if matches!(self.kind, Kind::Iso | Kind::GeneralizedIso | Kind::PlateauIso) {
            return (x * x + y * y) / (self.sigma_x * self.sigma_x);
        }
        let (sin, cos) = self.theta.sin_cos();
        let (along, across) = (cos * x + sin * y, -sin * x + cos * y);
        (along / self.sigma_x).powi(2) + (across / self.sigma_y).powi(2)
    }
}
