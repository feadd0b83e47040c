//! A folder of model files that the user has: which files there may be networks.

use std::fs;
use std::path::{Path, PathBuf};

use crate::base::is_model_file;

/// So many files of a folder are looked at.
const MOST: usize = 500;

/// The files in a folder, and in those directly below it, whose names are those of models; of ncnn's pairs the graph. What
/// cannot be read has none.
pub fn models_in(folder: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| {
        let mut paths: Vec<PathBuf> =
            fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let here = entries(folder);
    let below = here.iter().filter(|path| path.is_dir()).flat_map(|folder| entries(folder)).collect::<Vec<_>>();
    let is_weights_of_pair =
        |file: &Path| file.extension().is_some_and(|ending| ending == "bin") && file.with_extension("param").is_file();
    let files = here.into_iter().chain(below).filter(|file| is_model_file(file) && file.is_file());
    files.filter(|file| !is_weights_of_pair(file)).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_found_one_folder_deep_and_pairs_once() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/deeper")).unwrap();
        for name in ["x.pth", "n.param", "n.bin", "photo.jpg", "a/y.SAFETENSORS", "a/deeper/z.pth", "lone.bin"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        let found = models_in(folder.path());
        let names: Vec<_> =
            found.iter().map(|file| file.strip_prefix(folder.path()).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["lone.bin", "n.param", "x.pth", "a/y.SAFETENSORS"]);
        assert!(models_in(&folder.path().join("nowhere")).is_empty());
    }
}
