//! Where models run.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tch::{Cuda, Device};

use super::StepError;

/// `auto`, `cpu`, `cuda` or `cuda:n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// The first CUDA device where there is one, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A CUDA device by number.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|number| number.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| format!("expected auto, cpu, cuda or cuda:NUMBER, found {text:?}")),
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> Self {
        choice.to_string()
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl DeviceChoice {
    /// The device itself; an error where it is not there.
    pub(super) fn resolve(self) -> Result<Device, StepError> {
        let available = cuda_devices();
        match self {
            Self::Cuda(number) if number >= available => {
                Err(StepError::NoDevice { device: self.to_string(), available })
            }
            Self::Cuda(number) => Ok(Device::Cuda(number)),
            Self::Auto if available > 0 => Ok(Device::Cuda(0)),
            Self::Auto | Self::Cpu => Ok(Device::Cpu),
        }
    }

    /// The device among so many CUDA devices, as people read it: `cuda:0` or `cpu`, with `auto` resolved.
    pub fn among(self, cuda_devices: usize) -> String {
        match self {
            Self::Auto if cuda_devices > 0 => "cuda:0".into(),
            Self::Auto | Self::Cpu => "cpu".into(),
            Self::Cuda(number) if number < cuda_devices => format!("cuda:{number}"),
            Self::Cuda(number) => format!("cuda:{number} (not there)"),
        }
    }
}

/// How many CUDA devices libtorch can use.
pub fn cuda_devices() -> usize {
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
