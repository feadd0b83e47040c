//! Reading picture files. JPEG and PNG come row by row, so that a huge one can be looked at while it decodes; the other
//! formats come whole. All become 8-bit sRGB (`samples`), on all processors (`rows`).

mod heif;
mod ico;
mod jpeg;
mod kinds;
mod other;
mod png;
mod rows;
mod samples;
mod tiff;
mod tone;

use std::io::{BufReader, Read};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder};
use rows::{Pixels, Rows};
use samples::{AlphaKind, Depth, Samples};
pub(super) use tiff::xmp as tiff_xmp;

use super::codec::{ImageError, MAX_PIXELS};
use super::colour_profile::{ColourModel, ColourSpace, ToSrgb};
use super::{Picture, exif};
use crate::base::Exif;

/// Of rows that are not there.
const GREY: u8 = 128;

/// A picture that is still being decoded.
#[derive(Clone, Debug)]
pub struct Preview {
    /// Width and height of the picture to come.
    pub size: [u32; 2],
    /// It, reduced; rows not decoded yet are dark grey.
    pub picture: Picture,
    /// How much is decoded, 0 to 1.
    pub fraction: f32,
}

/// What becomes of transparency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpha {
    /// Colours stay as they are in the file, also where they cannot be seen: as the reference does it.
    Drop,
    /// All is laid over this colour.
    Blend([u8; 3]),
}

/// How a picture is opened.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// What becomes of transparency.
    pub alpha: Alpha,
    /// What is there of a file that is cut short will do; the rest is grey.
    pub allow_truncated: bool,
    /// [`DecodedPicture::alpha`] is wanted.
    pub keep_alpha: bool,
    /// [`DecodedPicture::exif`] may say where the photo was taken.
    pub keep_location: bool,
    /// More are refused, before a byte of them is decoded.
    pub most_pixels: u64,
}

/// What lies behind a picture where nothing else is said.
pub const WHITE: [u8; 3] = [255; 3];

impl Default for Opening {
    fn default() -> Self {
        Self {
            alpha: Alpha::Blend(WHITE),
            allow_truncated: false,
            keep_alpha: false,
            keep_location: false,
            most_pixels: MAX_PIXELS,
        }
    }
}

/// A picture from a file, and what is worth saying of how it came to be.
#[derive(Clone, Debug)]
pub struct DecodedPicture {
    /// 8-bit sRGB, upright.
    pub picture: Picture,
    /// Its opacity, as greys of the same size; `None` where all is opaque, or where that was not asked for.
    pub alpha: Option<Picture>,
    /// What its camera wrote.
    pub exif: Option<Exif>,
    /// Whole sentences without their full stop.
    pub remarks: Vec<String>,
}

/// Reads a picture: first frame of an animation, upright by its EXIF orientation, its colours as sRGB in 8 bits, laid over
/// white.
pub fn open(file: &Path) -> Result<Picture, ImageError> {
    open_watched(file, &Opening::default(), &mut |_| true).map(|decoded| decoded.picture)
}

/// Width and height as the file's header has them, before it is turned upright; of formats whose header is not known here, from the
/// decoded picture.
///
/// # Errors
/// A file that is missing, or is no picture.
pub fn dimensions(file: &Path) -> Result<(u32, u32), ImageError> {
    let io = |source| ImageError::Open { file: file.to_owned(), source };
    let opened = BufReader::new(std::fs::File::open(file).map_err(io)?);
    let guessed = image::ImageReader::new(opened).with_guessed_format().map_err(io)?;
    match guessed.into_dimensions() {
        Ok(dimensions) => Ok(dimensions),
        Err(_) => open(file).map(|picture| (picture.width(), picture.height())),
    }
}

/// The same as `opening` says; `watch` sees large ones come, and answers whether to go on.
pub fn open_watched(
    file: &Path,
    opening: &Opening,
    watch: &mut dyn FnMut(Preview) -> bool,
) -> Result<DecodedPicture, ImageError> {
    let io = |source| ImageError::Open { file: file.to_owned(), source };
    // Before it is opened: a pipe would wait for who writes into it.
    let metadata = std::fs::metadata(file).map_err(io)?;
    if metadata.is_dir() {
        return Err(io(std::io::Error::from(std::io::ErrorKind::IsADirectory)));
    }
    if !metadata.is_file() {
        return Err(ImageError::NoFile { file: file.to_owned(), kind: "a pipe or a device" });
    }
    let mut opened = std::fs::File::open(file).map_err(io)?;
    if metadata.len() == 0 {
        return Err(ImageError::Empty { file: file.to_owned() });
    }
    let mut start = Vec::new();
    opened.by_ref().take(512).read_to_end(&mut start).map_err(io)?;
    let reopen = || std::fs::File::open(file).map(|file| BufReader::with_capacity(1 << 18, file)).map_err(io);
    let mut job = Job { file, opening, watch, remarks: Vec::new(), alpha: None, exif: None, xmp: None };
    let picture = match start.as_slice() {
        [0xff, 0xd8, 0xff, ..] => jpeg::read(&mut job, reopen)?,
        [0x89, b'P', b'N', b'G', ..] => png::read(&mut job, reopen()?)?,
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => tiff::read(&mut job, reopen()?)?,
        [0, 0, 1, 0, ..] => ico::read(&mut job, reopen()?)?,
        [0xff, 0x0a, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => other::read_jpeg_xl(&mut job, reopen()?)?,
        [b'D', b'D', b'S', b' ', ..] => other::read_dds(&mut job, reopen()?)?,
        [_, _, _, _, b'f', b't', b'y', b'p', ..] if let Some(kind) = kinds::heif(&start) => {
            heif::read(&mut job, reopen()?, kind)?
        }
        start => {
            if let Some((kind, hint)) = kinds::not_read(start) {
                return Err(ImageError::NotRead { file: file.to_owned(), kind: kind.into(), hint });
            }
            other::read(&mut job, reopen()?)?
        }
    };
    let Job { alpha, exif, xmp, remarks, .. } = job;
    let (author, copyright) = xmp.as_deref().map(credits).unwrap_or_default();
    let exif = exif::kept(exif.unwrap_or_default(), opening.keep_location, author.as_deref(), copyright.as_deref());
    Ok(DecodedPicture { picture, alpha, exif, remarks })
}

/// The author and the copyright that an XMP packet tells of.
fn credits(xmp: &str) -> (Option<String>, Option<String>) {
    const DUBLIN_CORE: &str = "http://purl.org/dc/elements/1.1/";
    let Ok(document) = roxmltree::Document::parse(xmp.trim_start_matches('\u{feff}')) else { return (None, None) };
    let first = |name| {
        let property = document.descendants().find(|node| node.has_tag_name((DUBLIN_CORE, name)))?;
        let text = property.descendants().filter_map(|node| node.text()).map(str::trim).find(|text| !text.is_empty());
        text.map(str::to_owned)
    };
    (first("creator"), first("rights"))
}

/// A file that is being read.
struct Job<'a> {
    file: &'a Path,
    opening: &'a Opening,
    watch: &'a mut dyn FnMut(Preview) -> bool,
    remarks: Vec<String>,
    alpha: Option<Picture>,
    /// As it stands in the file.
    exif: Option<Vec<u8>>,
    /// As it stands in the file.
    xmp: Option<String>,
}

impl Job<'_> {
    fn damaged(&self, details: impl Into<String>) -> ImageError {
        ImageError::Damaged { file: self.file.to_owned(), details: details.into() }
    }

    /// The picture, upright.
    fn finish(
        &mut self,
        pixels: Pixels,
        width: u32,
        height: u32,
        orientation: Orientation,
    ) -> Result<Picture, ImageError> {
        let Pixels { rgb, opacity } = pixels;
        if opacity.iter().any(|&opacity| opacity < 255) {
            let greys = opacity.into_iter().flat_map(|opacity| [opacity; 3]).collect();
            self.alpha = Picture::from_rgb(width, height, greys).map(|alpha| upright(alpha, orientation));
        }
        let picture = Picture::from_rgb(width, height, rgb).ok_or_else(|| self.damaged("it has no pixels"))?;
        Ok(upright(picture, orientation))
    }

    /// The same of all pixels of a file, one after another.
    fn finish_whole(
        &mut self,
        samples: &Samples,
        bytes: &[u8],
        [width, height]: [u32; 2],
        orientation: Orientation,
    ) -> Result<Picture, ImageError> {
        let pixels = Pixels::of(samples, bytes, width, height).map_err(|details| self.damaged(details))?;
        self.finish(pixels, width, height, orientation)
    }

    /// Refuses what is too large to be held.
    fn check_size(&self, width: u32, height: u32) -> Result<(), ImageError> {
        let (file, most) = (self.file.to_owned(), self.opening.most_pixels.min(MAX_PIXELS));
        match u64::from(width) * u64::from(height) {
            pixels if pixels > MAX_PIXELS => Err(ImageError::TooLarge { file, width, height }),
            pixels if pixels > most => Err(ImageError::WouldBeTooLarge { file, width, height, most }),
            _ => Ok(()),
        }
    }

    /// A file that is cut short: what of its rows is there will do, or not.
    fn cut_short(&mut self, rows: u32, height: u32) -> Result<(), ImageError> {
        if !self.opening.allow_truncated {
            return Err(ImageError::CutShort { file: self.file.to_owned(), rows, height });
        }
        self.remarks.push(match rows {
            0 => "The file is cut short: not all of its detail is there".to_owned(),
            rows => format!("The file is cut short: {rows} of {height} rows are there, the rest is grey"),
        });
        Ok(())
    }

    /// What makes sRGB of a file's pixels.
    fn samples(&mut self, space: &ColourSpace, model: ColourModel, depth: Depth, alpha: AlphaKind) -> Samples {
        let sixteen_bits = depth == Depth::Sixteen;
        let to_srgb = ToSrgb::new(space, model, sixteen_bits).unwrap_or_else(|problem| {
            self.remarks.push(format!("Its colours are taken for sRGB: {problem}"));
            None
        });
        if to_srgb.is_some() {
            self.remarks.push("Its colours were converted to sRGB, in which everything here works".into());
        }
        if sixteen_bits && model != ColourModel::Lab {
            self.remarks.push("Its 16 bits a sample were reduced to 8, in which everything here works".into());
        }
        Samples::new(to_srgb, model, depth, alpha, self.opening)
    }
}

/// Decodes a PNG held in memory of exactly `width` x `height` pixels; anything else is an error, before it is decoded.
pub fn png_of_size(bytes: &[u8], width: u32, height: u32) -> Result<Picture, String> {
    let decoder =
        image::codecs::png::PngDecoder::new(std::io::Cursor::new(bytes)).map_err(|error| error.to_string())?;
    if decoder.dimensions() != (width, height) {
        let (w, h) = decoder.dimensions();
        return Err(format!("expected {width} x {height} pixels, found {w} x {h}"));
    }
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(format!("{width} x {height} pixels are too many"));
    }
    let rgb = DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?.into_rgb8();
    Picture::from_rgb(width, height, rgb.into_raw()).ok_or_else(|| "it has no pixels".into())
}

fn upright(picture: Picture, orientation: Orientation) -> Picture {
    if orientation == Orientation::NoTransforms {
        return picture;
    }
    let (width, height) = (picture.width(), picture.height());
    let Some(rgb) = image::RgbImage::from_raw(width, height, picture.into_rgb()) else {
        return Picture::from_fn(width, height, |_, _| [0; 3]);
    };
    let mut turned = DynamicImage::ImageRgb8(rgb);
    turned.apply_orientation(orientation);
    let rgb = turned.into_rgb8();
    let (width, height) = rgb.dimensions();
    Picture::from_rgb(width, height, rgb.into_raw()).unwrap_or_else(|| Picture::from_fn(width, height, |_, _| [0; 3]))
}
