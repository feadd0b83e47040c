//! The files that models are made of: which there are (a spec's rows), and where the chosen ones lie.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Precision;

/// One file or folder of a model: a row that the window, the command line and the hub iterate.
#[derive(Debug)]
pub struct FileSpec {
    /// Its key among the files of one model, in sessions and settings.
    pub role: &'static str,
    /// Its key among those of all models: where the user has said that it lies.
    pub id: &'static str,
    /// In the window.
    pub label: &'static str,
    /// The command line's option, with the reference's name; models may share one. Empty where a name on the command line means the file
    /// itself.
    pub option: &'static str,
    /// What `--help` says of it.
    pub help: &'static str,
    /// Without it the model cannot be opened.
    pub is_required: bool,
    /// Where it is published, so where it may lie.
    pub published: Published,
    /// What a folder holds; empty for single files.
    pub contents: &'static [Content],
}

impl PartialEq for FileSpec {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

/// What names of model files end in.
pub const MODEL_ENDINGS: [&str; 6] = ["safetensors", "pth", "pt", "ckpt", "param", "bin"];

/// Whether a file has the name of a model.
pub fn is_model_file(file: &Path) -> bool {
    file.extension().is_some_and(|ending| MODEL_ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known)))
}

/// Under which name something is published.
#[derive(Clone, Copy, Debug)]
pub enum Published {
    /// A repository of the Hugging Face hub, `owner/name`; others that hold the same come after it.
    Repository(&'static [&'static str]),
    /// A path in the reference's `ckpt` folder, or beside the model's other files.
    Path(&'static str),
    /// Any file the user names.
    Anywhere,
}

/// Something in a model's folder.
#[derive(Clone, Copy, Debug)]
pub enum Content {
    /// A small file that must be there.
    File(&'static str),
    /// The folder of a CLIP tokenizer: `vocab.json` with `merges.txt`, or `tokenizer.json`.
    ClipTokenizer(&'static str),
    /// One that need not be there.
    Optional(&'static str),
    /// `{folder}/{stem}.safetensors`, its `.fp16` variant, or shards of it; `folder` may be empty.
    Weights(&'static str, &'static str),
    /// In place of the folder, or in it, a single file with the original's key names may hold all weights or some.
    SingleFile,
}

impl FileSpec {
    /// Whether it is a folder.
    pub fn is_folder(&self) -> bool {
        !self.contents.is_empty()
    }

    /// Whether a single file will do in the folder's place.
    pub fn takes_single_file(&self) -> bool {
        self.contents.iter().any(|content| matches!(content, Content::SingleFile))
    }
}

/// Where the files of one model lie, by [`FileSpec::role`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelFiles(BTreeMap<&'static str, PathBuf>);

impl ModelFiles {
    /// The file or folder of this role.
    pub fn get(&self, role: &str) -> Option<&Path> {
        self.0.get(role).map(PathBuf::as_path)
    }

    /// Puts a file in its role.
    pub fn set(&mut self, spec: &FileSpec, path: PathBuf) {
        self.0.insert(spec.role, path);
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        self.0.iter().map(|(role, path)| (*role, path.as_path()))
    }
}

/// A model as sessions and settings hold it: `"id"` without files, `{"id": "path"}` with a single one, else
/// `{"id": {"role": "path", .., "precision": ".."}}`, with `null` (in TOML nothing) for a file that need not be there.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Stored {
    Plain(String),
    Single(BTreeMap<String, String>),
    Several(BTreeMap<String, BTreeMap<String, Option<String>>>),
}

/// The key of the numbers it computes in, among the roles.
const PRECISION: &str = "precision";

/// Writes a model.
pub(super) fn serialize<S: Serializer>(
    id: &str,
    specs: &[FileSpec],
    files: &ModelFiles,
    precision: Precision,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let text = |path: &Path| {
        let text = path.to_str().map(str::to_owned);
        text.ok_or_else(|| serde::ser::Error::custom(format!("{} is no UTF-8", path.display())))
    };
    let stored = match specs {
        [] => Stored::Plain(id.to_owned()),
        [only] if !only.is_folder() => {
            let path = files.get(only.role).map(text).transpose()?.unwrap_or_default();
            Stored::Single([(id.to_owned(), path)].into())
        }
        _ => {
            let mut several = BTreeMap::from([(PRECISION.to_owned(), Some(precision.to_string()))]);
            for spec in specs {
                several.insert(spec.role.to_owned(), files.get(spec.role).map(text).transpose()?);
            }
            Stored::Several([(id.to_owned(), several)].into())
        }
    };
    stored.serialize(serializer)
}

/// A model that was read: its id, and its files by role.
pub(super) struct Read {
    pub id: String,
    files: BTreeMap<String, Option<String>>,
    single: Option<String>,
}

impl Read {
    pub(super) fn from<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let nothing = || serde::de::Error::custom("expected the name of a model, or one with its files");
        Ok(match Stored::deserialize(deserializer)? {
            Stored::Plain(id) => Self { id, files: BTreeMap::new(), single: None },
            Stored::Single(model) => {
                let (id, path) = model.into_iter().next().ok_or_else(nothing)?;
                Self { id, files: BTreeMap::new(), single: Some(path) }
            }
            Stored::Several(model) => {
                let (id, files) = model.into_iter().next().ok_or_else(nothing)?;
                Self { id, files, single: None }
            }
        })
    }

    /// Whether all files that are required are named.
    pub(super) fn is_whole(&self, specs: &[FileSpec]) -> bool {
        let named = |spec: &FileSpec| self.files.get(spec.role).is_some_and(Option::is_some) || self.single.is_some();
        specs.iter().filter(|spec| spec.is_required).all(named)
    }

    /// The files of this kind of model, and the numbers it computes in.
    pub(super) fn files(&self, specs: &'static [FileSpec]) -> Result<(ModelFiles, Precision), String> {
        let takes_one = matches!(specs, [only] if !only.is_folder());
        if !self.is_whole(specs) || (self.single.is_some() && !takes_one) {
            let required: Vec<&str> = specs.iter().filter(|spec| spec.is_required).map(|spec| spec.role).collect();
            return Err(match required.as_slice() {
                [] => format!("{} has no files", self.id),
                required => format!("{} needs {}", self.id, required.join(", ")),
            });
        }
        let mut files = ModelFiles::default();
        for spec in specs {
            let path = self.files.get(spec.role).and_then(Option::as_ref).or(self.single.as_ref());
            if let Some(path) = path {
                files.set(spec, path.into());
            }
        }
        let precision = self.files.get(PRECISION).and_then(Option::as_ref);
        Ok((files, precision.map_or(Ok(Precision::default()), |precision| precision.parse())?))
    }
}
