//! The pictures of a run: the reference's folders, or any folder of pictures.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::imaging::formats::readable;

/// Enlargement of a step, where a run does not say.
const UPSCALE: u32 = 4;

/// A picture of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Steps from the first state; `None` in a flat folder.
    pub scale: Option<u32>,
    /// Its name without ending; in the reference's folders that of its photo.
    pub stem: String,
    /// Where it is.
    pub file: PathBuf,
}

/// A folder of results.
#[derive(Clone, Debug)]
pub struct Run {
    /// For people.
    pub name: String,
    /// By scale, then by stem.
    pub items: Vec<Item>,
    /// Enlargement of a step.
    pub upscale: u32,
}

impl Run {
    /// The pictures below a folder: `per-scale/scaleI/STEM.png`, else `per-sample/STEM/I.png`, else those in the folder itself.
    /// Nothing is written there.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn of(folder: &Path) -> io::Result<Self> {
        let name = folder.canonicalize()?.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut items = per_scale(&folder.join("per-scale"))?;
        if items.is_empty() {
            items = per_sample(&folder.join("per-sample"))?;
        }
        if items.is_empty() {
            let item = |(stem, file)| Item { scale: None, stem, file };
            items = with_endings(pictures(folder)?).into_iter().map(item).collect();
        }
        items.sort_by(|a, b| (a.scale, &a.stem).cmp(&(b.scale, &b.stem)));
        // Of two formats of one state the first is taken.
        items.dedup_by(|a, b| (a.scale, &a.stem) == (b.scale, &b.stem));
        Ok(Self { name, items, upscale: upscale(folder).unwrap_or(UPSCALE) })
    }

    /// `4x`, or nothing in a flat folder.
    pub fn magnification(&self, scale: Option<u32>) -> String {
        scale.map(|scale| format!("{}x", u64::from(self.upscale).saturating_pow(scale))).unwrap_or_default()
    }

    /// What photos lack of the scales that others have.
    pub fn missing(&self) -> BTreeMap<u32, Vec<&str>> {
        let mut stems: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
        for item in &self.items {
            stems.entry(item.scale.unwrap_or(0)).or_default().push(&item.stem);
        }
        let mut all: Vec<&str> = stems.values().flatten().copied().collect();
        all.sort_unstable();
        all.dedup();
        let lacking = |there: &Vec<&str>| all.iter().filter(|stem| !there.contains(stem)).copied().collect::<Vec<_>>();
        let lacking = stems.iter().map(|(scale, there)| (*scale, lacking(there)));
        lacking.filter(|(_, stems)| !stems.is_empty()).collect()
    }
}

/// A folder of references: by scale where it is a run of its own, else by stem.
pub struct References(BTreeMap<(Option<u32>, String), PathBuf>);

impl References {
    /// # Errors
    /// Where the folder cannot be read.
    pub fn of(folder: &Path) -> io::Result<Self> {
        let of_run = Run::of(folder)?.items;
        Ok(Self(of_run.into_iter().map(|item| ((item.scale, item.stem), item.file)).collect()))
    }

    /// What a picture is compared with. A flat folder has the references of another, and those of the first states.
    pub fn of_item(&self, item: &Item) -> Option<&Path> {
        let named = |scale: Option<u32>, stem: &str| self.0.get(&(scale, stem.to_owned()));
        let flat = |stem: &str| named(None, stem).filter(|_| matches!(item.scale, None | Some(0)));
        let own_stem = item.file.file_stem().unwrap_or_default().to_string_lossy();
        let found = named(item.scale, &item.stem).or_else(|| flat(&item.stem)).or_else(|| flat(&own_stem));
        found.map(PathBuf::as_path)
    }
}

fn per_scale(folder: &Path) -> io::Result<Vec<Item>> {
    let mut items = Vec::new();
    for (name, folder) in folders(folder)? {
        let Some(scale) = name.strip_prefix("scale").and_then(|number| number.parse().ok()) else { continue };
        let item = |(stem, file)| Item { scale: Some(scale), stem, file };
        items.extend(pictures(&folder)?.into_iter().map(item));
    }
    Ok(items)
}

fn per_sample(folder: &Path) -> io::Result<Vec<Item>> {
    let mut items = Vec::new();
    for (stem, folder) in folders(folder)? {
        for (name, file) in pictures(&folder)? {
            // All states side by side lie there too, under the photo's own name, which may be a number.
            let scale = name.parse().ok().filter(|scale: &u32| scale.to_string() == name && name != stem);
            items.extend(scale.map(|scale| Item { scale: Some(scale), stem: stem.clone(), file }));
        }
    }
    Ok(items)
}

/// The folders directly in a folder; none where there is no such folder.
fn folders(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.push((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), path));
        }
    }
    found.sort();
    Ok(found)
}

/// The pictures directly in a folder, with their stems.
fn pictures(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        if path.is_file() && readable().any(|known| known == ending) {
            found.push((path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), path));
        }
    }
    found.sort();
    Ok(found)
}

/// Where several pictures share a stem, their whole names in its place.
fn with_endings(pictures: Vec<(String, PathBuf)>) -> Vec<(String, PathBuf)> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    pictures.iter().for_each(|(stem, _)| *counts.entry(stem.clone()).or_default() += 1);
    let name = |(stem, file): (String, PathBuf)| match counts.get(&stem) {
        Some(2..) => (file.file_name().unwrap_or_default().to_string_lossy().into_owned(), file),
        _ => (stem, file),
    };
    pictures.into_iter().map(name).collect()
}

/// Enlargement of a step, as `coz zoom` has written it down.
fn upscale(folder: &Path) -> Option<u32> {
    let samples = folders(&folder.join("per-sample")).ok()?;
    let record = samples.iter().find_map(|(_, folder)| fs::read(folder.join("run.json")).ok())?;
    let record: serde_json::Value = serde_json::from_slice(&record).ok()?;
    record.get("options")?.get("upscale")?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_any_kind_become_items() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str| {
            let file = folder.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "x").unwrap();
        };
        let items = |name: &str| {
            let run = Run::of(&folder.path().join(name)).unwrap();
            run.items.iter().map(|item| (item.scale, item.stem.clone())).collect::<Vec<_>>()
        };
        for name in ["flat/b.png", "flat/a.jpg", "flat/a.png", "flat/notes.txt", "flat/deeper/c.png"] {
            put(name);
        }
        assert_eq!(items("flat"), [(None, "a.jpg".into()), (None, "a.png".into()), (None, "b".into())]);
        for name in ["tree/per-sample/p/0.png", "tree/per-sample/p/10.png", "tree/per-sample/p/p.png"] {
            put(name);
        }
        // DIV2K's photos are called so: all states side by side are no state 1.
        for name in ["numbers/per-sample/0001/0.png", "numbers/per-sample/0001/0001.png", "numbers/per-sample/9/9.png"]
        {
            put(name);
        }
        assert_eq!(items("numbers"), [(Some(0), "0001".into())]);
        put("tree/per-sample/p/1_input.png");
        assert_eq!(items("tree"), [(Some(0), "p".into()), (Some(10), "p".into())]);
        for name in ["tree/per-scale/scale1/q.png", "tree/per-scale/scale1/p.png", "tree/per-scale/scale2/q.png"] {
            put(name);
        }
        fs::write(folder.path().join("tree/per-sample/p/run.json"), r#"{"options": {"upscale": "2"}}"#).unwrap();
        assert_eq!(items("tree"), [(Some(1), "p".into()), (Some(1), "q".into()), (Some(2), "q".into())]);
        let run = Run::of(&folder.path().join("tree")).unwrap();
        assert_eq!((run.magnification(Some(3)), run.missing()), ("8x".into(), [(2, vec!["p"])].into()));
        let references = References::of(&folder.path().join("flat")).unwrap();
        let first = Item { scale: Some(0), stem: "b".into(), file: PathBuf::new() };
        assert!(references.of_item(&first).is_some_and(|file| file.ends_with("b.png")));
        assert_eq!(references.of_item(&Item { scale: Some(1), ..first }), None);
        let double = Item { scale: None, stem: "b.png".into(), file: "run/b.png".into() };
        assert!(references.of_item(&double).is_some_and(|file| file.ends_with("b.png")));
    }
}
