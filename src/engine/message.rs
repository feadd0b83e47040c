//! What goes in and out of the engine's thread.

use std::sync::Arc;

use super::{NetworkFacts, ScoreRequest};
use crate::base::{
    AlignMethod, Backbone, BackboneKind, CaptionRequest, DeviceChoice, FullImage, MemoryPlan, MetricSpec, PromptSource,
    Region, Stage, StepEstimate, StepRecord, Ticket, TileProgress, UserError,
};
use crate::document::{CachedPicture, StateId};
use crate::imaging::Picture;

/// Names a job; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobId(pub u64);

impl From<&Ticket> for JobId {
    fn from(ticket: &Ticket) -> Self {
        Self(ticket.generation)
    }
}

/// How regions become pictures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restorer {
    /// The model.
    pub backbone: Backbone,
    /// Where it runs.
    pub device: DeviceChoice,
    /// Which of its weights stay in memory.
    pub memory: MemoryPlan,
    /// Colour matching to the enlarged region.
    pub align: AlignMethod,
}

/// A chain of steps: each region is cut from what the step before made, the first from `source`.
#[derive(Clone, Debug)]
pub struct Job {
    /// The picture to start from.
    pub source: CachedPicture,
    /// One a step, each in the pixels of the picture it is cut from.
    pub regions: Vec<Region>,
    /// Width and height of every result.
    pub size: (u32, u32),
    /// The user's own prompt, added to those that are extracted.
    pub prompt: String,
    /// The prompt for the first step that was extracted before.
    pub extracted_prompt: Option<String>,
    /// Where prompts come from otherwise.
    pub prompt_source: PromptSource,
    /// How it is asked.
    pub request: CaptionRequest,
    /// Each region is a full image and is worked through in tiles, with a prompt for each where those are given.
    pub full_image: Option<FullImage>,
    /// For models that draw noise.
    pub seed: u64,
    /// What the built-in network makes of each region is sent first, where the model itself takes longer.
    pub preview: bool,
    /// The model and its settings.
    pub restorer: Restorer,
}

impl Job {
    /// What it begins with, its model being loaded.
    pub fn first_stage(&self) -> Stage {
        match self.restorer.backbone.spec.kind {
            _ if !self.prompt_source.is_user() && self.extracted_prompt.is_none() => Stage::Prompting,
            BackboneKind::Diffusion => Stage::Encoding,
            BackboneKind::Interpolation | BackboneKind::SingleImage => Stage::Restoring,
        }
    }

    /// Whether cut and extracted prompt of its first step are those of the other's.
    pub(super) fn begins_like(&self, other: &Self) -> bool {
        self.source.is(&other.source)
            && (self.regions.first(), self.size) == (other.regions.first(), other.size)
            && (&self.extracted_prompt, &self.prompt_source, &self.request)
                == (&other.extracted_prompt, &other.prompt_source, &other.request)
    }
}

/// Into the engine.
#[derive(Debug)]
pub(super) enum Command {
    /// Do the whole chain.
    Run(Ticket, Job),
    /// Only extract the prompt for the first step.
    Caption(Ticket, Job),
    /// Do what can be done before the box is asked for.
    Prepare(Ticket, Job),
    /// Load the model and tell what a step to a result of this width and height will take.
    Estimate(Restorer, (u32, u32)),
    /// Find out what a network is and how fast it is.
    Measure(Ticket, Backbone, DeviceChoice),
    /// Score states.
    Score(Ticket, ScoreRequest),
    /// Let pictures go that were kept for the next job.
    Forget,
    /// Leave.
    Quit,
}

/// What came of one step.
#[derive(Clone, Debug)]
pub struct StepOutput {
    /// The result.
    pub picture: Arc<Picture>,
    /// The same, small, for panels.
    pub thumbnail: Arc<Picture>,
    /// The region enlarged by bicubic: what the model saw, and the colour source.
    pub enlarged: Arc<Picture>,
    /// How it came to be.
    pub record: StepRecord,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobOutcome {
    /// All its steps are done.
    Completed,
    /// It was stopped; the steps done before stand.
    Cancelled,
    /// It failed; the steps done before stand.
    Failed(UserError),
}

/// Out of the engine. Events of jobs that are no longer active may still arrive; compare their id.
#[derive(Clone, Debug)]
pub enum Event {
    /// The thread runs: the first event; and again where a device has failed since.
    Ready {
        /// The numbers of those that can be used.
        cuda_devices: Vec<usize>,
    },
    /// A model is open now, and no other.
    Loaded {
        /// As it was asked for.
        backbone: Backbone,
        /// Which of its weights stay in memory, where there is a choice.
        plan: Option<MemoryPlan>,
    },
    /// No model is open any more.
    Unloaded,
    /// What a step of a model takes, told from a small one.
    Estimated {
        /// The model.
        backbone: Backbone,
        /// For one step.
        estimate: StepEstimate,
    },
    /// A network was measured, on its own.
    Measured {
        /// Which.
        backbone: Backbone,
        /// What is known of it now, or why it cannot be used; nothing where a job came before it.
        facts: Option<Result<NetworkFacts, UserError>>,
    },
    /// A state was scored.
    Scored {
        /// Whose it is.
        document: u64,
        /// Which.
        state: StateId,
        /// By this.
        metric: &'static MetricSpec,
        /// The score, or why it has none.
        score: Result<f64, String>,
    },
    /// No more scores come: all are there, something else came before, or it failed.
    ScoresDone {
        /// Why it failed.
        problem: Option<UserError>,
    },
    /// A step goes on.
    Progress {
        /// Whose.
        job: JobId,
        /// Which of its steps, from 0.
        step: usize,
        /// What is being done.
        stage: Stage,
        /// How much of it is done, 0 to 1.
        fraction: f32,
    },
    /// The region is cut and enlarged: the first thing to show.
    Enlarged {
        /// Whose.
        job: JobId,
        /// Which of its steps, from 0.
        step: usize,
        /// The enlarged region.
        picture: Arc<Picture>,
    },
    /// The built-in network's result, to be shown until the model's own is there.
    Preview {
        /// Whose.
        job: JobId,
        /// Which of its steps, from 0.
        step: usize,
        /// Of the size of the result.
        picture: Arc<Picture>,
    },
    /// A prompt is being written.
    Captioning {
        /// Whose.
        job: JobId,
        /// For which of its steps, from 0.
        step: usize,
        /// All that is written so far, without the user's own.
        text: String,
    },
    /// The prompt for the first step is extracted.
    Captioned {
        /// Whose.
        job: JobId,
        /// Without the user's own.
        text: String,
    },
    /// Cut, prompt and weights for a box are ready, should it be asked for.
    Prepared {
        /// Whose.
        job: JobId,
    },
    /// Some tiles of a full image are done with the stage.
    Tiles {
        /// Whose.
        job: JobId,
        /// Which of its steps, from 0.
        step: usize,
        /// How many.
        tiles: TileProgress,
    },
    /// A piece of the result of a full image.
    Partial {
        /// Whose.
        job: JobId,
        /// Which of its steps, from 0.
        step: usize,
        /// Its left edge in the result.
        left: u32,
        /// Its top edge.
        top: u32,
        /// Its pixels.
        picture: Arc<Picture>,
    },
    /// A step is done.
    StepDone {
        /// Whose.
        job: JobId,
        /// Which of its steps, from 0.
        step: usize,
        /// What came of it.
        output: Box<StepOutput>,
    },
    /// The job is over.
    Finished {
        /// Which.
        job: JobId,
        /// How.
        outcome: JobOutcome,
    },
}
