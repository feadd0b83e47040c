//! Files that are published by themselves, with one address or several: each is tried, and what comes is checked before
//! it lies in the folder of models under its name.

use std::fs;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tempfile::NamedTempFile;
use ureq::Agent;
use ureq::http::header;

use super::error::HubError;
use super::hash::Hash;
use super::remote::Patience;
use super::transfer::{Transfer, guard, has_room};
use crate::checkpoint::Checkpoint;

/// Bytes read at a time.
const CHUNK: usize = 1 << 18;
/// No such file is larger.
const MOST: u64 = 4 << 30;

/// A file with addresses of its own.
#[derive(Debug)]
pub struct DirectFile {
    /// In the folder of models.
    pub name: &'static str,
    /// Tried in turn.
    pub addresses: &'static [&'static str],
    /// Where a person finds it.
    pub page: &'static str,
    /// In bytes, where it is known.
    pub size: Option<u64>,
    /// Its SHA-256, or what git names it by, where one is known.
    pub hash: Option<&'static str>,
}

impl DirectFile {
    /// Whether a file that came from `origin` is this one; where no hash is known, whether it is a model.
    ///
    /// # Errors
    /// [`HubError::Size`], [`HubError::Hash`] or [`HubError::Nonsense`] where it is not, [`HubError::Write`] where it
    /// cannot be read.
    pub fn check(&self, path: &Path, origin: &str) -> Result<(), HubError> {
        let failed = |source| HubError::Write { file: path.to_owned(), source };
        let url = || origin.to_owned();
        let mut file = File::open(path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?.len();
        if let Some(expected) = self.size.filter(|size| *size != found) {
            return Err(HubError::Size { url: url(), expected, found });
        }
        if let Some(expected) = self.hash {
            let hash = Hash::named(expected);
            let mut hasher = hash.as_ref().map(|hash| hash.hasher(found));
            if let Some(hasher) = &mut hasher {
                hasher.read(&mut file).map_err(failed)?;
            }
            if !hasher.zip(hash.as_ref()).is_some_and(|(hasher, hash)| hasher.is(hash)) {
                return Err(HubError::Hash { url: url(), expected: expected.to_owned() });
            }
        }
        let opened = Checkpoint::open(path);
        opened.map(|_| ()).map_err(|error| HubError::Nonsense { url: url(), found: error.to_string() })
    }
}

/// Downloads the file into a folder, whole and checked or not at all.
///
/// # Errors
/// [`HubError::Cancelled`]; a full disk; [`HubError::ByHand`] where no address brings the file.
pub fn download(file: &DirectFile, folder: &Path, transfer: &Transfer, patience: Patience) -> Result<(), HubError> {
    let failed = |source| HubError::Write { file: folder.join(file.name), source };
    fs::create_dir_all(folder).map_err(failed)?;
    has_room(folder, file.size.unwrap_or(0))?;
    transfer.all.fetch_add(file.size.unwrap_or(0), Ordering::Relaxed);
    *guard(&transfer.start) = Some(Instant::now());
    guard(&transfer.names).push(file.name.to_owned());
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(patience.connection))
        .timeout_recv_response(Some(patience.connection))
        .timeout_recv_body(Some(patience.connection))
        .build();
    let fetching = Fetching { file, folder, transfer, patience, agent: config.into() };
    let mut failures = Vec::new();
    for address in file.addresses {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".coz-").suffix(".part");
        // As any other program would create it: what the umask allows.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut part = builder.tempfile_in(folder).map_err(failed)?;
        match fetching.fetch(address, &mut part) {
            Ok(()) => {
                part.as_file().sync_all().map_err(failed)?;
                part.persist(folder.join(file.name)).map_err(|error| failed(error.error))?;
                return Ok(());
            }
            Err(error @ (HubError::Cancelled | HubError::Write { .. } | HubError::Disk { .. })) => return Err(error),
            Err(error) => failures.push(error.to_string()),
        }
    }
    Err(HubError::ByHand { page: file.page.into(), place: folder.join(file.name), details: failures.join("; ") })
}

struct Fetching<'a> {
    file: &'a DirectFile,
    folder: &'a Path,
    transfer: &'a Transfer,
    patience: Patience,
    agent: Agent,
}

impl Fetching<'_> {
    /// All of it from one address.
    fn fetch(&self, url: &str, part: &mut NamedTempFile) -> Result<(), HubError> {
        let (mut have, mut most, mut tries) = (0, 0, 0);
        loop {
            let error = match self.some(url, part, &mut have) {
                Ok(()) => break,
                Err(error) => error,
            };
            let passes = match &error {
                // What there is cannot be gone on with.
                HubError::Status { status: 416, .. } if have > 0 => {
                    self.begin_anew(part, &mut have)?;
                    true
                }
                HubError::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
                HubError::Unreachable { .. } => true,
                _ => false,
            };
            // As long as something comes there is no reason to give up.
            tries = if have > most { 0 } else { tries + 1 };
            most = most.max(have);
            if !passes || tries >= self.patience.tries {
                self.transfer.done.fetch_sub(have, Ordering::Relaxed);
                return Err(error);
            }
            self.transfer.pause(self.patience.pause * 2u32.saturating_pow(tries.clamp(1, 6) - 1))?;
        }
        let checked = self.file.check(part.path(), url);
        checked.inspect_err(|_| _ = self.transfer.done.fetch_sub(have, Ordering::Relaxed))
    }

    fn begin_anew(&self, part: &mut NamedTempFile, have: &mut u64) -> Result<(), HubError> {
        self.transfer.done.fetch_sub(*have, Ordering::Relaxed);
        *have = 0;
        let emptied = part.as_file().set_len(0);
        emptied.map_err(|source| HubError::Write { file: self.file.name.into(), source })
    }

    /// As much as one connection brings.
    fn some(&self, url: &str, part: &mut NamedTempFile, have: &mut u64) -> Result<(), HubError> {
        let broken = |details: String| HubError::Unreachable { url: url.to_owned(), details };
        let failed = |source| HubError::Write { file: self.file.name.into(), source };
        let mut request = self.agent.get(url).header(header::ACCEPT_ENCODING, "identity");
        if *have > 0 {
            request = request.header(header::RANGE, format!("bytes={have}-"));
        }
        let response = request.call().map_err(|error| broken(error.to_string()))?;
        let status = response.status().as_u16();
        if !response.status().is_success() {
            return Err(HubError::Status { url: url.to_owned(), status });
        }
        let range = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
        let goes_on = range.is_some_and(|range| range.starts_with(&format!("bytes {have}-")));
        if status != 206 || !goes_on {
            if status == 206 {
                return Err(HubError::Nonsense { url: url.to_owned(), found: format!("another part: {range:?}") });
            }
            self.begin_anew(part, have)?;
        }
        let length =
            response.headers().get(header::CONTENT_LENGTH).and_then(|it| it.to_str().ok()?.parse::<u64>().ok());
        let (announced, most) = (length.map(|length| have.saturating_add(length)), self.file.size.unwrap_or(MOST));
        if let Some(found) = announced.filter(|announced| *announced > most) {
            return Err(HubError::Size { url: url.to_owned(), expected: most, found });
        }
        let expected = self.file.size.or(announced);
        if let (None, Some(all)) = (self.file.size, announced) {
            has_room(self.folder, all - *have)?;
            self.transfer.all.store(all, Ordering::Relaxed);
        }
        part.seek(SeekFrom::Start(*have)).map_err(failed)?;
        let (mut body, mut buffer) = (response.into_body().into_reader(), vec![0; CHUNK]);
        loop {
            if self.transfer.stopped() {
                return Err(HubError::Cancelled);
            }
            let n = match body.read(&mut buffer) {
                Ok(0) if expected.is_some_and(|expected| *have < expected) => return Err(broken("broke off".into())),
                Ok(0) => return Ok(()),
                Ok(n) => n as u64,
                // A connection that ends badly behind the last byte has brought all of it.
                Err(_) if expected == Some(*have) => return Ok(()),
                Err(error) => return Err(broken(error.to_string())),
            };
            let found = *have + n;
            if found > most {
                return Err(HubError::Size { url: url.to_owned(), expected: most, found });
            }
            part.write_all(&buffer[..n as usize]).map_err(failed)?;
            *have = found;
            self.transfer.done.fetch_add(n, Ordering::Relaxed);
            self.transfer.came.fetch_add(n, Ordering::Relaxed);
        }
    }
}
