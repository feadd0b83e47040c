//! Files that appear whole or not at all.

use std::io::Write;
use std::path::{Path, PathBuf};

/// A file could not be written; nothing half-written is left.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {details}", file.display())]
pub struct WriteError {
    /// The file.
    pub file: PathBuf,
    /// What the system, or who writes, said.
    pub details: String,
}

/// Writes through a temporary file beside `file` and renames it; its folder is made where it is missing.
pub fn write_atomic<E: std::fmt::Display>(
    file: &Path,
    write: impl FnOnce(&mut std::io::BufWriter<&mut std::fs::File>) -> Result<(), E>,
) -> Result<(), WriteError> {
    let failed = |details: String| WriteError { file: file.to_owned(), details };
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|error| failed(error.to_string()))?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".coz-").suffix(".part");
    // As any other program would create it: what the umask allows.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut part = builder.tempfile_in(folder).map_err(|error| failed(error.to_string()))?;
    let mut out = std::io::BufWriter::new(part.as_file_mut());
    write(&mut out).map_err(|error| failed(error.to_string()))?;
    out.flush().map_err(|error| failed(error.to_string()))?;
    drop(out);
    // On the disk before it takes its name: after a power cut there is the old file or the new one.
    part.as_file().sync_all().map_err(|error| failed(error.to_string()))?;
    part.persist(file).map_err(|error| failed(error.error.to_string()))?;
    // The name too. The file is there anyhow.
    if cfg!(unix)
        && let Err(error) = std::fs::File::open(folder).and_then(|folder| folder.sync_all())
    {
        tracing::warn!("{} could not be synced: {error}", folder.display());
    }
    Ok(())
}
