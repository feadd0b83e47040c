//! The option `--align-method`, with the reference's values.

use clap::ValueEnum;

use crate::base::AlignMethod;

/// Colour matching.
#[derive(Clone, Copy, ValueEnum)]
pub enum Align {
    /// None
    Nofix,
    /// Mean and deviation of each channel
    Adain,
    /// Lowest wavelet band
    Wavelet,
}

impl From<Align> for AlignMethod {
    fn from(align: Align) -> Self {
        match align {
            Align::Nofix => Self::NoFix,
            Align::Adain => Self::Adain,
            Align::Wavelet => Self::Wavelet,
        }
    }
}
