//! The processor's memory, for passes in which tensors of a hundred megabytes come and go at every layer. By default
//! glibc takes each from the system and gives it back, and the system clears every page of it each time; kept for the
//! next tensor instead, an autoencoder's pass takes a quarter less time.

/// While this lives, blocks of any size come from memory that is kept for the next tensor.
#[must_use]
pub struct KeptBlocks(());

/// Takes blocks from kept memory until the guard is dropped.
pub fn keep_blocks() -> KeptBlocks {
    platform::keep(true);
    KeptBlocks(())
}

impl Drop for KeptBlocks {
    fn drop(&mut self) {
        platform::keep(false);
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
