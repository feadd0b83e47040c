//! The devices that libtorch computes on.

use tch::{Cuda, Device};

use super::accelerator;
use crate::base::DeviceChoice;

/// Where the parts of a model run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Devices {
    /// What reads and writes prompts.
    pub text: Device,
    /// What sees and makes pictures.
    pub picture: Device,
}

/// A device that is not there was asked for.
#[derive(Debug, thiserror::Error)]
#[error("no device {device}: this machine has {}", match available { 0 => "no CUDA device".to_owned(), n => format!("{n} CUDA devices, cuda:0 to cuda:{}", n - 1) })]
pub struct NoDevice {
    /// As asked for.
    pub device: String,
    /// How many CUDA devices there are.
    pub available: usize,
}

/// The devices behind a choice.
///
/// # Errors
/// Where one of them is not there.
pub fn resolve(choice: DeviceChoice) -> Result<Devices, NoDevice> {
    let available = cuda_devices();
    let cuda = |number: usize| match number < available {
        true => Ok(Device::Cuda(number)),
        false => Err(NoDevice { device: format!("cuda:{number}"), available }),
    };
    let (text, picture) = match choice {
        DeviceChoice::TwoCuda(first, second) => (cuda(first)?, cuda(second)?),
        DeviceChoice::Cuda(number) => (cuda(number)?, cuda(number)?),
        DeviceChoice::Auto if available > 0 => (Device::Cuda(0), Device::Cuda(0)),
        DeviceChoice::Auto | DeviceChoice::Cpu => (Device::Cpu, Device::Cpu),
    };
    Ok(Devices { text, picture })
}

/// How many CUDA devices libtorch can use.
pub fn cuda_devices() -> usize {
    accelerator::cuda_support();
    if Cuda::is_available() { usize::try_from(Cuda::device_count()).unwrap_or(0) } else { 0 }
}

/// The libtorch the program was built with.
pub fn libtorch_version() -> &'static str {
    option_env!("COZ_LIBTORCH_VERSION").unwrap_or("unknown")
}

/// Threads that models use on the processor.
pub fn cpu_threads() -> usize {
    usize::try_from(tch::get_num_threads()).unwrap_or(1)
}
