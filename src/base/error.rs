//! What the user reads when something did not work: what happened, the details, what to do. The same words in the
//! window, in the terminal and in `--json`.

use std::fmt;

use serde::Serialize;

use super::{BackboneSpec, DeviceChoice, MemoryPlan};

/// What the program itself can change so that the same goes on; the window offers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The memory ran out: a plan that needs less of it.
    Memory(MemoryPlan),
    /// A device has stopped: what computes instead.
    Device(DeviceChoice),
    /// The file is a model of another kind: use it as that.
    Backbone(&'static BackboneSpec),
}

/// A failure in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UserError {
    /// What happened, in a few words.
    pub title: String,
    /// The file, what was expected, what was found.
    pub details: String,
    /// What to do about it; may be empty.
    pub hint: String,
    /// Where there is one.
    #[serde(skip)]
    pub remedy: Option<Remedy>,
}

impl UserError {
    /// From its three parts.
    pub fn new(title: &str, details: impl Into<String>, hint: &str) -> Self {
        Self { title: title.into(), details: details.into(), hint: hint.into(), remedy: None }
    }
}

impl fmt::Display for UserError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.title, self.details)?;
        if !self.hint.is_empty() {
            write!(f, "\n  {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for UserError {}
