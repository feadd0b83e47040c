//! Picture files: what is read, what is written, and what is said when it does not work.

use std::path::{Path, PathBuf};

use image::{ImageDecoder, ImageFormat, ImageReader};

use super::formats::{names, written_endings};
use super::{Content, Format, Metadata, Picture};
use crate::base::{Exif, UserError, WriteError, write_atomic};
use crate::imaging::decode::tiff_xmp;
pub use crate::imaging::decode::{
    Alpha, DecodedPicture, Opening, Preview, WHITE, dimensions, open, open_watched, png_of_size,
};

/// Larger pictures are refused before a byte of them is decoded: 512 megapixels are 1.5 GB as RGB.
pub const MAX_PIXELS: u64 = 512 << 20;

/// Why a picture could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file could not be opened.
    #[error("cannot open {}: {source}", file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file holds no picture we know, whatever its name.
    #[error("{} is not a picture in a known format: expected {}", file.display(), names())]
    Unknown {
        /// The file.
        file: PathBuf,
    },
    /// The file is empty.
    #[error("{} is empty (zero bytes)", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// The header promises more than can be held.
    #[error("{} claims {width} x {height} pixels; at most {} megapixels can be opened", file.display(), MAX_PIXELS >> 20)]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// Pixels across, as claimed.
        width: u32,
        /// Pixels down, as claimed.
        height: u32,
    },
    /// What is to be made of it could not be held.
    #[error("{} has {width} x {height} pixels; the result could not be opened again: at most {:.1} megapixels can be enlarged so far", file.display(), *most as f64 / 1e6)]
    WouldBeTooLarge {
        /// The file.
        file: PathBuf,
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// So many at most.
        most: u64,
    },
    /// A pipe, a socket or a device.
    #[error("{} is {kind}, not a file", file.display())]
    NoFile {
        /// Its path.
        file: PathBuf,
        /// What it is, with its article.
        kind: &'static str,
    },
    /// A sound file of a kind that is not read.
    #[error("{} is {kind}, which is not read here", file.display())]
    NotRead {
        /// The file.
        file: PathBuf,
        /// What it is, with its article.
        kind: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// A file that ends too early.
    #[error("{} is cut short: {}", file.display(), there(*rows, *height))]
    CutShort {
        /// The file.
        file: PathBuf,
        /// Rows that are there; 0 where all are, but not all of their detail.
        rows: u32,
        /// All of them.
        height: u32,
    },
    /// Known format, broken content.
    #[error("{} is damaged or cut short: {details}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What the decoder said.
        details: String,
    },
    /// The name's ending says no format we write.
    #[error("{} does not end in {}: the ending chooses the format", file.display(), written_endings())]
    Ending {
        /// The file.
        file: PathBuf,
    },
    /// The user asked to stop; not a fault.
    #[error("stopped")]
    Cancelled,
    /// The file could not be written; nothing half-written is left.
    #[error(transparent)]
    Write(#[from] WriteError),
}

fn there(rows: u32, height: u32) -> String {
    match rows {
        0 => "not all of its detail is there".into(),
        rows => format!("{rows} of {height} rows are there"),
    }
}

impl From<ImageError> for UserError {
    fn from(error: ImageError) -> Self {
        let (title, hint) = match &error {
            ImageError::Open { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                ("The picture cannot be opened", "Check the file's permissions.")
            }
            ImageError::Open { .. } => ("The picture cannot be opened", "Check that the path is right and is a file."),
            ImageError::Empty { .. } | ImageError::Unknown { .. } => {
                ("This is not a picture", "Choose a picture file, or convert it to PNG or JPEG.")
            }
            ImageError::NotRead { hint, .. } => ("This kind of picture is not read", *hint),
            ImageError::TooLarge { .. } => ("The picture is too large", "Cut out or reduce the part you need first."),
            ImageError::WouldBeTooLarge { .. } => {
                ("The result would be too large", "Enlarge it less, or cut out the part you need first.")
            }
            ImageError::NoFile { .. } => ("This is not a picture", "Save the picture to a file first."),
            ImageError::CutShort { .. } => {
                ("The picture is cut short", "Copy the file again, or take what is there with --allow-truncated.")
            }
            ImageError::Damaged { .. } => ("The picture is damaged", "Download or copy the file again."),
            ImageError::Ending { .. } => ("The format is not clear", "End the name in .png or .jpg."),
            ImageError::Cancelled => ("Stopped", "What was written before is whole."),
            ImageError::Write(_) => {
                ("The file could not be written", "Choose another folder, or free some disk space, and try again.")
            }
        };
        Self::new(title, error.to_string(), hint)
    }
}

/// Writes `picture` in the format its name ends in. The file appears whole or not at all.
pub fn save(picture: &Picture, file: &Path) -> Result<(), ImageError> {
    save_with(picture, file, &Metadata::default())
}

/// The same with what is said of it, which other programs show and search.
pub fn save_with(picture: &Picture, file: &Path, metadata: &Metadata) -> Result<(), ImageError> {
    write(&Content::of(picture, metadata), file)
}

/// The same with opacity, and of any quality.
pub fn write(content: &Content, file: &Path) -> Result<(), ImageError> {
    let format = Format::of(file)?;
    write_atomic(file, |out| format.encode(content, out))?;
    Ok(())
}

/// What a camera wrote into a picture file, or who wrote a result of it; `None` where there is none that can be read.
pub fn exif(file: &Path) -> Option<Exif> {
    let reader = ImageReader::open(file).ok()?.with_guessed_format().ok()?;
    let raw = match reader.format() {
        Some(ImageFormat::Tiff) => std::fs::read(file).ok()?,
        _ => reader.into_decoder().ok()?.exif_metadata().ok()??,
    };
    // What was not to be kept is not there any more.
    super::exif::kept(raw, true, None, None)
}

/// The XMP packet that a picture file carries; `None` where there is none that can be read.
pub fn xmp(file: &Path) -> Option<String> {
    let reader = ImageReader::open(file).ok()?.with_guessed_format().ok()?;
    if reader.format() == Some(ImageFormat::Tiff) {
        return tiff_xmp(reader.into_inner());
    }
    let xmp = reader.into_decoder().ok()?.xmp_metadata().ok()??;
    String::from_utf8(xmp).ok()
}
