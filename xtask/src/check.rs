//! `cargo xtask check`: formatting, lints, import directions, documentation.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// Which of the library's modules each may use, in the order of the data. `problem` puts all failures into words.
const MAY_USE: &[(&str, &[&str])] = &[
    ("models", &[]),
    ("digest", &[]),
    ("image", &[]),
    ("region", &["image"]),
    ("prompt", &["image", "models", "step"]),
    ("step", &["image", "region", "models"]),
    ("history", &["image", "region", "step"]),
    ("export", &["image", "history"]),
    ("session", &["image", "digest", "step", "history", "export"]),
    ("canvas", &["image", "region", "history"]),
    ("film", &["image", "history", "export", "canvas"]),
    ("problem", &["image", "models", "step", "session", "film"]),
    ("engine", &["image", "digest", "region", "prompt", "step", "history", "problem"]),
    ("settings", &["image", "prompt", "step", "film"]),
    ("hub", &["image", "digest", "models", "prompt", "step", "problem", "settings"]),
    ("train", &["image", "models"]),
    ("random", &["models"]),
    (
        "viewer",
        &[
            "image", "digest", "region", "prompt", "step", "problem", "history", "export", "session", "engine",
            "canvas", "film", "settings", "hub",
        ],
    ),
    (
        "cli",
        &[
            "image", "digest", "region", "prompt", "step", "problem", "history", "export", "session", "film", "engine",
            "settings", "hub", "train", "random", "viewer",
        ],
    ),
    // The program and the library's own page.
    ("main", &["cli"]),
    ("lib", &[]),
];

/// Crates that only some places may name.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("tch", &["models", "prompt", "step", "train", "random", "engine/worker.rs", "image/tensor.rs"]),
    ("egui", &["viewer"]),
    ("eframe", &["viewer"]),
    ("wgpu", &["canvas", "film/studio.rs", "viewer", "cli/doctor.rs"]),
    ("openh264", &["film"]),
    ("zip", &["hub", "session", "models", "random"]),
    ("rfd", &["viewer"]),
    ("clap", &["cli"]),
    ("hf_hub", &["hub"]),
    ("ureq", &["hub"]),
];

/// All checks.
pub fn all(root: &Path) -> anyhow::Result<()> {
    let cargo = || Command::new(env!("CARGO"));
    crate::run(cargo().args(["fmt", "--all", "--check"]))?;
    imports(root)?;
    crate::run(cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    crate::run(cargo().args(["doc", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"))
}

fn imports(root: &Path) -> anyhow::Result<()> {
    let src = root.join("src");
    let mut files = Vec::new();
    collect(&src, &mut files)?;
    let mut problems = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let place = file.strip_prefix(&src)?.to_string_lossy().replace('\\', "/");
        let module = place.split('/').next().unwrap_or_default().trim_end_matches(".rs");
        if !text.starts_with("//! ") {
            problems.push(format!("src/{place}: begins without a line on what it is (//! ...)"));
        }
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
            problems.push(format!("src/{place}: xtask/src/check.rs does not know the module {module}"));
            continue;
        };
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            // The tests of a module may look further.
            if line.starts_with("mod tests") {
                break;
            }
            for (used, _) in MAY_USE.iter().filter(|(used, _)| *used != module && !allowed.contains(used)) {
                if names(line, &format!("crate::{used}"))
                    || (module == "main" && names(line, &format!("chain_of_zoom::{used}")))
                {
                    problems.push(format!("src/{place}:{}: {module} must not use {used}", number + 1));
                }
            }
            for (krate, places) in ONLY_IN {
                if names(line, &format!("{krate}::")) && !places.iter().any(|allowed| place.starts_with(allowed)) {
                    problems.push(format!("src/{place}:{}: {krate} is used only in {}", number + 1, places.join(", ")));
                }
            }
        }
    }
    if !problems.is_empty() {
        bail!("imports against the direction of the data (docs/architecture.md):\n  {}", problems.join("\n  "));
    }
    Ok(())
}

/// Whether `line` names this path, not merely one that ends or goes on like it.
fn names(line: &str, path: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + path.len()..].chars().next();
        !before.is_some_and(|c| is_name(c) || c == ':') && (path.ends_with("::") || !after.is_some_and(is_name))
    })
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn paths_are_told_apart() {
        assert!(names("use crate::step::Stage;", "crate::step"));
        assert!(!names("use crate::steps;", "crate::step"));
        assert!(names("let t: tch::Tensor;", "tch::"));
        assert!(!names("let t: batch::Tensor;", "tch::"));
        assert!(!names("chain_of_zoom::canvas::egui::x", "egui::"));
    }
}
