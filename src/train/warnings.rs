//! What could not be written: a training goes on, and says each thing once.

use std::time::Duration;

use super::TrainError;

/// Between two tries to save what could not be saved.
pub(super) const RETRY: Duration = Duration::from_secs(10);

/// Not said yet, and the last that was.
#[derive(Default)]
pub(super) struct Warnings {
    pending: Vec<TrainError>,
    last: String,
}

impl Warnings {
    /// Another one.
    pub(super) fn add(&mut self, warning: TrainError) {
        self.pending.push(warning);
    }

    /// What a training goes on with: a file that could not be written is said later.
    ///
    /// # Errors
    /// All others.
    pub(super) fn unless_written(&mut self, result: Result<(), TrainError>) -> Result<(), TrainError> {
        match result {
            Err(error @ TrainError::Write(_)) => {
                self.add(error);
                Ok(())
            }
            other => other,
        }
    }

    /// What is to be said now. The same of the same folder again and again is said once.
    pub(super) fn new_ones(&mut self) -> Vec<TrainError> {
        let mut warnings = std::mem::take(&mut self.pending);
        warnings.retain(|warning| {
            let what = match warning {
                TrainError::Write(error) => error.details.clone(),
                other => other.to_string(),
            };
            let is_new = what != self.last;
            self.last = what;
            is_new
        });
        warnings
    }
}
