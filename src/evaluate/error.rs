//! What can go wrong while pictures are judged.

use std::path::PathBuf;

use tch::TchError;

use crate::base::UserError;
use crate::checkpoint::CheckpointError;
use crate::pipelines::PipelineError;
use crate::runtime::weights::WeightsError;

/// Why a metric could not be opened, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// Weights are not on this machine.
    #[error("the weights of {file} are not here")]
    Missing {
        /// [`MetricFile::id`](crate::base::MetricFile::id).
        file: &'static str,
    },
    /// NIQE's statistics cannot be used.
    #[error("{}: {found}", file.display())]
    Statistics {
        /// The file.
        file: PathBuf,
        /// What was found.
        found: String,
    },
    /// Weights cannot be read.
    #[error("{}: {found}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        found: String,
    },
    /// No metric of this name.
    #[error("there is no metric {0:?}")]
    Unknown(String),
    /// A network, or libtorch.
    #[error(transparent)]
    Network(#[from] PipelineError),
}

impl From<WeightsError> for EvaluateError {
    fn from(error: WeightsError) -> Self {
        PipelineError::from(error).into()
    }
}

impl From<CheckpointError> for EvaluateError {
    fn from(error: CheckpointError) -> Self {
        WeightsError::from(error).into()
    }
}

impl From<TchError> for EvaluateError {
    fn from(error: TchError) -> Self {
        PipelineError::from(error).into()
    }
}

impl From<EvaluateError> for UserError {
    fn from(error: EvaluateError) -> Self {
        let details = error.to_string();
        let (title, hint) = match error {
            EvaluateError::Network(error) => return error.into(),
            EvaluateError::Missing { .. } => ("A metric lacks its weights", "Get them with `coz models download`."),
            EvaluateError::Statistics { .. } => (
                "The statistics cannot be used",
                "It should hold mu_pris_param [36] and cov_pris_param [36, 36]; without the file the program's own are used.",
            ),
            EvaluateError::Unreadable { .. } => ("A file cannot be read", "Check its permissions."),
            EvaluateError::Unknown(_) => ("There is no such metric", ""),
        };
        Self::new(title, details, hint)
    }
}
