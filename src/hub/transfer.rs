//! A download as it goes on: how much, how fast, and how it is stopped.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::HubError;
use crate::base::free_space;

/// Room that is left on the disk.
const SPARE: u64 = 200_000_000;

/// A download as it goes on, seen from other threads.
#[derive(Debug, Default)]
pub struct Transfer {
    /// Bytes of all files; 0 before the hub has answered.
    pub all: AtomicU64,
    /// Of these, how many are there.
    pub done: AtomicU64,
    /// How many came in this download.
    pub came: AtomicU64,
    /// To stop it; what came is kept.
    pub stop: AtomicBool,
    /// Since when bytes come.
    pub(super) start: Mutex<Option<Instant>>,
    /// The files that are on their way.
    pub(super) names: Mutex<Vec<String>>,
}

impl Transfer {
    /// How much is there, 0 to 1; `None` before the hub has answered.
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
    pub(super) fn reset(&self) {
        [&self.all, &self.done, &self.came].iter().for_each(|count| count.store(0, Ordering::Relaxed));
        *guard(&self.start) = None;
        guard(&self.names).clear();
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn pause(&self, length: Duration) -> Result<(), HubError> {
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

pub(super) fn guard<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether so many bytes find room in a folder.
pub(super) fn has_room(folder: &Path, needed: u64) -> Result<(), HubError> {
    match free_space(folder) {
        Some(free) if needed > 0 && free < needed.saturating_add(SPARE) => {
            Err(HubError::Disk { folder: folder.to_owned(), needed, free })
        }
        _ => Ok(()),
    }
}
