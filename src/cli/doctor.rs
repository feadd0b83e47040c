//! `coz doctor`: what a bug report needs, in plain lines.

use std::process::{Command, ExitCode};

use crate::base::{BACKBONES, Folders, Precision, Published};
use crate::hub::ModelPaths;
use crate::runtime::accelerator::{CudaSupport, cuda_support};
use crate::runtime::device;
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
    match cuda_support() {
        CudaSupport::NoDriver => line("cuda", "0 devices usable (no NVIDIA driver)"),
        CudaSupport::NoLibraries(error) => {
            line("cuda", "0 devices usable: there is an NVIDIA driver, but libtorch's CUDA half is not here");
            line("", &format!("({error})"));
            line(
                "",
                "`cargo xtask setup` adds it (an installed program: `coz --fetch-libtorch`); CUDA 13 needs a driver 580 or later",
            );
        }
        CudaSupport::Loaded => line("cuda", &format!("{} devices usable", device::cuda_devices())),
    }
    for device in cuda_memory() {
        line("", &device);
    }
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
            Err(_) => {
                let published = spec.files.iter().find_map(|file| match file.published {
                    Published::Repository(name) => Some(name),
                    Published::Path(_) | Published::Anywhere => None,
                });
                line(spec.id, &format!("not found ({})", published.unwrap_or(spec.label)));
            }
        }
    }
    for (i, backbone) in hub::backbones().iter().enumerate() {
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

/// Name and memory of each device, as the driver's own tool tells them; libtorch's bindings have no call for it.
fn cuda_memory() -> Vec<String> {
    let query = ["--query-gpu=index,name,memory.free,memory.total,driver_version", "--format=csv,noheader"];
    match Command::new("nvidia-smi").args(query).output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| match line.split(", ").collect::<Vec<_>>()[..] {
                [index, name, free, total, driver] => {
                    Some(format!("cuda:{index} {name}, {free} free of {total}, driver {driver}"))
                }
                _ => None,
            })
            .collect(),
        _ => vec!["no NVIDIA driver found (nvidia-smi)".into()],
    }
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
