//! Where what is published on the Hugging Face hub may lie on this machine: in the data folder, and in the hub's cache, as its
//! own library finds that. Nothing is fetched here.

use std::path::{Path, PathBuf};

use super::Folders;

/// A folder that a variable names.
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn caches() -> Option<PathBuf> {
    let user = || directories::BaseDirs::new().map(|directories| directories.home_dir().to_owned());
    variable("XDG_CACHE_HOME").or_else(|| Some(user()?.join(".cache")))
}

/// PyTorch's cache (`torch.hub`).
pub fn torch_home() -> Option<PathBuf> {
    variable("TORCH_HOME").or_else(|| Some(caches()?.join("torch")))
}

/// The folder of the hub's own programs, as they find it.
pub fn home() -> Option<PathBuf> {
    variable("HF_HOME").or_else(|| Some(caches()?.join("huggingface")))
}

/// The hub's cache, as its own library finds it.
pub fn cache() -> Option<PathBuf> {
    variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE")).or_else(|| Some(home()?.join("hub")))
}

/// The snapshot of a repository's folder that `main` stands for, else any.
pub fn snapshot(repository: &Path) -> PathBuf {
    let snapshots = repository.join("snapshots");
    let main = std::fs::read_to_string(repository.join("refs").join("main")).unwrap_or_default();
    let main = snapshots.join(main.trim());
    if main != snapshots.join("") && main.is_dir() {
        return main;
    }
    let any = std::fs::read_dir(&snapshots).ok().and_then(|entries| {
        let mut folders: Vec<PathBuf> =
            entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        folders.sort();
        folders.pop()
    });
    any.unwrap_or(snapshots)
}

/// Where a model called `owner/name` may lie.
pub fn places(name: &str) -> Vec<PathBuf> {
    if Path::new(name).is_absolute() || name.starts_with('.') {
        return Vec::new();
    }
    let short = name.rsplit('/').next().unwrap_or(name);
    let own = Folders::of_user().map(|folders| folders.models);
    let mut places: Vec<PathBuf> = own.iter().flat_map(|models| [models.join(name), models.join(short)]).collect();
    let cached = |cache: PathBuf| snapshot(&cache.join(format!("models--{}", name.replace('/', "--"))));
    places.extend(cache().map(cached));
    places
}
