//! What the user reads when something did not work: what happened, the details, what to do. The same words in the
//! window, in the terminal and in `--json`.

use std::fmt;

use serde::Serialize;

use crate::film::FilmError;
use crate::image::ImageError;
use crate::models::WeightsError;
use crate::session::SessionError;
use crate::step::{MemoryPlan, StepError};

/// A failure in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
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

impl Problem {
    /// From its three parts.
    pub fn new(title: &str, details: impl Into<String>, hint: &str) -> Self {
        Self { title: title.into(), details: details.into(), hint: hint.into(), smaller: None }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.title, self.details)?;
        if !self.hint.is_empty() {
            write!(f, "\n  {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

impl From<ImageError> for Problem {
    fn from(error: ImageError) -> Self {
        let (title, hint) = match &error {
            ImageError::Open { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                ("The picture cannot be opened", "Check the file's permissions.")
            }
            ImageError::Open { .. } => ("The picture cannot be opened", "Check that the path is right and is a file."),
            ImageError::Empty { .. } | ImageError::Unknown { .. } => {
                ("This is not a picture", "Choose a PNG, JPEG, WebP, TIFF, BMP or GIF file.")
            }
            ImageError::TooLarge { .. } => ("The picture is too large", "Cut out or reduce the part you need first."),
            ImageError::Damaged { .. } => ("The picture is damaged", "Download or copy the file again."),
            ImageError::Ending { .. } => ("The format is not clear", "End the name in .png, .jpg or .webp."),
            ImageError::Write { .. } => {
                ("The file could not be written", "Choose another folder, or free some disk space, and try again.")
            }
        };
        Self::new(title, error.to_string(), hint)
    }
}

const SMALLER: &str = "Close other programs, or use a smaller size, a smaller model, or --device cpu.";

impl From<StepError> for Problem {
    fn from(error: StepError) -> Self {
        let out_of_memory = error.is_out_of_memory();
        let (title, hint) = match &error {
            StepError::Cancelled | StepError::Weights(WeightsError::Cancelled) => ("Cancelled", ""),
            StepError::OutOfMemory { plan: MemoryPlan::Auto | MemoryPlan::Resident, .. } => {
                ("Out of memory", "Choose the memory plan \"staged\" (--memory staged) and try again.")
            }
            StepError::OutOfMemory { plan: MemoryPlan::Staged, .. } => {
                ("Out of memory", "Choose the memory plan \"streamed\" (--memory streamed) and try again.")
            }
            StepError::Torch(_) | StepError::Weights(WeightsError::Torch(_)) if out_of_memory => {
                ("Out of memory", SMALLER)
            }
            StepError::OutOfMemory { plan: MemoryPlan::Streamed, .. } => ("Out of memory", SMALLER),
            StepError::Overflow { .. } => {
                ("Half precision is not enough", "Use --mixed-precision bf16, which has the range of 32 bits.")
            }
            StepError::Weights(WeightsError::Io { .. }) => {
                ("The model file cannot be opened", "Check the path and the file's permissions.")
            }
            StepError::Weights(WeightsError::Format { .. }) => (
                "This is no model file",
                "Choose a .safetensors or .pth file, or ncnn's .param with its .bin; download it again if it is cut short.",
            ),
            StepError::Weights(WeightsError::Mismatch { .. }) => (
                "The model file does not fit",
                "It may be of another model, or of another size of it: choose the one it belongs to.",
            ),
            StepError::UnknownNetwork { .. } => (
                "The model file does not fit",
                "Choose a model of the ESRGAN family (Real-ESRGAN, RRDB, SRVGG compact), or the built-in one.",
            ),
            StepError::NotFinite { .. } => {
                ("The model is damaged", "Download the file again, or choose another model.")
            }
            StepError::Folder { .. } => (
                "The model's folder is not as it should be",
                "It needs all small files of the published model too; download it again.",
            ),
            StepError::TagList { .. } => (
                "The tagger's lists do not fit",
                "Put ram_tag_list.txt and ram_tag_list_threshold.txt of the reference's ram/data beside the checkpoint.",
            ),
            StepError::TooLarge { .. } => {
                ("The picture would become too large", "Enlarge it less, or zoom into a part of it.")
            }
            StepError::Narrow(_) => ("The picture is too narrow", "Choose a box that is less of a stripe."),
            StepError::Sides { .. } => ("The state's size does not suit the model", "Use 512, or another multiple."),
            StepError::NoDevice { .. } => ("The device is not there", "Use --device auto, or another number."),
            StepError::Outside { .. } => {
                ("The box is outside the picture", "Give X,Y,W,H inside the picture it is cut from.")
            }
            StepError::Torch(_) | StepError::Weights(WeightsError::Torch(_)) => {
                ("The model failed", "Try again; `coz doctor` shows what a bug report needs.")
            }
            StepError::Internal(_) => {
                ("Something broke inside", "Nothing is lost. Please report it with `coz doctor`.")
            }
        };
        let smaller = match &error {
            StepError::OutOfMemory { plan, .. } => plan.smaller(),
            _ => None,
        };
        Self { smaller, ..Self::new(title, error.to_string(), hint) }
    }
}

impl From<SessionError> for Problem {
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

impl From<FilmError> for Problem {
    fn from(error: FilmError) -> Self {
        let (title, hint) = match error {
            FilmError::Cancelled => ("Cancelled", ""),
            FilmError::Write(error) => return error.into(),
            FilmError::Graphics(_) => (
                "There is no graphics driver to draw with",
                "Without a graphics card, Debian's mesa-vulkan-drivers draws in software.",
            ),
            FilmError::NoChain => ("There is nothing to film", "Zoom into the photo first, or choose a state."),
            FilmError::Size { .. } => ("The film's size is out of range", "1920 x 1080 plays everywhere."),
            FilmError::Ending(_) => ("The format is not clear", "End the name in .mp4 or .gif."),
            FilmError::Encode(_) => ("The film could not be encoded", "Try a smaller size; check the free disk space."),
        };
        Self::new(title, error.to_string(), hint)
    }
}
