//! Single pictures: one state, or a whole chain as numbered files; each says how it was made.

use std::path::{Path, PathBuf};

use super::{Exporter, OnProgress, stem_and_magnification};
use crate::base::{Source, magnification_label};
use crate::document::{ScaleState, provenance, recipe};
use crate::imaging::{Format, ImageError, codec};

/// One state.
pub static STATE: Exporter = Exporter {
    id: "state",
    label: "this state",
    is_folder: false,
    file_stem: stem_and_magnification,
    layout: None,
    write: |export, to, _| {
        state(&export.source, &export.chain(), to)?;
        Ok(format!("Saved {}", to.display()))
    },
};

/// A chain as numbered files.
pub static CHAIN: Exporter = Exporter {
    id: "chain",
    label: "the chain",
    is_folder: true,
    file_stem: stem_and_magnification,
    layout: None,
    write: |export, to, on_progress| {
        let files = chain(&export.source, &export.chain(), to, export.format, on_progress)?;
        Ok(format!("Saved {} pictures to {}", files.len(), to.display()))
    },
};

/// Writes the last state of a chain that begins with the photo.
pub fn state(source: &Source, chain: &[&ScaleState], file: &Path) -> Result<(), ImageError> {
    let Some(state) = chain.last() else { return Ok(()) };
    codec::save_with(&*state.picture.load()?, file, &provenance::metadata(&recipe(source, chain)))
}

/// Writes a chain as `{stem}_{i}_{magnification}.{format}` into `folder`, the photo first; returns the files.
pub fn chain(
    source: &Source,
    chain: &[&ScaleState],
    folder: &Path,
    format: Format,
    on_progress: &mut OnProgress,
) -> Result<Vec<PathBuf>, ImageError> {
    let mut files = Vec::new();
    for (i, last) in chain.iter().enumerate() {
        if !on_progress(i, chain.len()) {
            return Err(ImageError::Cancelled);
        }
        let magnification = magnification_label(last.magnification);
        let file = folder.join(format!("{}_{i}_{magnification}.{}", source.stem(), format.extension()));
        state(source, &chain[..=i], &file)?;
        files.push(file);
    }
    Ok(files)
}
