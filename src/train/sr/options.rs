//! What a training is asked for, and what it says.

use std::path::PathBuf;

use tch::Device;

use super::data::Lists;
use super::losses::Losses;
use crate::base::{MemoryPlan, Precision};
use crate::train::TrainError;
use crate::train::adamw::AdamWConfig;
use crate::train::schedule::LrSchedule;

/// What to train, on what, and for how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// A folder in the layout of `stabilityai/stable-diffusion-3-medium-diffusers`.
    pub sd3: PathBuf,
    /// VGG16, and what LPIPS adds to it.
    pub lpips: [PathBuf; 2],
    /// Photos, and the side of their crops.
    pub lists: Lists,
    /// Where files go.
    pub output: PathBuf,
    /// A state to go on from.
    pub resume: Option<PathBuf>,
    /// Pictures of a micro-batch.
    pub batch: usize,
    /// Micro-batches of a step.
    pub accumulation: usize,
    /// Optimizer steps in all.
    pub steps: usize,
    /// Steps between checkpoints.
    pub checkpointing_steps: usize,
    /// Checkpoints that are kept; all of them without it.
    pub checkpoints_total_limit: Option<usize>,
    /// Of the LoRAs.
    pub rank: i64,
    /// Of everything that is drawn.
    pub seed: u64,
    /// Of the transformer's LoRAs, and of the encoder's.
    pub learning_rates: [f64; 2],
    /// How they change.
    pub schedule: LrSchedule,
    /// Of the optimizers.
    pub settings: AdamWConfig,
    /// What the losses weigh.
    pub weights: Losses,
    /// Scale of the teacher's guidance and its negative prompt; the reference has none.
    pub guidance: Option<(f64, String)>,
    /// The shift is taken off behind the encoder: as the reference trains, not as it infers.
    pub subtract_shift: bool,
    /// Of the frozen transformer and the text encoders; the rest is float32.
    pub precision: Precision,
    /// Little memory, more time.
    pub gradient_checkpointing: bool,
    /// Where text encoders and tagger are while the trainer computes.
    pub memory: MemoryPlan,
    /// Threads that read and degrade photos.
    pub workers: usize,
    /// Where the model is.
    pub device: Device,
    /// Pictures to validate by, and how many steps lie between two times.
    pub validation: Option<(PathBuf, usize)>,
    /// Where numbers for TensorBoard go.
    pub tensorboard: Option<PathBuf>,
}

/// A step that was made.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Its number, from 1.
    pub number: usize,
    /// Means over its micro-batches.
    pub losses: Losses,
    /// Norms of the gradients before they are clipped: gen, vae, reg.
    pub norms: [f64; 3],
    /// Its gradients were not finite: nothing was moved.
    pub is_skipped: bool,
    /// How long it took.
    pub seconds: f64,
    /// Of that, until its items were there: photos, captions, prompt embeds.
    pub prompt_seconds: f64,
    /// The most bytes of memory that were in use so far: the device's in tensors, or the processor's in all.
    pub peak_memory: Option<u64>,
}

/// What a training says.
pub enum Event<'a> {
    /// It begins behind this step, with this plan.
    Begins(usize, MemoryPlan),
    /// A step was made.
    Step(&'a Step),
    /// The pictures it validates by were restored at this step: mean squared error, LPIPS, PSNR, NIQE.
    Validation(usize, [f64; 4]),
    /// Something is odd, and it goes on.
    Warning(&'a TrainError),
}
