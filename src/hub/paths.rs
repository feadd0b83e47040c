//! Where models lie: where the user says, beside each other, in the working directory (where the reference has them), in
//! the data folder, in the hub's cache.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::model_folder::models_in;
use super::repository::{RAM, TRAINED};
use super::store::Store;
use crate::base::hub_cache::{places, snapshot};
use crate::base::{
    Backbone, BackboneSpec, Content, FileSpec, Folders, ModelFiles, Precision, PromptSource, PromptSourceSpec,
    Published, UserError, is_model_file,
};
use crate::checkpoint;
use crate::checkpoint::sd3::Sd3;

/// Where models are, as the user has said, by [`FileSpec::id`]; what is not here is looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelPaths(BTreeMap<String, PathBuf>);

impl ModelPaths {
    /// As they are in the settings file: those of prompt sources, and those of the model that is chosen there. Nothing
    /// where it cannot be read; the window tells of that.
    pub fn of_user() -> Self {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Settings {
            places: ModelPaths,
            backbone: Backbone,
        }
        let Settings { places, backbone } = in_settings();
        places.with_files_of(&backbone)
    }

    /// Model files that the user has opened, as they are in the settings file.
    pub(super) fn opened_by_user() -> Vec<Backbone> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Settings {
            opened_models: Vec<Backbone>,
            model_folders: Vec<PathBuf>,
            backbone: Backbone,
        }
        let Settings { mut opened_models, model_folders, backbone } = in_settings();
        opened_models.push(backbone);
        opened_models.extend(model_folders.iter().flat_map(|folder| models_in(folder)).map(Backbone::file));
        opened_models
    }

    /// The path of a file.
    pub fn get(&self, id: &str) -> Option<&Path> {
        self.0.get(id).map(PathBuf::as_path)
    }

    /// Says where a file is.
    pub fn set(&mut self, id: &str, path: PathBuf) {
        self.0.insert(id.to_owned(), path);
    }

    /// Where something else was said of files of this model, it is where they are now.
    pub fn update(&mut self, backbone: &Backbone) {
        for file in backbone.spec.files {
            if let (Some(known), Some(path)) = (self.0.get_mut(file.id), backbone.files.get(file.role)) {
                path.clone_into(known);
            }
        }
    }

    /// These before those of `others`.
    pub fn or(mut self, others: Self) -> Self {
        for (id, path) in others.0 {
            self.0.entry(id).or_insert(path);
        }
        self
    }

    /// The same, with where a model that is chosen has its files.
    pub fn with_files_of(mut self, backbone: &Backbone) -> Self {
        for file in backbone.spec.files {
            if let Some(path) = backbone.files.get(file.role).filter(|path| path.exists()) {
                self.0.entry(file.id.to_owned()).or_insert_with(|| path.to_owned());
            }
        }
        self
    }
}

/// Some entries of the settings file.
pub(super) fn in_settings<T: Default + serde::de::DeserializeOwned>() -> T {
    let Some(file) = Folders::of_user().map(|folders| folders.settings_file()) else { return T::default() };
    let failed = |error: &dyn std::fmt::Display| tracing::warn!("{}: {error}", file.display());
    match std::fs::read_to_string(&file) {
        Ok(text) => toml::from_str(&text).inspect_err(|error| failed(&error.message())).unwrap_or_default(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => T::default(),
        Err(error) => {
            failed(&error);
            T::default()
        }
    }
}

/// A super-resolution model with its files, as the user says or where they were found.
///
/// # Errors
/// Where they were looked for, if one that is required is in none of these places.
pub fn backbone(
    spec: &'static BackboneSpec,
    explicit: &ModelPaths,
    precision: Precision,
) -> Result<Backbone, UserError> {
    Ok(Backbone { files: files(spec.files, spec.files.first(), explicit)?, precision, ..spec.into() })
}

/// A source of prompts with its files, as the user says or where they were found.
///
/// # Errors
/// Where they were looked for, if one that is required is in none of these places.
pub fn prompt_source(
    spec: &'static PromptSourceSpec,
    explicit: &ModelPaths,
    precision: Precision,
) -> Result<PromptSource, UserError> {
    Ok(PromptSource { files: files(spec.files, spec.distinct_file(), explicit)?, precision, ..spec.into() })
}

/// Where several are missing, `distinct` is the one that is reported: the adapter, say, of a tuned model.
fn files(
    specs: &'static [FileSpec],
    distinct: Option<&FileSpec>,
    explicit: &ModelPaths,
) -> Result<ModelFiles, UserError> {
    let main = specs.first().and_then(|first| find(first, explicit, None).ok().flatten());
    let find = |spec: &FileSpec| find(spec, explicit, main.as_deref());
    if let Some(distinct) = distinct {
        find(distinct)?;
    }
    let mut files = ModelFiles::default();
    for spec in specs {
        if let Some(path) = find(spec)? {
            files.set(spec, path);
        }
    }
    Ok(files)
}

/// What of a model is not there, by name; nothing where it can be loaded.
pub fn missing(backbone: &Backbone) -> Vec<PathBuf> {
    let of = |file: &FileSpec| backbone.files.get(file.role).map(|path| missing_in(file, path)).unwrap_or_default();
    backbone.spec.files.iter().flat_map(of).collect()
}

/// What is not there of a file or of a folder's contents.
pub(super) fn missing_in(spec: &FileSpec, path: &Path) -> Vec<PathBuf> {
    let absent = |path: PathBuf| if path.is_file() { Vec::new() } else { vec![path] };
    if !spec.is_folder() {
        return absent(path.to_owned());
    }
    if spec.takes_single_file() {
        // What is wrong with a file shows when it is opened; here it is as good as not there.
        return Sd3::at(path).map_or_else(|_| vec![path.to_owned()], |sd3| sd3.missing());
    }
    let of = |content: &Content| match *content {
        Content::File(name) => absent(path.join(name)),
        Content::ClipTokenizer(folder) => checkpoint::missing_of_clip_tokenizer(&path.join(folder)),
        Content::Optional(_) | Content::SingleFile => Vec::new(),
        Content::Weights(folder, stem) => checkpoint::missing(&path.join(folder), stem),
    };
    spec.contents.iter().flat_map(of).collect()
}

/// Where a file of a model is; `main` is where the model's first one lies. `None` where it is not there and not required.
///
/// # Errors
/// Where it was looked for, if it is required.
pub(super) fn find(spec: &FileSpec, explicit: &ModelPaths, main: Option<&Path>) -> Result<Option<PathBuf>, UserError> {
    let is_there = |path: &Path| if spec.is_folder() { path.is_dir() } else { path.is_file() };
    let explicit = explicit.get(spec.id);
    let candidates = match (spec.published, explicit) {
        (Published::Repository(_), Some(name)) => return folder(name, spec).map(Some),
        (Published::Repository(names), None) => {
            let mut found: Vec<_> = names.iter().map(|name| folder(Path::new(name), spec)).collect();
            // One that is whole; else one that is there.
            let is_whole = |found: &Result<PathBuf, _>| found.as_ref().is_ok_and(|at| missing_in(spec, at).is_empty());
            let best = found.iter().position(is_whole).or_else(|| found.iter().position(Result::is_ok));
            return found.swap_remove(best.unwrap_or(0)).map(Some);
        }
        // What is not there after all is reported with whatever else the model lacks.
        (_, Some(path)) if !spec.is_required => return Ok(Some(path.to_owned())),
        (_, Some(path)) => vec![path.to_owned()],
        (Published::Anywhere, None) => Vec::new(),
        (Published::Path(published), None) => {
            let names = published_names(published);
            searched(main).flat_map(|root| names.iter().map(move |name| root.join(name)).collect::<Vec<_>>()).collect()
        }
    };
    match candidates.iter().find(|path| is_there(path)) {
        Some(path) => Ok(Some(path.clone())),
        None if !spec.is_required => Ok(None),
        None => {
            let details = match spec.published {
                Published::Path(published) if explicit.is_none() => {
                    let mut places: Vec<String> = searched(main).map(|root| root.display().to_string()).collect();
                    places.dedup();
                    format!("ckpt/{published}, or a part of that path, is not in {}", places.join(", "))
                }
                _ => {
                    let looked: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
                    format!("there is no {}", looked.join(" nor "))
                }
            };
            Err(UserError::new("A model was not found", details, &format!("Say where it is with --{}.", spec.option)))
        }
    }
}

/// Where files are looked for of a model whose first one lies there.
fn searched(main: Option<&Path>) -> impl Iterator<Item = PathBuf> {
    let beside = main.into_iter().flat_map(|main| main.ancestors().take(3)).map(Path::to_owned);
    beside.chain(roots())
}

/// The names that something published under `path` may have: with fewer and fewer of its folders, in the reference's
/// `ckpt` folder or without that.
pub(super) fn published_names(path: &str) -> Vec<String> {
    let starts = std::iter::once(0).chain(path.match_indices('/').map(|(i, _)| i + 1));
    starts.flat_map(|start| [format!("ckpt/{}", &path[start..]), path[start..].to_owned()]).collect()
}

/// Where a model's folder is: as the user says, or by its name.
fn folder(name: &Path, spec: &FileSpec) -> Result<PathBuf, UserError> {
    if name.is_dir() || (spec.takes_single_file() && name.is_file()) {
        return Ok(name.to_owned());
    }
    let places = name.to_str().map(places).unwrap_or_default();
    let looked: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
    places.into_iter().find(|place| place.is_dir()).ok_or_else(|| {
        let nor = if looked.is_empty() { "" } else { ", nor is there " };
        let kind = if spec.takes_single_file() && is_model_file(name) { "file" } else { "folder" };
        let details = format!("{} is no {kind}{nor}{}", name.display(), looked.join(" or "));
        let hint = format!("Name the model's folder with --{}, or put it into one of these places.", spec.option);
        UserError::new("The model was not found", details, &hint)
    })
}

/// Where the files of trainings are: in the working directory, where the reference has them, in the data folder, and in
/// the hub's cache.
fn roots() -> impl Iterator<Item = PathBuf> {
    let own = Folders::of_user().map(|folders| folders.models);
    let stores = [TRAINED, RAM].into_iter().filter_map(Store::of_user);
    let cached = stores.map(|store| snapshot(&store.folder()));
    std::iter::once(PathBuf::from(".")).chain(own).chain(cached)
}

#[cfg(test)]
mod tests {
    #[test]
    fn published_names_lose_their_folders_one_by_one() {
        let names = super::published_names("ram/data/list.txt");
        assert_eq!(
            names,
            [
                "ckpt/ram/data/list.txt",
                "ram/data/list.txt",
                "ckpt/data/list.txt",
                "data/list.txt",
                "ckpt/list.txt",
                "list.txt"
            ]
        );
    }
}
