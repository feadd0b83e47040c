//! Files that appear whole or not at all.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A file could not be written; nothing half-written is left.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {details}", file.display())]
pub struct WriteError {
    /// The file.
    pub file: PathBuf,
    /// What the system, or who writes, said.
    pub details: String,
}

/// Temporary files that are being written.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the program now, with nothing half-written left. Libraries whose threads still compute are not asked to clean up: that
/// is what would crash.
pub fn end_at_once(exit_code: i32) -> ! {
    // Held to the end: no further file begins.
    let unfinished = unfinished();
    for file in unfinished.iter() {
        // It may have got its name just now.
        _ = std::fs::remove_file(file);
    }
    // SAFETY: ends the process without running any of its code.
    #[cfg(unix)]
    unsafe {
        libc::_exit(exit_code)
    }
    #[cfg(not(unix))]
    std::process::exit(exit_code)
}

/// Bytes that may still be written into a folder, or where it would be made; `None` where the system does not tell.
pub fn free_space(folder: &Path) -> Option<u64> {
    let folder = std::path::absolute(folder).ok()?;
    let root = folder.ancestors().find_map(|folder| folder.canonicalize().ok())?;
    let disks = sysinfo::Disks::new_with_refreshed_list().ok()?;
    let holding = disks.iter().filter(|disk| root.starts_with(disk.mount_point()));
    holding.max_by_key(|disk| disk.mount_point().components().count()).map(|disk| disk.available_space())
}

/// Writes through a temporary file beside `file` and renames it; its folder is made where it is missing.
pub fn write_atomic<E: std::fmt::Display>(
    file: &Path,
    write: impl FnOnce(&mut std::io::BufWriter<&mut std::fs::File>) -> Result<(), E>,
) -> Result<(), WriteError> {
    // As any other program would create it: what the umask allows.
    write_with_mode(file, 0o666, write)
}

/// The same for what nobody else may read.
pub fn write_private(file: &Path, text: &str) -> Result<(), WriteError> {
    write_with_mode(file, 0o600, |out| out.write_all(text.as_bytes()))
}

/// `mode`: the permissions of a new file, where the system has such.
fn write_with_mode<E: std::fmt::Display>(
    file: &Path,
    mode: u32,
    write: impl FnOnce(&mut std::io::BufWriter<&mut std::fs::File>) -> Result<(), E>,
) -> Result<(), WriteError> {
    let failed = |details: String| WriteError { file: file.to_owned(), details };
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|error| failed(error.to_string()))?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".coz-").suffix(".part");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    #[cfg(not(unix))]
    let _ = mode;
    let part = {
        // In one go with the list of those that are not finished.
        let mut unfinished = unfinished();
        let part = builder.tempfile_in(folder).map_err(|error| failed(error.to_string()))?;
        unfinished.push(part.path().to_owned());
        part
    };
    let path = part.path().to_owned();
    let written = fill(part, file, write);
    unfinished().retain(|other| *other != path);
    written.map_err(failed)?;
    // The name too. The file is there anyhow.
    if cfg!(unix)
        && let Err(error) = std::fs::File::open(folder).and_then(|folder| folder.sync_all())
    {
        tracing::warn!("{} could not be synced: {error}", folder.display());
    }
    Ok(())
}

/// Fills a temporary file, and gives it its name.
fn fill<E: std::fmt::Display>(
    mut part: tempfile::NamedTempFile,
    file: &Path,
    write: impl FnOnce(&mut std::io::BufWriter<&mut std::fs::File>) -> Result<(), E>,
) -> Result<(), String> {
    let words = |error: std::io::Error| error.to_string();
    let mut out = std::io::BufWriter::new(part.as_file_mut());
    write(&mut out).map_err(|error| error.to_string())?;
    out.flush().map_err(words)?;
    drop(out);
    // On the disk before it takes its name: after a power cut there is the old file or the new one.
    part.as_file().sync_all().map_err(words)?;
    part.persist(file).map_err(|error| words(error.error))?;
    Ok(())
}
