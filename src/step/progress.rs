//! What a running step tells, and how it learns that it should stop.

use super::StepError;
use super::whole::Seen;

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

    /// How much of a step is done when so much of the stage is (0 to 1), about.
    pub fn of_step(self, fraction: f32) -> f32 {
        let (start, end) = match self {
            Stage::Loading => (0.0, 0.0),
            Stage::Restoring => (0.0, 1.0),
            Stage::Encoding => (0.0, 0.1),
            Stage::Prompting => (0.1, 0.3),
            Stage::Text => (0.3, 0.55),
            Stage::Denoising => (0.55, 0.8),
            Stage::Decoding => (0.8, 1.0),
        };
        start + (end - start) * fraction
    }
}

/// A step reports here between tiles and blocks, and stops where it is told to.
pub struct Progress<'a> {
    told: &'a mut dyn FnMut(Stage, f32) -> bool,
    seen: Option<&'a mut dyn FnMut(Seen)>,
}

impl<'a> Progress<'a> {
    /// `told(stage, fraction)` hears of progress and answers whether to go on.
    pub fn new(told: &'a mut dyn FnMut(Stage, f32) -> bool) -> Self {
        Self { told, seen: None }
    }

    /// `seen` hears what there is to see of a whole picture.
    pub fn seeing(self, seen: &'a mut dyn FnMut(Seen)) -> Self {
        Self { seen: Some(seen), ..self }
    }

    /// The stage has come so far (0 to 1).
    ///
    /// # Errors
    /// [`StepError::Cancelled`] where the step should stop; pass it on with `?`.
    pub fn at(&mut self, stage: Stage, fraction: f32) -> Result<(), StepError> {
        if (self.told)(stage, fraction) { Ok(()) } else { Err(StepError::Cancelled) }
    }

    /// There is something to see.
    pub fn seen(&mut self, seen: Seen) {
        if let Some(told) = &mut self.seen {
            told(seen);
        }
    }
}
