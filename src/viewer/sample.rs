//! The photo that the program brings along, for the first minute: *Chelsea* by Stéfan van der Walt (CC0).

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::base::write_atomic;
use crate::imaging::ImageError;

const NAME: &str = "sample.jpg";
const BYTES: &[u8] = include_bytes!("../../assets/sample.jpg");

/// Puts it into a folder, unless it is there, so that sessions can link to it and it can be opened again.
pub(super) fn put_into(folder: &Path) -> Result<PathBuf, ImageError> {
    let file = folder.join(NAME);
    if !std::fs::read(&file).is_ok_and(|bytes| bytes == BYTES) {
        write_atomic(&file, |out| out.write_all(BYTES))?;
    }
    Ok(file)
}
