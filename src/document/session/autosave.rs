//! Autosave: every state is on the disk a moment after it was made, in a folder of its own below the data folder.
//!
//! A lock, which the system lets go however the program ends, tells folders in use from those left by a crash. So any
//! number of windows can be open at once, and the next start finds just what was lost.

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::folder::{SessionFolder, is_left_behind, remove};
use super::manifest::{MANIFEST, Manifest, PHOTO, picture_name};
use super::write::png;
use super::{Session, SessionError};
use crate::base;
use crate::document::{History, StateId};

/// Sessions left behind may take so much room; beyond it the user is asked.
pub const ROOM: u64 = 4_000_000_000;

/// One session's folder, while it is open. It stays behind where there is something to recover in it.
pub struct Autosave {
    folder: Arc<SessionFolder>,
    written: HashSet<StateId>,
    photo_inside: bool,
}

impl Autosave {
    /// A new folder below `all`.
    pub fn create(all: &Path) -> Result<Self, SessionError> {
        let folder = Arc::new(SessionFolder::create(all)?);
        Ok(Self { folder, written: HashSet::new(), photo_inside: false })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
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
        self.keep_pictures(history)?;
        let manifest = Manifest::of(session, self.photo_inside);
        let json = serde_json::to_vec_pretty(&manifest).map_err(|error| self.failed(MANIFEST, error.to_string()))?;
        self.write(MANIFEST, &json)
    }

    /// Writes pictures that are new, so that they can leave memory. Deleted ones too: they may come back.
    pub fn keep_pictures(&mut self, history: &History) -> Result<(), SessionError> {
        for state in history.with_deleted().filter(|state| state.parent.is_some()) {
            if !self.written.contains(&state.id) {
                let name = picture_name(state.id.0);
                self.write(&name, &png(history, state).map_err(|details| self.failed(&name, details))?)?;
                self.written.insert(state.id);
                state.picture.keep_in(self.folder().join(name), self.folder.clone());
            }
        }
        Ok(())
    }

    /// All of it is saved elsewhere: nothing is to be recovered from here, but pictures can still be reread.
    pub fn forget(&mut self) {
        remove(&self.folder().join(MANIFEST));
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), SessionError> {
        base::write_atomic(&self.folder().join(name), |out| out.write_all(bytes))
            .map_err(|error| self.failed(name, error.to_string()))
    }

    fn failed(&self, name: &str, details: String) -> SessionError {
        SessionError::Write { file: self.folder().join(name), details }
    }
}

impl Drop for Autosave {
    fn drop(&mut self) {
        self.folder.leave();
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
    /// Room that it takes.
    pub bytes: u64,
}

/// What programs that are gone have left behind below `all`, the newest first. Empty ones are cleared away.
pub fn recoverable(all: &Path) -> Vec<RecoverableSession> {
    let mut found: Vec<RecoverableSession> = std::fs::read_dir(all)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| recoverable_in(&entry.path()))
        .collect();
    found.sort_by_key(|session| std::cmp::Reverse(session.when));
    found
}

/// Those of the oldest without which the others stay within `room`; never the newest one.
pub fn surplus(newest_first: &[RecoverableSession], room: u64) -> &[RecoverableSession] {
    let mut all = 0;
    let kept = newest_first.iter().take_while(|session| {
        all += session.bytes;
        all <= room
    });
    let kept = kept.count().max(1).min(newest_first.len());
    &newest_first[kept..]
}

/// Throws a session away, unless a program uses it.
pub fn discard(folder: &Path) {
    if is_left_behind(folder) {
        remove(folder);
    }
}

fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
            Ok(metadata) => metadata.len(),
            // Just gone.
            Err(_) => 0,
        })
        .sum()
}

fn recoverable_in(folder: &Path) -> Option<RecoverableSession> {
    if !is_left_behind(folder) {
        return None;
    }
    let manifest = folder.join(MANIFEST);
    let Ok(json) = std::fs::read(&manifest) else {
        // Younger ones may be about to be locked and written.
        let age = folder.metadata().ok()?.modified().ok()?.elapsed().unwrap_or_default();
        if age.as_secs() > 60 {
            remove(folder);
        }
        return None;
    };
    let manifest: Manifest = serde_json::from_slice(&json).ok()?;
    let when = folder.join(MANIFEST).metadata().ok()?.modified().ok()?;
    let (folder, states) = (folder.to_owned(), manifest.states.len());
    let bytes = bytes_below(&folder);
    Some(RecoverableSession { folder, name: manifest.photo.name, states, when, bytes })
}
