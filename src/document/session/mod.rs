//! Sessions: a photo with all that was made of it, in one `.coz` file or in an autosave folder.
//!
//! Both hold the same: `chain.json` ([`Manifest`]) and pictures as PNG. A `.coz` file is a zip of them, stored without
//! further compression. What is read is never trusted: names come from us, not from the file; every size is checked
//! before memory is taken for it.

pub mod autosave;
mod folder;
mod manifest;
mod read;
mod write;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::UserError;

pub use manifest::{FORMAT, Manifest};
pub use read::{open, photo_beside};
pub use write::save;

use super::History;
use crate::base::{AlignMethod, Backbone};
use crate::imaging::ImageError;

/// All states of a session have at most so many pixels together: 8,192 megapixels are 32,768 states of 512 x 512.
pub const MOST_PIXELS: u64 = 1 << 33;

/// The file name's ending.
pub const EXTENSION: &str = "coz";

/// Why a session could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The file could not be opened.
    #[error("cannot open {}: {source}", file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not a session, or damaged.
    #[error("{} is no session, or a damaged one: {found}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What was found.
        found: String,
    },
    /// Made by a later program.
    #[error("{} was written by {program} in format {found}; this program knows formats up to {FORMAT}", file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// Who wrote it.
        program: String,
        /// Its format.
        found: u32,
    },
    /// The session only links to its photo, and that is not where it was.
    #[error("{} needs its photo {}, which is not there, nor beside the session", file.display(), photo.display())]
    PhotoMissing {
        /// The session.
        file: PathBuf,
        /// Where the photo was.
        photo: PathBuf,
    },
    /// The photo is there, but it is another one.
    #[error("{} was made from another {}: expected {expected}, found {found}", file.display(), photo.display())]
    OtherPhoto {
        /// The session.
        file: PathBuf,
        /// The photo.
        photo: PathBuf,
        /// Its size or digest then.
        expected: String,
        /// Now.
        found: String,
    },
    /// The photo could not be read.
    #[error(transparent)]
    Photo(#[from] ImageError),
    /// The session could not be written; nothing half-written is left.
    #[error("cannot write {}: {details}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// What the system said.
        details: String,
    },
}

impl From<SessionError> for UserError {
    fn from(error: SessionError) -> Self {
        let (title, hint) = match &error {
            SessionError::Open { .. } => ("The session cannot be opened", "Check the path and the file's permissions."),
            SessionError::Damaged { .. } => {
                ("This is no session", "Choose a .coz file; copy it again if it was cut short.")
            }
            SessionError::Newer { .. } => ("The session is from a newer program", "Update this program to open it."),
            SessionError::PhotoMissing { .. } => {
                ("The session's photo is missing", "Put the photo beside the session file and open it again.")
            }
            SessionError::OtherPhoto { .. } => {
                ("The session's photo has changed", "Put the original beside the session file under its name.")
            }
            SessionError::Photo(_) => {
                ("The session's photo cannot be read", "Put a good copy beside the session file.")
            }
            SessionError::Write { .. } => {
                ("The session could not be saved", "Nothing in the window is lost: free some space, or save elsewhere.")
            }
        };
        Self::new(title, error.to_string(), hint)
    }
}

/// The choices that belong to a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Choices {
    /// Side of generated states.
    pub process_size: u32,
    /// The model for the next step.
    pub backbone: Backbone,
    /// Colour matching.
    pub align: AlignMethod,
    /// The noise's seed.
    pub seed: u64,
    /// The prompt for the next step.
    pub draft: String,
}

impl Default for Choices {
    fn default() -> Self {
        Self {
            process_size: 512,
            backbone: Backbone::default(),
            align: AlignMethod::default(),
            seed: 42,
            draft: String::new(),
        }
    }
}

/// All of it, in memory.
#[derive(Clone, Debug)]
pub struct Session {
    /// The photo and all states.
    pub history: History,
    /// What was chosen for the next step.
    pub choices: Choices,
    /// The photo that could not be read again, where a stand-in took its place.
    pub lost_photo: Option<PathBuf>,
}
