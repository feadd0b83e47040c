//! Out: states as files, side by side, on a sheet, in the reference's folders. Every file appears whole or not at all. A new
//! exporter is a file here and a line in [`EXPORTERS`]; dialogs, menus and the command line iterate them.

pub mod sheet;
pub mod stills;
pub mod strip;
pub mod tree;

use std::path::Path;
use std::sync::Arc;

use super::{CachedPicture, ScaleState, provenance, recipe};
use crate::base::Source;
use crate::imaging::{Format, ImageError, Metadata, Picture};

/// Is told how much of how much is done, and answers whether to go on.
pub type OnProgress<'a> = dyn FnMut(usize, usize) -> bool + 'a;

/// Several pictures as one, with a size in pixels.
pub type Layout = fn(&[Arc<Picture>], u32) -> Picture;

/// A way to export.
pub struct Exporter {
    /// In settings and on the command line.
    pub id: &'static str,
    /// Behind "Export" in menus.
    pub label: &'static str,
    /// It writes several files into a folder, rather than one file.
    pub is_folder: bool,
    /// The file's name, from the photo's stem and the magnification, without ending.
    pub file_stem: fn(&str, &str) -> String,
    /// Several pictures as one, with a size in pixels; `None` where each stays a file of its own.
    pub layout: Option<Layout>,
    /// Writes to a file or folder; returns what was done, for people. The callback is told how many files of how many are
    /// done, and answers whether to go on.
    pub write: fn(&Export, &Path, &mut OnProgress) -> Result<String, ImageError>,
}

/// All of them, in the order of the menus.
pub static EXPORTERS: [&Exporter; 5] =
    [&stills::STATE, &stills::CHAIN, &strip::EXPORTER, &sheet::EXPORTER, &tree::EXPORTER];

impl PartialEq for Exporter {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.id)
    }
}

/// What is exported.
pub struct Export {
    /// Where the photo came from.
    pub source: Source,
    /// The chain from the photo to the state at hand.
    pub chain: Vec<ScaleState>,
    /// All states.
    pub all: Vec<CachedPicture>,
    /// Of the files, where there are several.
    pub format: Format,
    /// Height of strips, side of a sheet's cells.
    pub size: u32,
}

impl Export {
    fn chain(&self) -> Vec<&ScaleState> {
        self.chain.iter().collect()
    }

    fn pictures(&self) -> Result<Vec<Arc<Picture>>, ImageError> {
        self.chain.iter().map(|state| state.picture.load()).collect()
    }

    /// What files say of the first `count` states.
    fn metadata(&self, count: usize) -> Metadata {
        provenance::metadata(&recipe(&self.source, &self.chain()[..count]))
    }
}

fn stem_and_magnification(stem: &str, magnification: &str) -> String {
    format!("{stem}_{magnification}")
}
