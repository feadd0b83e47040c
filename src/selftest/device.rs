//! Devices: those that are not there are refused, seeds mean the same everywhere, and one that fails is reported.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use super::{Context, Value};
use crate::base::{DeviceChoice, UserError};
use crate::pipelines::PipelineError;
use crate::runtime::{accelerator, device, rng};

/// A device that no machine has.
const ABSENT: usize = 999;

pub(super) fn absent_is_refused(context: &Context) -> Value {
    let refused = device::resolve(DeviceChoice::Cuda(ABSENT));
    Ok(Some(match refused {
        Err(error) => {
            context.note(error.to_string());
            0.0
        }
        Ok(_) => 1.0,
    }))
}

const SEEDS: [u64; 4] = [0, 42, 1 << 63, u64::MAX];
const SHAPE: [i64; 4] = [1, 16, 64, 64];

pub(super) fn noise(context: &Context) -> Value {
    let mut wrong = 0;
    for seed in SEEDS {
        let usual = rng::seeded(seed, || Tensor::f_randn(SHAPE, (Kind::Float, Device::Cpu)))?;
        // On the device and back, as a step does.
        let ours = rng::randn(seed, &SHAPE)?.f_to_device(context.devices.picture)?.f_to_device(Device::Cpu)?;
        wrong += i32::from(!ours.f_equal(&usual)?);
        let shares = usual.f_flatten(0, -1)?.f_abs()?;
        let drawn = rng::seeded(seed, || shares.f_multinomial(1, false))?;
        wrong += i32::from(!rng::multinomial(seed, &shares)?.f_equal(&drawn)?);
    }
    Ok(Some(wrong.into()))
}

/// The option of `coz selftest` that loses a device, in a process of its own.
const LOSE: &str = "--lose-device";

/// A device that hangs is not waited for longer.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn loss_is_reported(context: &Context) -> Value {
    let Device::Cuda(number) = context.devices.picture else { return Ok(None) };
    let failed = |error: std::io::Error| PipelineError::Internal(error.to_string());
    let program = std::env::current_exe().map_err(failed)?;
    let mut run = Command::new(program)
        .args(["selftest", LOSE, "--device", &format!("cuda:{number}")])
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let start = Instant::now();
    while run.try_wait().map_err(failed)?.is_none() {
        if start.elapsed() > PATIENCE {
            run.kill().map_err(failed)?;
            return Err(PipelineError::Internal(format!("it did not end within {} s", PATIENCE.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let run = run.wait_with_output().map_err(failed)?;
    let output = String::from_utf8_lossy(&run.stderr);
    if output.contains("no device") {
        // Devices can be set so that only one process uses them.
        return Ok(None);
    }
    context.note(output.lines().rev().take(3).collect::<Vec<_>>().join(" / "));
    let is_reported = run.status.code() == Some(1) && output.contains("The graphics card has stopped");
    Ok(Some(if is_reported { 0.0 } else { 1.0 }))
}

/// Has a CUDA device run into an error after which it computes nothing any more for this process, and reports it.
///
/// # Errors
/// Always: that one, or that the device did not mind.
pub fn lose_device(choice: DeviceChoice) -> Result<(), UserError> {
    let lose = || -> Result<(), PipelineError> {
        let device = device::resolve(choice)?.picture;
        let table = Tensor::f_zeros([4, 4], (Kind::Float, device))?;
        let beyond = Tensor::f_full([4], 1_000_000, (Kind::Int64, device))?;
        let _row = table.f_index_select(0, &beyond)?;
        accelerator::wait(device)?;
        // Everything else fails then too.
        let _ones = Tensor::f_ones([4], (Kind::Float, device))?;
        accelerator::wait(device)?;
        Err(PipelineError::Internal("the device did not mind an index beyond the end".into()))
    };
    Ok(lose()?)
}
