//! libtorch: `assets/libtorch.py` finds it or fetches it into the user's cache folder, once per machine; `.libtorch` in
//! the checkout leads there.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::SystemTime;

use anyhow::{Context, bail};

use crate::packages;

/// What `tch 0.24` is made for; the two are pinned together.
const VERSION: &str = "2.11.0";
/// How `libtorch.py` ends where Python has no pip.
const NO_PIP: i32 = 3;

/// Sees to it that `.libtorch` leads to a libtorch of the right version, with CUDA where there is an NVIDIA driver.
pub fn ensure(root: &Path) -> anyhow::Result<()> {
    let link = root.join(".libtorch");
    // Cargo sets LIBTORCH to the link for this very process; anything else is the user's own.
    if let Some(own) = std::env::var_os("LIBTORCH").map(PathBuf::from).filter(|own| *own != link) {
        let found = version(&own).unwrap_or_else(|| "no libtorch".into());
        if found.split('+').next() != Some(VERSION) {
            bail!("LIBTORCH={} holds {found}, but {VERSION} is needed: unset it, or point it there", own.display());
        }
        return relink(root, &link, &own);
    }
    let without_cuda = cache()?.join(format!("torch-{VERSION}-cpu")).join("torch");
    let libtorch = match find(root, &[], Some(&link)) {
        Err(error) if version(&without_cuda).is_some() => {
            eprintln!("{error:#}\nGoing on with the libtorch without CUDA that is here.");
            without_cuda
        }
        found => found?,
    };
    if libtorch == link { Ok(()) } else { relink(root, &link, &libtorch) }
}

/// The libtorch without CUDA, which an archive brings along.
pub fn without_cuda(root: &Path) -> anyhow::Result<PathBuf> {
    find(root, &["--cpu"], None)
}

/// What `libtorch.py` finds or fetches; `first` is taken where it is right for this machine.
fn find(root: &Path, options: &[&str], first: Option<&Path>) -> anyhow::Result<PathBuf> {
    let python = if cfg!(windows) { "python" } else { "python3" };
    let mut command = Command::new(python);
    command.arg(root.join("assets/libtorch.py")).args(options).arg(cache()?).args(first).stderr(Stdio::inherit());
    let lacks_python = |outcome: &std::io::Result<Output>| match outcome {
        Ok(output) => output.status.code() == Some(NO_PIP),
        Err(error) => error.kind() == ErrorKind::NotFound,
    };
    let mut outcome = command.output();
    if lacks_python(&outcome) {
        packages::ensure(&["python3", "python3-pip"])?;
        outcome = command.output();
    }
    let output = outcome.with_context(|| format!("cannot start {python}, which fetches libtorch"))?;
    if !output.status.success() {
        bail!("there is no libtorch {VERSION}: see above");
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout).context("the folder of libtorch is not UTF-8")?.trim_end()))
}

/// Of the libtorch in a folder: `version.py` in PyPI's packages, `build-version` in the plain archives.
fn version(libtorch: &Path) -> Option<String> {
    let python = fs::read_to_string(libtorch.join("version.py")).ok();
    let line = python.as_deref().and_then(|text| text.lines().find_map(|line| line.strip_prefix("__version__ = ")));
    let plain = || fs::read_to_string(libtorch.join("build-version")).ok();
    line.map(|version| version.trim_matches(['\'', '"']).to_owned()).or_else(|| Some(plain()?.trim().to_owned()))
}

fn relink(root: &Path, link: &Path, target: &Path) -> anyhow::Result<()> {
    if fs::read_link(link).is_ok_and(|now| now == target) {
        return Ok(());
    }
    if link.symlink_metadata().is_ok() {
        fs::remove_file(link).with_context(|| format!("cannot replace {}", link.display()))?;
        // Cargo sees the same LIBTORCH as before, and would not link anew what was linked to another libtorch.
        fs::File::options().append(true).open(root.join("build.rs"))?.set_modified(SystemTime::now())?;
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::VERSION;

    #[test]
    fn one_version_everywhere() {
        assert!(include_str!("../../assets/libtorch.py").contains(&format!("\nVERSION = \"{VERSION}\"\n")));
        assert!(include_str!("../../assets/launcher.sh").contains(&format!("\nversion={VERSION}\n")));
    }

    #[test]
    fn the_script_passes_its_tests() {
        let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/libtorch_test.py");
        let status = Command::new("python3").arg(tests).status();
        assert!(status.is_ok_and(|status| status.success()));
    }
}
