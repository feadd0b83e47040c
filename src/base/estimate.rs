//! What a step will take, told before it begins.

use std::fmt;

use super::{MemoryPlan, bytes_label, secs_label};

/// What a step takes beside loading its model, told from a small probe.
#[derive(Clone, Debug, PartialEq)]
pub struct StepEstimate {
    /// How long.
    pub secs: f64,
    /// Memory beyond what is in use already, where the model restores.
    pub bytes: u64,
    /// The same with smaller memory plans, for models that have them.
    pub smaller: Vec<(MemoryPlan, u64)>,
    /// What else is to be known of the result.
    pub remark: Option<&'static str>,
}

impl fmt::Display for StepEstimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "about {} and {} a step", secs_label(self.secs), bytes_label(self.bytes))?;
        self.remark.map_or(Ok(()), |remark| write!(f, "; {remark}"))
    }
}
