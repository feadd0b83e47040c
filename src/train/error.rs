//! What can go wrong while something is trained.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use tch::TchError;

use crate::base::{UserError, WriteError};
use crate::checkpoint::CheckpointError;
use crate::evaluate::EvaluateError;
use crate::pipelines::PipelineError;
use crate::runtime::weights::WeightsError;

/// Why a training could not begin, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {found}", file.display())]
    Format {
        /// The file.
        file: PathBuf,
        /// What was found.
        found: String,
    },
    /// First values that are of another model.
    #[error("{0}")]
    Misfit(String),
    /// It cannot go on.
    #[error("{0}")]
    Stopped(String),
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A network, or libtorch.
    #[error(transparent)]
    Network(#[from] PipelineError),
    /// LPIPS.
    #[error(transparent)]
    Metric(#[from] EvaluateError),
}

impl TrainError {
    /// Of a file that cannot be read.
    pub fn io(file: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { file: file.to_owned(), source }
    }

    /// Of a file that cannot be written or deleted.
    pub fn unwritten(file: &Path, error: impl Display) -> Self {
        Self::Write(WriteError { file: file.to_owned(), details: error.to_string() })
    }

    /// Of a file that is not what it should be.
    pub fn format(file: &Path, found: impl Display) -> Self {
        Self::Format { file: file.to_owned(), found: found.to_string() }
    }
}

impl From<WeightsError> for TrainError {
    fn from(error: WeightsError) -> Self {
        PipelineError::from(error).into()
    }
}

impl From<CheckpointError> for TrainError {
    fn from(error: CheckpointError) -> Self {
        WeightsError::from(error).into()
    }
}

impl From<TchError> for TrainError {
    fn from(error: TchError) -> Self {
        PipelineError::from(error).into()
    }
}

impl From<TrainError> for UserError {
    fn from(error: TrainError) -> Self {
        let details = error.to_string();
        let (title, hint) = match error {
            TrainError::Network(error) => return error.into(),
            TrainError::Metric(error) => return error.into(),
            TrainError::Io { .. } => ("A file cannot be read", "Check its name and its permissions."),
            TrainError::Format { .. } => ("A file is not what it should be", ""),
            TrainError::Misfit(_) => {
                ("First values do not fit the model", "They are of another model, or of another rank.")
            }
            TrainError::Stopped(_) => ("The training stopped", "What was saved before is kept."),
            TrainError::Write(_) => ("A file cannot be written", "What was saved before is kept."),
        };
        Self::new(title, details, hint)
    }
}
