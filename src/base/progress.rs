//! What a running step tells, and how it learns that it should stop.

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Weights on their way into memory.
    Loading,
    /// The captioner writing a prompt.
    Prompting,
    /// The super-resolution model at work.
    Restoring,
    /// The prompt on its way to embeds.
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
            Stage::Prompting => "captioning",
            Stage::Restoring => "restoring",
            Stage::Text => "encoding the prompt",
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

/// Someone asked to stop; not a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

/// Some tiles of a full image are done with the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileProgress {
    /// How many.
    pub done: usize,
    /// Of how many.
    pub total: usize,
}

/// A step reports here between tiles and blocks, and stops where it should.
pub struct Progress<'a> {
    on_progress: &'a mut dyn FnMut(Stage, f32) -> bool,
    on_tiles: Option<&'a mut dyn FnMut(TileProgress)>,
}

impl<'a> Progress<'a> {
    /// `on_progress(stage, fraction)` answers whether to go on.
    pub fn new(on_progress: &'a mut dyn FnMut(Stage, f32) -> bool) -> Self {
        Self { on_progress, on_tiles: None }
    }

    /// `on_tiles` is called with each tile of a full image.
    pub fn with_tiles(self, on_tiles: &'a mut dyn FnMut(TileProgress)) -> Self {
        Self { on_tiles: Some(on_tiles), ..self }
    }

    /// The stage has come so far (0 to 1).
    ///
    /// # Errors
    /// [`Cancelled`] where the step should stop; pass it on with `?`.
    pub fn at(&mut self, stage: Stage, fraction: f32) -> Result<(), Cancelled> {
        if (self.on_progress)(stage, fraction) { Ok(()) } else { Err(Cancelled) }
    }

    /// So many tiles are done.
    pub fn tiles(&mut self, done: usize, total: usize) {
        if let Some(on_tiles) = &mut self.on_tiles {
            on_tiles(TileProgress { done, total });
        }
    }
}
