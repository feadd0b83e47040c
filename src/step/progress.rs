//! What a running step tells, and how it learns that it should stop.

use super::StepError;

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Weights on their way into memory.
    Loading,
    /// Finding the words.
    Prompting,
    /// The super-resolution model at work.
    Restoring,
    /// Words on their way to embeddings.
    Text,
    /// The picture on its way to a latent.
    Encoding,
    /// The latent being restored.
    Denoising,
    /// The latent on its way to a picture.
    Decoding,
}

impl Stage {
    /// For the status line.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Loading => "loading the model",
            Stage::Prompting => "finding words",
            Stage::Restoring => "restoring",
            Stage::Text => "reading the words",
            Stage::Encoding => "encoding",
            Stage::Denoising => "denoising",
            Stage::Decoding => "decoding",
        }
    }
}

/// A step reports here between tiles and blocks, and stops where it is told to.
pub struct Progress<'a> {
    told: &'a mut dyn FnMut(Stage, f32) -> bool,
}

impl<'a> Progress<'a> {
    /// `told(stage, fraction)` hears of progress and answers whether to go on.
    pub fn new(told: &'a mut dyn FnMut(Stage, f32) -> bool) -> Self {
        Self { told }
    }

    /// The stage has come so far (0 to 1).
    ///
    /// # Errors
    /// [`StepError::Cancelled`] where the step should stop; pass it on with `?`.
    pub fn at(&mut self, stage: Stage, fraction: f32) -> Result<(), StepError> {
        if (self.told)(stage, fraction) { Ok(()) } else { Err(StepError::Cancelled) }
    }
}
