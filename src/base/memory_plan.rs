//! How much of a model is in memory at once.

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, VariantArray, VariantNames};

use super::names;

/// Which of a model's weights stay in memory.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    VariantArray,
    VariantNames,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase", parse_err_ty = String, parse_err_fn = names::unknown::<MemoryPlan>)]
pub enum MemoryPlan {
    /// One of the others, by the free memory.
    #[default]
    Auto,
    /// All of them.
    Resident,
    /// Those that see the picture. Text encoders are read layer by layer for each new prompt, and dropped; captioner and
    /// super-resolution model take turns.
    Staged,
    /// None: every layer is read when it is its turn, while the one before computes.
    Streamed,
}

impl MemoryPlan {
    /// The plan that needs less.
    pub fn smaller(self) -> Option<Self> {
        match self {
            Self::Auto | Self::Resident => Some(Self::Staged),
            Self::Staged => Some(Self::Streamed),
            Self::Streamed => None,
        }
    }
}
