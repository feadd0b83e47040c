//! System packages: installed when root, else named in one command.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::bail;

/// To compile: torch-sys, libjpeg and openh264 are C and C++, the latter two with assembler for speed.
pub const BUILD: &[&str] = &["g++", "nasm"];
/// To open a window on X11 or Wayland; a software Vulkan driver comes on top where there is none at all.
pub const WINDOW: &[&str] =
    &["g++", "nasm", "libvulkan1", "libx11-xcb1", "libxcursor1", "libxi6", "libxkbcommon-x11-0"];
/// To draw windows without a screen and look at them.
pub const TEST: &[&str] = &[
    "g++",
    "nasm",
    "libvulkan1",
    "libx11-xcb1",
    "libxcursor1",
    "libxi6",
    "libxkbcommon-x11-0",
    "mesa-vulkan-drivers",
    "x11-apps",
    "xdotool",
    "xvfb",
];

/// Sees to it that these are installed. Where packages are not Debian's, what is missing shows when it is used.
pub fn ensure(packages: &[&str]) -> anyhow::Result<()> {
    if !cfg!(target_os = "linux") || !Path::new("/usr/bin/dpkg-query").exists() {
        return Ok(());
    }
    let mut missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    let drivers = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"].iter().flat_map(std::fs::read_dir).flatten().count();
    if packages.contains(&"libvulkan1") && drivers == 0 && !missing.contains(&"mesa-vulkan-drivers") {
        missing.push("mesa-vulkan-drivers");
    }
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !is_root() {
        bail!("system packages are missing; this installs them:\n  sudo apt-get install {list}");
    }
    eprintln!("Installing system packages: {list}");
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null());
        apt
    };
    crate::run(apt().args(["update", "-qq"]))?;
    crate::run(apt().args(["install", "-y", "-qq", "--no-install-recommends"]).args(&missing))
}

fn is_installed(package: &str) -> bool {
    let query = Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]).output();
    query.is_ok_and(|output| output.stdout == b"installed")
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
