//! The hub's cache on the disk, shared with its own library: `blobs/HASH` are the files, named by their hash;
//! `snapshots/COMMIT/NAME` are links to them; `refs/main` says which commit is the current one. A file is at its place
//! whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::error::HubError;
use super::hash::Hash;
use super::repository::{RemoteFile, Repository};
use crate::base::hub_cache::cache;

/// How long it waits before it looks again whether another program is done with a file.
const WAIT: Duration = Duration::from_millis(100);

/// One repository in the cache.
pub struct Store {
    root: PathBuf,
    repository: Repository,
}

/// A file that only this program writes now; free again when dropped.
pub(super) struct Claim(#[expect(dead_code, reason = "the lock goes with the file")] File);

impl Store {
    /// In the user's cache; `None` where there is no place for one.
    pub fn of_user(repository: Repository) -> Option<Self> {
        cache().map(|root| Self { root, repository })
    }

    /// The cache.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The repository's own folder.
    pub fn folder(&self) -> PathBuf {
        self.root.join(self.repository.folder_name())
    }

    /// Where a file's bytes are, named by its hash.
    pub fn blob(&self, file: &RemoteFile) -> PathBuf {
        self.folder().join("blobs").join(file.hash.name())
    }

    /// The same while they are still coming.
    pub fn incomplete(&self, file: &RemoteFile) -> PathBuf {
        let mut name = self.blob(file).into_os_string();
        name.push(".incomplete");
        name.into()
    }

    /// Whether all bytes of it are there.
    pub fn has(&self, file: &RemoteFile) -> bool {
        fs::metadata(self.blob(file)).is_ok_and(|blob| blob.is_file() && blob.len() == file.size)
    }

    /// Bytes of it that came before.
    pub fn come(&self, file: &RemoteFile) -> u64 {
        match self.has(file) {
            true => file.size,
            false => fs::metadata(self.incomplete(file)).map_or(0, |part| part.len().min(file.size)),
        }
    }

    /// Waits until no other program writes this file.
    pub(super) fn claim(&self, file: &RemoteFile, stop: &AtomicBool) -> Result<Claim, HubError> {
        let locks = Path::new(".locks").join(self.repository.folder_name());
        let path = self.root.join(&locks).join(format!("{}.lock", file.hash.name()));
        self.make_folder(&locks)?;
        let failed = |source| HubError::Write { file: path.clone(), source };
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Claim(lock)),
                Err(fs::TryLockError::WouldBlock) if stop.load(Ordering::Relaxed) => return Err(HubError::Cancelled),
                Err(fs::TryLockError::WouldBlock) => std::thread::sleep(WAIT),
                Err(fs::TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
    }

    /// Makes a folder below the cache, unless a link on the way leads out of it.
    pub(super) fn make_folder(&self, below: &Path) -> Result<(), HubError> {
        let failed = |file: &Path| {
            let file = file.to_owned();
            move |source| HubError::Write { file, source }
        };
        fs::create_dir_all(&self.root).map_err(failed(&self.root))?;
        let root = self.root.canonicalize().map_err(failed(&self.root))?;
        let mut path = self.root.clone();
        for component in below.components() {
            let Component::Normal(name) = component else {
                return Err(HubError::Outside { path: self.root.join(below), folder: self.root.clone() });
            };
            path.push(name);
            match fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(&path)(error)),
                _ => {}
            }
            if !path.canonicalize().map_err(failed(&path))?.starts_with(&root) {
                return Err(HubError::Outside { path, folder: self.root.clone() });
            }
        }
        Ok(())
    }

    /// Makes the folder of its blobs.
    pub(super) fn make_blobs(&self) -> Result<(), HubError> {
        self.make_folder(&Path::new(&self.repository.folder_name()).join("blobs"))
    }

    /// A file whose bytes are all there appears in the commit's snapshot.
    pub(super) fn show(&self, commit: &str, file: &RemoteFile) -> Result<(), HubError> {
        let below = Path::new(&self.repository.folder_name()).join("snapshots").join(commit).join(&file.name);
        let folder = below.parent().unwrap_or(&below);
        self.make_folder(folder)?;
        let place = self.root.join(&below);
        let failed = |source| HubError::Write { file: place.clone(), source };
        if place.symlink_metadata().is_ok() {
            if place.canonicalize().ok() == self.blob(file).canonicalize().ok() {
                return Ok(());
            }
            fs::remove_file(&place).map_err(failed)?;
        }
        // From the file's folder up to the repository's, and down to the blob.
        let up: PathBuf = folder.components().skip(1).map(|_| "..").collect();
        link(&up.join("blobs").join(file.hash.name()), &self.blob(file), &place).map_err(failed)
    }

    /// The commit is the current one from now on.
    pub(super) fn settle(&self, commit: &str) -> Result<(), HubError> {
        let below = Path::new(&self.repository.folder_name()).join("refs");
        self.make_folder(&below)?;
        let (folder, file) = (self.root.join(&below), self.root.join(&below).join("main"));
        let failed = |source| HubError::Write { file: file.clone(), source };
        let mut new = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        io::Write::write_all(&mut new, commit.as_bytes()).map_err(failed)?;
        new.persist(&file).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// All blobs whose names are hashes, with whether that is their hash; `on_file` is called with each and says whether to go on.
    pub fn verify(&self, on_file: &mut dyn FnMut(&Path) -> bool) -> Result<Vec<(PathBuf, bool)>, HubError> {
        let blobs = self.folder().join("blobs");
        let Ok(entries) = fs::read_dir(&blobs) else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(hash) = Hash::named(&name) else { continue };
            if !on_file(&path) {
                return Err(HubError::Cancelled);
            }
            let failed = |source| HubError::Write { file: path.clone(), source };
            let mut blob = File::open(&path).map_err(failed)?;
            let mut hasher = hash.hasher(blob.metadata().map_err(failed)?.len());
            hasher.read(&mut blob).map_err(failed)?;
            let is_whole = hasher.is(&hash);
            all.push((path, is_whole));
        }
        all.sort();
        Ok(all)
    }
}

#[cfg(unix)]
fn link(to: &Path, _: &Path, place: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, place)
}

/// Elsewhere links need rights that not everybody has: a second name of the same file, or a copy.
#[cfg(not(unix))]
fn link(_: &Path, blob: &Path, place: &Path) -> io::Result<()> {
    fs::hard_link(blob, place).or_else(|_| fs::copy(blob, place).map(|_| ()))
}
