//! Formats of picture files. A new one is a file here and a line in `FORMATS`; dialogs, menus and the command line iterate
//! them.

mod jpeg;
mod png;
mod webp;

use std::io::Write;
use std::path::Path;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use png::encode as encode_png;

use super::{ImageError, Picture, Xmp};

/// Writes a picture, with an XMP packet where there is one.
type Encode = fn(&Picture, Option<&str>, &mut dyn Write) -> Result<(), String>;

/// What is known of a format.
pub struct FormatSpec {
    /// In the settings file.
    id: &'static str,
    /// Endings of its files, the usual one first.
    extensions: &'static [&'static str],
    /// `None` where it is only read.
    encode: Option<Encode>,
    /// The longest XMP packet that it holds, in bytes.
    longest_xmp: usize,
}

/// All of them, those that are written first, the default before the others.
static FORMATS: [&FormatSpec; 10] = [
    &png::PNG,
    &jpeg::JPEG,
    &webp::WEBP,
    &FormatSpec { id: "tiff", extensions: &["tif", "tiff"], encode: None, longest_xmp: 0 },
    &FormatSpec { id: "bmp", extensions: &["bmp"], encode: None, longest_xmp: 0 },
    &FormatSpec { id: "gif", extensions: &["gif"], encode: None, longest_xmp: 0 },
    &FormatSpec { id: "ico", extensions: &["ico"], encode: None, longest_xmp: 0 },
    &FormatSpec { id: "pnm", extensions: &["pnm", "ppm", "pgm", "pbm"], encode: None, longest_xmp: 0 },
    &FormatSpec { id: "qoi", extensions: &["qoi"], encode: None, longest_xmp: 0 },
    &FormatSpec { id: "tga", extensions: &["tga"], encode: None, longest_xmp: 0 },
];

/// Endings of the files that can be read, for dialogs and folders.
pub fn readable() -> impl Iterator<Item = &'static str> {
    FORMATS.iter().flat_map(|spec| spec.extensions.iter().copied())
}

/// A format that is written.
#[derive(Clone, Copy)]
pub struct Format(&'static FormatSpec);

impl Format {
    /// Lossless.
    pub const PNG: Self = Self(&png::PNG);
    /// Quality 95.
    pub const JPEG: Self = Self(&jpeg::JPEG);
    /// Lossless.
    pub const WEBP: Self = Self(&webp::WEBP);

    /// All of them, the default first.
    pub fn all() -> impl Iterator<Item = Self> {
        FORMATS.iter().filter(|spec| spec.encode.is_some()).map(|spec| Self(spec))
    }

    /// The file name's ending, without the dot.
    pub fn extension(self) -> &'static str {
        self.0.extensions[0]
    }

    /// From a file name's ending.
    pub fn of(file: &Path) -> Result<Self, ImageError> {
        let ending = file.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        let found = Self::all().find(|format| format.0.extensions.contains(&ending.as_str()));
        found.ok_or_else(|| ImageError::Ending { file: file.to_owned() })
    }

    pub(super) fn encode(self, picture: &Picture, xmp: Option<&Xmp>, out: &mut dyn Write) -> Result<(), String> {
        let xmp = xmp.and_then(|xmp| xmp.within(self.0.longest_xmp));
        match self.0.encode {
            Some(encode) => encode(picture, xmp, out),
            None => Err(format!("{} files are only read", self.0.id)),
        }
    }
}

impl Default for Format {
    fn default() -> Self {
        Self::PNG
    }
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for Format {}

impl std::fmt::Debug for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.id)
    }
}

impl Serialize for Format {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.id)
    }
}

impl<'de> Deserialize<'de> for Format {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let id = String::deserialize(deserializer)?;
        Self::all().find(|format| format.0.id == id).ok_or_else(|| Error::custom(format!("no format is called {id:?}")))
    }
}
