//! Options of `coz train sr`. The snake_case spellings of the reference work too, and are those of config files.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};
use serde::Serialize;

use crate::base::{MemoryPlan, Precision};
use crate::cli::train::shared::{Shared, beta, not_negative, positive};

/// Options of `coz train sr`.
#[derive(Args, Serialize)]
#[command(
    args_override_self = true,
    after_help = "Writes into OUTPUT what `coz zoom --lora_path ... --vae_path ...` takes: checkpoints/model_S.pkl and\n\
                  checkpoints_vae/vae_encoder_S.pt; the regulariser's checkpoints_reg/model_S.pkl; checkpoints_state/, from which it\n\
                  goes on; losses.csv, losses.svg, visualization/ and config.toml. With --validation_dir also validation.csv,\n\
                  validation.svg and validation/. docs/training.md leads through it."
)]
pub(in crate::cli::train) struct Arguments {
    #[command(flatten)]
    #[serde(flatten)]
    pub(super) shared: Shared,
    /// Folder in the layout of stabilityai/stable-diffusion-3-medium-diffusers, or a name on Hugging Face
    #[arg(long, alias = "pretrained_model_name_or_path", value_name = "DIR")]
    pub(super) pretrained_model_name_or_path: Option<PathBuf>,
    /// Text files with the path of a photo a line
    #[arg(long, alias = "dataset_txt_paths_list", value_delimiter = ',', action = ArgAction::Set, value_name = "FILES", required_unless_present_any = ["replay", "replay_degradation"])]
    pub(super) dataset_txt_paths_list: Vec<PathBuf>,
    /// How often each of these lists enters an epoch [default: once]
    #[arg(long, alias = "dataset_prob_paths_list", value_delimiter = ',', action = ArgAction::Set, value_name = "NUMBERS")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) dataset_prob_paths_list: Vec<usize>,
    /// Folder with vgg16.pth and lpips_vgg.pth, before the usual places
    #[arg(long, alias = "metrics_weights", value_name = "DIR")]
    pub(super) metrics_weights: Option<PathBuf>,
    /// RAM, the tagger that writes the prompts: without DAPE, from the sharp pictures
    #[arg(long, alias = "ram_path", value_name = "FILE")]
    pub(super) ram_path: Option<PathBuf>,
    /// A tag in each line [default: ram_tag_list.txt beside the tagger, or in data there]
    #[arg(long, alias = "ram_tag_list", value_name = "FILE")]
    pub(super) ram_tag_list: Option<PathBuf>,
    /// A probability for each tag [default: ram_tag_list_threshold.txt, as the list]
    #[arg(long, alias = "ram_tag_thresholds", value_name = "FILE")]
    pub(super) ram_tag_thresholds: Option<PathBuf>,
    /// Train without prompts
    #[arg(long, alias = "null_prompt")]
    pub(super) null_prompt: bool,
    /// What stays in memory beside the trainer: text encoders and tagger (resident); or they take turns with it, for the prompts of
    /// many items together (staged), there layer by layer (streamed); or one of these by the free memory (auto)
    #[arg(long, default_value_t = MemoryPlan::Auto)]
    pub(super) memory: MemoryPlan,
    /// Side of the pictures
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(32..=4096))]
    pub(super) resolution: u32,
    /// Pictures of a micro-batch, in each process
    #[arg(long, alias = "train_batch_size", default_value_t = 2, value_parser = positive)]
    pub(super) train_batch_size: usize,
    /// Micro-batches of an optimizer step
    #[arg(long, alias = "gradient_accumulation_steps", default_value_t = 2, value_parser = positive)]
    pub(super) gradient_accumulation_steps: usize,
    /// Optimizer steps in all
    #[arg(long, alias = "max_train_steps", default_value_t = 20_001, value_parser = positive)]
    pub(super) max_train_steps: usize,
    /// Save a checkpoint after the first of so many steps, as the reference does: 1, 5001, 10001, ...; and at the end
    #[arg(long, alias = "checkpointing_steps", default_value_t = 5000, value_parser = positive)]
    pub(super) checkpointing_steps: usize,
    /// Rank of the LoRAs
    #[arg(long, alias = "lora_rank", default_value_t = 4, value_parser = clap::value_parser!(i64).range(1..=1024))]
    pub(super) lora_rank: i64,
    /// Learning rate of the transformer's LoRAs
    #[arg(long, alias = "learning_rate", default_value_t = 5e-5, value_parser = not_negative)]
    pub(super) learning_rate: f64,
    /// Learning rate of the VAE encoder's LoRA [default: the same]
    #[arg(long, alias = "learning_rate_vae", value_parser = not_negative)]
    pub(super) learning_rate_vae: Option<f64>,
    /// Dtype of the frozen transformer and the text encoders; LoRAs, losses, optimizers and the VAE are float32
    #[arg(long, alias = "mixed_precision", value_enum, default_value_t = MixedPrecision::No)]
    pub(super) mixed_precision: MixedPrecision,
    /// AdamW's beta2
    #[arg(long, alias = "adam_beta2", default_value_t = 0.999, value_parser = beta)]
    pub(super) adam_beta2: f64,
    /// AdamW's weight decay
    #[arg(long, alias = "adam_weight_decay", default_value_t = 1e-2, value_parser = not_negative)]
    pub(super) adam_weight_decay: f64,
    /// Weight of the mean squared error
    #[arg(long, alias = "lambda_l2", default_value_t = 1.0, value_parser = not_negative)]
    pub(super) lambda_l2: f64,
    /// Weight of LPIPS
    #[arg(long, alias = "lambda_lpips", default_value_t = 2.0, value_parser = not_negative)]
    pub(super) lambda_lpips: f64,
    /// Weight of the variational score distillation
    #[arg(long, alias = "lambda_vsd", default_value_t = 1.0, value_parser = not_negative)]
    pub(super) lambda_vsd: f64,
    /// Weight of the regulariser's diffusion loss
    #[arg(long, alias = "lambda_vsd_lora", default_value_t = 1.0, value_parser = not_negative)]
    pub(super) lambda_vsd_lora: f64,
    /// Let the teacher be guided by --cfg_vsd and --neg_prompt, which the reference has and does not use
    #[arg(long, alias = "vsd_guidance")]
    pub(super) vsd_guidance: bool,
    /// Scale of that classifier-free guidance
    #[arg(long, alias = "cfg_vsd", default_value_t = 7.5)]
    pub(super) cfg_vsd: f64,
    /// Its negative prompt
    #[arg(long, alias = "neg_prompt", default_value = "")]
    pub(super) neg_prompt: String,
    /// Do not subtract the VAE's shift from the encoder's latents: as the model is used, where the reference trains otherwise
    #[arg(long, alias = "shift_as_inference")]
    pub(super) shift_as_inference: bool,
    /// Folder with pictures to validate by, always the same crops, degradations and noise, at step 0 first
    #[arg(long, alias = "validation_dir", value_name = "DIR")]
    pub(super) validation_dir: Option<PathBuf>,
    /// Steps between two validations
    #[arg(long, alias = "validation_steps", default_value_t = 500, value_parser = positive)]
    pub(super) validation_steps: usize,
    /// Threads that read and degrade photos
    #[arg(long, alias = "dataloader_num_workers", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=64))]
    pub(super) dataloader_num_workers: u32,
    /// Only show the first N items: crops, what the degradation leaves of them and how, and captions where the tagger is here.
    /// Writes OUTPUT/preview.png and preview/
    #[arg(long, alias = "preview_data", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    #[serde(skip)]
    pub(super) preview_data: Option<u32>,
    /// Only make a few steps, and say what a training takes: memory, disk, hours. Nothing stays in OUTPUT
    #[arg(long, alias = "dry_run")]
    #[serde(skip)]
    pub(super) dry_run: bool,
    /// Train through this case without chance instead: pictures, noise, times and initial LoRA weights come from its files. Writes
    /// OUTPUT/replay/ (losses.csv, grad_norms.csv, gradients and parameters of each step) and the last checkpoints
    #[arg(long, value_name = "CASE.json")]
    #[serde(skip)]
    pub(super) replay: Option<PathBuf>,
    /// Only degrade pictures, without chance: operators, parameters and noise come from this file and the safetensors file beside
    /// it. Writes OUTPUT/lq.safetensors
    #[arg(long, alias = "replay_degradation", value_name = "TRACES.json")]
    #[serde(skip)]
    pub(super) replay_degradation: Option<PathBuf>,
    #[command(flatten)]
    #[serde(skip)]
    unused: Unused,
}

/// Options of the reference's commands that change nothing here: what they name is always so, or is of no use.
#[derive(Args)]
struct Unused {
    #[arg(long, alias = "num_training_epochs", hide = true)]
    num_training_epochs: Option<String>,
    #[arg(long, alias = "deg_file_path", hide = true)]
    deg_file_path: Option<String>,
    #[arg(long, alias = "tracker_project_name", hide = true)]
    tracker_project_name: Option<String>,
    #[arg(long, alias = "enable_xformers_memory_efficient_attention", hide = true)]
    enable_xformers_memory_efficient_attention: bool,
    #[arg(long, alias = "set_grads_to_none", hide = true)]
    set_grads_to_none: bool,
}

/// Of accelerate.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum MixedPrecision {
    /// float32
    No,
    /// bfloat16
    Bf16,
    /// float16, with a gradient scale
    Fp16,
}

impl MixedPrecision {
    /// Of the frozen networks.
    pub(super) fn precision(self) -> Precision {
        match self {
            Self::No => Precision::Fp32,
            Self::Bf16 => Precision::Bf16,
            Self::Fp16 => Precision::Fp16,
        }
    }
}
