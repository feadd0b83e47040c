//! Which pictures a command works on, and what each of their results is called.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use crate::base::{UserError, path_of};
use crate::imaging::ImageError;
use crate::imaging::formats::{names, readable};

/// Stands for a list on the standard input.
const LIST: &str = "-";

/// A picture to be worked on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Input {
    pub file: PathBuf,
    /// Of its results: no two of them share one, and none leads out of the results' folder.
    pub stem: String,
}

/// The pictures behind paths: files, folders (those within them too with `subfolders`), `file://` addresses, and `-` for a list
/// on the standard input, one a line. What lies in `results` is none. What is passed over is told.
pub(super) fn inputs(paths: &[PathBuf], subfolders: bool, results: &Path) -> Result<Vec<Input>, UserError> {
    let mut files = Vec::new();
    let mut passed_over = BTreeMap::new();
    for path in listed(paths)? {
        // One that is not there is told of in its turn, like one that is damaged.
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => walk(&path, subfolders, results, &mut files, &mut passed_over)?,
            Ok(metadata) if !metadata.is_file() => {
                return Err(ImageError::NoFile { file: path, kind: "a pipe or a device" }.into());
            }
            _ => files.push(path),
        }
    }
    if !passed_over.is_empty() {
        let counts: Vec<String> = passed_over.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        eprintln!("passed over: {}", counts.join(", "));
    }
    let mut seen = HashSet::new();
    files.retain(|file| seen.insert(file.canonicalize().unwrap_or_else(|_| file.clone())));
    if files.is_empty() {
        let details = format!("there is no picture ({}) to work on", names());
        return Err(UserError::new("There is nothing to do", details, "Name a folder with pictures, or one picture."));
    }
    let stems = stems(&files);
    Ok(files.into_iter().zip(stems).map(|(file, stem)| Input { file, stem }).collect())
}

/// The pictures behind a path: itself, or those directly in the folder, by name.
pub(super) fn pictures_in(path: &Path) -> Result<Vec<PathBuf>, UserError> {
    let inputs = inputs(&[path.to_owned()], false, Path::new(""))?;
    Ok(inputs.into_iter().map(|input| input.file).collect())
}

fn listed(paths: &[PathBuf]) -> Result<Vec<PathBuf>, UserError> {
    let mut all = Vec::new();
    for path in paths {
        if path.as_os_str() != LIST {
            // As it is, where that exists: names may begin with a quote.
            let named = || path.to_str().map_or_else(|| path.clone(), path_of);
            all.push(if path.exists() { path.clone() } else { named() });
            continue;
        }
        for line in std::io::stdin().lines() {
            let line = line.map_err(|error| {
                let hint = "It is to have one path a line, in UTF-8.";
                UserError::new("The list of pictures cannot be read", error.to_string(), hint)
            })?;
            if !line.trim().is_empty() {
                all.push(path_of(&line));
            }
        }
    }
    Ok(all)
}

fn walk(
    folder: &Path,
    subfolders: bool,
    results: &Path,
    files: &mut Vec<PathBuf>,
    passed_over: &mut BTreeMap<String, usize>,
) -> Result<(), UserError> {
    let folders = ["", "per-sample", "per-scale", "recursive"].map(|name| results.join(name).canonicalize().ok());
    let is_result = |entry: &DirEntry| {
        let found = entry.path().canonicalize().ok();
        found.is_some() && folders.contains(&found)
    };
    let depth = if subfolders { usize::MAX } else { 1 };
    let walk = WalkDir::new(folder).min_depth(1).max_depth(depth).sort_by_file_name();
    for entry in walk.into_iter().filter_entry(|entry| entry.depth() == 0 || !is_result(entry)) {
        let entry = entry.map_err(|error| {
            UserError::new(
                "The folder cannot be read",
                format!("{}: {error}", folder.display()),
                "Check its permissions.",
            )
        })?;
        let path = entry.path();
        let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        let kind = match () {
            () if path.is_dir() && subfolders && !entry.path_is_symlink() => continue,
            () if path.is_dir() => "folders (--subfolders takes those too)".into(),
            () if readable().any(|known| known == ending) && path.is_file() => {
                files.push(path.to_owned());
                continue;
            }
            () if ending.is_empty() => "without ending".into(),
            () => format!(".{ending}"),
        };
        *passed_over.entry(kind).or_insert(0) += 1;
    }
    Ok(())
}

/// File names without ending; where several share one, with it; then with their folder before them, and at last a number. Capital
/// and small letters are the same in names on some systems.
fn stems(files: &[PathBuf]) -> Vec<String> {
    let named = |path: Option<&std::ffi::OsStr>| path.unwrap_or_default().to_string_lossy().into_owned();
    let with_folder = |file: &Path| {
        let folder = file.parent().map(|folder| folder.canonicalize().unwrap_or_else(|_| folder.to_owned()));
        format!("{}_{}", named(folder.as_deref().and_then(Path::file_name)), named(file.file_name()))
    };
    let forms: Vec<[String; 3]> =
        files.iter().map(|file| [named(file.file_stem()), named(file.file_name()), with_folder(file)]).collect();
    let mut levels = vec![0; files.len()];
    loop {
        let stems: Vec<&String> = forms.iter().zip(&levels).map(|(forms, &level)| &forms[level]).collect();
        let mut counts: HashMap<String, usize> = HashMap::new();
        stems.iter().for_each(|stem| *counts.entry(stem.to_lowercase()).or_default() += 1);
        let leads_out = |stem: &str| stem.trim_matches('.').is_empty();
        let unfit: Vec<usize> = (0..files.len())
            .filter(|&i| levels[i] < 2 && (counts[&stems[i].to_lowercase()] > 1 || leads_out(stems[i])))
            .collect();
        if unfit.is_empty() {
            return numbered(stems);
        }
        unfit.into_iter().for_each(|i| levels[i] += 1);
    }
}

fn numbered(stems: Vec<&String>) -> Vec<String> {
    let mut taken = HashSet::new();
    let unique = |stem: &String| {
        let candidates = std::iter::once(stem.clone()).chain((2..).map(|number| format!("{stem} ({number})")));
        candidates.into_iter().find(|stem| taken.insert(stem.to_lowercase())).unwrap_or_default()
    };
    stems.into_iter().map(unique).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_results_share_a_name_and_none_leads_out() {
        let stems = |files: &[&str]| stems(&files.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(stems(&["/x/a.png", "/x/b.png"]), ["a", "b"]);
        assert_eq!(stems(&["/x/a.png", "/x/a.bmp", "/x/a.png.png"]), ["x_a.png", "a.bmp", "a.png.png"]);
        assert_eq!(stems(&["/x/...png", "/x/.png"]), ["...png", ".png"]);
        assert_eq!(stems(&["/x/a.png", "/y/A.png"]), ["x_a.png", "y_A.png"]);
        assert_eq!(stems(&["/1/x/a.png", "/2/x/a.png", "/3/x/a.png"]), ["x_a.png", "x_a.png (2)", "x_a.png (3)"]);
    }
}
