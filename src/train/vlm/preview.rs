//! What the policy would be asked about.

use std::path::{Path, PathBuf};

use super::pairs::Pairs;
use crate::train::TrainError;
use crate::train::sheet::{self, SheetRow};

/// Writes the first pairs: `preview/NNN_first.png` and `NNN_second.png`, and `preview.png`, a sheet of them all. Returns its place.
///
/// # Errors
/// Pictures that cannot be read, files that cannot be written.
pub fn preview(pairs: &Pairs, seed: u64, count: usize, out: &Path) -> Result<PathBuf, TrainError> {
    sheet::write(out, count.min(pairs.len()), |row| {
        let pair = pairs.pair(seed, row as u64)?;
        let name = pair.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let [first, second] = pair.pictures;
        Ok(SheetRow { pictures: [("first", first), ("second", second)], lines: vec![name] })
    })
}
