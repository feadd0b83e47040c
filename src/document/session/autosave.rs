//! Autosave: every state is on the disk a moment after it was made, in a folder of its own below the data folder.
//!
//! A lock, which the system lets go however the program ends, tells folders in use from those left by a crash. So any
//! number of windows can be open at once, and the next start finds just what was lost.

use std::collections::HashSet;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::manifest::{MANIFEST, Manifest, PHOTO, picture_name};
use super::write::png;
use super::{Session, SessionError};
use crate::base;

const LOCK: &str = "lock";
/// Sessions left behind are kept, the newest this many.
const KEPT: usize = 20;

/// One session's folder, while it is open.
pub struct Autosave {
    folder: PathBuf,
    /// Held as long as this lives.
    _lock: File,
    written: HashSet<usize>,
    photo_inside: bool,
}

impl Autosave {
    /// A new folder below `all`.
    pub fn create(all: &Path) -> Result<Self, SessionError> {
        let failed = |error: std::io::Error| SessionError::Write { file: all.to_owned(), details: error.to_string() };
        std::fs::create_dir_all(all).map_err(failed)?;
        let folder = tempfile::Builder::new().prefix("session-").tempdir_in(all).map_err(failed)?.keep();
        let lock = File::create(folder.join(LOCK)).map_err(failed)?;
        lock.try_lock().map_err(|error| failed(error.into()))?;
        Ok(Self { folder, _lock: lock, written: HashSet::new(), photo_inside: false })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Brings the folder up to date: pictures that are new, then the description of all. A failure leaves what was kept
    /// before; the next call tries again.
    pub fn keep(&mut self, session: &Session) -> Result<(), SessionError> {
        let history = &session.history;
        // A photo whose file vanishes meanwhile is kept from memory.
        let is_linked = history.source().file.as_ref().is_some_and(|file| file.is_file());
        if !is_linked && !self.photo_inside {
            self.write(PHOTO, &png(history, history.photo()).map_err(|details| self.failed(PHOTO, details))?)?;
            self.photo_inside = true;
        }
        for (_, state) in history.outline().into_iter().filter(|(_, state)| state.parent.is_some()) {
            let number = state.id.0;
            if !self.written.contains(&number) {
                let name = picture_name(number);
                self.write(&name, &png(history, state).map_err(|details| self.failed(&name, details))?)?;
                self.written.insert(number);
            }
        }
        let manifest = Manifest::of(session, self.photo_inside);
        let json = serde_json::to_vec_pretty(&manifest).map_err(|error| self.failed(MANIFEST, error.to_string()))?;
        self.write(MANIFEST, &json)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), SessionError> {
        base::write_atomic(&self.folder.join(name), |out| out.write_all(bytes))
            .map_err(|error| self.failed(name, error.to_string()))
    }

    fn failed(&self, name: &str, details: String) -> SessionError {
        SessionError::Write { file: self.folder.join(name), details }
    }

    /// Throws it away: there is nothing in it that is not elsewhere.
    pub fn discard(self) {
        _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A session that a program left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoverableSession {
    /// Its folder; [`super::open`] reads it.
    pub folder: PathBuf,
    /// The photo's name.
    pub name: String,
    /// How many states were made.
    pub states: usize,
    /// When it was last written.
    pub when: SystemTime,
}

/// What programs that are gone have left behind below `all`, the newest first. Empty and very old ones are cleared away.
pub fn recoverable(all: &Path) -> Vec<RecoverableSession> {
    let mut found: Vec<RecoverableSession> = std::fs::read_dir(all)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| recoverable_in(&entry.path()))
        .collect();
    found.sort_by_key(|session| std::cmp::Reverse(session.when));
    for old in found.drain(KEPT.min(found.len())..) {
        discard(&old.folder);
    }
    found
}

/// Throws a session away, unless a program uses it.
pub fn discard(folder: &Path) {
    if folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("session-")) && is_free(folder) {
        _ = std::fs::remove_dir_all(folder);
    }
}

fn is_free(folder: &Path) -> bool {
    match File::open(folder.join(LOCK)).map(|lock| lock.try_lock()) {
        Ok(Err(TryLockError::WouldBlock)) => false,
        // A system without locks, or a lock file that is gone: nobody else can be recognised.
        Ok(_) => true,
        Err(_) => true,
    }
}

fn recoverable_in(folder: &Path) -> Option<RecoverableSession> {
    if !folder.file_name()?.to_string_lossy().starts_with("session-") || !is_free(folder) {
        return None;
    }
    let manifest = folder.join(MANIFEST);
    let Ok(json) = std::fs::read(&manifest) else {
        // Younger ones may be about to be locked and written.
        let age = folder.metadata().ok()?.modified().ok()?.elapsed().unwrap_or_default();
        if age.as_secs() > 60 {
            _ = std::fs::remove_dir_all(folder);
        }
        return None;
    };
    let manifest: Manifest = serde_json::from_slice(&json).ok()?;
    let when = folder.join(MANIFEST).metadata().ok()?.modified().ok()?;
    Some(RecoverableSession {
        folder: folder.to_owned(),
        name: manifest.photo.name,
        states: manifest.states.len(),
        when,
    })
}
