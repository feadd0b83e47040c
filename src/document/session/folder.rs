//! A session's folder below the autosave's: locked while anything needs it, gone with the last that does, unless there is
//! something to recover in it.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use super::SessionError;
use super::manifest::MANIFEST;

const LOCK: &str = "lock";
const PREFIX: &str = "session-";

/// The folder. Shared by the autosave and the pictures that are reread from it.
#[derive(Debug)]
pub(super) struct SessionFolder {
    path: PathBuf,
    /// Held as long as the folder is used; the system lets it go however the program ends.
    lock: File,
}

impl SessionFolder {
    /// A new one below `all`.
    pub(super) fn create(all: &Path) -> Result<Self, SessionError> {
        let failed = |error: std::io::Error| SessionError::Write { file: all.to_owned(), details: error.to_string() };
        std::fs::create_dir_all(all).map_err(failed)?;
        let path = tempfile::Builder::new().prefix(PREFIX).tempdir_in(all).map_err(failed)?.keep();
        let lock = File::create(path.join(LOCK)).map_err(failed)?;
        lock.try_lock().map_err(|error| failed(error.into()))?;
        Ok(Self { path, lock })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// From now on it is among those left behind, where there is something to recover in it.
    pub(super) fn leave(&self) {
        if self.path.join(MANIFEST).exists()
            && let Err(error) = self.lock.unlock()
        {
            tracing::warn!("{} stays locked until the program ends: {error}", self.path.display());
        }
    }
}

impl Drop for SessionFolder {
    fn drop(&mut self) {
        if !self.path.join(MANIFEST).exists() {
            remove(&self.path);
        }
    }
}

/// Whether it is a session's folder that no program uses.
pub(super) fn is_left_behind(folder: &Path) -> bool {
    folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX))
        && match File::open(folder.join(LOCK)).map(|lock| lock.try_lock()) {
            Ok(Err(TryLockError::WouldBlock)) => false,
            // A system without locks, or a lock file that is gone: nobody else can be recognised.
            Ok(_) | Err(_) => true,
        }
}

/// Takes away what is not needed any more; where that fails it only takes space.
pub(super) fn remove(path: &Path) {
    match if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) } {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!("{} could not be removed: {error}", path.display());
        }
        _ => {}
    }
}
