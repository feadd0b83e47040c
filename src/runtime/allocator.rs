//! The processor's memory, for passes in which tensors of a hundred megabytes come and go at every layer. By default
//! glibc takes each from the system and gives it back, and the system clears every page of it each time; kept for the
//! next tensor instead, an autoencoder's pass takes a quarter less time.

use std::sync::{Mutex, PoisonError};

/// While one of these lives, blocks of any size come from memory that is kept for the next tensor.
#[must_use]
pub struct KeptBlocks(());

/// How many guards live: models work beside each other, and so do engines.
static GUARDS: Mutex<usize> = Mutex::new(0);

/// Takes blocks from kept memory until the last guard is dropped.
pub fn keep_blocks() -> KeptBlocks {
    let mut guards = GUARDS.lock().unwrap_or_else(PoisonError::into_inner);
    *guards += 1;
    platform::keep(true);
    KeptBlocks(())
}

impl Drop for KeptBlocks {
    fn drop(&mut self) {
        let mut guards = GUARDS.lock().unwrap_or_else(PoisonError::into_inner);
        *guards -= 1;
        platform::keep(*guards > 0);
    }
}

/// Returns to the system what is kept.
pub fn trim() {
    platform::trim();
}

/// Has libtorch ask for pages of 2 MB where blocks are large: there are fewer of them to clear and to look up.
///
/// # Safety
/// No other thread may run yet: it sets a variable of the environment, which libtorch reads with its first tensor.
pub unsafe fn use_large_pages() {
    const VARIABLE: &str = "THP_MEM_ALLOC_ENABLE";
    if std::env::var_os(VARIABLE).is_none() {
        // SAFETY: as above.
        unsafe { std::env::set_var(VARIABLE, "1") };
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod platform {
    /// Where glibc's own rule ends up: larger blocks are taken from the system one by one.
    const USUAL: libc::c_int = 32 << 20;
    const LARGE: libc::c_int = 1 << 30;

    pub(super) fn keep(blocks: bool) {
        // SAFETY: parameters of the allocator; where one is refused it stays as it was.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, if blocks { LARGE } else { USUAL });
            // What was kept once serves the next pass too.
            libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
        }
    }

    pub(super) fn trim() {
        // SAFETY: only what nothing uses is returned.
        unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod platform {
    /// Other allocators do as they do.
    pub fn keep(_: bool) {}

    pub fn trim() {}
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    /// glibc notes before each block whether it was taken from the system by itself.
    fn is_kept() -> bool {
        // Larger than blocks that are kept without a guard, smaller than the heaps of threads.
        let block = Vec::<u64>::with_capacity((40 << 20) / size_of::<u64>());
        // SAFETY: the word before a block is its size and flags; the block lives.
        let size_and_flags = unsafe { block.as_ptr().sub(1).read() };
        size_and_flags & 2 == 0
    }

    #[test]
    fn one_guard_does_not_end_another() {
        let (first, second) = (keep_blocks(), keep_blocks());
        assert!(is_kept());
        drop(first);
        assert!(is_kept(), "the second guard still lives");
        drop(second);
    }
}
