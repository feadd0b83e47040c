//! Where the parts of Stable Diffusion 3 lie: in a folder of diffusers, in a single file with the original's key names, in files
//! of their own beside that, or some here and some there.

mod config;
mod original;

use std::cmp::Reverse;
use std::path::{Path, PathBuf};

pub use original::{STABLE_DIFFUSION_3, diffusion_model};
use serde_json::Value;

use super::{Checkpoint, CheckpointError, TOKENIZER, find, missing, missing_of_clip_tokenizer, shards};
use crate::base::{BACKBONES, Published, hub_cache};

/// Files of a folder that are looked into for a single-file checkpoint.
const MOST: usize = 64;

/// A network of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// What restores.
    Transformer,
    /// Pixels to latents and back.
    Vae,
    /// The smaller CLIP text encoder.
    ClipL,
    /// The larger one.
    ClipG,
    /// The long prompt's encoder.
    T5,
}

impl Network {
    /// Its folder in diffusers' layout, and how its weights are called there.
    fn folder(self) -> (&'static str, &'static str) {
        match self {
            Self::Transformer => ("transformer", "diffusion_pytorch_model"),
            Self::Vae => ("vae", "diffusion_pytorch_model"),
            Self::ClipL => ("text_encoder", "model"),
            Self::ClipG => ("text_encoder_2", "model"),
            Self::T5 => ("text_encoder_3", "model"),
        }
    }

    /// Whether its weights are in diffusers' layout there.
    fn is_in(self, folder: &Path) -> bool {
        let (name, stem) = self.folder();
        find(&folder.join(name), stem).is_some()
    }

    /// Names of a file of its own, as published, the best first.
    fn own_files(self) -> &'static [&'static str] {
        match self {
            Self::Transformer | Self::Vae => &[],
            Self::ClipL => &["clip_l.safetensors"],
            Self::ClipG => &["clip_g.safetensors"],
            Self::T5 => {
                &["t5xxl_fp16.safetensors", "t5xxl_fp8_e4m3fn_scaled.safetensors", "t5xxl_fp8_e4m3fn.safetensors"]
            }
        }
    }
}

/// Where a network's weights are.
#[derive(Clone, Debug)]
enum Place {
    /// In a folder of diffusers; or nowhere, and this is where they should be.
    Folder(PathBuf),
    /// In a file, with the original's names behind a prefix.
    File { file: PathBuf, prefix: String },
    /// Nowhere; this file should hold them.
    Nowhere(PathBuf),
}

/// A network's weights and its config.
#[derive(Clone, Debug)]
pub struct Part {
    network: Network,
    place: Place,
    /// `config.json`, which need not be there where shapes tell what it would say.
    config: PathBuf,
}

/// A part of a single file, under the names that networks ask for.
pub struct Original {
    /// The file, with this part's tensors alone.
    pub checkpoint: Checkpoint,
    /// Tensors the halves of which are the other way round.
    pub swapped: Vec<String>,
    /// A matrix that changes nothing and is not in the file: its name and its side.
    pub identity: Option<(&'static str, i64)>,
}

impl Part {
    /// The folder of its weights and their stem, where it is in diffusers' layout.
    pub fn in_folder(&self) -> Option<(&Path, &'static str)> {
        match &self.place {
            Place::Folder(folder) => Some((folder, self.network.folder().1)),
            Place::File { .. } | Place::Nowhere(_) => None,
        }
    }

    /// The file that holds it, or a folder's first.
    fn file(&self) -> PathBuf {
        match &self.place {
            Place::Folder(folder) => {
                let stem = self.network.folder().1;
                find(folder, stem).unwrap_or_else(|| folder.join(format!("{stem}.safetensors")))
            }
            Place::File { file, .. } | Place::Nowhere(file) => file.clone(),
        }
    }

    /// Opens a part that is in a file with the original's names.
    ///
    /// # Errors
    /// Where the file is not there or is none.
    pub fn original(&self) -> Result<Original, CheckpointError> {
        let (file, prefix) = match &self.place {
            Place::File { file, prefix } => (file, prefix.as_str()),
            Place::Nowhere(file) | Place::Folder(file) => (file, ""),
        };
        let mut checkpoint = Checkpoint::open(file)?;
        let original::Renamed { tensors, swapped } = original::renamed(self.network, &checkpoint.tensors, prefix);
        let width = || tensors.get("text_model.final_layer_norm.weight")?.shape.first().copied();
        let has_none = self.network == Network::ClipL && !tensors.contains_key(config::PROJECTION);
        let identity = has_none.then(width).flatten().map(|width| (config::PROJECTION, width));
        checkpoint.tensors = tensors;
        Ok(Original { checkpoint, swapped, identity })
    }

    /// Its config: the file, or what shapes tell; with the file that says so.
    ///
    /// # Errors
    /// Where the config cannot be read, or a file without one is of no known kind.
    pub fn config(&self) -> Result<(Value, PathBuf), CheckpointError> {
        if self.config.is_file() || self.in_folder().is_some() {
            let text = std::fs::read(&self.config).map_err(CheckpointError::io(&self.config))?;
            let json = serde_json::from_slice(&text);
            let json =
                json.map_err(|error| CheckpointError::Config { file: self.config.clone(), found: error.to_string() })?;
            return Ok((json, self.config.clone()));
        }
        let file = self.file();
        let derived = config::derived(self.network, &self.original()?.checkpoint.tensors);
        match derived {
            Ok(json) => Ok((json, file)),
            Err(found) => {
                let found = format!("{found}; where that is so, put its config.json at {}", self.config.display());
                Err(CheckpointError::Config { file, found })
            }
        }
    }

    /// All files of its weights.
    fn files(&self) -> Result<Vec<PathBuf>, CheckpointError> {
        let file = self.file();
        match &self.place {
            Place::Folder(folder) if file.extension().is_some_and(|ending| ending == "json") => {
                Ok(shards(&file)?.into_iter().map(|name| folder.join(name)).collect())
            }
            _ => Ok(vec![file]),
        }
    }

    /// What of it is not there.
    fn missing(&self) -> Vec<PathBuf> {
        match &self.place {
            Place::Folder(folder) => {
                let config = (!self.config.is_file()).then(|| self.config.clone());
                config.into_iter().chain(missing(folder, self.network.folder().1)).collect()
            }
            Place::File { .. } => Vec::new(),
            Place::Nowhere(file) => vec![file.clone()],
        }
    }

    /// Opens what of it is there.
    fn check(&self) -> Result<(), CheckpointError> {
        let file = self.file();
        match file.is_file() && file.extension().is_none_or(|ending| ending != "json") {
            true => Checkpoint::open(&file).map(drop),
            false => Ok(()),
        }
    }
}

/// All parts.
#[derive(Clone, Debug)]
pub struct Sd3 {
    /// What was named: a folder or a file.
    place: PathBuf,
    /// What restores.
    pub transformer: Part,
    /// Pixels to latents and back.
    pub vae: Part,
    /// CLIP-L, CLIP-G and T5.
    pub text_encoders: [Part; 3],
    /// The folders of their tokenizers.
    pub tokenizers: [PathBuf; 3],
}

/// A file that may hold several parts.
struct Single {
    file: PathBuf,
    checkpoint: Checkpoint,
}

impl Single {
    /// A file that somebody named: it must be one.
    fn open(file: &Path) -> Result<Self, CheckpointError> {
        let none = || "it holds no transformer of Stable Diffusion 3 (joint_blocks.0...)".to_owned();
        Self::look_into(file)?.ok_or_else(|| CheckpointError::format(file, none()))
    }

    /// Nothing where it is of no known diffusion model.
    fn look_into(file: &Path) -> Result<Option<Self>, CheckpointError> {
        let checkpoint = Checkpoint::open(file)?;
        if Network::Transformer.prefix_in_checkpoint(&checkpoint.tensors).is_some() {
            return Ok(Some(Self { file: file.to_owned(), checkpoint }));
        }
        let has = |start: &str| {
            let mut from = checkpoint.tensors.range(start.to_owned()..);
            from.next().is_some_and(|(key, _)| key.starts_with(start))
        };
        match diffusion_model(&has).filter(|model| *model != STABLE_DIFFUSION_3) {
            Some(other) => {
                let found = format!("it is a checkpoint of {other}, and this is for Stable Diffusion 3");
                Err(CheckpointError::format(file, found))
            }
            None => Ok(None),
        }
    }

    /// The largest in a folder that is one, as it has the most parts; else why the largest that might be one is none.
    fn in_folder(folder: &Path) -> Result<Option<Self>, CheckpointError> {
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let is_one = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "safetensors") && path.is_file();
        let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let mut files: Vec<PathBuf> = files.filter(is_one).collect();
        files.sort_by_cached_key(|path| (Reverse(size(path)), path.clone()));
        let mut first_error = None;
        for file in files.iter().take(MOST) {
            match Self::look_into(file) {
                Ok(Some(single)) => return Ok(Some(single)),
                Ok(None) => {}
                Err(error) => _ = first_error.get_or_insert(error),
            }
        }
        first_error.map_or(Ok(None), Err)
    }
}

impl Sd3 {
    /// Looks for the parts of what a folder or a file names. That some are not there is no error yet.
    ///
    /// # Errors
    /// Where it is a file, or a folder of single files, and none can be read or is of this model.
    pub fn at(place: &Path) -> Result<Self, CheckpointError> {
        let (folder, single) = match place.is_file() {
            true => (place.parent().unwrap_or(Path::new("")), Some(Single::open(place)?)),
            false if Network::Transformer.is_in(place) => (place, None),
            false => (place, Single::in_folder(place)?),
        };
        let part = |network| part(network, folder, single.as_ref());
        Ok(Self {
            place: place.to_owned(),
            transformer: part(Network::Transformer),
            vae: part(Network::Vae),
            text_encoders: [Network::ClipL, Network::ClipG, Network::T5].map(part),
            tokenizers: TOKENIZERS.map(|(name, missing)| tokenizer(folder, name, missing)),
        })
    }

    /// The same, where nothing is missing and all parts belong together.
    ///
    /// # Errors
    /// Which file is damaged, all that is missing, or which part is of another model.
    pub fn open(place: &Path) -> Result<Self, CheckpointError> {
        let sd3 = Self::at(place)?;
        for part in sd3.parts() {
            part.check()?;
        }
        let missing = sd3.missing();
        if !missing.is_empty() {
            return Err(CheckpointError::Incomplete { place: place.to_owned(), missing });
        }
        sd3.check_sizes()?;
        Ok(sd3)
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.text_encoders.iter().chain([&self.transformer, &self.vae])
    }

    /// What is not there.
    pub fn missing(&self) -> Vec<PathBuf> {
        let tokenizers = self.tokenizers.iter().zip(TOKENIZERS);
        let of_tokenizers = tokenizers.flat_map(|(folder, (_, missing))| missing(folder));
        of_tokenizers.chain(self.parts().flat_map(Part::missing)).collect()
    }

    /// All files of its weights, each once.
    pub(super) fn files(&self) -> Result<Vec<PathBuf>, CheckpointError> {
        let mut files = Vec::new();
        for part in self.parts() {
            for file in part.files()? {
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        Ok(files)
    }

    /// Whether what text encoders and VAE make is what the transformer takes.
    fn check_sizes(&self) -> Result<(), CheckpointError> {
        let (transformer, _) = self.transformer.config()?;
        let [clip_l, clip_g, t5] = &self.text_encoders;
        let pooled = clip_l.config()?.0["projection_dim"].as_i64().zip(clip_g.config()?.0["projection_dim"].as_i64());
        let pooled = pooled.and_then(|(l, g)| l.checked_add(g));
        let (long, latent) = (t5.config()?.0["d_model"].as_i64(), self.vae.config()?.0["latent_channels"].as_i64());
        for (what, part, key, found) in [
            ("pooled embeds, with CLIP-L's,", clip_g, "pooled_projection_dim", pooled),
            ("embeds", t5, "joint_attention_dim", long),
            ("latents", &self.vae, "in_channels", latent),
        ] {
            let expected = transformer[key].as_i64();
            if let (Some(found), Some(expected)) = (found, expected)
                && found != expected
            {
                let transformer = self.transformer.file();
                let other = format!("the transformer in {} takes {expected}", transformer.display());
                let found = format!("its {what} are {found} wide, and {other}: they are of different models");
                return Err(CheckpointError::Config { file: part.file(), found });
            }
        }
        Ok(())
    }

    /// What was named: a folder or a file.
    pub fn place(&self) -> &Path {
        &self.place
    }
}

/// Where a part is: in the single file, in diffusers' folder, in a file of its own.
fn part(network: Network, folder: &Path, single: Option<&Single>) -> Part {
    let (name, _) = network.folder();
    let (own, config) = (folder.join(name), folder.join(name).join("config.json"));
    let in_single = single.and_then(|single| {
        let prefix = network.prefix_in_checkpoint(&single.checkpoint.tensors)?;
        Some(Place::File { file: single.file.clone(), prefix })
    });
    let in_folder = || network.is_in(folder).then(|| Place::Folder(own.clone()));
    let places = || [folder.join("text_encoders"), folder.to_owned()];
    let alone = || {
        let files = network.own_files().iter().flat_map(|name| places().map(|folder| folder.join(name)));
        files.into_iter().find(|file| file.is_file()).map(|file| {
            let checkpoint = Checkpoint::open(&file);
            let prefix = checkpoint.ok().and_then(|it| network.prefix_in_own_file(&it.tensors)).unwrap_or_default();
            Place::File { file, prefix }
        })
    };
    let nowhere = || match (single, network.own_files().first()) {
        (Some(_), Some(file)) => Place::Nowhere(folder.join("text_encoders").join(file)),
        _ => Place::Folder(own.clone()),
    };
    if let Some(place) = in_single.or_else(in_folder).or_else(alone) {
        return Part { network, place, config };
    }
    // Beside a single file, what a download of the whole model has brought will do.
    let downloaded = single.and_then(|_| published_places().find(|place| network.is_in(place)));
    match downloaded.map(|place| place.join(name)) {
        Some(folder) => Part { network, config: folder.join("config.json"), place: Place::Folder(folder) },
        None => Part { network, place: nowhere(), config },
    }
}

/// What is not there of something in a folder.
type Missing = fn(&Path) -> Vec<PathBuf>;

/// The tokenizers' folders, and what must be in them.
const TOKENIZERS: [(&str, Missing); 3] = [
    ("tokenizer", missing_of_clip_tokenizer),
    ("tokenizer_2", missing_of_clip_tokenizer),
    ("tokenizer_3", missing_of_tokenizer),
];

fn missing_of_tokenizer(folder: &Path) -> Vec<PathBuf> {
    let file = folder.join(TOKENIZER);
    if file.is_file() { Vec::new() } else { vec![file] }
}

/// Wherever the published folder may lie.
fn published_places() -> impl Iterator<Item = PathBuf> {
    let published = BACKBONES.iter().flat_map(|spec| spec.files).filter(|file| file.takes_single_file());
    let repositories = published.filter_map(|file| match file.published {
        Published::Repository(names) => Some(names),
        Published::Path(_) | Published::Anywhere => None,
    });
    repositories.flatten().flat_map(|name| hub_cache::places(name))
}

/// Beside the weights, or wherever else the published folder may lie: single files have no tokenizers.
fn tokenizer(folder: &Path, name: &str, missing: Missing) -> PathBuf {
    let beside = folder.join(name);
    let mut elsewhere = published_places().map(|place| place.join(name));
    let is_whole = |folder: &PathBuf| missing(folder).is_empty();
    // Where a folder is there, what it lacks is told.
    if beside.is_dir() { beside } else { elsewhere.find(is_whole).unwrap_or(beside) }
}
