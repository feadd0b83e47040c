//! A training as one of several processes, or alone: who it is, where it computes, and who writes the results.

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use super::shared::Shared;
use super::{config_file, say};
use crate::base::{DeviceChoice, UserError};
use crate::cli::interruption::Interruption;
use crate::cli::lock::alone;
use crate::pipelines::PipelineError;
use crate::runtime::device::Devices;
use crate::runtime::{accelerator, device};
use crate::train::distributed::{Place, World};

/// Who this process is, and its devices: of processes on one machine each takes one of its own.
pub(super) fn place(shared: &Shared) -> Result<(Option<Place>, Devices), UserError> {
    accelerator::allow_tf32(shared.allow_tf32);
    let place = Place::of(&|name| std::env::var(name).ok())?;
    let choice = match &place {
        Some(place) if shared.device == DeviceChoice::Auto && place.local_rank < device::cuda_devices() => {
            DeviceChoice::Cuda(place.local_rank)
        }
        _ => shared.device,
    };
    Ok((place, device::resolve(choice).map_err(PipelineError::from)?))
}

/// Meets the others, and trains: `train` is also given what to ask whether to stop. No other run writes into the folder of results
/// meanwhile.
pub(super) fn run(
    shared: &Shared,
    (place, devices): (Option<Place>, Devices),
    train: impl FnOnce(&mut World, &Interruption) -> Result<(), UserError>,
) -> anyhow::Result<ExitCode> {
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
            World::connect(place, Duration::from_secs(shared.ddp_timeout)).map_err(UserError::from)?
        }
        None => World::alone(),
    };
    let is_first = world.is_first();
    let work = || {
        if shared.ddp_backend == "nccl" {
            world.use_nccl(devices.picture).map_err(UserError::from)?;
        }
        train(&mut world, &interruption)
    };
    let done = if is_first { alone(&shared.output, work) } else { work() };
    if let Err(problem) = &done {
        world.fail(problem);
    }
    done?;
    Ok(ExitCode::SUCCESS)
}

/// All options of a run into its folder; the training goes on without.
pub(super) fn save_options(arguments: &impl Serialize, shared: &Shared) {
    if let Err(problem) = config_file::save(arguments, &shared.output.join("config.toml")) {
        say(&problem.to_string());
    }
}
