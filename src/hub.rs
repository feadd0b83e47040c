//! Where models are: in a folder that is named, in the program's data folder, or in the cache of the Hugging Face hub
//! (`models--org--name/snapshots/REVISION`), which other programs have filled.

use std::path::{Path, PathBuf};

use crate::problem::Problem;
use crate::settings::{Folders, Settings};
use crate::step::{Backbone, Precision, Sd3Files};

/// The published model that Chain-of-Zoom was trained on.
pub const SD3: &str = "stabilityai/stable-diffusion-3-medium-diffusers";

/// The model behind a path or a name such as [`SD3`]; where none is told, the one in the settings, else that one.
///
/// # Errors
/// Where it was looked for, if it is in none of these places.
pub fn sd3(told: Option<&Path>) -> Result<Sd3Files, Problem> {
    let plain = |model: PathBuf| Sd3Files { model, lora: None, vae: None, precision: Precision::default() };
    if told.is_none()
        && let Backbone::Sd3(files) = Settings::load().0.backbone
        && files.model.is_dir()
    {
        return Ok(files);
    }
    let name = told.unwrap_or(Path::new(SD3));
    if name.is_dir() {
        return Ok(plain(name.to_owned()));
    }
    let found = name.to_str().and_then(|name| places(name).into_iter().find(|place| place.is_dir()));
    match found {
        Some(model) => Ok(plain(model)),
        None => {
            let looked: Vec<String> = name.to_str().map(places).unwrap_or_default().iter().map(shown).collect();
            let nor = if looked.is_empty() { "" } else { ", nor is there " };
            let details = format!("{} is no folder{nor}{}", name.display(), looked.join(" or "));
            let hint =
                "Name the model's folder with --pretrained-model-name-or-path, or put it into one of these places.";
            Err(Problem::new("The model was not found", details, hint))
        }
    }
}

/// The two files of Chain-of-Zoom's training, where they are not told: looked for in the working directory, where the
/// reference has them, and in the data folder.
pub fn with_training(files: Sd3Files) -> Sd3Files {
    let own = Folders::of_user().map(|folders| folders.models);
    let folders: Vec<PathBuf> = std::iter::once(PathBuf::from(".")).chain(own).collect();
    files.with_training_from(&folders.iter().map(PathBuf::as_path).collect::<Vec<_>>())
}

fn shown(path: impl AsRef<Path>) -> String {
    path.as_ref().display().to_string()
}

/// Where a model called `org/name` may lie.
fn places(name: &str) -> Vec<PathBuf> {
    if Path::new(name).is_absolute() || name.starts_with('.') {
        return Vec::new();
    }
    let short = name.rsplit('/').next().unwrap_or(name);
    let own = Folders::of_user().map(|folders| folders.models);
    let mut places: Vec<PathBuf> = own.iter().flat_map(|models| [models.join(name), models.join(short)]).collect();
    places.extend(cache().map(|cache| snapshot(&cache.join(format!("models--{}", name.replace('/', "--"))))));
    places
}

/// The hub's cache, as its own library finds it.
fn cache() -> Option<PathBuf> {
    let from = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || directories::BaseDirs::new().map(|directories| directories.home_dir().to_owned());
    let caches = || from("XDG_CACHE_HOME").or_else(|| Some(home()?.join(".cache")));
    from("HF_HUB_CACHE")
        .or_else(|| from("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| Some(from("HF_HOME")?.join("hub")))
        .or_else(|| Some(caches()?.join("huggingface").join("hub")))
}

/// The snapshot that `main` stands for, else any.
fn snapshot(repository: &Path) -> PathBuf {
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
