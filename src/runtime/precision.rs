//! What the precisions mean on a device.

use tch::{Device, Kind};

use super::device;
use super::weights::Weights;
use crate::base::Precision;

/// The precision that `auto` stands for on a device.
pub fn resolved(precision: Precision, device: Device) -> Precision {
    match precision {
        Precision::Auto if device::has_bf16(device) => Precision::Bf16,
        Precision::Auto if device == Device::Cpu => Precision::Fp32,
        Precision::Auto => Precision::Fp16,
        explicit => explicit,
    }
}

/// Of a network whose numbers may all be of one kind: `auto` keeps 32 bits where the file has them.
pub fn for_weights(precision: Precision, weights: &Weights, device: Device) -> Kind {
    match precision {
        Precision::Auto if weights.is_fp32() => Kind::Float,
        explicit => kinds(resolved(explicit, device)).0,
    }
}

/// Of the transformer and the text encoders, and of the VAE.
pub fn kinds(precision: Precision) -> (Kind, Kind) {
    match precision {
        Precision::Auto | Precision::Fp32 => (Kind::Float, Kind::Float),
        Precision::Fp16 => (Kind::Half, Kind::Float),
        Precision::Bf16 => (Kind::BFloat16, Kind::BFloat16),
    }
}
