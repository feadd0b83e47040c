//! The hub's cache on the disk, shared with its own library: `blobs/HASH` are the files, named by their hash;
//! `snapshots/COMMIT/NAME` are links to them; `refs/main` says which commit is the current one. A file is at its place
//! whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hf_hub::{Cache, Repo};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::error::HubError;
use super::parts::Repository;
use super::remote::RemoteFile;

/// How long it waits before it looks again whether another program is done with a file.
const WAIT: Duration = Duration::from_millis(100);

/// One repository in the cache.
pub struct Store {
    root: PathBuf,
    repo: Repo,
}

/// A file that only this program writes now; free again when dropped.
pub(super) struct Claim(#[expect(dead_code, reason = "the lock goes with the file")] File);

impl Store {
    /// In the user's cache; `None` where there is no place for one.
    pub fn of_user(repository: Repository) -> Option<Self> {
        super::cache().map(|root| Self { root, repo: repository.at(None) })
    }

    /// The cache.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The repository's own folder.
    pub fn folder(&self) -> PathBuf {
        self.root.join(self.repo.folder_name())
    }

    /// Where a file's bytes are, named by its hash.
    pub fn blob(&self, file: &RemoteFile) -> PathBuf {
        Cache::new(self.root.clone()).repo(self.repo.clone()).blob_path(file.hash.name())
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
        let locks = Path::new(".locks").join(self.repo.folder_name());
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
        self.make_folder(&Path::new(&self.repo.folder_name()).join("blobs"))
    }

    /// A file whose bytes are all there appears in the commit's snapshot.
    pub(super) fn show(&self, commit: &str, file: &RemoteFile) -> Result<(), HubError> {
        let below = Path::new(&self.repo.folder_name()).join("snapshots").join(commit).join(&file.name);
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
        let below = Path::new(&self.repo.folder_name()).join("refs");
        self.make_folder(&below)?;
        let (folder, file) = (self.root.join(&below), self.root.join(&below).join("main"));
        let failed = |source| HubError::Write { file: file.clone(), source };
        let mut new = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        io::Write::write_all(&mut new, commit.as_bytes()).map_err(failed)?;
        new.persist(&file).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// All blobs whose names are hashes, with whether that is their hash; `told` hears of each and says whether to go on.
    pub fn verify(&self, told: &mut dyn FnMut(&Path) -> bool) -> Result<Vec<(PathBuf, bool)>, HubError> {
        let blobs = self.folder().join("blobs");
        let Ok(entries) = fs::read_dir(&blobs) else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(hash) = Hash::named(&name) else { continue };
            if !told(&path) {
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

/// What a file is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256 of its bytes: large files.
    Sha256(String),
    /// As git names its blobs: small ones.
    Git(String),
}

impl Hash {
    /// From hexadecimal digits, by their number.
    pub fn named(name: &str) -> Option<Self> {
        let is_hex = name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        match name.len() {
            64 if is_hex => Some(Self::Sha256(name.to_owned())),
            40 if is_hex => Some(Self::Git(name.to_owned())),
            _ => None,
        }
    }

    /// Its digits.
    pub fn name(&self) -> &str {
        match self {
            Self::Sha256(name) | Self::Git(name) => name,
        }
    }

    /// For a file of so many bytes.
    pub(super) fn hasher(&self, size: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Self::Git(_) => Hasher::Git(Sha1::new_with_prefix(format!("blob {size}\0"))),
        }
    }
}

/// A hash on its way.
pub(super) enum Hasher {
    Sha256(Sha256),
    Git(Sha1),
}

impl Hasher {
    pub fn take(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Git(hasher) => hasher.update(bytes),
        }
    }

    pub fn read(&mut self, file: &mut File) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(()),
                n => self.take(&buffer[..n]),
            }
        }
    }

    pub fn is(self, hash: &Hash) -> bool {
        let digits = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let found = match self {
            Self::Sha256(hasher) => digits(&hasher.finalize()),
            Self::Git(hasher) => digits(&hasher.finalize()),
        };
        found == hash.name()
    }
}
