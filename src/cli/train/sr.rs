//! `coz train sr`: the reference's trainer of the restoring model's LoRAs, by its option names.

mod arguments;
mod dry_run;
mod progress;

use std::process::ExitCode;

pub(in crate::cli::train) use arguments::Arguments;

use super::processes;
use crate::base::{BackboneSpec, MetricSpec, Precision, PromptSource, PromptSourceSpec, UserError};
use crate::hub;
use crate::hub::ModelPaths;
use crate::pipelines::PipelineError;
use crate::pipelines::caption::tags::Tagger;
use crate::runtime::device;
use crate::runtime::device::Devices;
use crate::train::sr::data::{Dataset, Lists};
use crate::train::sr::losses::Losses;
use crate::train::sr::options::{Event, Options};
use crate::train::sr::preview::preview;
use crate::train::sr::trainer::train;
use crate::train::sr::{degradation, replay, state};
use progress::Progress;

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if let Some(file) = &arguments.replay_degradation {
        let written = degradation::replay::replay(file, &arguments.shared.output).map_err(UserError::from)?;
        eprintln!("wrote {}", written.display());
    }
    if let Some(file) = &arguments.replay {
        let checkpoints = arguments.shared.gradient_checkpointing;
        let steps = replay::replay(file, &arguments.shared.output, checkpoints).map_err(UserError::from)?;
        eprintln!("{steps} steps: {}", arguments.shared.output.display());
    }
    if let Some(count) = arguments.preview_data {
        let dataset = Dataset::open(&lists(arguments)?).map_err(UserError::from)?;
        // Captions only where the tagger is here: crops and degradations need no model.
        let devices = device::resolve(arguments.shared.device).map_err(PipelineError::from)?;
        let mut tagger = if arguments.null_prompt { None } else { tagger(arguments, devices).ok() };
        let sheet = preview(&dataset, arguments.shared.seed, count as usize, &mut tagger, &arguments.shared.output);
        let sheet = sheet.map_err(UserError::from)?;
        eprintln!("wrote {}", sheet.display());
    }
    if arguments.replay_degradation.is_some() || arguments.replay.is_some() || arguments.preview_data.is_some() {
        return Ok(ExitCode::SUCCESS);
    }
    let (place, devices) = processes::place(&arguments.shared)?;
    let options = options(arguments, devices)?;
    let tagger = (!arguments.null_prompt).then(|| tagger(arguments, devices)).transpose()?;
    if arguments.dry_run {
        return dry_run::run(&options, tagger);
    }
    processes::run(&arguments.shared, (place, devices), |world, interruption| {
        let progress = Progress::new(&options, world);
        let is_first = world.is_first();
        let mut on_event = |event: Event| {
            if let (Event::Begins(..), true) = (&event, is_first) {
                processes::save_options(arguments, &arguments.shared);
            }
            progress.show(&event);
            !interruption.is_requested()
        };
        let made = train(&options, world, tagger, &mut on_event)?;
        progress.end(made);
        Ok(())
    })
}

/// The lists, and how often each enters an epoch.
fn lists(arguments: &Arguments) -> Result<Lists, UserError> {
    let (lists, times) = (&arguments.dataset_txt_paths_list, &arguments.dataset_prob_paths_list);
    if !times.is_empty() && (times.len() != lists.len() || times.iter().all(|&times| times == 0)) {
        let details = format!("{} lists, and {times:?} is how often they enter", lists.len());
        return Err(UserError::new("The lists and their numbers differ", details, "Name a number for each list."));
    }
    let files = lists.iter().cloned().zip(times.iter().copied().chain(std::iter::repeat(1))).collect();
    Ok(Lists { files, side: arguments.resolution, skip_bad: arguments.shared.skip_bad })
}

fn options(arguments: &Arguments, devices: Devices) -> Result<Options, UserError> {
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
        let hint = "Name their folder with --metrics_weights, or get them with `coz models download vgg16 lpips`.";
        return Err(UserError::new("LPIPS lacks its weights", names.join(" and "), hint));
    };
    Ok(Options {
        sd3,
        lpips: [vgg, lpips],
        lists: lists(arguments)?,
        output: arguments.shared.output.clone(),
        resume: arguments.shared.resume(state::latest),
        batch: arguments.train_batch_size,
        accumulation: arguments.gradient_accumulation_steps,
        steps: arguments.max_train_steps,
        checkpointing_steps: arguments.checkpointing_steps,
        checkpoints_total_limit: arguments.shared.checkpoints_total_limit,
        rank: arguments.lora_rank,
        seed: arguments.shared.seed,
        learning_rates: [arguments.learning_rate, arguments.learning_rate_vae.unwrap_or(arguments.learning_rate)],
        schedule: arguments.shared.schedule(arguments.max_train_steps),
        settings: arguments.shared.adamw(arguments.adam_beta2, arguments.adam_weight_decay),
        weights: Losses {
            l2: arguments.lambda_l2,
            lpips: arguments.lambda_lpips,
            vsd: arguments.lambda_vsd,
            diff: arguments.lambda_vsd_lora,
        },
        guidance: arguments.vsd_guidance.then(|| (arguments.cfg_vsd, arguments.neg_prompt.clone())),
        subtract_shift: !arguments.shift_as_inference,
        precision: arguments.mixed_precision.precision(),
        gradient_checkpointing: arguments.shared.gradient_checkpointing,
        memory: arguments.memory,
        workers: arguments.dataloader_num_workers.max(1) as usize,
        device: devices.picture,
        validation: arguments.validation_dir.clone().map(|folder| (folder, arguments.validation_steps)),
        tensorboard: arguments.shared.tensorboard(),
    })
}

/// RAM, without DAPE: it sees sharp pictures.
fn tagger(arguments: &Arguments, devices: Devices) -> Result<Tagger, UserError> {
    let mut paths = ModelPaths::of_user();
    let files = [
        ("ram", &arguments.ram_path),
        ("tags", &arguments.ram_tag_list),
        ("thresholds", &arguments.ram_tag_thresholds),
    ];
    for (id, file) in files {
        if let Some(file) = file {
            paths.set(id, file.clone());
        }
    }
    let spec = PromptSourceSpec::named("dape").ok_or_else(|| UserError::new("There is no such tagger", "dape", ""))?;
    let found = hub::prompt_source(spec, &paths, Precision::Fp32)?;
    let files = found.files.iter().filter(|(role, _)| *role != "dape");
    let plain = PromptSource { precision: Precision::Fp32, ..spec.into() };
    let source = files.fold(plain, |source, (role, path)| source.with(role, path));
    Ok(Tagger::open(&source, devices.picture)?)
}
