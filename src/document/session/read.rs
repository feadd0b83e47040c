//! Reading a session, from a `.coz` file or an autosave folder. Nothing in it is trusted.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zip::ZipArchive;

use super::folder::SessionFolder;
use super::manifest::{FORMAT, LARGEST_MANIFEST, MANIFEST, Manifest, PHOTO, SavedChoices, picture_name};
use super::{MOST_PIXELS, Session, SessionError};
use crate::base::{Folders, Source};
use crate::document::{CachedPicture, History};
use crate::imaging::{Filter, Picture, codec, exif, resize};
use crate::{base, document};

/// No picture needs more bytes a pixel than this, whatever its PNG's header says.
const MOST_BYTES_A_PIXEL: u64 = 8;
/// States beyond so many bytes do not stay in memory.
const IN_MEMORY: u64 = 512 << 20;

/// The files of a session, by names we choose.
trait Files {
    /// The bytes of a file of at most `limit` bytes.
    fn read(&mut self, name: &str, limit: u64) -> Result<Vec<u8>, String>;
}

struct Zipped(ZipArchive<BufReader<File>>);

impl Files for Zipped {
    fn read(&mut self, name: &str, limit: u64) -> Result<Vec<u8>, String> {
        let entry = self.0.by_name(name).map_err(|error| format!("{name}: {error}"))?;
        // Only what is stored as it is: nothing can grow while it is read.
        limited(entry, name, limit)
    }
}

struct Folder<'a>(&'a Path);

impl Files for Folder<'_> {
    fn read(&mut self, name: &str, limit: u64) -> Result<Vec<u8>, String> {
        let file = File::open(self.0.join(name)).map_err(|error| format!("{name}: {error}"))?;
        limited(file, name, limit)
    }
}

fn limited(source: impl Read, name: &str, limit: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let count = source.take(limit + 1).read_to_end(&mut bytes).map_err(|error| format!("{name}: {error}"))?;
    if count as u64 > limit { Err(format!("{name} is larger than it may be")) } else { Ok(bytes) }
}

/// Reads a session from a `.coz` file, or from an autosave's folder.
pub fn open(path: &Path) -> Result<Session, SessionError> {
    let unopened = |source| SessionError::Open { file: path.to_owned(), source };
    if path.is_dir() {
        return read(&mut Folder(path), path);
    }
    let file = File::open(path).map_err(unopened)?;
    let zip = ZipArchive::new(BufReader::new(file));
    read(&mut Zipped(zip.map_err(|error| damaged(path, error.to_string()))?), path)
}

fn damaged(path: &Path, found: impl Into<String>) -> SessionError {
    SessionError::Damaged { file: path.to_owned(), found: found.into() }
}

fn read(files: &mut dyn Files, path: &Path) -> Result<Session, SessionError> {
    let json = files.read(MANIFEST, LARGEST_MANIFEST).map_err(|found| damaged(path, found))?;
    #[derive(serde::Deserialize)]
    struct Head {
        format: u32,
        #[serde(default)]
        program: String,
    }
    // First of all the format: what comes after it may look different.
    let wrong = |error: serde_json::Error| damaged(path, format!("{MANIFEST}: {error}"));
    let head: Head = serde_json::from_slice(&json).map_err(wrong)?;
    if head.format > FORMAT {
        let program = head.program.chars().filter(|c| !c.is_control()).take(80).collect();
        return Err(SessionError::Newer { file: path.to_owned(), program, found: head.format });
    }
    let manifest: Manifest = serde_json::from_slice(&json).map_err(wrong)?;
    check(&manifest).map_err(|found| damaged(path, found))?;

    let mut source = manifest.photo.clone();
    source.exif = source.exif.as_ref().and_then(exif::checked);
    let mut lost_photo = None;
    let photo = if manifest.photo_inside {
        picture(files, PHOTO, manifest.width, manifest.height).map_err(|found| damaged(path, found))?
    } else {
        match linked_photo(&manifest, path) {
            Ok(photo) => photo,
            // What a crash left must not be lost with its photo: its states stand on grey.
            Err(_) if path.is_dir() => {
                lost_photo = source.file.take().or_else(|| Some(source.name.clone().into()));
                source.sha256 = None;
                stand_in(files, &manifest).map_err(|found| damaged(path, found))?
            }
            Err(error) => return Err(error),
        }
    };
    let photo_thumbnail = Arc::new(document::thumbnail(&photo));
    let mut history = History::new(source, Arc::new(photo), photo_thumbnail);
    let mut ids = vec![history.photo().id];
    let (mut in_memory, mut spilled) = (0, Spilled::default());
    for entry in &manifest.states {
        let name = picture_name(entry.picture);
        let (width, height) = (entry.step.width, entry.step.height);
        let bytes = picture_file(files, &name, width, height).map_err(|found| damaged(path, found))?;
        let picture = decoded(&bytes, &name, width, height).map_err(|found| damaged(path, found))?;
        let thumbnail = Arc::new(document::thumbnail(&picture));
        in_memory += picture.bytes();
        let picture = CachedPicture::from(Arc::new(picture));
        if in_memory > IN_MEMORY {
            spilled.take_in(&picture, &picture_name(ids.len()), &bytes)?;
        }
        let mut record = entry.step.record.clone();
        // JSON has no infinity: where a model ran, nothing written means that the two are equal.
        if record.model.is_some() && record.consistency.is_none() {
            record.consistency = Some(f64::INFINITY);
        }
        let id = history.add(ids[entry.parent], record, picture, thumbnail);
        ids.push(id.ok_or_else(|| damaged(path, "a state without the one it was cut from"))?);
    }
    history.go(ids[manifest.current]);
    let SavedChoices { mut choices, pinned } = manifest.choices;
    choices.process_size = choices.process_size.clamp(64, 2048);
    for (number, prompt) in pinned {
        if let Some(id) = ids.get(number) {
            history.pin(*id, prompt);
        }
    }
    Ok(Session { history, choices, lost_photo })
}

/// Numbers that contradict each other, before anything is read because of them.
fn check(manifest: &Manifest) -> Result<(), String> {
    let mut pixels = 0u64;
    for (i, entry) in manifest.states.iter().enumerate() {
        // Entry i is state i + 1; what it was cut from comes before it.
        if entry.parent > i {
            return Err(format!("state {} was cut from state {}, which comes later", i + 1, entry.parent));
        }
        let (width, height) = match entry.parent.checked_sub(1) {
            None => (manifest.width, manifest.height),
            Some(before) => (manifest.states[before].step.width, manifest.states[before].step.height),
        };
        if !entry.step.record.region.fits(width, height) {
            return Err(format!("the box of state {} does not lie in the picture it was cut from", i + 1));
        }
        pixels = pixels.saturating_add(u64::from(entry.step.width) * u64::from(entry.step.height));
    }
    if pixels > MOST_PIXELS {
        let most = MOST_PIXELS >> 20;
        return Err(format!("its states claim {} megapixels; at most {most} are read", pixels >> 20));
    }
    if manifest.current > manifest.states.len() {
        return Err(format!("state {} is at hand, but there are {}", manifest.current, manifest.states.len()));
    }
    Ok(())
}

fn picture(files: &mut dyn Files, name: &str, width: u32, height: u32) -> Result<Picture, String> {
    let bytes = picture_file(files, name, width, height)?;
    decoded(&bytes, name, width, height)
}

fn picture_file(files: &mut dyn Files, name: &str, width: u32, height: u32) -> Result<Vec<u8>, String> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || pixels > codec::MAX_PIXELS {
        return Err(format!("{name} claims {width} x {height} pixels"));
    }
    files.read(name, pixels * MOST_BYTES_A_PIXEL + (1 << 20))
}

fn decoded(bytes: &[u8], name: &str, width: u32, height: u32) -> Result<Picture, String> {
    codec::png_of_size(bytes, width, height).map_err(|error| format!("{name}: {error}"))
}

/// Pictures of a large session, beside the autosaves: they are reread from there.
#[derive(Default)]
struct Spilled(Option<Arc<SessionFolder>>);

impl Spilled {
    /// Writes a picture's file, and lets its pixels go.
    fn take_in(&mut self, picture: &CachedPicture, name: &str, bytes: &[u8]) -> Result<(), SessionError> {
        let folder = match &mut self.0 {
            Some(folder) => folder,
            empty => {
                let all = Folders::of_user().map_or_else(std::env::temp_dir, |folders| folders.autosave);
                empty.insert(Arc::new(SessionFolder::create(&all)?))
            }
        };
        let file = folder.path().join(name);
        let written = base::write_atomic(&file, |out| out.write_all(bytes));
        written.map_err(|error| SessionError::Write { file: file.clone(), details: error.to_string() })?;
        picture.keep_in(file, folder.clone());
        picture.evict();
        Ok(())
    }
}

/// A grey picture of the photo's size, with the states that were cut from it, reduced, in their places.
fn stand_in(files: &mut dyn Files, manifest: &Manifest) -> Result<Picture, String> {
    let pixels = u64::from(manifest.width) * u64::from(manifest.height);
    if pixels == 0 || pixels > codec::MAX_PIXELS {
        return Err(format!("its photo claims {} x {} pixels", manifest.width, manifest.height));
    }
    let mut photo = Picture::from_fn(manifest.width, manifest.height, |_, _| [0x60; 3]);
    for entry in manifest.states.iter().filter(|entry| entry.parent == 0) {
        let region = entry.step.record.region;
        let state = picture(files, &picture_name(entry.picture), entry.step.width, entry.step.height)?;
        photo.paste(&resize(&state, region.width, region.height, Filter::Bicubic), region.x, region.y);
    }
    Ok(photo)
}

/// Where a photo is: where it was, or beside `path` under the same name, or where `coz zoom` has put it for the results at `path`.
pub fn photo_beside(source: &Source, path: &Path) -> Option<PathBuf> {
    let name = source.file.as_deref().and_then(Path::file_name).or(Path::new(&source.name).file_name())?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let of_sample = folder
        .ancestors()
        .skip(1)
        .take(2)
        .map(|out| out.join("per-sample").join(path.file_stem().unwrap_or_default()).join(name));
    let candidates = source.file.clone().into_iter().chain([folder.join(name)]).chain(of_sample);
    candidates.into_iter().find(|file| file.is_file())
}

fn linked_photo(manifest: &Manifest, path: &Path) -> Result<Picture, SessionError> {
    let missing = || SessionError::PhotoMissing {
        file: path.to_owned(),
        photo: manifest.photo.file.clone().unwrap_or_else(|| manifest.photo.name.clone().into()),
    };
    let file = photo_beside(&manifest.photo, path).ok_or_else(missing)?;
    let other =
        |expected, found| SessionError::OtherPhoto { file: path.to_owned(), photo: file.clone(), expected, found };
    if let (Some(expected), Ok(found)) = (&manifest.photo.sha256, base::sha256(&file))
        && *expected != found
    {
        return Err(other(format!("SHA-256 {expected}"), found));
    }
    let photo = codec::open(&file)?;
    if (photo.width(), photo.height()) != (manifest.width, manifest.height) {
        let size = |width, height| format!("{width} x {height} pixels");
        return Err(other(size(manifest.width, manifest.height), size(photo.width(), photo.height())));
    }
    Ok(photo)
}
