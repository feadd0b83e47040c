//! `coz doctor`: what a bug report needs, in plain lines.

use std::process::{Command, ExitCode};

use crate::hub;
use crate::settings::{Folders, Settings};
use crate::step::{self, CudaSupport};

/// Runs the command.
pub fn run() -> anyhow::Result<ExitCode> {
    let line = |name: &str, value: &str| println!("{name:<14}{value}");
    line("coz", env!("CARGO_PKG_VERSION"));
    line("system", &format!("{} {}", std::env::consts::OS, std::env::consts::ARCH));
    line("libtorch", step::libtorch_version());
    line("threads", &format!("{} for models", step::cpu_threads()));
    if let Some(free) = step::free_memory_of_machine() {
        line("memory", &format!("{:.1} GB free", free as f64 / 1e9));
    }
    match step::cuda_support() {
        CudaSupport::NoDriver => line("cuda", "0 devices usable (no NVIDIA driver)"),
        CudaSupport::NoLibraries(error) => {
            line("cuda", "0 devices usable: there is an NVIDIA driver, but libtorch's CUDA half is not here");
            line("", &format!("({error})"));
            line(
                "",
                "`cargo xtask setup` adds it (an installed program: `coz --fetch-libtorch`); CUDA 13 needs a driver 580 or later",
            );
        }
        CudaSupport::Loaded => line("cuda", &format!("{} devices usable", step::cuda_devices())),
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
    match hub::sd3(None).map(hub::with_training) {
        Ok(files) => {
            line("sd3", &files.model.display().to_string());
            for file in files.missing() {
                line("", &format!("missing: {}", file.display()));
            }
        }
        Err(_) => line("sd3", &format!("not found ({})", hub::SD3)),
    }
    for (i, backbone) in hub::backbones().iter().enumerate() {
        line(if i == 0 { "best first" } else { "" }, &backbone.name());
    }
    let (settings, problem) = Settings::load();
    line("model", &if settings.is_auto_backbone() { "the best".into() } else { settings.backbone.name() });
    if let Some(problem) = problem {
        line("settings", &problem);
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
