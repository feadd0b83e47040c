//! Single pictures: one state, or a whole chain as numbered files.

use std::path::{Path, PathBuf};

use crate::image::{Format, ImageError, Picture, codec};

/// Writes a chain as `{stem}_{i}_{magnification}.{format}` into `folder`, the photo first; returns the files.
pub fn chain(
    states: &[(&Picture, f64)],
    folder: &Path,
    stem: &str,
    format: Format,
) -> Result<Vec<PathBuf>, ImageError> {
    let mut files = Vec::new();
    for (i, (picture, magnification)) in states.iter().enumerate() {
        let magnification = magnification_label(*magnification);
        let file = folder.join(format!("{stem}_{i}_{magnification}.{}", format.extension()));
        codec::save(picture, &file)?;
        files.push(file);
    }
    Ok(files)
}

/// `48x`, `4.7x`, `0.25x`: as many digits as tell something.
pub fn magnification_label(magnification: f64) -> String {
    match magnification {
        m if m >= 9.95 || (m - m.round()).abs() < 0.005 => format!("{m:.0}x"),
        m if m >= 1.0 => format!("{m:.1}x"),
        m => format!("{m:.2}x"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_short() {
        let labels = [1.0, 4.7, 48.2, 256.0, 0.254, 9.97].map(magnification_label);
        assert_eq!(labels, ["1x", "4.7x", "48x", "256x", "0.25x", "10x"]);
    }
}
