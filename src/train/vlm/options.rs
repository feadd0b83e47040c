//! What a training is asked for, and what it says.

use std::path::PathBuf;

use tch::Device;

use super::loss::LossOptions;
use super::pairs::{Pair, PairOptions};

use super::rewards::critic::CriticOptions;
use super::rewards::{Reward, RewardOptions, TERMS};
use crate::base::{MemoryPlan, Precision};
use crate::pipelines::caption::vlm::generate::SamplingOptions;
use crate::train::TrainError;
use crate::train::adamw::AdamWConfig;
use crate::train::schedule::LrSchedule;
use crate::train::vlm::adapter::LoraConfig;

/// What to train, on what, by whom, and for how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// A folder in the layout of `Qwen/Qwen2.5-VL-3B-Instruct`.
    pub model: PathBuf,
    /// A PEFT folder to begin with; else a new LoRA.
    pub adapter: Option<PathBuf>,
    /// Sizes of a new LoRA; its dropout counts for an old one too.
    pub lora: LoraConfig,
    /// The message from the system, with both pictures.
    pub message: String,
    /// Who rates.
    pub critic: CriticOptions,
    /// Pairs to be asked about.
    pub pairs: PairOptions,
    /// Where files go.
    pub output: PathBuf,
    /// A checkpoint to go on from.
    pub resume: Option<PathBuf>,
    /// Groups of a micro-batch, one prompt each.
    pub batch: usize,
    /// Completions of a group.
    pub num_generations: usize,
    /// Micro-batches of a step.
    pub accumulation: usize,
    /// Optimizer steps whose groups are sampled together.
    pub steps_per_generation: usize,
    /// How often those steps are made.
    pub num_iterations: usize,
    /// Optimizer steps in all.
    pub steps: usize,
    /// Steps between checkpoints.
    pub checkpointing_steps: usize,
    /// Checkpoints that are kept; all of them without it.
    pub checkpoints_total_limit: Option<usize>,
    /// Of everything that is drawn.
    pub seed: u64,
    /// Of the LoRA.
    pub learning_rate: f64,
    /// How it changes.
    pub schedule: LrSchedule,
    /// Of the optimizer.
    pub settings: AdamWConfig,
    /// Of the policy.
    pub loss: LossOptions,
    /// How completions are sampled.
    pub sampling: SamplingOptions,
    /// Completions that were cut off do not count.
    pub mask_truncated: bool,
    /// What completions are rewarded for.
    pub rewards: RewardOptions,
    /// So many steps in a row without a difference within any group end it.
    pub early_stopping_steps: usize,
    /// A mean KL above this, over some steps, ends it.
    pub max_kl: f64,
    /// Of the frozen weights.
    pub precision: Precision,
    /// Layers are computed again on the way back rather than kept.
    pub gradient_checkpointing: bool,
    /// Whether policy and critic are in memory together.
    pub memory: MemoryPlan,
    /// Where the policy is.
    pub device: Device,
    /// Steps between two validations, and how many held-out pairs each takes.
    pub validation: Option<(usize, usize)>,
    /// Where numbers for TensorBoard go.
    pub tensorboard: Option<PathBuf>,
}

impl Options {
    /// Groups that a process samples together.
    pub fn groups_of_rollout(&self) -> usize {
        self.groups_of_step() * self.steps_per_generation
    }

    /// Groups that a process takes for a step.
    pub fn groups_of_step(&self) -> usize {
        self.batch * self.accumulation
    }

    /// Steps made of one rollout.
    pub fn steps_of_rollout(&self) -> usize {
        self.steps_per_generation * self.num_iterations
    }
}

/// Rewards of some completions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RewardStatistics {
    /// Means of the terms, then of their weighted sum.
    pub mean: [f64; TERMS.len() + 1],
    /// Their deviations.
    pub std: [f64; TERMS.len() + 1],
}

/// A step that was made, over all processes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Step {
    /// Its number, from 1.
    pub number: usize,
    /// The loss.
    pub loss: f64,
    /// Of the completions that were rated.
    pub rewards: RewardStatistics,
    /// Groups.
    pub groups: f64,
    /// Of these, whose rewards are all equal: there is nothing to learn from them.
    pub zero_std_groups: f64,
    /// Mean over tokens: from the reference.
    pub kl: f64,
    /// Mean over tokens.
    pub entropy: f64,
    /// Share of tokens whose ratio was cut off.
    pub clipped_share: f64,
    /// Mean number of tokens of a completion.
    pub length: f64,
    /// Share of completions that were cut off.
    pub truncated_share: f64,
    /// Completions that the critic gave no number.
    pub unrated: f64,
    /// Groups that were left with less than two rated completions.
    pub skipped_groups: f64,
    /// Of the gradient before it is clipped; where it is nothing, or not finite, nothing was moved.
    pub norm: f64,
    /// The learning rate.
    pub rate: f64,
    /// Seconds: in all, of that for completions, and for ratings.
    pub seconds: [f64; 3],
    /// The most bytes of memory that were in use so far: the device's in tensors, or the processor's in all.
    pub peak_memory: Option<u64>,
}

/// A prompt that was sampled.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The picture that it is about a part of.
    pub file: PathBuf,
    /// What the policy has said.
    pub text: String,
    /// The terms of its reward, and the whole.
    pub reward: [f64; TERMS.len() + 1],
}

impl Sample {
    /// Of a pair.
    pub(super) fn new(pair: &Pair, text: &str, reward: &Reward) -> Self {
        let [critic, phrase, repetition] = reward.terms;
        Self { file: pair.file.clone(), text: text.into(), reward: [critic, phrase, repetition, reward.total] }
    }
}

/// What a training says.
pub enum Event<'a> {
    /// It begins behind this step, with this plan.
    Begins(usize, MemoryPlan),
    /// So many of so many groups have been through this phase of a rollout.
    Rollout(&'static str, usize, usize),
    /// The prompts of a group were sampled and rated.
    Samples(&'a [Sample]),
    /// A step was made.
    Step(&'a Step),
    /// Held-out pairs were described at temperature 0 after this step: rewards, and the mean length.
    Validation(usize, &'a RewardStatistics, f64),
    /// Something is odd, and it goes on.
    Warning(&'a TrainError),
    /// It ends early, and why.
    Stops(&'a str),
}
