//! The layers of `src`: which folder may use which others, and which crates only some places may name.
//!
//! Every file is read as Rust ([`read`]), and every path in it is followed through aliases and re-exports to where the
//! item lives ([`names`]). What lies there, and what the path passes on the way, the file uses.

mod names;
mod read;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use names::Tree;
use read::Mention;

/// A name, and the names that go with it.
type Table<'a> = &'a [(&'a str, &'a [&'a str])];

/// Each layer and what it may use, itself apart. A layer uses only those above it in this table, so none go in a circle.
const LAYERS: Table = &[
    ("base", &[]),
    ("imaging", &["base"]),
    ("document", &["base", "imaging"]),
    ("scene", &["base", "imaging", "document"]),
    ("checkpoint", &["base"]),
    ("runtime", &["base", "imaging", "checkpoint"]),
    ("networks", &["base", "checkpoint", "runtime"]),
    ("pipelines", &["base", "imaging", "checkpoint", "runtime", "networks"]),
    ("evaluate", &["base", "imaging", "checkpoint", "runtime", "networks", "pipelines"]),
    ("hub", &["base", "checkpoint"]),
    ("engine", &["base", "imaging", "document", "checkpoint", "runtime", "networks", "pipelines", "evaluate"]),
    ("synthetic", &["base", "checkpoint", "runtime", "networks", "pipelines"]),
    ("train", &["base", "imaging", "checkpoint", "runtime", "networks", "pipelines", "evaluate"]),
    ("selftest", &["base", "imaging", "runtime", "networks", "pipelines"]),
    ("viewer", &["base", "imaging", "document", "scene", "engine", "hub", "selftest"]),
    (
        "cli",
        &[
            "base",
            "imaging",
            "document",
            "scene",
            "checkpoint",
            "runtime",
            "networks",
            "pipelines",
            "evaluate",
            "hub",
            "engine",
            "synthetic",
            "train",
            "selftest",
            "viewer",
        ],
    ),
    // The program and the library's own page.
    ("main", &["cli"]),
    ("lib", &[]),
];

/// Crates that only some places may name: folders or files of `src`.
const ONLY_IN: Table = &[
    ("tch", &["runtime", "networks", "pipelines", "evaluate", "train", "synthetic", "selftest", "engine/worker.rs"]),
    ("egui", &["viewer"]),
    ("eframe", &["viewer"]),
    ("egui_wgpu", &["viewer"]),
    ("accesskit", &["viewer"]),
    ("rfd", &["viewer"]),
    ("wgpu", &["scene", "viewer", "cli/doctor.rs"]),
    ("openh264", &["scene"]),
    ("zip", &["hub", "document/session", "checkpoint", "synthetic", "selftest"]),
    ("clap", &["cli"]),
    ("ureq", &["hub", "pipelines/caption/server"]),
];

/// Fails with all that lies against the tables above.
pub fn check(root: &Path) -> anyhow::Result<()> {
    let src = root.join("src");
    let mut paths = Vec::new();
    collect(&src, &mut paths)?;
    let mut files = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        files.push((path.strip_prefix(&src)?.to_string_lossy().replace('\\', "/"), text));
    }
    let findings = findings(&files, LAYERS, ONLY_IN)?;
    if !findings.is_empty() {
        bail!("src against its layers (docs/architecture.md, xtask/src/imports.rs):\n  {}", findings.join("\n  "));
    }
    Ok(())
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

/// What lies against the tables in `files`: their paths under `src` and their texts. One line each, in their order.
fn findings(files: &[(String, String)], layers: Table, only_in: Table) -> anyhow::Result<Vec<String>> {
    let (tree, mentions) = read::all(files)?;
    // By file, line and what is used: a line that names one thing in two ways is wrong once.
    let mut findings = BTreeMap::new();
    for (number, (file, text)) in files.iter().enumerate() {
        if !text.starts_with("//! ") {
            let text = format!("src/{file}:1: begins without a line on what it is (//! ...)");
            findings.insert((number, 1, None), text);
        }
        if row(layers, layer(file)).is_none() {
            let text = format!("src/{file}:1: xtask/src/imports.rs does not know the layer {}", layer(file));
            findings.insert((number, 1, Some(Use::Layer(layer(file)))), text);
        }
    }
    for mention in mentions {
        let Mention { file: number, line, .. } = mention;
        let (file, _) = &files[number];
        let Some((user, allowed)) = row(layers, layer(file)) else { continue };
        for used in uses(&tree, &mention, layers, only_in) {
            let problem = match used {
                Use::Layer(used) if used != user && !allowed.contains(&used) => format!("{user} must not use {used}"),
                Use::Crate(used, places) if !places.iter().any(|place| lies_in(file, place)) => {
                    format!("{used} is used only in {}", places.join(", "))
                }
                _ => continue,
            };
            let text = format!("src/{file}:{line}: {problem} (through {})", mention.written.join("::"));
            findings.entry((number, line, Some(used))).or_insert(text);
        }
    }
    Ok(findings.into_values().collect())
}

/// What the tables speak of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Use<'a> {
    Layer(&'a str),
    Crate(&'a str, &'a [&'a str]),
}

/// What a path uses: what lies at its end and at each step to it, for a step may lead on into another layer. What its
/// first name stands for was found where that name was brought in, and is not found again.
fn uses<'a>(tree: &Tree, mention: &Mention, layers: Table<'a>, only_in: Table<'a>) -> HashSet<Use<'a>> {
    let Mention { scope, written, .. } = mention;
    let up_to = |step| -> HashSet<Use<'a>> {
        tree.homes(scope, &written[..step]).iter().filter_map(|home| used(home, layers, only_in)).collect()
    };
    let brought_in = !mention.imports && tree.knows(scope, &written[0]);
    let known = if brought_in { up_to(1) } else { HashSet::new() };
    (1..=written.len()).flat_map(up_to).filter(|used| !known.contains(used)).collect()
}

/// What a home belongs to, where a table speaks of it.
fn used<'a>(home: &[String], layers: Table<'a>, only_in: Table<'a>) -> Option<Use<'a>> {
    let (root, inside) = home.split_first()?;
    match root.as_str() {
        names::PROGRAM => Some(Use::Layer("main")),
        // What lies in the root itself lies in lib.rs.
        names::LIBRARY => inside.first().map(|name| Use::Layer(row(layers, name).map_or("lib", |(layer, _)| layer))),
        other => row(only_in, other).map(|(name, places)| Use::Crate(name, places)),
    }
}

fn row<'a>(table: Table<'a>, name: &str) -> Option<(&'a str, &'a [&'a str])> {
    table.iter().copied().find(|(first, _)| *first == name)
}

/// The layer of a file: its first folder, or its own name where it lies in `src` itself.
fn layer(file: &str) -> &str {
    file.split('/').next().unwrap_or_default().trim_end_matches(".rs")
}

/// Whether a file is this place or lies in it; the folder `weights` is also its file `weights.rs`.
fn lies_in(file: &str, place: &str) -> bool {
    Path::new(file).starts_with(place) || Path::new(file).with_extension("").starts_with(place)
}
