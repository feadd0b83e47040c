//! What can be downloaded ([`ASSETS`] are the rows): where each asset is on this machine, and which of a repository's files are needed.

use std::path::PathBuf;

use serde::{Serialize, Serializer};

use super::catalogue::ASSETS;
use super::direct::DirectFile;
use super::error::HubError;
use super::hash::Hash;
use super::paths::{ModelPaths, published_names};
use super::repository::{RemoteFile, Repository};
use super::{metric_files, paths, realesrgan};
use crate::base::{
    BACKBONES, Backbone, Content, FileSpec, Folders, MetricFile, PROMPT_SOURCES, PromptSource, Published, names,
};
use crate::checkpoint::{CLIP_TOKENIZER, TOKENIZER};

/// One of the things that can be downloaded.
#[derive(Debug)]
pub struct ModelAsset {
    /// As it is called in commands.
    pub id: &'static str,
    /// As people know it.
    pub title: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// Under which terms it is published.
    pub licence: &'static str,
    /// Bytes of it, about, before the hub has answered.
    pub size: u64,
    /// Where it is published.
    pub origin: Origin,
    /// The group in which the window offers it.
    pub group: &'static str,
    /// The files of models that it is, by [`FileSpec::id`].
    pub(super) files: &'static [&'static str],
}

/// Where an asset is published.
#[derive(Debug)]
pub enum Origin {
    /// Repositories of the hub that hold the same, asked in turn.
    Repositories(&'static [Repository]),
    /// A file by itself.
    File(DirectFile),
}

impl PartialEq for ModelAsset {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for ModelAsset {}

impl Serialize for ModelAsset {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id)
    }
}

/// What is known of an asset on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Where it is, whole or not.
    pub place: Option<PathBuf>,
    /// What of it is not there.
    pub missing: Vec<PathBuf>,
}

impl Found {
    /// Whether all of it is there.
    pub fn is_whole(&self) -> bool {
        self.place.is_some() && self.missing.is_empty()
    }
}

impl ModelAsset {
    /// The asset of this id.
    ///
    /// # Errors
    /// Which there are, in words.
    pub fn named(id: &str) -> Result<&'static Self, String> {
        ASSETS.iter().find(|asset| asset.id == id).ok_or_else(|| {
            let ids = ASSETS.each_ref().map(|asset| asset.id);
            format!("expected {}, found {id:?}", names::either(&ids))
        })
    }

    /// Real-ESRGAN's networks, which pip brings rather than the hub.
    pub fn realesrgan() -> &'static Self {
        &ASSETS[0]
    }

    /// The repositories that hold it.
    pub fn repositories(&self) -> &'static [Repository] {
        match self.origin {
            Origin::Repositories(repositories) => repositories,
            Origin::File(_) => &[],
        }
    }

    /// The page where a person reads about it and may get it by hand.
    pub fn page(&self) -> String {
        match &self.origin {
            Origin::Repositories(repositories) => repositories.first().map(|first| first.page()).unwrap_or_default(),
            Origin::File(file) => file.page.into(),
        }
    }

    /// Where its files come from, in the order in which that is tried.
    pub fn addresses(&self) -> Vec<String> {
        match &self.origin {
            Origin::Repositories(repositories) => repositories.iter().map(|repository| repository.page()).collect(),
            Origin::File(file) => file.addresses.iter().map(|address| (*address).to_owned()).collect(),
        }
    }

    /// What its file is known by, where it is one file and that is known.
    pub fn hash(&self) -> Option<&'static str> {
        match &self.origin {
            Origin::Repositories(_) => None,
            Origin::File(file) => file.hash,
        }
    }

    /// Its file in the folder of models, where it is published by itself and there, and what is wrong with it.
    pub fn check(&self) -> Option<(PathBuf, Result<(), HubError>)> {
        let Origin::File(file) = &self.origin else { return None };
        let place = Folders::of_user()?.models.join(file.name);
        let checked = place.is_file().then(|| file.check(&place, &place.display().to_string()))?;
        Some((place, checked))
    }

    /// Its file, where it is a network published by itself.
    fn network(&self) -> Option<&DirectFile> {
        match &self.origin {
            Origin::File(file) if self.files.is_empty() => Some(file),
            _ => None,
        }
    }

    /// The one that a model was published as, where it is one of these.
    pub fn of(backbone: &Backbone) -> Option<&'static Self> {
        let main = backbone.spec.files.first()?;
        match backbone.network_file() {
            Some(file) if realesrgan::is_one(file) => Some(Self::realesrgan()),
            Some(file) => {
                let is_here = Folders::of_user().is_some_and(|folders| file.parent() == Some(&folders.models));
                let named = |asset: &&Self| asset.network().is_some_and(|network| file.ends_with(network.name));
                ASSETS.iter().filter(|_| is_here).find(named)
            }
            None => ASSETS.iter().find(|asset| asset.files.contains(&main.id)),
        }
    }

    /// The models' files that it is, with the first file of the model each belongs to.
    fn file_specs(&self) -> impl Iterator<Item = (&'static FileSpec, &'static FileSpec)> {
        let backbones = BACKBONES.iter().map(|spec| spec.files);
        let all = backbones.chain(PROMPT_SOURCES.iter().map(|spec| spec.files));
        let find = move |id: &str| {
            all.clone().find_map(|files| files.iter().find(|file| file.id == id).map(|file| (file, &files[0])))
        };
        self.files.iter().filter_map(move |id| find(id))
    }

    /// The files of metrics that it is.
    fn metric_files(&self) -> impl Iterator<Item = &'static MetricFile> {
        self.files.iter().filter_map(|id| metric_files::named(id))
    }

    /// Whether steps with this model and this source of prompts use it.
    pub fn is_needed_by(&self, backbone: &Backbone, source: &PromptSource) -> bool {
        if self == Self::realesrgan() {
            return backbone.network_file().is_some_and(realesrgan::is_named);
        }
        if let Some(network) = self.network() {
            return backbone.network_file().is_some_and(|file| file.ends_with(network.name));
        }
        let mut used = backbone.spec.files.iter().chain(source.spec.files);
        used.any(|file| self.files.contains(&file.id))
    }

    /// What of it is on this machine, and where; the user may have said where some are.
    pub fn found(&self, explicit: &ModelPaths) -> Found {
        let metrics: Vec<&MetricFile> = self.metric_files().collect();
        if !metrics.is_empty() {
            let (here, missing): (Vec<_>, Vec<_>) = metrics
                .iter()
                .map(|file| (metric_files::place(file, None), file))
                .partition(|(place, _)| place.is_some());
            let place = here.into_iter().find_map(|(place, _)| place);
            return Found { place, missing: missing.into_iter().map(|(_, file)| file.published[0].into()).collect() };
        }
        let place = match self.file_specs().next() {
            None if let Some(network) = self.network() => {
                let place = Folders::of_user().map(|folders| folders.models.join(network.name));
                place.filter(|place| place.is_file())
            }
            None => realesrgan::realesrgan(),
            Some((file, first)) => {
                let main = paths::find(first, explicit, None).ok().flatten();
                let beside = main.filter(|_| !std::ptr::eq(file, first));
                paths::find(file, explicit, beside.as_deref()).ok().flatten()
            }
        };
        let missing = place.as_ref().map(|place| match self.file_specs().next() {
            Some((file, _)) => paths::missing_in(file, place),
            None => Vec::new(),
        });
        Found { place, missing: missing.unwrap_or_default() }
    }

    /// Which of the repository's files it needs.
    ///
    /// # Errors
    /// What the repository does not have.
    pub(super) fn needs(&self, files: &[RemoteFile]) -> Result<Vec<RemoteFile>, String> {
        let named = |name: &str| files.iter().find(|file| file.name == name).cloned();
        if self == Self::realesrgan() {
            // Whoever mirrors it, it is the file that its authors have published.
            let (name, published) = (realesrgan::MIRRORED, Hash::Sha256(realesrgan::MIRRORED_SHA256.into()));
            let file = named(name).filter(|file| file.hash == published);
            let lacking = format!("{name} with the SHA-256 {}", realesrgan::MIRRORED_SHA256);
            return Ok(vec![file.ok_or(lacking)?]);
        }
        let mut needed = Vec::new();
        for (_, name) in self.metric_files().filter_map(|file| file.hub) {
            needed.push(named(name).ok_or(name)?);
        }
        for (spec, _) in self.file_specs() {
            if let (Published::Path(path), false) = (spec.published, spec.is_folder()) {
                let names = published_names(path);
                let file = names.iter().find_map(|name| named(name));
                needed.push(file.ok_or_else(|| names[0].clone())?);
                continue;
            }
            let folder = match spec.published {
                Published::Path(path) => format!("ckpt/{path}/"),
                Published::Repository(_) | Published::Anywhere => String::new(),
            };
            for content in spec.contents {
                match *content {
                    Content::File(name) => {
                        let name = format!("{folder}{name}");
                        needed.push(named(&name).ok_or(name)?);
                    }
                    Content::ClipTokenizer(inside) => {
                        let of = |name: &str| format!("{folder}{inside}/{name}");
                        match named(&of(TOKENIZER)).filter(|_| named(&of("vocab.json")).is_none()) {
                            Some(whole) => needed.push(whole),
                            None => {
                                for name in CLIP_TOKENIZER.map(of) {
                                    needed.push(named(&name).ok_or(name)?);
                                }
                            }
                        }
                    }
                    Content::SingleFile => {}
                    Content::Optional(name) => needed.extend(named(&format!("{folder}{name}"))),
                    Content::Weights("", stem) => needed.extend(weights(files, &folder, stem)?),
                    Content::Weights(inside, stem) => {
                        needed.extend(weights(files, &format!("{folder}{inside}/"), stem)?);
                    }
                }
            }
        }
        Ok(needed)
    }
}

/// The files of a model's weights, in 16 bits where there are such, with the index of its shards.
fn weights(files: &[RemoteFile], folder: &str, stem: &str) -> Result<Vec<RemoteFile>, String> {
    let named = |accepts: &dyn Fn(&str) -> bool| -> Vec<RemoteFile> {
        let inside = |file: &&RemoteFile| file.name.strip_prefix(folder).is_some_and(accepts);
        files.iter().filter(inside).cloned().collect()
    };
    for variant in [".fp16", ""] {
        let whole = named(&|name| name == format!("{stem}{variant}.safetensors"));
        if !whole.is_empty() {
            return Ok(whole);
        }
        let shards = named(&|name| {
            name.strip_prefix(&format!("{stem}{variant}-")).is_some_and(|rest| rest.ends_with(".safetensors"))
        });
        let index = named(&|name| {
            let names = match variant {
                "" => vec![format!("{stem}.safetensors.index.json")],
                _ => vec![format!("{stem}.safetensors.index.fp16.json"), format!("{stem}.fp16.safetensors.index.json")],
            };
            names.iter().any(|index| index == name)
        });
        if !shards.is_empty() && !index.is_empty() {
            return Ok(shards.into_iter().chain(index).collect());
        }
    }
    Err(format!("{folder}{stem}.safetensors"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assets_are_files_of_models_or_of_metrics() {
        for asset in &ASSETS {
            assert_eq!(asset.file_specs().count() + asset.metric_files().count(), asset.files.len(), "{}", asset.id);
            assert!(asset.hash().is_none_or(|hash| Hash::named(hash).is_some()), "{}", asset.id);
        }
    }
}
