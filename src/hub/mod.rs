//! Where models are: in a folder that is named, in the program's data folder, or in the cache of the Hugging Face hub
//! (`models--org--name/snapshots/REVISION`), which other programs or [`download`] have filled.

mod download;
mod error;
mod parts;
mod realesrgan;
mod remote;
mod store;

use std::path::{Path, PathBuf};

use crate::problem::Problem;
use crate::prompt::tags::TagFiles;
use crate::prompt::vlm::VlmFiles;
use crate::prompt::{Extractor, ExtractorKind, Places};
use crate::settings::{Folders, Settings};
use crate::step::{Backbone, Precision, Sd3Files};

pub use download::{Transfer, download};
pub use error::HubError;
pub use parts::{Found, Part, Repository};
pub use realesrgan::{model_file, realesrgan};
pub use remote::Patience;
pub use store::Store;

/// The published model that Chain-of-Zoom was trained on.
pub const SD3: &str = "stabilityai/stable-diffusion-3-medium-diffusers";
/// The published model that its prompts were trained with.
pub const VLM: &str = "Qwen/Qwen2.5-VL-3B-Instruct";

/// The super-resolution models on this machine, the best for photos first: Chain-of-Zoom's own where all its files are here,
/// Real-ESRGAN, the built-in, those for drawings.
pub fn backbones() -> Vec<Backbone> {
    let is_whole = |files: &Sd3Files| files.lora.is_some() && files.vae.is_some() && files.missing().is_empty();
    let sd3 = sd3(None).ok().map(with_training).filter(is_whole).map(Backbone::Sd3);
    let file = realesrgan().map(Backbone::File);
    let drawings = realesrgan::for_drawings().into_iter().map(Backbone::File);
    sd3.into_iter().chain(file).chain([Backbone::BuiltIn]).chain(drawings).collect()
}

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
    folder(told.unwrap_or(Path::new(SD3)), "--pretrained-model-name-or-path").map(plain)
}

/// What finds words, with its files: as told, or where the reference has them.
///
/// # Errors
/// Where they were looked for, if they are in none of these places.
pub fn extractor(kind: ExtractorKind, told: &Places, precision: Precision) -> Result<Extractor, Problem> {
    let vlm = |adapter: Option<PathBuf>| {
        let model = folder(told.vlm.as_deref().unwrap_or(Path::new(VLM)), "--vlm-path")?;
        Ok(Extractor::Vlm(VlmFiles { model, adapter, precision }))
    };
    match kind {
        ExtractorKind::Own => Ok(Extractor::Own),
        ExtractorKind::Vlm => vlm(None),
        ExtractorKind::Tuned => vlm(Some(adapter(told)?)),
        ExtractorKind::Tags => {
            let names = ["ckpt/RAM/ram_swin_large_14m.pth", "RAM/ram_swin_large_14m.pth", "ram_swin_large_14m.pth"];
            let ram = one_of(&names, told.ram.as_deref(), "--ram-path", Path::is_file)?;
            // In the reference's folders the one is beside the other.
            let beside = ram.parent().and_then(Path::parent).map(|ckpt| ckpt.join("DAPE").join("DAPE.pth"));
            let dape = match dape(told) {
                // It is RAM without that.
                Err(_) if told.dape.is_none() => beside.filter(|file| file.is_file()),
                found => Some(found?),
            };
            let mut files = TagFiles::beside(&ram);
            if let Some(list) = tag_list().filter(|_| !files.tags.is_file()) {
                files.thresholds = list.with_file_name("ram_tag_list_threshold.txt");
                files.tags = list;
            }
            let tags = told.tags.clone().unwrap_or(files.tags);
            let thresholds = told.thresholds.clone().unwrap_or(files.thresholds);
            Ok(Extractor::Tags(TagFiles { ram, dape, tags, thresholds, precision }))
        }
    }
}

/// The adapter of the vision-language model.
fn adapter(told: &Places) -> Result<PathBuf, Problem> {
    let names = ["ckpt/VLM_LoRA/checkpoint-10000", "VLM_LoRA/checkpoint-10000"];
    one_of(&names, told.adapter.as_deref(), "--vlm-lora-path", Path::is_dir)
}

/// The tagger's changes.
fn dape(told: &Places) -> Result<PathBuf, Problem> {
    let names = ["ckpt/DAPE/DAPE.pth", "DAPE/DAPE.pth", "DAPE.pth"];
    one_of(&names, told.dape.as_deref(), "--ram-ft-path", Path::is_file)
}

/// The tagger's words, where they are not beside it.
fn tag_list() -> Option<PathBuf> {
    let name = Path::new("ram").join("data").join("ram_tag_list.txt");
    trained().iter().map(|folder| folder.join(&name)).find(|list| list.is_file())
}

/// What is told, or the first of these names in the working directory and the data folder.
fn one_of(names: &[&str], told: Option<&Path>, option: &str, is_there: fn(&Path) -> bool) -> Result<PathBuf, Problem> {
    let places: Vec<PathBuf> = match told {
        Some(told) => vec![told.to_owned()],
        None => trained().iter().flat_map(|folder| names.iter().map(|name| folder.join(name))).collect(),
    };
    let looked: Vec<String> = places.iter().map(shown).collect();
    places.into_iter().find(|place| is_there(place)).ok_or_else(|| {
        let details = format!("there is no {}", looked.join(" nor "));
        Problem::new("A model was not found", details, &format!("Say where it is with {option}."))
    })
}

/// Where a model's folder is: as told, or by its name.
fn folder(name: &Path, option: &str) -> Result<PathBuf, Problem> {
    if name.is_dir() {
        return Ok(name.to_owned());
    }
    let places = name.to_str().map(places).unwrap_or_default();
    let looked: Vec<String> = places.iter().map(shown).collect();
    places.into_iter().find(|place| place.is_dir()).ok_or_else(|| {
        let nor = if looked.is_empty() { "" } else { ", nor is there " };
        let details = format!("{} is no folder{nor}{}", name.display(), looked.join(" or "));
        let hint = format!("Name the model's folder with {option}, or put it into one of these places.");
        Problem::new("The model was not found", details, &hint)
    })
}

/// The two files of Chain-of-Zoom's training, where they are not told: looked for in the working directory, where the
/// reference has them, and in the data folder.
pub fn with_training(files: Sd3Files) -> Sd3Files {
    files.with_training_from(&trained().iter().map(PathBuf::as_path).collect::<Vec<_>>())
}

/// Where the files of trainings are: in the working directory, where the reference has them, in the data folder, and in
/// the hub's cache.
fn trained() -> Vec<PathBuf> {
    let own = Folders::of_user().map(|folders| folders.models);
    let stores = [parts::TRAINED, parts::RAM].into_iter().filter_map(Store::of_user);
    let cached = stores.map(|store| snapshot(&store.folder()));
    std::iter::once(PathBuf::from(".")).chain(own).chain(cached).collect()
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

/// A folder that a variable names.
fn told(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The folder of the hub's own programs, as they find it.
fn home() -> Option<PathBuf> {
    let user = || directories::BaseDirs::new().map(|directories| directories.home_dir().to_owned());
    let caches = || told("XDG_CACHE_HOME").or_else(|| Some(user()?.join(".cache")));
    told("HF_HOME").or_else(|| Some(caches()?.join("huggingface")))
}

/// The hub's cache, as its own library finds it.
fn cache() -> Option<PathBuf> {
    told("HF_HUB_CACHE").or_else(|| told("HUGGINGFACE_HUB_CACHE")).or_else(|| Some(home()?.join("hub")))
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
