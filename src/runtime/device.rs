//! The devices that libtorch computes on.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tch::{Cuda, Device, Kind, TchError, Tensor};

use super::accelerator::{self, CudaSupport, cuda_support};
use super::driver::{CudaDevice, Driver, driver};
use crate::base::DeviceChoice;

/// Where the parts of a model run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Devices {
    /// What reads and writes prompts.
    pub text: Device,
    /// What sees and makes pictures.
    pub picture: Device,
}

impl Devices {
    /// Whether the choice still stands for them: a device may have failed since, or work again.
    pub fn are_those_of(self, choice: DeviceChoice) -> bool {
        resolve(choice).is_ok_and(|devices| devices == self)
    }
}

/// A device was asked for that is not there, or does not compute.
#[derive(Clone, Debug, thiserror::Error)]
#[error("no device {device}: {reason}")]
pub struct NoDevice {
    /// As asked for.
    pub device: String,
    /// What there is instead, or what is wrong with it.
    pub reason: String,
}

/// The devices behind a choice. `auto` is the first CUDA device that works, else the processor.
///
/// # Errors
/// Where one of them is not there or does not work.
pub fn resolve(choice: DeviceChoice) -> Result<Devices, NoDevice> {
    let cuda = |number: usize| match usable(number) {
        Ok(()) => Ok(Device::Cuda(number)),
        Err(reason) => Err(NoDevice { device: format!("cuda:{number}"), reason }),
    };
    let (text, picture) = match choice {
        DeviceChoice::TwoCuda(first, second) => (cuda(first)?, cuda(second)?),
        DeviceChoice::Cuda(number) => (cuda(number)?, cuda(number)?),
        DeviceChoice::Auto => {
            let device = usable_devices().first().map_or(Device::Cpu, |&number| Device::Cuda(number));
            (device, device)
        }
        DeviceChoice::Cpu => (Device::Cpu, Device::Cpu),
    };
    Ok(Devices { text, picture })
}

/// How many CUDA devices libtorch sees; not all of them need work.
pub fn cuda_devices() -> usize {
    match cuda_support() {
        CudaSupport::Loaded if Cuda::is_available() => usize::try_from(Cuda::device_count()).unwrap_or(0),
        _ => 0,
    }
}

/// The numbers of the CUDA devices that can be used, as far as is known: the first of them was tried.
pub fn usable_devices() -> Vec<usize> {
    let devices = 0..cuda_devices();
    let first = devices.clone().find(|&number| usable(number).is_ok());
    let tried = tried();
    devices
        .filter(|number| first.is_some_and(|first| first <= *number && !matches!(tried.get(number), Some(Err(_)))))
        .collect()
}

/// Where each of so many engines runs: `auto` is all devices that can be used, in turns.
pub fn spread(choice: DeviceChoice, engines: usize) -> Vec<DeviceChoice> {
    let devices = if choice == DeviceChoice::Auto && engines > 1 { usable_devices() } else { Vec::new() };
    let works: Vec<usize> = devices.into_iter().filter(|&number| usable(number).is_ok()).collect();
    match works.len() {
        0 | 1 => vec![choice; engines],
        _ => works.into_iter().cycle().take(engines).map(DeviceChoice::Cuda).collect(),
    }
}

/// What came of trying devices: why they do not work.
static TRIED: Mutex<BTreeMap<usize, Result<(), String>>> = Mutex::new(BTreeMap::new());

fn tried() -> MutexGuard<'static, BTreeMap<usize, Result<(), String>>> {
    TRIED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a CUDA device computes: tried once, and again after [`try_failed_again`] and [`try_again`].
///
/// # Errors
/// Why not, in words.
pub fn usable(number: usize) -> Result<(), String> {
    let available = cuda_devices();
    if number >= available {
        return Err(match (available, why_none()) {
            (0, Some(reason)) => reason,
            (0, None) => "this machine has no CUDA device".into(),
            (1, _) => "this machine has 1 CUDA device, cuda:0".into(),
            (count, _) => format!("this machine has {count} CUDA devices, cuda:0 to cuda:{}", count - 1),
        });
    }
    tried().entry(number).or_insert_with(|| try_device(number)).clone()
}

/// Devices that did not work are tried once more when they are asked for: other programs may have left them meanwhile.
pub fn try_failed_again() {
    tried().retain(|_, outcome| outcome.is_ok());
}

/// These are tried once more when they are asked for: one of them failed in a way after which it may compute nothing more.
pub fn try_again(devices: Devices) {
    tried().retain(|&number, _| ![devices.text, devices.picture].contains(&Device::Cuda(number)));
}

/// What libtorch and NVIDIA's libraries say after which a device computes nothing any more for this process.
const LOST: [&str; 12] = [
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "launch failure",
    "launch timed out",
    "device-side assert",
    "device is lost",
    "uncorrectable ECC",
    "busy or unavailable",
    "CUDA error: unknown error",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_EXECUTION_FAILED",
];

/// Whether an error says that a device may compute nothing any more for this process.
pub fn is_lost(error: &str) -> bool {
    LOST.iter().any(|words| error.contains(words))
}

fn try_device(number: usize) -> Result<(), String> {
    let device = Device::Cuda(number);
    let sum = || -> Result<f64, TchError> {
        let sum = Tensor::f_ones([1], (Kind::Float, device))?.f_add_scalar(1.0)?;
        accelerator::wait(device)?;
        sum.f_double_value(&[])
    };
    let reason = match sum() {
        Ok(2.0) => return Ok(()),
        Ok(other) => format!("it computes 1 + 1 = {other}"),
        Err(error) => in_words(&error.to_string(), known(number)),
    };
    tracing::warn!("cuda:{number} is not used: {reason}");
    Err(reason)
}

/// What the driver tells of a device.
fn known(number: usize) -> Option<&'static CudaDevice> {
    driver()?.devices.as_ref().ok()?.get(number)
}

/// What libtorch says of a device that it could not compute on, so that one knows what to do.
fn in_words(said: &str, device: Option<&CudaDevice>) -> String {
    if said.contains("no kernel image") {
        let (major, minor) = device.map_or((0, 0), |device| device.capability);
        let name = device.map_or("the card", |device| device.name.as_str());
        return format!(
            "{name} (compute capability {major}.{minor}) is not among those that this libtorch was built for"
        );
    }
    if said.contains("out of memory") {
        return "other programs have taken all of its memory".into();
    }
    if is_lost(said) {
        return "it has stopped; start the program again to use it".into();
    }
    said.lines().next().unwrap_or_default().to_owned()
}

/// Why libtorch sees no CUDA device, where there is a driver.
pub fn why_none() -> Option<String> {
    let driver = driver()?;
    match cuda_support() {
        CudaSupport::NoDriver => None,
        CudaSupport::NoLibraries(said) => Some(format!("libtorch's CUDA half is not here ({said})")),
        CudaSupport::Loaded => too_old(driver, option_env!("COZ_LIBTORCH_CUDA")).or_else(|| {
            let said = driver.devices.as_ref().err()?;
            Some(match said.contains("no CUDA-capable device") {
                true => "the NVIDIA driver sees no card".into(),
                false => format!("the NVIDIA driver does not work: {said}"),
            })
        }),
    }
}

/// Whether the driver is older than libtorch's CUDA, such as "13.0".
fn too_old(driver: &Driver, needed: Option<&str>) -> Option<String> {
    let (major, minor) = driver.cuda?;
    let needed = needed?;
    let needed_major: i32 = needed.split('.').next()?.parse().ok()?;
    (major < needed_major).then(|| {
        format!(
            "the NVIDIA driver is too old: it is for CUDA {major}.{minor}, this libtorch needs one for CUDA {needed}"
        )
    })
}

/// Whether a device multiplies in bfloat16: CUDA devices from compute capability 8 on do, older ones only pretend to.
pub fn has_bf16(device: Device) -> bool {
    match device {
        Device::Cuda(number) => known(number).is_none_or(|device| device.capability.0 >= 8),
        _ => accelerator::processor_has_bf16(),
    }
}

/// The libtorch the program was built with.
pub fn libtorch_version() -> &'static str {
    option_env!("COZ_LIBTORCH_VERSION").unwrap_or("unknown")
}

/// Threads that models use on the processor.
pub fn cpu_threads() -> usize {
    usize::try_from(tch::get_num_threads()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_device_is_told_in_words() {
        let card = CudaDevice { name: "GTX 1080".into(), capability: (6, 1), memory: 8 << 30 };
        let said = "CUDA error: no kernel image is available for execution on the device\nmore";
        let message = in_words(said, Some(&card));
        assert_eq!(message, "GTX 1080 (compute capability 6.1) is not among those that this libtorch was built for");
        assert!(in_words("CUDA error: out of memory", None).contains("other programs"));
        assert!(in_words("CUDA error: an illegal memory access was encountered", None).contains("it has stopped"));
        assert_eq!(in_words("something else\nand a trace", None), "something else");

        let driver = |cuda| Driver { cuda: Some(cuda), devices: Ok(vec![card.clone()]) };
        assert!(too_old(&driver((12, 4)), Some("13.0")).is_some_and(|reason| reason.contains("CUDA 12.4")));
        assert_eq!(too_old(&driver((13, 0)), Some("13.2")), None, "newer ones of the same number do");
        assert_eq!(too_old(&driver((12, 4)), None), None, "without CUDA nothing is needed");
    }

    #[test]
    fn devices_that_failed_are_tried_again() {
        let error = resolve(DeviceChoice::Cuda(7)).expect_err("there is none").to_string();
        assert!(error.contains("no device cuda:7: this machine has"), "{error}");
        assert_eq!(resolve(DeviceChoice::Auto).expect("there is the processor").text, Device::Cpu);
        // No machine has them.
        tried().extend([(900, Ok(())), (901, Err("it was busy".to_owned())), (902, Ok(()))]);
        try_failed_again();
        let known = || tried().keys().copied().filter(|&number| number >= 900).collect::<Vec<_>>();
        assert_eq!(known(), [900, 902]);
        try_again(Devices { text: Device::Cuda(900), picture: Device::Cpu });
        assert_eq!(known(), [902]);
        tried().clear();
        assert_eq!(DeviceChoice::Auto.among(&usable_devices()) == "cpu", usable_devices().is_empty());
    }
}
