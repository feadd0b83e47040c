//! SHA-256 of all weights of a model: tells whether a picture could be made again with what is on this machine. Each file is
//! read once; what came of it is kept in the data folder, by the file's size and time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::sd3::Sd3;
use super::{CheckpointError, find, shards, weights_file};
use crate::base::{Backbone, Content, Folders, sha256, sha256_of, write_atomic};

/// What is known of files, by their paths. Whoever computes one keeps the others waiting: they may want the same.
static KNOWN: LazyLock<Mutex<BTreeMap<PathBuf, Known>>> = LazyLock::new(|| Mutex::new(read().unwrap_or_default()));

#[derive(Clone, Serialize, Deserialize)]
struct Known {
    bytes: u64,
    modified_nanos: u64,
    sha256: String,
}

/// In hexadecimal: of a single file its SHA-256, of several that of a list of theirs.
///
/// # Errors
/// Where a file of the model is not there or cannot be read.
pub fn weights_digest(backbone: &Backbone) -> Result<String, CheckpointError> {
    let mut files = Vec::new();
    for spec in backbone.spec.files {
        let Some(path) = backbone.files.get(spec.role) else { continue };
        if !spec.is_folder() {
            files.push(weights_file(path));
        }
        if spec.takes_single_file() {
            files.extend(Sd3::at(path)?.files()?);
            continue;
        }
        for content in spec.contents {
            if let Content::Weights(folder, stem) = content {
                files.extend(in_folder(&path.join(folder), stem)?);
            }
        }
    }
    let digests: Vec<String> = files.iter().map(|file| digest(file)).collect::<Result<_, _>>()?;
    if let [only] = digests.as_slice() {
        return Ok(only.clone());
    }
    let line = |(file, digest): (&PathBuf, &String)| {
        format!("{digest}  {}\n", file.file_name().unwrap_or_default().to_string_lossy())
    };
    Ok(sha256_of(files.iter().zip(&digests).map(line).collect::<String>().as_bytes()))
}

fn in_folder(folder: &Path, stem: &str) -> Result<Vec<PathBuf>, CheckpointError> {
    let Some(file) = find(folder, stem) else { return Ok(vec![folder.join(format!("{stem}.safetensors"))]) };
    if file.extension().is_some_and(|ending| ending == "json") {
        return Ok(shards(&file)?.into_iter().map(|name| folder.join(name)).collect());
    }
    Ok(vec![file])
}

fn digest(file: &Path) -> Result<String, CheckpointError> {
    let failed = CheckpointError::io(file);
    let metadata = file.metadata().map_err(failed)?;
    let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let (bytes, modified_nanos) = (metadata.len(), since.unwrap_or_default().as_nanos() as u64);
    let path = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = known.get(&path).filter(|it| (it.bytes, it.modified_nanos) == (bytes, modified_nanos)) {
        return Ok(known.sha256.clone());
    }
    let sha256 = sha256(file).map_err(CheckpointError::io(file))?;
    known.insert(path, Known { bytes, modified_nanos, sha256: sha256.clone() });
    known.retain(|path, _| path.exists());
    write(&known);
    Ok(sha256)
}

fn place() -> Option<PathBuf> {
    Some(Folders::of_user()?.data.join("digests.json"))
}

fn read() -> Option<BTreeMap<PathBuf, Known>> {
    serde_json::from_slice(&std::fs::read(place()?).ok()?).ok()
}

/// Where it cannot be kept, it is computed again next time.
fn write(known: &BTreeMap<PathBuf, Known>) {
    let Some(file) = place() else { return };
    let written = write_atomic(&file, |out| serde_json::to_writer(out, known));
    if let Err(error) = written {
        tracing::warn!("digests of model files are not kept: {error}");
    }
}
