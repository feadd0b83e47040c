//! What can go wrong while something is trained.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use tch::TchError;

use crate::base::{UserError, WriteError};
use crate::checkpoint::CheckpointError;
use crate::evaluate::EvaluateError;
use crate::pipelines::PipelineError;
use crate::runtime::weights::WeightsError;

/// Lines of a message about many files.
const MOST_LINES: usize = 20;

fn more(lines: usize) -> String {
    match lines.saturating_sub(MOST_LINES) {
        0 => String::new(),
        more => format!("\nand {more} more"),
    }
}

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
    /// Photos that cannot be trained on, a line each.
    #[error("{}{}", .0[..(.0.len().min(MOST_LINES))].join("\n"), more(.0.len()))]
    Photos(Vec<String>),
    /// First values that are of another model.
    #[error("{0}")]
    Misfit(String),
    /// A folder of results that holds those of another training.
    #[error("{} holds a training that has come to step {step}", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// Its last step.
        step: usize,
    },
    /// A side of pictures that the model cannot take.
    #[error("pictures of {side} x {side}: the model takes multiples of {multiple} up to {most}")]
    Side {
        /// What was asked for.
        side: u32,
        /// Of what it must be a multiple.
        multiple: i64,
        /// The largest one.
        most: i64,
    },
    /// Steps in a row that were skipped.
    #[error("the gradients of {0} steps in a row were not finite")]
    Infinite(usize),
    /// Processes that train together.
    #[error("{0}")]
    Processes(String),
    /// The policy has left the reference behind.
    #[error("the mean KL from the reference was {kl:.3} in the last steps, more than {limit}")]
    Collapsed {
        /// Mean over the last steps.
        kl: f64,
        /// The most it may be.
        limit: f64,
    },
    /// A critic that is missing, or cannot be used so.
    #[error("{0}")]
    Critic(String),
    /// Ratings that are no numbers.
    #[error("no group had two completions that the critic rated with a number, {0} steps in a row")]
    Unrated(usize),
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
            TrainError::Network(error) if error.is_out_of_memory() => (
                "There is too little memory",
                "Try --gradient_checkpointing, --mixed_precision bf16, --memory staged, a smaller --train_batch_size or fewer \
                 --num_generations; --dry_run tells what a step takes.",
            ),
            TrainError::Network(error) => return error.into(),
            TrainError::Metric(error) => return error.into(),
            TrainError::Io { .. } => ("A file cannot be read", "Check its name and its permissions."),
            TrainError::Format { .. } => {
                ("A file is not what it should be", "Check that it is the one that was meant.")
            }
            TrainError::Photos(_) => {
                ("Some photos cannot be trained on", "Fix them or their lists, or leave them out with --skip_bad.")
            }
            TrainError::Misfit(_) => {
                ("First values do not fit the model", "They are of another model, or of another rank.")
            }
            TrainError::Processes(_) => (
                "The processes have lost each other",
                "Start as many as WORLD_SIZE says, with the same MASTER_ADDR and MASTER_PORT; a run goes on with \
                 --resume_from_checkpoint latest.",
            ),
            TrainError::InUse { .. } => {
                ("The output folder is in use", "Go on with --resume_from_checkpoint latest, or choose another folder.")
            }
            TrainError::Side { .. } => ("The model cannot take pictures of this size", "Choose another --resolution."),
            TrainError::Infinite(_) => (
                "The training diverges",
                "Go on from the last checkpoint with a lower --learning_rate, or with --mixed_precision bf16 or no.",
            ),
            TrainError::Collapsed { .. } => (
                "The training has collapsed",
                "Go on from an earlier checkpoint with a lower --learning_rate or a higher --beta; --max_kl is the limit.",
            ),
            TrainError::Critic(_) => {
                ("The critic cannot be used so", "`coz train vlm --help` lists what --critic takes.")
            }
            TrainError::Unrated(_) => (
                "The critic gives no ratings",
                "Try another critic, or --critic_score expected. What was reached is saved.",
            ),
            TrainError::Stopped(_) => ("The training stopped", "What was saved before is kept."),
            TrainError::Write(_) => ("A file cannot be written", "What was saved before is kept."),
        };
        Self::new(title, details, hint)
    }
}
