//! `coz train sr`: the reference's trainer of the restoring model's LoRAs, by its option names.

mod arguments;
mod dry_run;
mod progress;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

pub(in crate::cli::train) use arguments::Arguments;

use crate::base::{BackboneSpec, DeviceChoice, MetricSpec, Precision, PromptSource, PromptSourceSpec, UserError};
use crate::cli::interruption::Interruption;
use crate::cli::lock::alone;
use crate::cli::train::config_file;
use crate::hub;
use crate::hub::ModelPaths;
use crate::pipelines::PipelineError;
use crate::pipelines::caption::tags::Tagger;
use crate::runtime::device::Devices;
use crate::runtime::{accelerator, device};
use crate::train::distributed::{Place, World};
use crate::train::sr::adamw::AdamWConfig;
use crate::train::sr::data::{Dataset, Lists};
use crate::train::sr::losses::Losses;
use crate::train::sr::options::{Event, Options};
use crate::train::sr::preview::preview;
use crate::train::sr::schedule::{LrSchedule, LrScheduler};
use crate::train::sr::trainer::train;
use crate::train::sr::{degradation, replay, state};
use progress::Progress;

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
        let dataset = Dataset::open(&lists(arguments)?).map_err(UserError::from)?;
        // Captions only where the tagger is here: crops and degradations need no model.
        let devices = device::resolve(arguments.device).map_err(PipelineError::from)?;
        let mut tagger = if arguments.null_prompt { None } else { tagger(arguments, devices).ok() };
        let sheet = preview(&dataset, arguments.seed, count as usize, &mut tagger, &arguments.output);
        let sheet = sheet.map_err(UserError::from)?;
        eprintln!("wrote {}", sheet.display());
    }
    if arguments.replay_degradation.is_some() || arguments.replay.is_some() || arguments.preview_data.is_some() {
        return Ok(ExitCode::SUCCESS);
    }
    let place = Place::of(&|name| std::env::var(name).ok()).map_err(UserError::from)?;
    let devices = device::resolve(device_of(arguments.device, place.as_ref())).map_err(PipelineError::from)?;
    let options = options(arguments, devices)?;
    let tagger = (!arguments.null_prompt).then(|| tagger(arguments, devices)).transpose()?;
    accelerator::allow_tf32(arguments.allow_tf32);
    if arguments.dry_run {
        return dry_run::run(&options, tagger);
    }
    // Who reads its lines may go; the training goes on.
    #[cfg(unix)]
    // SAFETY: the signal is ignored, as it is in every Rust program at first.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
    let interruption = Interruption::watch_to_the_end();
    let mut world = match &place {
        Some(place) => {
            say(&format!("rank {} of {} meets the others at {}", place.rank, place.size, place.address()));
            World::connect(place, Duration::from_secs(arguments.ddp_timeout)).map_err(UserError::from)?
        }
        None => World::alone(),
    };
    let is_first = world.is_first();
    let progress = Progress::new(&options, &world);
    let mut on_event = |event: Event| {
        if let (Event::Begins(..), true) = (&event, is_first)
            && let Err(problem) = config_file::save(arguments, &arguments.output.join("config.toml"))
        {
            say(&problem.to_string());
        }
        progress.show(&event);
        !interruption.is_requested()
    };
    let work = || {
        if arguments.ddp_backend == "nccl" {
            world.use_nccl(options.device).map_err(UserError::from)?;
        }
        let made = train(&options, &mut world, tagger, &mut on_event).map_err(UserError::from)?;
        progress.end(made);
        Ok(())
    };
    let done = if is_first { alone(&arguments.output, work) } else { work() };
    if let Err(problem) = &done {
        world.fail(problem);
    }
    done?;
    Ok(ExitCode::SUCCESS)
}

/// On a terminal that may be closed.
fn say(text: &str) {
    _ = writeln!(std::io::stderr(), "{text}");
}

/// The lists, and how often each enters an epoch.
fn lists(arguments: &Arguments) -> Result<Lists, UserError> {
    let (lists, times) = (&arguments.dataset_txt_paths_list, &arguments.dataset_prob_paths_list);
    if !times.is_empty() && (times.len() != lists.len() || times.iter().all(|&times| times == 0)) {
        let details = format!("{} lists, and {times:?} is how often they enter", lists.len());
        return Err(UserError::new("The lists and their numbers differ", details, "Name a number for each list."));
    }
    let files = lists.iter().cloned().zip(times.iter().copied().chain(std::iter::repeat(1))).collect();
    Ok(Lists { files, side: arguments.resolution, skip_bad: arguments.skip_bad })
}

/// Of processes on one machine each takes a device of its own.
fn device_of(choice: DeviceChoice, place: Option<&Place>) -> DeviceChoice {
    match place {
        Some(place) if choice == DeviceChoice::Auto && place.local_rank < device::cuda_devices() => {
            DeviceChoice::Cuda(place.local_rank)
        }
        _ => choice,
    }
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
        output: arguments.output.clone(),
        resume: resume(arguments),
        batch: arguments.train_batch_size,
        accumulation: arguments.gradient_accumulation_steps,
        steps: arguments.max_train_steps,
        checkpointing_steps: arguments.checkpointing_steps,
        checkpoints_total_limit: arguments.checkpoints_total_limit,
        rank: arguments.lora_rank,
        seed: arguments.seed,
        learning_rates: [arguments.learning_rate, arguments.learning_rate_vae.unwrap_or(arguments.learning_rate)],
        schedule: LrSchedule {
            scheduler: arguments.lr_scheduler.parse().unwrap_or(LrScheduler::Constant),
            warmup_steps: arguments.lr_warmup_steps,
            steps: arguments.max_train_steps,
            cycles: arguments.lr_num_cycles,
            power: arguments.lr_power,
        },
        settings: AdamWConfig {
            betas: [arguments.adam_beta1, arguments.adam_beta2],
            epsilon: arguments.adam_epsilon,
            weight_decay: arguments.adam_weight_decay,
            max_grad_norm: arguments.max_grad_norm,
        },
        weights: Losses {
            l2: arguments.lambda_l2,
            lpips: arguments.lambda_lpips,
            vsd: arguments.lambda_vsd,
            diff: arguments.lambda_vsd_lora,
        },
        guidance: arguments.vsd_guidance.then(|| (arguments.cfg_vsd, arguments.neg_prompt.clone())),
        subtract_shift: !arguments.shift_as_inference,
        precision: arguments.mixed_precision.precision(),
        gradient_checkpointing: arguments.gradient_checkpointing,
        memory: arguments.memory,
        workers: arguments.dataloader_num_workers.max(1) as usize,
        device: devices.picture,
        validation: arguments.validation_dir.clone().map(|folder| (folder, arguments.validation_steps)),
        tensorboard: (arguments.report_to == "tensorboard").then(|| arguments.output.join(&arguments.logging_dir)),
    })
}

/// The state to go on from.
fn resume(arguments: &Arguments) -> Option<PathBuf> {
    match &arguments.resume_from_checkpoint {
        Some(name) if name.as_os_str() == "latest" => {
            let latest = state::latest(&arguments.output);
            if latest.is_none() {
                say(&format!("{} has no state to go on from: a new training begins", arguments.output.display()));
            }
            latest
        }
        file => file.clone(),
    }
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
