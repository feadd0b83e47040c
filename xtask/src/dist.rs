//! `cargo xtask dist`: an archive laid out to be unpacked into `~/.local` or `/usr/local`: program, launcher, menu entry,
//! icon. libtorch is not in it; the launcher finds or fetches that.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

/// Where the archive's files come from, and where they go.
const FILES: [(&str, &str); 6] = [
    ("assets/launcher.sh", "bin/coz"),
    ("assets/chain-of-zoom.desktop", "share/applications/chain-of-zoom.desktop"),
    ("assets/icon.svg", "share/icons/hicolor/scalable/apps/chain-of-zoom.svg"),
    ("README.md", "share/doc/chain-of-zoom/README.md"),
    ("LICENSE-MIT", "share/doc/chain-of-zoom/LICENSE-MIT"),
    ("LICENSE-APACHE", "share/doc/chain-of-zoom/LICENSE-APACHE"),
];

/// Builds it into `target/dist`.
pub fn all(root: &Path) -> anyhow::Result<()> {
    let name = format!("chain-of-zoom-{}-{}-{}", version(root)?, std::env::consts::ARCH, std::env::consts::OS);
    // Where this machine has its libtorch is nobody else's business.
    let build = ["build", "--release", "--bin", "coz"];
    crate::run(Command::new(env!("CARGO")).args(build).env("COZ_RUN_PATH", "$ORIGIN/libtorch/lib"))?;
    let dist = root.join("target/dist");
    let stage = dist.join(&name);
    if stage.exists() {
        fs::remove_dir_all(&stage).with_context(|| format!("cannot replace {}", stage.display()))?;
    }
    let put = |from: PathBuf, to: &str| -> anyhow::Result<PathBuf> {
        let to = stage.join(to);
        fs::create_dir_all(to.parent().context("no folder")?)?;
        fs::copy(&from, &to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
        Ok(to)
    };
    for (from, to) in FILES {
        put(root.join(from), to)?;
    }
    let program = put(root.join("target/release/coz"), "lib/chain-of-zoom/coz")?;
    crate::run(Command::new("strip").arg(&program))?;
    let archive = dist.join(format!("{name}.tar.gz"));
    let part = dist.join(format!("{name}.part"));
    crate::run(
        Command::new("tar").arg("-C").arg(&dist).args(["--owner=0", "--group=0", "-czf"]).arg(&part).arg(&name),
    )?;
    fs::rename(&part, &archive)?;
    println!("{}", archive.display());
    println!("unpack it with: tar -C ~/.local --strip-components=1 -xzf {name}.tar.gz");
    Ok(())
}

/// Of the program, as its manifest says.
fn version(root: &Path) -> anyhow::Result<String> {
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let line = manifest.lines().find_map(|line| line.strip_prefix("version = "));
    Ok(line.context("Cargo.toml has no version")?.trim_matches('"').to_owned())
}
