//! Formats of picture files. A new one is a file here and a line in `FORMATS`; dialogs, menus and the command line iterate
//! them.

mod jpeg;
mod png;
mod tiff;
mod webp;

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{ImageError, Metadata, Picture};
use crate::base::names::either;

/// What is written into a file.
#[derive(Clone, Copy)]
pub struct Content<'a> {
    /// In sRGB; where it is not opaque, of straight colours.
    pub picture: &'a Picture,
    /// Opacity, as greys of the same size; `None` where all is opaque. Formats that know none leave it out.
    pub alpha: Option<&'a Picture>,
    /// What is said of it.
    pub metadata: &'a Metadata,
    /// Of formats that lose some of it, 1 to 100.
    pub quality: u8,
}

/// Of JPEG, where nothing else is said: differences are hardly seen.
pub const QUALITY: u8 = 95;

impl<'a> Content<'a> {
    /// An opaque picture.
    pub fn of(picture: &'a Picture, metadata: &'a Metadata) -> Self {
        Self { picture, alpha: None, metadata, quality: QUALITY }
    }

    fn exif(&self) -> Option<&'a [u8]> {
        self.metadata.exif.as_ref().map(|exif| exif.0.as_slice())
    }

    /// As much as the format holds.
    fn xmp(&self, spec: &FormatSpec) -> Option<&'a str> {
        self.metadata.xmp.as_ref()?.within(spec.longest_xmp)
    }

    /// Three bytes a pixel, or four where there is opacity.
    fn samples(&self) -> Cow<'a, [u8]> {
        let Some(alpha) = self.alpha else { return self.picture.rgb().into() };
        let pixels = self.picture.rgb().as_chunks::<3>().0.iter().zip(alpha.rgb().as_chunks::<3>().0);
        pixels.flat_map(|(&[r, g, b], &[opacity, ..])| [r, g, b, opacity]).collect()
    }
}

/// Writes one.
type Encode = fn(&Content, &mut dyn Write) -> Result<(), String>;

/// What is known of a format.
pub struct FormatSpec {
    /// In the settings file.
    id: &'static str,
    /// For people.
    label: &'static str,
    /// Endings of its files, the usual one first.
    extensions: &'static [&'static str],
    /// `None` where it is only read.
    encode: Option<Encode>,
    /// The longest XMP packet that it holds, in bytes.
    longest_xmp: usize,
    /// Whether it knows opacity.
    has_alpha: bool,
}

const fn only_read(id: &'static str, label: &'static str, extensions: &'static [&'static str]) -> FormatSpec {
    FormatSpec { id, label, extensions, encode: None, longest_xmp: 0, has_alpha: false }
}

/// All of them, those that are written first, the default before the others.
static FORMATS: [&FormatSpec; 16] = [
    &png::PNG,
    &jpeg::JPEG,
    &webp::WEBP,
    &tiff::TIFF,
    &only_read("avif", "AVIF", &["avif"]),
    &only_read("bmp", "BMP", &["bmp"]),
    &only_read("dds", "DDS", &["dds"]),
    &only_read("exr", "OpenEXR", &["exr"]),
    &only_read("gif", "GIF", &["gif"]),
    &only_read("hdr", "Radiance HDR", &["hdr"]),
    &only_read("heic", "HEIC", &["heic", "heif"]),
    &only_read("ico", "ICO", &["ico"]),
    &only_read("jxl", "JPEG XL", &["jxl"]),
    &only_read("pnm", "PNM", &["pnm", "ppm", "pgm", "pbm"]),
    &only_read("qoi", "QOI", &["qoi"]),
    &only_read("tga", "TGA", &["tga"]),
];

/// `PNG, JPEG or ...`: all that can be read.
pub fn names() -> String {
    either(&FORMATS.map(|spec| spec.label))
}

/// `.png, .jpg or ...`: the endings of files that can be written.
pub fn written_endings() -> String {
    let endings: Vec<String> = Format::all().map(|format| format!(".{}", format.extension())).collect();
    either(&endings.iter().map(String::as_str).collect::<Vec<_>>())
}

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
        let ending = file.extension().unwrap_or_default().to_string_lossy();
        Self::named(&ending).ok_or_else(|| ImageError::Ending { file: file.to_owned() })
    }

    /// By one of its endings, without the dot.
    pub fn named(ending: &str) -> Option<Self> {
        let ending = ending.to_lowercase();
        Self::all().find(|format| format.0.extensions.contains(&ending.as_str()))
    }

    /// Whether it knows opacity.
    pub fn has_alpha(self) -> bool {
        self.0.has_alpha
    }

    /// Writes a file's bytes.
    pub fn encode(self, content: &Content, out: &mut dyn Write) -> Result<(), String> {
        let content = if self.has_alpha() { *content } else { Content { alpha: None, ..*content } };
        match self.0.encode {
            Some(encode) => encode(&content, out),
            None => Err(format!("{} files are only read", self.0.label)),
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
