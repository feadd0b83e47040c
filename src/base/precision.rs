//! In which numbers models compute.

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, VariantArray, VariantNames};

use super::names;

/// In which numbers a model computes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Display, EnumString, VariantArray, VariantNames,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase", parse_err_ty = String, parse_err_fn = names::unknown::<Precision>)]
pub enum Precision {
    /// Where the weights are stored in 16 bits, Bf16 on a device that multiplies in it and Fp16 on older CUDA devices; else
    /// Fp32.
    #[default]
    Auto,
    /// 32 bits.
    Fp32,
    /// 16 bits, the VAE in 32: its numbers leave the range of these.
    Fp16,
    /// 16 bits with the range of 32.
    Bf16,
}
