//! Reading picture files. JPEG and PNG come row by row, so that a huge one can be looked at while it decodes; the other
//! formats come whole.

mod ico;
mod jpeg;
mod kinds;
mod other;
mod png;
mod samples;
mod tiff;

use std::io::{BufReader, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder};
use samples::{AlphaKind, Depth, Samples};

use super::Picture;
use super::codec::{ImageError, MAX_PIXELS};
use super::colour_profile::{ColourModel, ColourSpace, ToSrgb};

/// Longest side of a preview.
const PREVIEW: u32 = 1600;
/// Between two previews.
const INTERVAL: Duration = Duration::from_millis(80);
/// Pictures of fewer pixels are decoded before anybody could look at a preview.
const WORTH_A_PREVIEW: u64 = 24_000_000;

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
}

/// What lies behind a picture where nothing else is said.
pub const WHITE: [u8; 3] = [255; 3];

impl Default for Opening {
    fn default() -> Self {
        Self { alpha: Alpha::Blend(WHITE), allow_truncated: false }
    }
}

/// A picture from a file, and what is worth saying of how it came to be.
#[derive(Clone, Debug)]
pub struct DecodedPicture {
    /// 8-bit sRGB, upright.
    pub picture: Picture,
    /// Whole sentences without their full stop.
    pub remarks: Vec<String>,
}

/// Reads a picture: first frame of an animation, upright by its EXIF orientation, its colours as sRGB in 8 bits, laid over
/// white.
pub fn open(file: &Path) -> Result<Picture, ImageError> {
    open_watched(file, &Opening::default(), &mut |_| true).map(|decoded| decoded.picture)
}

/// The same as `opening` says; `watch` sees large ones come, and answers whether to go on.
pub fn open_watched(
    file: &Path,
    opening: &Opening,
    watch: &mut dyn FnMut(Preview) -> bool,
) -> Result<DecodedPicture, ImageError> {
    let io = |source| ImageError::Open { file: file.to_owned(), source };
    let mut opened = std::fs::File::open(file).map_err(io)?;
    let metadata = opened.metadata().map_err(io)?;
    if metadata.is_dir() {
        return Err(io(std::io::Error::from(std::io::ErrorKind::IsADirectory)));
    }
    if metadata.len() == 0 {
        return Err(ImageError::Empty { file: file.to_owned() });
    }
    let mut start = Vec::new();
    opened.by_ref().take(512).read_to_end(&mut start).map_err(io)?;
    let reopen = || std::fs::File::open(file).map(|file| BufReader::with_capacity(1 << 18, file)).map_err(io);
    let mut job = Job { file, opening, watch, remarks: Vec::new() };
    let picture = match start.as_slice() {
        [0xff, 0xd8, 0xff, ..] => jpeg::read(&mut job, reopen)?,
        [0x89, b'P', b'N', b'G', ..] => png::read(&mut job, reopen()?)?,
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => tiff::read(&mut job, reopen()?)?,
        [0, 0, 1, 0, ..] => ico::read(&mut job, reopen()?)?,
        start => {
            if let Some((kind, hint)) = kinds::not_read(start) {
                return Err(ImageError::NotRead { file: file.to_owned(), kind: kind.into(), hint });
            }
            other::read(&mut job, reopen()?)?
        }
    };
    Ok(DecodedPicture { picture, remarks: job.remarks })
}

/// A file that is being read.
struct Job<'a> {
    file: &'a Path,
    opening: &'a Opening,
    watch: &'a mut dyn FnMut(Preview) -> bool,
    remarks: Vec<String>,
}

impl Job<'_> {
    fn damaged(&self, details: impl Into<String>) -> ImageError {
        ImageError::Damaged { file: self.file.to_owned(), details: details.into() }
    }

    /// The picture, upright; rows that are not there are grey.
    fn finish(
        &self,
        mut rgb: Vec<u8>,
        width: u32,
        height: u32,
        orientation: Orientation,
    ) -> Result<Picture, ImageError> {
        rgb.resize(width as usize * height as usize * 3, GREY);
        let picture = Picture::from_rgb(width, height, rgb).ok_or_else(|| self.damaged("it has no pixels"))?;
        Ok(upright(picture, orientation))
    }

    /// Refuses what is too large to be held.
    fn check_size(&self, width: u32, height: u32) -> Result<(), ImageError> {
        match u64::from(width) * u64::from(height) > MAX_PIXELS {
            true => Err(ImageError::TooLarge { file: self.file.to_owned(), width, height }),
            false => Ok(()),
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
        if sixteen_bits {
            self.remarks.push("Its 16 bits a sample were reduced to 8, in which everything here works".into());
        }
        Samples::new(to_srgb, model, depth, alpha, self.opening.alpha)
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

/// The rows decoded so far, and the preview of them.
struct Rows<'a> {
    rgb: Vec<u8>,
    width: u32,
    height: u32,
    done: u32,
    orientation: Orientation,
    watch: &'a mut dyn FnMut(Preview) -> bool,
    /// Every so many pixels make one of the preview; 0 where there is none.
    every: u32,
    preview: Vec<u8>,
    last_preview: Instant,
}

impl<'a> Rows<'a> {
    fn new(width: u32, height: u32, orientation: Orientation, watch: &'a mut dyn FnMut(Preview) -> bool) -> Self {
        let large = u64::from(width) * u64::from(height) >= WORTH_A_PREVIEW;
        let every = if large { width.max(height).div_ceil(PREVIEW) } else { 0 };
        Self {
            rgb: vec![],
            width,
            height,
            done: 0,
            orientation,
            watch,
            every,
            preview: vec![],
            last_preview: Instant::now(),
        }
    }

    /// Makes room for all of them.
    fn reserve(&mut self) -> Result<(), String> {
        let bytes = self.width as usize * self.height as usize * 3;
        self.rgb.try_reserve_exact(bytes).map_err(|_| format!("{} MB of memory are not there", bytes >> 20))
    }

    /// A row of three bytes a pixel was added to `rgb`. Answers whether to go on.
    fn row_done(&mut self) -> bool {
        let y = self.done;
        self.done += 1;
        if self.every == 0 || !y.is_multiple_of(self.every) {
            return true;
        }
        let row = &self.rgb[self.rgb.len() - self.width as usize * 3..];
        for pixel in row.as_chunks::<3>().0.iter().step_by(self.every as usize) {
            self.preview.extend(pixel);
        }
        if self.last_preview.elapsed() < INTERVAL {
            return true;
        }
        self.last_preview = Instant::now();
        let (width, height) = (self.width.div_ceil(self.every), self.height.div_ceil(self.every));
        let mut rgb = self.preview.clone();
        rgb.resize(width as usize * height as usize * 3, 0x20);
        if let Some(picture) = Picture::from_rgb(width, height, rgb) {
            let picture = upright(picture, self.orientation);
            let turned = (picture.width() > picture.height()) != (width > height);
            let size = if turned { [self.height, self.width] } else { [self.width, self.height] };
            let preview = Preview { size, picture, fraction: self.done as f32 / self.height as f32 };
            return (self.watch)(preview);
        }
        true
    }
}
