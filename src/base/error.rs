//! What the user reads when something did not work: what happened, the details, what to do. The same words in the
//! window, in the terminal and in `--json`.

use std::fmt;

use serde::Serialize;

use super::MemoryPlan;

/// A failure in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UserError {
    /// What happened, in a few words.
    pub title: String,
    /// The file, what was expected, what was found.
    pub details: String,
    /// What to do about it; may be empty.
    pub hint: String,
    /// Where the memory ran out: the plan that needs less of it.
    #[serde(skip)]
    pub smaller: Option<MemoryPlan>,
}

impl UserError {
    /// From its three parts.
    pub fn new(title: &str, details: impl Into<String>, hint: &str) -> Self {
        Self { title: title.into(), details: details.into(), hint: hint.into(), smaller: None }
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
