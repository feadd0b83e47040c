//! A state's pixels: in memory, or in the file where they are kept and can be reread from.

use std::any::Any;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::imaging::{ImageError, Picture, codec};

/// Counts uses of all pictures, to know which was looked at longest ago.
static USES: AtomicU64 = AtomicU64::new(0);

/// A picture that can leave memory; clones are the same picture.
#[derive(Clone, Debug)]
pub struct CachedPicture(Arc<Entry>);

#[derive(Debug)]
struct Entry {
    size: [u32; 2],
    pixels: Mutex<Option<Arc<Picture>>>,
    /// A PNG of these pixels, and what its folder lives with.
    file: OnceLock<(PathBuf, Arc<dyn Any + Send + Sync>)>,
    is_loading: AtomicBool,
    last_use: AtomicU64,
}

impl From<Arc<Picture>> for CachedPicture {
    fn from(picture: Arc<Picture>) -> Self {
        Self(Arc::new(Entry {
            size: [picture.width(), picture.height()],
            pixels: Mutex::new(Some(picture)),
            file: OnceLock::new(),
            is_loading: AtomicBool::new(false),
            last_use: AtomicU64::new(USES.fetch_add(1, Ordering::Relaxed)),
        }))
    }
}

impl CachedPicture {
    /// Pixels across.
    pub fn width(&self) -> u32 {
        self.0.size[0]
    }

    /// Pixels down.
    pub fn height(&self) -> u32 {
        self.0.size[1]
    }

    /// The shorter side.
    pub fn short_side(&self) -> u32 {
        self.width().min(self.height())
    }

    fn pixels(&self) -> MutexGuard<'_, Option<Arc<Picture>>> {
        self.0.pixels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pixels, where they are in memory; reads nothing.
    pub fn in_memory(&self) -> Option<Arc<Picture>> {
        self.0.last_use.store(USES.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        self.pixels().clone()
    }

    /// The pixels, reread where they are not in memory; there they do not stay.
    pub fn load(&self) -> Result<Arc<Picture>, ImageError> {
        if let Some(pixels) = self.in_memory() {
            return Ok(pixels);
        }
        // Only what is kept in a file ever leaves memory.
        let file = self.0.file.get().map(|(file, _)| file.clone()).unwrap_or_default();
        let bytes = std::fs::read(&file).map_err(|source| ImageError::Open { file: file.clone(), source })?;
        let picture = codec::png_of_size(&bytes, self.width(), self.height())
            .map_err(|error| ImageError::Damaged { file, details: error.to_string() })?;
        Ok(Arc::new(picture))
    }

    /// Has the pixels in memory again, with their halvings.
    pub fn reload(&self) -> Result<(), ImageError> {
        let picture = self.load()?;
        picture.prepare_levels();
        self.pixels().get_or_insert(picture);
        Ok(())
    }

    /// Whether somebody should load it now: it is not in memory, and nobody has been asked yet. [`Self::finish_loading`]
    /// lets the next one be asked.
    pub fn begin_loading(&self) -> bool {
        self.pixels().is_none() && !self.0.is_loading.swap(true, Ordering::Relaxed)
    }

    /// After [`Self::begin_loading`]; what could not be loaded is not tried again.
    pub fn finish_loading(&self) {
        self.0.is_loading.store(false, Ordering::Relaxed);
    }

    /// From now on it can be reread from this PNG of it, in a folder that is there as long as `folder` lives.
    pub fn keep_in(&self, file: PathBuf, folder: Arc<dyn Any + Send + Sync>) {
        // What was kept first serves as well.
        _ = self.0.file.set((file, folder));
    }

    /// Whether it could leave memory.
    pub fn is_kept(&self) -> bool {
        self.0.file.get().is_some()
    }

    /// Bytes in memory, halvings included.
    pub fn bytes(&self) -> u64 {
        self.pixels().as_ref().map_or(0, |picture| picture.bytes())
    }

    /// Larger for pictures that were used later.
    pub fn last_use(&self) -> u64 {
        self.0.last_use.load(Ordering::Relaxed)
    }

    /// Lets the pixels go, where they can be reread.
    pub fn evict(&self) {
        if self.is_kept() {
            *self.pixels() = None;
        }
    }

    /// Whether both are the same picture, not just equal ones.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
