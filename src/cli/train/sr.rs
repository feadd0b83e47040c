//! `coz train sr`: the reference's trainer of the restoring model's LoRAs, by its option names.

mod dry_run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use strum::VariantNames;
use tch::Kind;

use crate::base::{BackboneSpec, DeviceChoice, MetricSpec, Precision, PromptSource, PromptSourceSpec, UserError};
use crate::cli::interruption::Interruption;
use crate::hub;
use crate::hub::ModelPaths;
use crate::pipelines::PipelineError;
use crate::pipelines::caption::tags::Tagger;
use crate::runtime::device;
use crate::train::sr::adamw::Settings;
use crate::train::sr::data::Dataset;
use crate::train::sr::losses::Losses;
use crate::train::sr::preview::preview;
use crate::train::sr::schedule::{Schedule, Shape};
use crate::train::sr::trainer::{Event, Options, train};
use crate::train::sr::{degradation, replay, state};

/// Options of `coz train sr`. The snake_case spellings of the reference work too.
#[derive(Args)]
#[command(
    args_override_self = true,
    after_help = "Writes OUTPUT/checkpoints/model_S.pkl, checkpoints_reg/model_S.pkl and checkpoints_vae/vae_encoder_S.pt, which\n\
                  `coz zoom --lora_path ... --vae_path ...` takes, and OUTPUT/losses.csv."
)]
pub(super) struct Arguments {
    /// Folder for the results
    #[arg(short, long, alias = "output_dir")]
    output: PathBuf,
    /// Folder in the layout of stabilityai/stable-diffusion-3-medium-diffusers, or such a name
    #[arg(long, alias = "pretrained_model_name_or_path", value_name = "DIR")]
    pretrained_model_name_or_path: Option<PathBuf>,
    /// Text files with the path of a photo a line
    #[arg(long, alias = "dataset_txt_paths_list", value_delimiter = ',', value_name = "FILES", required_unless_present_any = ["replay", "replay_degradation"])]
    dataset_txt_paths_list: Vec<PathBuf>,
    /// How often each of these lists enters an epoch [default: once]
    #[arg(long, alias = "dataset_prob_paths_list", value_delimiter = ',', value_name = "NUMBERS")]
    dataset_prob_paths_list: Vec<usize>,
    /// Folder with vgg16.pth and lpips_vgg.pth, before the usual places
    #[arg(long, alias = "metrics_weights", value_name = "DIR")]
    metrics_weights: Option<PathBuf>,
    /// The tagger that writes the prompts; without DAPE, from the sharp pictures
    #[arg(long, alias = "ram_path", value_name = "FILE")]
    ram_path: Option<PathBuf>,
    /// Train without prompts
    #[arg(long, alias = "null_prompt")]
    null_prompt: bool,
    /// Where it runs: auto, cpu, cuda or cuda:NUMBER
    #[arg(long, default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Seed of everything that is drawn
    #[arg(long, default_value_t = 123)]
    seed: u64,
    /// Side of the pictures
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(32..=4096))]
    resolution: u32,
    /// Pictures of a micro-batch
    #[arg(long, alias = "train_batch_size", default_value_t = 2)]
    train_batch_size: usize,
    /// Micro-batches of a step
    #[arg(long, alias = "gradient_accumulation_steps", default_value_t = 2)]
    gradient_accumulation_steps: usize,
    /// Steps
    #[arg(long, alias = "max_train_steps", default_value_t = 20_001)]
    max_train_steps: usize,
    /// Steps between files
    #[arg(long, alias = "checkpointing_steps", default_value_t = 5000)]
    checkpointing_steps: usize,
    /// Go on from this file of OUTPUT/checkpoints_state, or from the `latest`
    #[arg(long, alias = "resume_from_checkpoint", value_name = "FILE")]
    resume_from_checkpoint: Option<PathBuf>,
    /// How many steps' files are kept, the newest; all without it
    #[arg(long, alias = "checkpoints_total_limit", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    checkpoints_total_limit: Option<u32>,
    /// Rank of the LoRAs
    #[arg(long, alias = "lora_rank", default_value_t = 4)]
    lora_rank: i64,
    /// Of the transformer's LoRAs
    #[arg(long, alias = "learning_rate", default_value_t = 5e-5)]
    learning_rate: f64,
    /// Of the encoder's LoRA [default: the same]
    #[arg(long, alias = "learning_rate_vae")]
    learning_rate_vae: Option<f64>,
    /// Decay of the mean of gradients
    #[arg(long, alias = "adam_beta1", default_value_t = 0.9)]
    adam_beta1: f64,
    /// Decay of the mean of their squares
    #[arg(long, alias = "adam_beta2", default_value_t = 0.999)]
    adam_beta2: f64,
    /// Keeps quotients finite
    #[arg(long, alias = "adam_epsilon", default_value_t = 1e-8)]
    adam_epsilon: f64,
    /// Decay of the parameters
    #[arg(long, alias = "adam_weight_decay", default_value_t = 1e-2)]
    adam_weight_decay: f64,
    /// Longer gradients are shortened to this, each group by itself
    #[arg(long, alias = "max_grad_norm", default_value_t = 1.0)]
    max_grad_norm: f64,
    /// How the learning rates change: constant, constant_with_warmup, linear, cosine, cosine_with_restarts or polynomial
    #[arg(long, alias = "lr_scheduler", default_value = "constant", value_parser = PossibleValuesParser::new(Shape::VARIANTS), hide_possible_values = true)]
    lr_scheduler: String,
    /// Steps in which they rise from nothing; `constant` has none
    #[arg(long, alias = "lr_warmup_steps", default_value_t = 500)]
    lr_warmup_steps: usize,
    /// Half waves of cosine_with_restarts
    #[arg(long, alias = "lr_num_cycles", default_value_t = 1)]
    lr_num_cycles: usize,
    /// Of polynomial
    #[arg(long, alias = "lr_power", default_value_t = 1.0)]
    lr_power: f64,
    /// What the frozen transformer and the text encoders compute in; all else is float32
    #[arg(long, alias = "mixed_precision", value_enum, default_value_t = MixedPrecision::No)]
    mixed_precision: MixedPrecision,
    /// Weight of the mean squared error
    #[arg(long, alias = "lambda_l2", default_value_t = 1.0)]
    lambda_l2: f64,
    /// Weight of LPIPS
    #[arg(long, alias = "lambda_lpips", default_value_t = 2.0)]
    lambda_lpips: f64,
    /// Weight of the distillation
    #[arg(long, alias = "lambda_vsd", default_value_t = 1.0)]
    lambda_vsd: f64,
    /// Weight of the regulariser's own loss
    #[arg(long, alias = "lambda_vsd_lora", default_value_t = 1.0)]
    lambda_vsd_lora: f64,
    /// Let the teacher be guided by --cfg_vsd and --neg_prompt, which the reference has and does not use
    #[arg(long, alias = "vsd_guidance")]
    vsd_guidance: bool,
    /// Scale of that guidance
    #[arg(long, alias = "cfg_vsd", default_value_t = 7.5)]
    cfg_vsd: f64,
    /// Its negative prompt
    #[arg(long, alias = "neg_prompt", default_value = "")]
    neg_prompt: String,
    /// Do not take the VAE's shift off the encoder's latents: as the model is used, where the reference trains otherwise
    #[arg(long, alias = "shift_as_inference")]
    shift_as_inference: bool,
    /// Folder with pictures to validate by; their losses go into OUTPUT/validation.csv, at step 0 first
    #[arg(long, alias = "validation_dir", value_name = "DIR")]
    validation_dir: Option<PathBuf>,
    /// Steps between two validations
    #[arg(long, alias = "validation_steps", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    validation_steps: u32,
    /// Compute again on the way back what is between a network's blocks, rather than keep it: little memory, more time
    #[arg(long, alias = "gradient_checkpointing")]
    gradient_checkpointing: bool,
    /// Threads that read and degrade photos
    #[arg(long, alias = "dataloader_num_workers", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    dataloader_num_workers: u32,
    /// Only show so many items: crops, what the degradation leaves of them, and how. Writes OUTPUT/preview.png and preview/
    #[arg(long, alias = "preview_data", value_name = "N")]
    preview_data: Option<usize>,
    /// Only make one step, and say what it takes: files, memory, disk, hours. Nothing stays in OUTPUT
    #[arg(long, alias = "dry_run")]
    dry_run: bool,
    /// Train through this case without chance instead: pictures, noise, times and first values come from its files. Writes
    /// OUTPUT/replay/ (losses.csv, grad_norms.csv, gradients and parameters of each step) and the last checkpoints
    #[arg(long, value_name = "CASE.json")]
    replay: Option<PathBuf>,
    /// Only degrade pictures, without chance: operators, parameters and noise come from this file and the safetensors file beside
    /// it. Writes OUTPUT/lq.safetensors
    #[arg(long, alias = "replay_degradation", value_name = "TRACES.json")]
    replay_degradation: Option<PathBuf>,
}

/// What accelerate's option of this name knows.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MixedPrecision {
    /// float32
    No,
    /// 16 bits with the range of 32
    Bf16,
    /// 16 bits; gradients are scaled within
    Fp16,
}

impl MixedPrecision {
    fn kind(self) -> Kind {
        match self {
            Self::No => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
            Self::Fp16 => Kind::Half,
        }
    }
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if let Some(file) = &arguments.replay_degradation {
        let written = degradation::replay::replay(file, &arguments.output).map_err(UserError::from)?;
        eprintln!("wrote {}", written.display());
    }
    if let Some(file) = &arguments.replay {
        let checkpoints = arguments.gradient_checkpointing;
        let steps = replay::replay(file, &arguments.output, checkpoints).map_err(UserError::from)?;
        eprintln!("{steps} steps: {}", arguments.output.display());
    }
    if let Some(count) = arguments.preview_data {
        let dataset = Dataset::open(&lists(arguments)?, arguments.resolution).map_err(UserError::from)?;
        let sheet = preview(&dataset, arguments.seed, count, &arguments.output).map_err(UserError::from)?;
        eprintln!("wrote {}", sheet.display());
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.replay.is_some() || arguments.replay_degradation.is_some() {
        return Ok(ExitCode::SUCCESS);
    }
    let options = options(arguments)?;
    let tagger = (!arguments.null_prompt).then(|| tagger(arguments, &options)).transpose()?;
    if arguments.dry_run {
        return dry_run::run(&options, tagger);
    }
    let interruption = Interruption::watch();
    let bar = ProgressBar::new(arguments.max_train_steps as u64);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} steps, {eta} left") {
        bar.set_style(style);
    }
    let mut on_event = |event: Event| {
        match event {
            Event::Warning(warning) => bar.suspend(|| eprintln!("{warning}; the training goes on")),
            Event::Step(step) => {
                let Losses { l2, lpips, vsd, diff } = step.losses;
                let text = format!("l2 {l2:.4}, lpips {lpips:.4}, vsd {vsd:.4}, diff {diff:.4}");
                bar.set_position(step.number as u64);
                bar.set_message(text.clone());
                if step.is_skipped {
                    bar.suspend(|| eprintln!("step {}: its gradients are no numbers; nothing was moved", step.number));
                }
                if bar.is_hidden() && (step.number == 1 || step.number.is_multiple_of(100)) {
                    eprintln!("step {}: {text}", step.number);
                }
            }
        }
        !interruption.is_requested()
    };
    let saved = train(&options, tagger, &mut on_event).map_err(UserError::from)?;
    bar.finish_and_clear();
    eprintln!("saved step {saved} in {}", options.output.display());
    Ok(ExitCode::SUCCESS)
}

/// The lists, and how often each enters an epoch.
fn lists(arguments: &Arguments) -> Result<Vec<(PathBuf, usize)>, UserError> {
    let (lists, times) = (&arguments.dataset_txt_paths_list, &arguments.dataset_prob_paths_list);
    if !times.is_empty() && times.len() != lists.len() {
        let details = format!("{} lists, and {} numbers of how often they enter", lists.len(), times.len());
        return Err(UserError::new("The lists and their numbers differ", details, "Name a number for each list."));
    }
    Ok(lists.iter().cloned().zip(times.iter().copied().chain(std::iter::repeat(1))).collect())
}

fn options(arguments: &Arguments) -> Result<Options, UserError> {
    let lists = lists(arguments)?;
    let mut paths = ModelPaths::of_user();
    if let Some(folder) = &arguments.pretrained_model_name_or_path {
        paths.set("sd3", folder.clone());
    }
    let spec = BackboneSpec::named("sd3").ok_or_else(|| UserError::new("There is no such model", "sd3", ""))?;
    let backbone = hub::backbone(spec, &paths, Precision::Fp32)?;
    let sd3 = backbone.files.get("model").map(ToOwned::to_owned).unwrap_or_default();
    let metric =
        MetricSpec::named("lpips_vgg").map_err(|details| UserError::new("There is no such metric", details, ""))?;
    let (mut files, missing) = hub::metric_files(metric, arguments.metrics_weights.as_deref());
    let (Some(vgg), Some(lpips)) = (files.remove("vgg16"), files.remove("lpips-vgg")) else {
        let names = missing.iter().map(|file| format!("{} ({})", file.names[0], file.page)).collect::<Vec<_>>();
        let hint = "Name their folder with --metrics-weights, or get them with `coz models download vgg16 lpips`.";
        return Err(UserError::new("LPIPS lacks its weights", names.join(" and "), hint));
    };
    Ok(Options {
        sd3,
        lpips: [vgg, lpips],
        lists,
        output: arguments.output.clone(),
        resume: resume(arguments)?,
        resolution: arguments.resolution,
        batch: arguments.train_batch_size.max(1),
        accumulation: arguments.gradient_accumulation_steps.max(1),
        steps: arguments.max_train_steps,
        checkpointing_steps: arguments.checkpointing_steps.max(2),
        checkpoints_total_limit: arguments.checkpoints_total_limit.map(|limit| limit as usize),
        rank: arguments.lora_rank.max(1),
        seed: arguments.seed,
        rates: [arguments.learning_rate, arguments.learning_rate_vae.unwrap_or(arguments.learning_rate)],
        settings: Settings {
            betas: [arguments.adam_beta1, arguments.adam_beta2],
            epsilon: arguments.adam_epsilon,
            weight_decay: arguments.adam_weight_decay,
            max_grad_norm: arguments.max_grad_norm,
        },
        schedule: Schedule {
            shape: arguments.lr_scheduler.parse().unwrap_or(Shape::Constant),
            warmup_steps: arguments.lr_warmup_steps,
            steps: arguments.max_train_steps,
            cycles: arguments.lr_num_cycles,
            power: arguments.lr_power,
        },
        guidance: arguments.vsd_guidance.then(|| (arguments.cfg_vsd, arguments.neg_prompt.clone())),
        subtract_shift: !arguments.shift_as_inference,
        base: arguments.mixed_precision.kind(),
        weights: Losses {
            l2: arguments.lambda_l2,
            lpips: arguments.lambda_lpips,
            vsd: arguments.lambda_vsd,
            diff: arguments.lambda_vsd_lora,
        },
        gradient_checkpointing: arguments.gradient_checkpointing,
        validation: arguments.validation_dir.clone().map(|folder| (folder, arguments.validation_steps as usize)),
        workers: arguments.dataloader_num_workers as usize,
        device: device::resolve(arguments.device).map_err(PipelineError::from)?.picture,
    })
}

/// The state to go on from.
fn resume(arguments: &Arguments) -> Result<Option<PathBuf>, UserError> {
    match &arguments.resume_from_checkpoint {
        Some(name) if name.as_os_str() == "latest" => match state::latest(&arguments.output) {
            Some(file) => Ok(Some(file)),
            None => {
                let found = format!("{} has none", arguments.output.display());
                Err(UserError::new("There is no state to go on from", found, "Leave --resume_from_checkpoint out."))
            }
        },
        file => Ok(file.clone()),
    }
}

/// RAM, without DAPE: it sees sharp pictures.
fn tagger(arguments: &Arguments, options: &Options) -> Result<Tagger, UserError> {
    let mut paths = ModelPaths::of_user();
    if let Some(file) = &arguments.ram_path {
        paths.set("ram", file.clone());
    }
    let spec = PromptSourceSpec::named("dape").ok_or_else(|| UserError::new("There is no such tagger", "dape", ""))?;
    let found = hub::prompt_source(spec, &paths, Precision::Fp32)?;
    let files = found.files.iter().filter(|(role, _)| *role != "dape");
    let plain = PromptSource { precision: Precision::Fp32, ..spec.into() };
    let source = files.fold(plain, |source, (role, path)| source.with(role, path));
    Ok(Tagger::open(&source, options.device)?)
}
