//! How a picture's results came to be: a small file beside them, by which `--resume` knows whether they are those that are wanted.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::{ArgMatches, Command};
use serde::{Deserialize, Serialize};

use crate::base::{
    BACKBONES, Backbone, ModelFiles, PROGRAM, PROMPT_SOURCES, PromptSource, WriteError, sha256, sha256_of, write_atomic,
};

/// Its name.
const FILE: &str = "run.json";

/// Options on which no result depends.
const WITHOUT_EFFECT: [&str; 16] = [
    "input",
    "output",
    "device",
    "resume",
    "shard",
    "jobs",
    "json",
    "subfolders",
    "memory",
    "efficient_memory",
    "merge_and_unload_lora",
    "lora_rank",
    // Known by what is in their files.
    "backbone",
    "prompt_type",
    // By its model's name; where it stands is nobody's business.
    "prompt_server",
    "prompt_server_model",
];

/// Model files of more bytes are told apart by name, size and date.
const WORTH_HASHING: u64 = 1 << 30;

/// Between the name of a model's file and what tells its content.
const DIGEST: &str = " #";

/// The record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunRecord {
    /// The program and its version; results of another one are as good.
    program: String,
    /// Of the picture.
    input: String,
    /// SHA-256 of the picture's file.
    sha256: String,
    /// Models, and their files by what they are for.
    models: BTreeMap<String, String>,
    /// By their names on the command line.
    options: BTreeMap<String, String>,
    /// States beside the first.
    steps: u32,
}

/// What is the same for all pictures of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct RunOptions(BTreeMap<String, String>);

impl RunOptions {
    /// Of a command, with what was given and what is so where nothing was.
    pub(super) fn of(command: &Command, matches: &ArgMatches) -> Self {
        let text = |value: &OsStr| value.to_string_lossy().into_owned();
        // Known by what is in them; where they lie is nobody's business.
        let of_models = BACKBONES.iter().flat_map(|spec| spec.files);
        let is_file =
            |id: &str| of_models.clone().chain(PROMPT_SOURCES.iter().flat_map(|it| it.files)).any(|it| it.option == id);
        let mut options: BTreeMap<String, String> = BTreeMap::new();
        for id in command.get_arguments().map(|argument| argument.get_id().as_str()) {
            if let Ok(Some(values)) = matches.try_get_raw(id)
                && !WITHOUT_EFFECT.contains(&id)
                && !is_file(id)
            {
                options.insert(id.to_owned(), values.map(text).collect::<Vec<_>>().join(" "));
            }
        }
        options.insert("command".into(), command.get_name().into());
        Self(options)
    }
}

impl RunRecord {
    /// What a run makes of a picture.
    ///
    /// # Errors
    /// Where the picture cannot be read.
    pub(super) fn of(
        file: &Path,
        options: &RunOptions,
        models: BTreeMap<String, String>,
        steps: u32,
    ) -> std::io::Result<Self> {
        Ok(Self {
            program: PROGRAM.into(),
            input: file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            sha256: sha256(file)?,
            models,
            options: options.0.clone(),
            steps,
        })
    }

    /// The record in a folder of results; `None` where there is none that can be read.
    pub(super) fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(folder.join(FILE)).ok()?).ok()
    }

    /// Puts it into a folder of results.
    pub(super) fn write(&self, folder: &Path) -> Result<(), WriteError> {
        write_atomic(&folder.join(FILE), |out| serde_json::to_writer_pretty(out, self))
    }

    /// Takes it away: what is there from now on is not finished.
    pub(super) fn remove(folder: &Path) -> Result<(), WriteError> {
        let file = folder.join(FILE);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(WriteError { file, details: error.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// Why results of `other` are not those that this one says; `None` where they are.
    pub(super) fn difference(&self, other: &Self) -> Option<String> {
        if self.sha256 != other.sha256 {
            return Some(match self.input == other.input {
                true => "the picture is another one than before".into(),
                false => format!("the results there are of {}", other.input),
            });
        }
        let differing = |ours: &BTreeMap<String, String>, theirs: &BTreeMap<String, String>| {
            let names: std::collections::BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
            let name = names.into_iter().find(|name| ours.get(*name) != theirs.get(*name))?;
            let value = |value: Option<&String>| value.cloned().unwrap_or_else(|| "nothing".into());
            Some((name.clone(), value(theirs.get(name)), value(ours.get(name))))
        };
        if let Some((role, then, now)) = differing(&self.models, &other.models) {
            let label = |text: &str| text.rsplit_once(DIGEST).map_or(text, |(name, _)| name).to_owned();
            return Some(match label(&then) == label(&now) {
                true => format!("the file of the {role} is another one"),
                false => format!("the {role} was {}, it is {} now", label(&then), label(&now)),
            });
        }
        if let Some((name, then, now)) = differing(&self.options, &other.options) {
            return Some(format!("--{} was {then}, it is {now} now", name.replace('_', "-")));
        }
        (self.steps != other.steps).then(|| format!("it had {} steps, and {} are wanted", other.steps, self.steps))
    }
}

/// Models and their files, known by what is in them, not by where they lie.
pub(super) fn models(backbone: &Backbone, prompt_source: &PromptSource) -> BTreeMap<String, String> {
    let of = |role: &'static str, id: String, files: &ModelFiles| {
        let files: Vec<_> = files.iter().map(|(part, path)| (format!("{role}, {part}"), identity(path))).collect();
        std::iter::once((role.to_owned(), id)).chain(files)
    };
    let server = prompt_source.server.as_ref().filter(|server| !server.model.is_empty());
    let of_server = server.map(|server| ("prompt source, model".to_owned(), server.model.clone()));
    of("model", backbone.name(), &backbone.files)
        .chain(of("prompt source", prompt_source.spec.id.into(), &prompt_source.files))
        .chain(of_server)
        .collect()
}

/// A file's name, and what tells its content from another one's.
fn identity(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let of_file = |path: &Path| -> std::io::Result<String> {
        let metadata = path.metadata()?;
        if metadata.is_file() && metadata.len() < WORTH_HASHING {
            return sha256(path);
        }
        let since = metadata.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Ok(format!("{}-{}", metadata.len(), since.as_secs()))
    };
    let all: Vec<PathBuf> = match path.is_dir() {
        true => {
            walkdir::WalkDir::new(path).sort_by_file_name().into_iter().flatten().map(|it| it.into_path()).collect()
        }
        false => vec![path.to_owned()],
    };
    let digests: Vec<String> = all
        .iter()
        .filter(|file| file.is_file())
        .map(|file| of_file(file).unwrap_or_else(|error| error.to_string()))
        .collect();
    match digests.as_slice() {
        [only] => format!("{name}{DIGEST}{only}"),
        all => format!("{name}{DIGEST}{}", sha256_of(all.join("\n").as_bytes())),
    }
}
