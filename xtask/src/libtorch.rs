//! libtorch: PyPI's PyTorch in the user's cache folder, once per machine, linked into the checkout as `.libtorch`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::packages;

/// What `tch 0.24` is made for; the two are pinned together.
const VERSION: &str = "2.11.0";
/// The unpacked packages take 4.7 GB, and their downloads are beside them for a moment.
const NEEDED_GB: f64 = 8.0;

/// Sees to it that `.libtorch` leads to a libtorch of the right version.
pub fn ensure(root: &Path) -> anyhow::Result<()> {
    let link = root.join(".libtorch");
    // Cargo sets LIBTORCH to the link for this very process; anything else is the user's own.
    if let Some(own) = std::env::var_os("LIBTORCH").map(PathBuf::from).filter(|own| *own != link) {
        let found = version(&own).unwrap_or_else(|| "no libtorch".into());
        if !is_right(&found) {
            bail!("LIBTORCH={} holds {found}, but {VERSION} is needed: unset it, or point it there", own.display());
        }
        return relink(&link, &own);
    }
    if version(&link).is_some_and(|found| is_right(&found)) {
        return Ok(());
    }
    let installed = cache()?.join(format!("torch-{VERSION}"));
    if !version(&installed.join("torch")).is_some_and(|found| is_right(&found)) {
        install(&installed)?;
    }
    relink(&link, &installed.join("torch"))
}

/// `2.11.0`, `2.11.0+cu130` and `2.11.0+cpu` are all right.
fn is_right(found: &str) -> bool {
    found.split('+').next() == Some(VERSION)
}

/// Of the libtorch in a folder: `version.py` in PyPI's packages, `build-version` in the plain archives.
fn version(libtorch: &Path) -> Option<String> {
    let python = std::fs::read_to_string(libtorch.join("version.py")).ok();
    let told = python.as_deref().and_then(|text| text.lines().find_map(|line| line.strip_prefix("__version__ = ")));
    let plain = || std::fs::read_to_string(libtorch.join("build-version")).ok();
    told.map(|version| version.trim_matches(['\'', '"']).to_owned()).or_else(|| Some(plain()?.trim().to_owned()))
}

fn relink(link: &Path, target: &Path) -> anyhow::Result<()> {
    if std::fs::read_link(link).is_ok_and(|now| now == target) {
        return Ok(());
    }
    if link.symlink_metadata().is_ok() {
        std::fs::remove_file(link).with_context(|| format!("cannot replace {}", link.display()))?;
    }
    #[cfg(unix)]
    let linked = std::os::unix::fs::symlink(target, link);
    #[cfg(windows)]
    let linked = std::os::windows::fs::symlink_dir(target, link);
    linked.with_context(|| format!("cannot link {} to {}", link.display(), target.display()))
}

/// The user's cache folder for this program.
fn cache() -> anyhow::Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = if cfg!(target_os = "macos") {
        variable("HOME").map(|home| home.join("Library/Caches"))
    } else if cfg!(windows) {
        variable("LOCALAPPDATA")
    } else {
        variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")))
    };
    Ok(cache.context("no home folder: set LIBTORCH to a libtorch of the right version")?.join("chain-of-zoom"))
}

/// Into a temporary folder first: what stands under the final name is complete.
fn install(into: &Path) -> anyhow::Result<()> {
    let folder = into.parent().context("the cache folder has no parent")?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    if let Some(free) = free_gb(folder)
        && free < NEEDED_GB
    {
        let folder = folder.display();
        bail!("{folder} has {free:.1} GB free, but libtorch needs {NEEDED_GB} GB: free some, or set XDG_CACHE_HOME");
    }
    let python = if cfg!(windows) { "python" } else { "python3" };
    let has_pip = || Command::new(python).args(["-m", "pip", "--version"]).output().is_ok_and(|o| o.status.success());
    if !has_pip() {
        packages::ensure(&["python3", "python3-pip"])?;
        if !has_pip() {
            bail!("{python} has no pip, which fetches libtorch: install it (Debian: apt-get install python3-pip)");
        }
    }
    let part = folder.join(format!("torch-{VERSION}.{}.part", std::process::id()));
    eprintln!("Fetching libtorch {VERSION} into {} (4.7 GB, once per machine)", into.display());
    let fetched = crate::run(
        Command::new(python)
            .args([
                "-m",
                "pip",
                "install",
                "--no-cache-dir",
                "--disable-pip-version-check",
                "--no-warn-script-location",
            ])
            .args(["--root-user-action=ignore", "--target"])
            .arg(&part)
            .arg(format!("torch=={VERSION}")),
    );
    let done = fetched.and_then(|()| match std::fs::rename(&part, into) {
        // Another checkout was faster; its libtorch is as good.
        Err(_) if version(&into.join("torch")).is_some_and(|found| is_right(&found)) => Ok(()),
        renamed => renamed.with_context(|| format!("cannot rename {} to {}", part.display(), into.display())),
    });
    if done.is_err() || part.exists() {
        _ = std::fs::remove_dir_all(&part);
    }
    done.context("libtorch could not be fetched: is there a network, and enough disk? Run the command again then")
}

fn free_gb(folder: &Path) -> Option<f64> {
    let output = Command::new("df").arg("-Pk").arg(folder).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let kilobytes: f64 = text.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()?;
    Some(kilobytes * 1024.0 / 1e9)
}
