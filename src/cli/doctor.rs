//! `coz doctor`: what a bug report needs, in plain lines.

use std::process::ExitCode;

use crate::base::{BACKBONES, Folders, Precision};
use crate::hub::ModelPaths;
use crate::runtime::accelerator::{CudaSupport, cuda_support};
use crate::runtime::device;
use crate::runtime::driver::{CudaDevice, driver};
use crate::runtime::memory::free_on_cuda;
use crate::{base, hub};

/// Lines of the log that a report needs.
const LOG_LINES: usize = 50;

/// Runs the command.
pub(super) fn run() -> anyhow::Result<ExitCode> {
    let line = |name: &str, value: &str| println!("{name:<14}{value}");
    line("coz", env!("CARGO_PKG_VERSION"));
    line("system", &format!("{} {}", std::env::consts::OS, std::env::consts::ARCH));
    line("libtorch", device::libtorch_version());
    line("threads", &format!("{} for models", device::cpu_threads()));
    if let Some(free) = base::memory::available() {
        line("memory", &format!("{:.1} GB free", free as f64 / 1e9));
    }
    cuda().iter().enumerate().for_each(|(i, text)| line(if i == 0 { "cuda" } else { "" }, text));
    for adapter in adapters() {
        line("graphics", &adapter);
    }
    match Folders::of_user() {
        Some(folders) => {
            line("config", &folders.config.display().to_string());
            line("data", &folders.data.display().to_string());
            line("models", &folders.models.display().to_string());
            let files = std::fs::read_dir(&folders.models).into_iter().flatten().flatten();
            for file in files.filter(|entry| entry.path().is_file()) {
                let megabytes = file.metadata().map_or(0.0, |metadata| metadata.len() as f64 / 1e6);
                line("", &format!("{} ({megabytes:.1} MB)", file.file_name().to_string_lossy()));
            }
        }
        None => line("folders", "none: this user has no home"),
    }
    for spec in BACKBONES.into_iter().filter(|spec| spec.is_diffusion()) {
        match hub::backbone(spec, &ModelPaths::of_user(), Precision::Auto) {
            Ok(backbone) => {
                line(spec.id, &backbone.main_file().map_or_else(String::new, |folder| folder.display().to_string()));
                for file in hub::missing(&backbone) {
                    line("", &format!("missing: {}", file.display()));
                }
            }
            Err(problem) => line(spec.id, &format!("not found: {}", problem.details)),
        }
    }
    for (i, backbone) in hub::backbones(&hub::ModelPaths::of_user()).iter().enumerate() {
        line(if i == 0 { "best first" } else { "" }, &backbone.name());
    }
    if let Some(folders) = Folders::of_user() {
        let file = folders.log_file();
        line("log", &file.display().to_string());
        for record in base::log::tail(&file, LOG_LINES) {
            println!("{record}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The NVIDIA driver and its devices, numbered as libtorch does, and why those are not used that are not.
fn cuda() -> Vec<String> {
    let Some(driver) = driver() else { return vec!["no NVIDIA driver".into()] };
    let version = driver.cuda.map_or_else(String::new, |(major, minor)| format!(" for CUDA {major}.{minor}"));
    let mut lines = vec![format!("a driver{version}")];
    let why_none = device::why_none();
    if let Some(reason) = &why_none {
        lines.push(format!("not used: {reason}"));
    }
    if let CudaSupport::NoLibraries(_) = cuda_support() {
        lines.push("`cargo xtask setup` adds it (an installed program: `coz --fetch-libtorch`)".into());
    }
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    for (number, CudaDevice { name, capability: (major, minor), memory }) in driver.devices.iter().flatten().enumerate()
    {
        let state = match why_none.is_none().then(|| device::usable(number)) {
            None => String::new(),
            Some(Err(reason)) => format!(", not used: {reason}"),
            Some(Ok(())) => {
                free_on_cuda(number).map_or_else(String::new, |free| format!(", {:.1} GB of it free", gigabytes(free)))
            }
        };
        let memory = gigabytes(*memory);
        lines.push(format!("cuda:{number} {name}, compute capability {major}.{minor}, {memory:.1} GB{state}"));
    }
    lines
}

fn adapters() -> Vec<String> {
    let backends = wgpu::Backends::PRIMARY;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let adapters = pollster::block_on(instance.enumerate_adapters(backends));
    let describe = |info: wgpu::AdapterInfo| {
        format!("{} ({:?}, {:?}, {})", info.name, info.backend, info.device_type, info.driver_info)
    };
    let found: Vec<String> = adapters.iter().map(|adapter| describe(adapter.get_info())).collect();
    if found.is_empty() { vec!["none: install a Vulkan driver (Debian: mesa-vulkan-drivers)".into()] } else { found }
}
