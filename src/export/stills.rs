//! Single pictures: one state, or a whole chain as numbered files; each says how it was made.

use std::path::{Path, PathBuf};

use super::provenance;
use crate::history::{Recipe, ScaleState, Source};
use crate::image::{Format, ImageError, codec};

/// Writes the last state of a chain that begins with the photo.
pub fn state(source: &Source, chain: &[&ScaleState], file: &Path) -> Result<(), ImageError> {
    let Some(state) = chain.last() else { return Ok(()) };
    codec::save_with(&state.picture, file, Some(&provenance::packet(&Recipe::of(source, chain))))
}

/// Writes a chain as `{stem}_{i}_{magnification}.{format}` into `folder`, the photo first; returns the files.
pub fn chain(
    source: &Source,
    chain: &[&ScaleState],
    folder: &Path,
    format: Format,
) -> Result<Vec<PathBuf>, ImageError> {
    let mut files = Vec::new();
    for (i, last) in chain.iter().enumerate() {
        let magnification = magnification_label(last.magnification);
        let file = folder.join(format!("{}_{i}_{magnification}.{}", source.stem(), format.extension()));
        state(source, &chain[..=i], &file)?;
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
