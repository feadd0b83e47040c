//! `cargo xtask dist`: archives laid out to be unpacked into `~/.local` or `/usr/local`: program, launcher, menu entry,
//! icon. The small one leaves libtorch to the launcher, which finds or fetches it; the one for machines without a
//! graphics card brings it along, without CUDA, and the Real-ESRGAN models.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::libtorch;

/// Where the archives' files come from, and where they go.
const FILES: [(&str, &str); 8] = [
    ("assets/launcher.sh", "bin/coz"),
    ("assets/libtorch.py", "share/chain-of-zoom/libtorch.py"),
    ("assets/chain-of-zoom.desktop", "share/applications/chain-of-zoom.desktop"),
    ("assets/icon.svg", "share/icons/hicolor/scalable/apps/chain-of-zoom.svg"),
    ("README.md", "share/doc/chain-of-zoom/README.md"),
    ("LICENSE-MIT", "share/doc/chain-of-zoom/LICENSE-MIT"),
    ("LICENSE-APACHE", "share/doc/chain-of-zoom/LICENSE-APACHE"),
    ("assets/niqe-notice.txt", "share/doc/chain-of-zoom/niqe-notice.txt"),
];

/// Builds them into `target/dist`.
pub fn all(root: &Path) -> anyhow::Result<()> {
    let name = format!("chain-of-zoom-{}-{}-{}", version(root)?, std::env::consts::ARCH, std::env::consts::OS);
    let libtorch = libtorch::without_cuda(root)?;
    // Where this machine has its libtorch is nobody else's business.
    let build = ["build", "--release", "--bin", "coz"];
    crate::run(Command::new(env!("CARGO")).args(build).env("COZ_RUN_PATH", "$ORIGIN/libtorch/lib"))?;
    let program = root.join("target/release/coz");
    let models = models(&program, &libtorch);
    let dist = root.join("target/dist");

    let stage = fresh(&dist, &name)?;
    put_program(root, &program, &stage)?;
    pack(&dist, &name)?;

    let name = format!("{name}-cpu");
    let stage = fresh(&dist, &name)?;
    put_program(root, &program, &stage)?;
    put_libtorch(&libtorch, &stage)?;
    match models.and_then(|models| put_models(&models, &stage)) {
        Ok(()) => {}
        Err(error) => eprintln!("{name} goes without the Real-ESRGAN models: {error:#}"),
    }
    pack(&dist, &name)
}

/// The folder of the Real-ESRGAN models, which the program itself gets.
fn models(program: &Path, libtorch: &Path) -> anyhow::Result<PathBuf> {
    crate::run(
        Command::new(program).args(["models", "download", "realesrgan"]).env("LD_LIBRARY_PATH", libtorch.join("lib")),
    )?;
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = variable("XDG_DATA_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/share")));
    Ok(data.context("no home folder")?.join("chain-of-zoom/models/realesrgan"))
}

/// An empty folder to lay an archive out in.
fn fresh(dist: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let stage = dist.join(name);
    if stage.exists() {
        fs::remove_dir_all(&stage).with_context(|| format!("cannot replace {}", stage.display()))?;
    }
    Ok(stage)
}

fn put(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to.parent().context("no folder")?)?;
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// The files right in a folder, of which `wanted` says yes to the name.
fn put_files(from: &Path, to: &Path, wanted: impl Fn(&str) -> bool) -> anyhow::Result<Vec<PathBuf>> {
    let mut done = Vec::new();
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let file = entry?;
        if file.path().is_file() && wanted(&file.file_name().to_string_lossy()) {
            done.push(to.join(file.file_name()));
            put(&file.path(), &to.join(file.file_name()))?;
        }
    }
    Ok(done)
}

fn put_program(root: &Path, program: &Path, stage: &Path) -> anyhow::Result<()> {
    for (from, to) in FILES {
        put(&root.join(from), &stage.join(to))?;
    }
    let to = stage.join("lib/chain-of-zoom/coz");
    put(program, &to)?;
    crate::run(Command::new("strip").arg(&to))
}

/// What programs need of a libtorch: libraries, all in one folder, and licences.
fn put_libtorch(libtorch: &Path, stage: &Path) -> anyhow::Result<()> {
    let to = stage.join("lib/chain-of-zoom/libtorch");
    put(&libtorch.join("version.py"), &to.join("version.py"))?;
    let libraries = put_files(&libtorch.join("lib"), &to.join("lib"), |_| true)?;
    if !libraries.iter().any(|library| library.ends_with("libtorch_cpu.so")) {
        bail!("{} has no libtorch_cpu.so", libtorch.join("lib").display());
    }
    // A fifth of it is symbols for debuggers.
    crate::run(Command::new("strip").arg("--strip-unneeded").args(libraries))?;
    // NVIDIA's own stay as they are: its licence has them passed on unchanged.
    let packages = libtorch.parent().context("no folder")?;
    put_files(&packages.join("nvidia/cu13/lib"), &to.join("lib"), |_| true)?;
    for entry in fs::read_dir(packages.join("licenses")).context("libtorch has no licences")? {
        let package = entry?;
        put_files(&package.path(), &to.join("licenses").join(package.file_name()), |_| true)?;
    }
    Ok(())
}

fn put_models(models: &Path, stage: &Path) -> anyhow::Result<()> {
    let wanted = |name: &str| name.ends_with(".safetensors") || name.starts_with("LICENSE");
    let done = put_files(models, &stage.join("share/chain-of-zoom/models"), wanted)?;
    if !done.iter().any(|file| file.ends_with("LICENSE")) {
        bail!("{} has no LICENSE, which goes with the models: delete the folder and run again", models.display());
    }
    Ok(())
}

/// Packs a folder of `dist` into an archive beside it, by what every system can unpack.
fn pack(dist: &Path, name: &str) -> anyhow::Result<()> {
    let archive = dist.join(format!("{name}.tar.gz"));
    let part = dist.join(format!("{name}.part"));
    crate::run(Command::new("tar").arg("-C").arg(dist).args(["--owner=0", "--group=0", "-czf"]).arg(&part).arg(name))?;
    fs::rename(&part, &archive)?;
    println!("{} ({:.1} MB)", archive.display(), fs::metadata(&archive)?.len() as f64 / 1e6);
    println!("unpack it with: tar -C ~/.local --strip-components=1 -xzf {name}.tar.gz");
    Ok(())
}

/// Of the program, as its manifest says.
fn version(root: &Path) -> anyhow::Result<String> {
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let line = manifest.lines().find_map(|line| line.strip_prefix("version = "));
    Ok(line.context("Cargo.toml has no version")?.trim_matches('"').to_owned())
}
