//! Two runs never write into one folder of results at a time.

use std::path::{Path, PathBuf};

use crate::base;
use crate::base::{Folders, UserError};

/// Works on a folder of results while no other run does.
pub(super) fn alone(folder: &Path, work: impl FnOnce() -> Result<(), UserError>) -> Result<(), UserError> {
    let lock = std::path::absolute(folder).and_then(|folder| lock_file(&folder)).and_then(|file| {
        let lock = std::fs::OpenOptions::new().create(true).write(true).truncate(false).open(&file)?;
        Ok((lock, file))
    });
    let taken = match &lock {
        Ok((lock, _)) => lock.try_lock(),
        Err(error) => {
            tracing::warn!("other runs will not see this one: {error}");
            Ok(())
        }
    };
    match taken {
        Err(std::fs::TryLockError::WouldBlock) => {
            let details = format!("another run is writing to {}", folder.display());
            Err(UserError::new(
                "The results are being written",
                details,
                "Wait for it to end, or choose another folder.",
            ))
        }
        Err(std::fs::TryLockError::Error(error)) => {
            tracing::warn!("other runs will not see this one: {error}");
            work()
        }
        Ok(()) => {
            let done = work();
            // Another run may hold it already: then it stays.
            _ = lock.map(|(_, file)| std::fs::remove_file(file));
            done
        }
    }
}

/// The file by which runs know of each other: one for each folder of results, in the user's own folder, where it is in nobody's way.
fn lock_file(folder: &Path) -> std::io::Result<PathBuf> {
    let locks = Folders::of_user().map_or_else(std::env::temp_dir, |folders| folders.data.join("locks"));
    std::fs::create_dir_all(&locks)?;
    let place = base::sha256_of(folder.as_os_str().as_encoded_bytes());
    Ok(locks.join(&place[..16]))
}
