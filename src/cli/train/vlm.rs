//! `coz train vlm`: GRPO fine-tuning of the prompt extractor.

mod arguments;
mod dry_run;
mod progress;

use std::path::Path;
use std::process::ExitCode;

pub(in crate::cli::train) use arguments::Arguments;

use super::processes;
use crate::base::{CaptionRequest, MemoryPlan, Precision, PromptSourceSpec, UserError};
use crate::hub;
use crate::hub::ModelPaths;
use crate::pipelines::PipelineError;
use crate::pipelines::caption::vlm::generate::SamplingOptions;
use crate::runtime::device;
use crate::runtime::device::Devices;
use crate::train::vlm::adapter::LoraConfig;
use crate::train::vlm::loss::{LossOptions, LossType};
use crate::train::vlm::options::{Event, Options};
use crate::train::vlm::pairs::{PairOptions, Pairs};
use crate::train::vlm::preview::preview;
use crate::train::vlm::rewards::RewardOptions;
use crate::train::vlm::rewards::critic::CriticOptions;
use crate::train::vlm::trainer::train;
use crate::train::vlm::{checkpoint, replay};
use progress::Progress;

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let shared = &arguments.shared;
    if let Some(file) = &arguments.replay {
        replay::replay(file, &shared.output).map_err(UserError::from)?;
        eprintln!("wrote {}", shared.output.display());
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(count) = arguments.preview_data {
        let pairs = Pairs::open(&pairs(arguments)).map_err(UserError::from)?;
        let sheet = preview(&pairs, shared.seed, count as usize, &shared.output).map_err(UserError::from)?;
        eprintln!("wrote {}", sheet.display());
        return Ok(ExitCode::SUCCESS);
    }
    let (place, devices) = processes::place(shared)?;
    let options = options(arguments, devices)?;
    if arguments.dry_run {
        return dry_run::run(&options);
    }
    processes::run(shared, (place, devices), |world, interruption| {
        let progress = Progress::new(&options, world);
        let is_first = world.is_first();
        let mut on_event = |event: Event| {
            if let (Event::Begins(..), true) = (&event, is_first) {
                processes::save_options(arguments, shared);
            }
            progress.show(&event);
            !interruption.is_requested()
        };
        let made = train(&options, world, &mut on_event)?;
        progress.end(made);
        Ok(())
    })
}

/// Where pairs come from.
fn pairs(arguments: &Arguments) -> PairOptions {
    PairOptions {
        photos: arguments.data.clone(),
        chains: arguments.chains.clone(),
        side: arguments.process_size,
        deeper: arguments.deeper_share,
        held_out: if arguments.validation_steps > 0 { arguments.validation_share } else { 0.0 },
        skip_bad: arguments.shared.skip_bad,
    }
}

fn rewards(arguments: &Arguments) -> Result<RewardOptions, UserError> {
    let defaults = RewardOptions::default();
    let weights = arguments.reward_weights.as_slice().try_into().ok();
    let weights = weights.filter(|weights: &[f64; 3]| weights.iter().all(|weight| weight.is_finite()));
    let wrong = || {
        let details = format!("{:?} are weights of critic, phrases and repetition", arguments.reward_weights);
        UserError::new("Three weights are needed", details, "Give them as --reward_weights 1,0.5,0.5")
    };
    Ok(RewardOptions {
        weights: weights.ok_or_else(wrong)?,
        phrases: arguments.excluded_phrases.clone().unwrap_or(defaults.phrases),
        ngram: arguments.repetition_ngram,
    })
}

/// The model's own folder for `self`; that of a name on Hugging Face.
fn critic(name: &str, model: &Path) -> Result<String, UserError> {
    if name == "self" {
        return Ok(model.display().to_string());
    }
    // What is not here may be a name; addresses and words have a colon.
    let Some(spec) = PromptSourceSpec::named("vlm_base").filter(|_| !name.contains(':') && !Path::new(name).exists())
    else {
        return Ok(name.to_owned());
    };
    let mut paths = ModelPaths::of_user();
    paths.set("vlm", name.into());
    let found = hub::prompt_source(spec, &paths, Precision::Auto)?;
    Ok(found.files.get("model").map_or_else(|| name.to_owned(), |folder| folder.display().to_string()))
}

fn options(arguments: &Arguments, devices: Devices) -> Result<Options, UserError> {
    let shared = &arguments.shared;
    let mut paths = ModelPaths::of_user();
    if let Some(folder) = &arguments.vlm_path {
        paths.set("vlm", folder.clone());
    }
    let missing = || UserError::new("There is no such model", "vlm_base", "");
    let spec = PromptSourceSpec::named("vlm_base").ok_or_else(missing)?;
    let source = hub::prompt_source(spec, &paths, arguments.mixed_precision)?;
    let model = source.files.get("model").map(ToOwned::to_owned).unwrap_or_default();
    let critic_device = match arguments.critic_device {
        Some(choice) => device::resolve(choice).map_err(PipelineError::from)?.picture,
        None => devices.picture,
    };
    let rewards = rewards(arguments)?;
    let critic = match &arguments.critic {
        Some(name) => critic(name, &model)?,
        None if rewards.needs_critic() => {
            let details = "its rating weighs the most of a prompt's reward".to_owned();
            return Err(UserError::new(
                "No critic is named",
                details,
                "Name one with --critic, such as --critic self.",
            ));
        }
        None => String::new(),
    };
    if arguments.memory == MemoryPlan::Streamed {
        let details = "gradients need all layers of the policy in memory".to_owned();
        return Err(UserError::new("The policy cannot be streamed", details, "Choose --memory staged."));
    }
    // Somebody may name the state within.
    let resume = shared.resume(checkpoint::latest);
    let resume = resume.map(|place| match place.is_file() {
        true => place.parent().unwrap_or(&place).to_owned(),
        false => place,
    });
    Ok(Options {
        model,
        adapter: arguments.vlm_lora_path.clone(),
        lora: LoraConfig { rank: arguments.lora_rank, alpha: arguments.lora_alpha, dropout: arguments.lora_dropout },
        message: arguments.prompt_message.clone().unwrap_or_else(|| CaptionRequest::default_message(true).into()),
        critic: CriticOptions {
            key: critic.parse().map(|address| hub::server_at(address).key).unwrap_or_default(),
            name: critic,
            is_expected: arguments.critic_score == "expected",
            model: arguments.critic_model.clone(),
            device: critic_device,
            precision: arguments.mixed_precision,
        },
        pairs: pairs(arguments),
        output: shared.output.clone(),
        resume,
        batch: arguments.train_batch_size,
        num_generations: arguments.num_generations as usize,
        accumulation: arguments.gradient_accumulation_steps,
        steps_per_generation: arguments.steps_per_generation,
        num_iterations: arguments.num_iterations,
        steps: arguments.max_train_steps,
        checkpointing_steps: arguments.checkpointing_steps,
        checkpoints_total_limit: shared.checkpoints_total_limit,
        seed: shared.seed,
        learning_rate: arguments.learning_rate,
        schedule: shared.schedule(arguments.max_train_steps),
        settings: shared.adamw(arguments.adam_beta2, arguments.adam_weight_decay),
        loss: LossOptions {
            loss_type: arguments.loss_type.parse().unwrap_or(LossType::Grpo),
            scale_rewards: arguments.scale_rewards == "group",
            beta: arguments.beta,
            epsilon_low: arguments.epsilon,
            epsilon_high: arguments.epsilon_high.unwrap_or(arguments.epsilon),
        },
        sampling: SamplingOptions {
            temperature: arguments.temperature,
            max_completion_length: arguments.max_completion_length,
        },
        mask_truncated: arguments.mask_truncated_completions,
        rewards,
        early_stopping_steps: arguments.early_stopping_steps,
        max_kl: arguments.max_kl,
        precision: arguments.mixed_precision,
        gradient_checkpointing: shared.gradient_checkpointing,
        memory: arguments.memory,
        device: devices.picture,
        validation: (arguments.validation_steps > 0)
            .then_some((arguments.validation_steps, arguments.validation_pairs)),
        tensorboard: shared.tensorboard(),
    })
}
