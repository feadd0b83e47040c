//! Options of `coz train vlm`, by the names that TRL's `GRPOConfig` gives them where it has them. The snake_case spellings work too,
//! and are those of config files.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{ArgAction, Args};
use serde::Serialize;
use strum::VariantNames;

use crate::base::{DeviceChoice, MemoryPlan, Precision};
use crate::cli::train::shared::{Shared, beta, not_negative, positive};
use crate::train::vlm::loss::LossType;

/// A share of something.
fn share(text: &str) -> Result<f64, String> {
    not_negative(text).ok().filter(|share| *share <= 1.0).ok_or_else(|| "expected a number from 0 to 1".into())
}

/// A temperature.
fn above_zero(text: &str) -> Result<f64, String> {
    not_negative(text).ok().filter(|number| *number > 0.0).ok_or_else(|| "expected a number above 0".into())
}

/// Options of `coz train vlm`.
#[derive(Args, Serialize)]
#[command(
    args_override_self = true,
    after_help = "Writes into OUTPUT what `coz zoom --prompt_type vlm --vlm_lora_path ...` takes, checkpoint-S/, from which it also\n\
                  goes on; log.csv, rewards.svg, kl.svg, validation.csv, validation.svg, validation/ and config.toml.\n\
                  docs/grpo.md leads through it."
)]
pub(in crate::cli::train) struct Arguments {
    #[command(flatten)]
    #[serde(flatten)]
    pub(super) shared: Shared,
    /// Qwen2.5-VL: a folder in the layout of Qwen/Qwen2.5-VL-3B-Instruct, or such a name
    #[arg(long, alias = "vlm_path", value_name = "DIR")]
    pub(super) vlm_path: Option<PathBuf>,
    /// Begin with this LoRA, a PEFT folder such as the released one, rather than with a new one
    #[arg(long, alias = "vlm_lora_path", value_name = "DIR")]
    pub(super) vlm_lora_path: Option<PathBuf>,
    /// Who rates: `self`, the model itself without its LoRA, which takes no more memory; Qwen2.5-VL of any size, by its folder or name;
    /// the address of a server that speaks OpenAI's chat completions, http://HOST:PORT/v1; or, to try, words:FUR,STONE, which likes
    /// those
    #[arg(long)]
    pub(super) critic: Option<String>,
    /// Its rating: the likeliest answer (greedy), or the mean by the probabilities of all answers (expected)
    #[arg(long, alias = "critic_score", default_value = "greedy", value_parser = ["greedy", "expected"], hide_possible_values = true)]
    pub(super) critic_score: String,
    /// Which model of a server [default: its first]
    #[arg(long, alias = "critic_model", value_name = "NAME")]
    pub(super) critic_model: Option<String>,
    /// Where the critic runs [default: with the policy]
    #[arg(long, alias = "critic_device", value_name = "DEVICE")]
    pub(super) critic_device: Option<DeviceChoice>,
    /// Folders of photos to make pairs of, with all folders in them: a crop, and its enlarged middle
    #[arg(long, value_delimiter = ',', action = ArgAction::Set, value_name = "DIRS", required_unless_present_any = ["replay", "chains"])]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) data: Vec<PathBuf>,
    /// Folders that `coz zoom` has written: pairs of the states of real chains
    #[arg(long, value_delimiter = ',', action = ArgAction::Set, value_name = "DIRS")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) chains: Vec<PathBuf>,
    /// Share of the photos' pairs that are taken one or two steps deeper, where the first picture is blurred already
    #[arg(long, alias = "deeper_share", default_value_t = 0.5, value_parser = share)]
    pub(super) deeper_share: f64,
    /// Share of the pictures that are held out for validation; at least one of several
    #[arg(long, alias = "validation_share", default_value_t = 0.01, value_parser = share)]
    pub(super) validation_share: f64,
    /// Side of the pictures
    #[arg(long, alias = "process_size", default_value_t = 512, value_parser = clap::value_parser!(u32).range(32..=4096))]
    pub(super) process_size: u32,
    /// What the policy is asked, instead of what the reference asks
    #[arg(long, alias = "prompt_message", value_name = "TEXT")]
    pub(super) prompt_message: Option<String>,
    /// What is in memory: policy and critic (resident); or they take turns, once for all groups of --steps_per_generation steps
    /// (staged); or one of these by the free memory (auto)
    #[arg(long, default_value_t = MemoryPlan::Auto)]
    pub(super) memory: MemoryPlan,
    /// Prompts of a micro-batch, a group of completions each, in each process
    #[arg(long, alias = "train_batch_size", default_value_t = 1, value_parser = positive)]
    pub(super) train_batch_size: usize,
    /// Completions of a group; the paper has 2, and 8 tell more
    #[arg(long, alias = "num_generations", default_value_t = 2, value_parser = clap::value_parser!(u64).range(2..=1024))]
    pub(super) num_generations: u64,
    /// Micro-batches of an optimizer step
    #[arg(long, alias = "gradient_accumulation_steps", default_value_t = 4, value_parser = positive)]
    pub(super) gradient_accumulation_steps: usize,
    /// Optimizer steps whose groups are sampled and rated together
    #[arg(long, alias = "steps_per_generation", default_value_t = 1, value_parser = positive)]
    pub(super) steps_per_generation: usize,
    /// Passes over what was sampled together (GRPO's mu)
    #[arg(long, alias = "num_iterations", default_value_t = 1, value_parser = positive)]
    pub(super) num_iterations: usize,
    /// Optimizer steps in all
    #[arg(long, alias = "max_train_steps", alias = "max_steps", default_value_t = 10_000, value_parser = positive)]
    pub(super) max_train_steps: usize,
    /// Steps between checkpoints; there is one at the end too
    #[arg(long, alias = "checkpointing_steps", alias = "save_steps", default_value_t = 500, value_parser = positive)]
    pub(super) checkpointing_steps: usize,
    /// Rank of a new LoRA
    #[arg(long, alias = "lora_rank", default_value_t = 8, value_parser = clap::value_parser!(i64).range(1..=1024))]
    pub(super) lora_rank: i64,
    /// Alpha of a new LoRA: its scale is alpha / rank
    #[arg(long, alias = "lora_alpha", default_value_t = 32.0, value_parser = not_negative)]
    pub(super) lora_alpha: f64,
    /// Share of its input that is dropped in the loss
    #[arg(long, alias = "lora_dropout", default_value_t = 0.05, value_parser = beta)]
    pub(super) lora_dropout: f64,
    /// Learning rate; 1e-5 is safer where --beta is 0
    #[arg(long, alias = "learning_rate", default_value_t = 1e-4, value_parser = not_negative)]
    pub(super) learning_rate: f64,
    /// AdamW's beta2
    #[arg(long, alias = "adam_beta2", default_value_t = 0.95, value_parser = beta)]
    pub(super) adam_beta2: f64,
    /// AdamW's weight decay
    #[arg(long, alias = "adam_weight_decay", alias = "weight_decay", default_value_t = 0.1, value_parser = not_negative)]
    pub(super) adam_weight_decay: f64,
    /// Dtype of the frozen weights: auto, fp32, fp16 or bf16
    #[arg(long, alias = "mixed_precision", default_value_t = Precision::Auto)]
    pub(super) mixed_precision: Precision,
    /// How the losses of tokens become one: grpo, bnpo, dr_grpo or dapo
    #[arg(long, alias = "loss_type", default_value = "grpo", value_parser = PossibleValuesParser::new(LossType::VARIANTS), hide_possible_values = true)]
    pub(super) loss_type: String,
    /// Divide rewards by their deviation within the group, or, as the paper's algorithm 2, do not (none)
    #[arg(long, alias = "scale_rewards", default_value = "group", value_parser = ["group", "none"], hide_possible_values = true)]
    pub(super) scale_rewards: String,
    /// Weight of the KL from the model without the LoRA
    #[arg(long, default_value_t = 0.04, value_parser = not_negative)]
    pub(super) beta: f64,
    /// Ratios are cut off that far below 1
    #[arg(long, default_value_t = 0.2, value_parser = not_negative)]
    pub(super) epsilon: f64,
    /// And that far above [default: the same]
    #[arg(long, alias = "epsilon_high", value_parser = not_negative)]
    pub(super) epsilon_high: Option<f64>,
    /// Temperature of the sampling, by which log-probs are computed too
    #[arg(long, default_value_t = 1.0, value_parser = above_zero)]
    pub(super) temperature: f64,
    /// Completions are cut off behind so many tokens
    #[arg(long, alias = "max_completion_length", alias = "max_new_tokens", default_value_t = 64, value_parser = positive)]
    pub(super) max_completion_length: usize,
    /// Leave completions that were cut off out of the loss
    #[arg(long, alias = "mask_truncated_completions")]
    pub(super) mask_truncated_completions: bool,
    /// Weights of critic, phrases and repetition
    #[arg(long, alias = "reward_weights", value_delimiter = ',', action = ArgAction::Set, default_value = "1,0.5,0.5", value_name = "NUMBERS")]
    pub(super) reward_weights: Vec<f64>,
    /// Phrases that must not occur, between commas [default: those that talk about the pictures]
    #[arg(long, alias = "excluded_phrases", value_delimiter = ',', action = ArgAction::Set, value_name = "TEXTS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) excluded_phrases: Option<Vec<String>>,
    /// Length in words of the n-grams whose repetition is penalised
    #[arg(long, alias = "repetition_ngram", default_value_t = 3, value_parser = positive)]
    pub(super) repetition_ngram: usize,
    /// End where all rewards of each group were equal in so many steps in a row
    #[arg(long, alias = "early_stopping_steps", default_value_t = 50, value_parser = positive)]
    pub(super) early_stopping_steps: usize,
    /// End where the mean KL of ten steps is above this
    #[arg(long, alias = "max_kl", default_value_t = 10.0, value_parser = not_negative)]
    pub(super) max_kl: f64,
    /// Steps between two validations, at step 0 first; 0: none
    #[arg(long, alias = "validation_steps", default_value_t = 100)]
    pub(super) validation_steps: usize,
    /// Held-out pairs that each of them takes
    #[arg(long, alias = "validation_pairs", default_value_t = 32, value_parser = positive)]
    pub(super) validation_pairs: usize,
    /// Only show the first N pairs. Writes OUTPUT/preview.png and preview/
    #[arg(long, alias = "preview_data", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    #[serde(skip)]
    pub(super) preview_data: Option<u32>,
    /// Only make a few steps, and show prompts, rewards, and what a training takes: memory, disk, hours. Nothing stays in OUTPUT
    #[arg(long, alias = "dry_run")]
    #[serde(skip)]
    pub(super) dry_run: bool,
    /// Compute this case without chance instead: pairs, completions and rewards come from its files. Writes OUTPUT/replay.json,
    /// replay.safetensors and B_adapter/
    #[arg(long, value_name = "CASE.json")]
    #[serde(skip)]
    pub(super) replay: Option<PathBuf>,
}
