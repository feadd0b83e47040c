//! What goes in and out of the engine's thread.

use std::sync::Arc;

use crate::history::Making;
use crate::image::{AlignMethod, Picture};
use crate::problem::Problem;
use crate::prompt::{Asking, Extractor};
use crate::region::Region;
use crate::step::{Backbone, DeviceChoice, MemoryPlan, Seen, Stage, Whole};

/// Names a job; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobId(pub u64);

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
    pub source: Arc<Picture>,
    /// One a step, each in the pixels of the picture it is cut from.
    pub regions: Vec<Region>,
    /// Width and height of every result.
    pub size: (u32, u32),
    /// The user's own words; where others are found they are added to those.
    pub prompt: String,
    /// Words for the first step that were found before.
    pub found: Option<String>,
    /// Where words come from otherwise.
    pub extractor: Extractor,
    /// How it is asked.
    pub asking: Asking,
    /// Each region is a whole picture and is worked through in tiles, with words for each where those are told.
    pub whole: Option<Whole>,
    /// For models that draw noise.
    pub seed: u64,
    /// What the built-in network makes of each region is sent first, where the model itself takes longer.
    pub preview: bool,
    /// The model and its settings.
    pub restorer: Restorer,
}

impl Job {
    /// Whether cut and found words of its first step are those of the other's.
    pub(super) fn begins_like(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.source, &other.source)
            && (self.regions.first(), self.size) == (other.regions.first(), other.size)
            && (&self.found, &self.extractor, &self.asking) == (&other.found, &other.extractor, &other.asking)
    }
}

/// Into the engine.
#[derive(Debug)]
pub(super) enum Command {
    /// Do the whole chain.
    Run(JobId, Job),
    /// Only find the words for the first step.
    Propose(JobId, Job),
    /// Do what can be done before the box is asked for.
    Prepare(JobId, Job),
    /// Load the model and tell how long a step of this width and height will take.
    Estimate(Restorer, (u32, u32)),
    /// Leave.
    Quit,
}

/// What one step made.
#[derive(Clone, Debug)]
pub struct Made {
    /// The result.
    pub picture: Arc<Picture>,
    /// The same, small, for panels.
    pub thumbnail: Arc<Picture>,
    /// The region enlarged by bicubic: what the model saw, and the colour source.
    pub enlarged: Arc<Picture>,
    /// How it came to be.
    pub making: Making,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// All its steps are made.
    Completed,
    /// It was stopped; the steps made before stand.
    Cancelled,
    /// It failed; the steps made before stand.
    Failed(Problem),
}

/// Out of the engine. Events of jobs that are no longer wanted may still arrive; compare their id.
#[derive(Clone, Debug)]
pub enum Event {
    /// The thread runs; the first event.
    Ready {
        /// How many CUDA devices libtorch can use.
        cuda_devices: usize,
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
    /// How long a step will take, measured on a small one.
    Estimated {
        /// The model.
        backbone: Backbone,
        /// For one step.
        secs: f64,
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
    /// Words are being found.
    Wording {
        /// Whose.
        job: JobId,
        /// For which of its steps, from 0.
        step: usize,
        /// All that is found so far, without the user's own.
        found: String,
    },
    /// The words for the first step are found.
    Proposed {
        /// Whose.
        job: JobId,
        /// Without the user's own.
        found: String,
    },
    /// Cut, words and weights for a box are ready, should it be asked for.
    Prepared {
        /// Whose.
        job: JobId,
    },
    /// There is something to see of a whole picture.
    Seen {
        /// Whose.
        job: JobId,
        /// Which of its steps, from 0.
        step: usize,
        /// What.
        seen: Seen,
    },
    /// A step is made.
    Made {
        /// Whose.
        job: JobId,
        /// Which of its steps, from 0.
        step: usize,
        /// What it made.
        made: Box<Made>,
    },
    /// The job is over.
    Finished {
        /// Which.
        job: JobId,
        /// How.
        done: Done,
    },
}
