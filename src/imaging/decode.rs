//! Reading picture files. JPEG and PNG come row by row, so that a huge one can be looked at while it decodes; the other
//! formats come whole. JPEG goes through libjpeg, as in Pillow, so the pixels are the same.

use std::io::{BufRead, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use image::metadata::Orientation;
use image::{DynamicImage, ExtendedColorType, ImageDecoder, ImageFormat, ImageReader};
use mozjpeg::ColorSpace;

use super::Picture;
use super::codec::{ImageError, MAX_PIXELS};

/// Longest side of a preview.
const PREVIEW: u32 = 1600;
/// Between two previews.
const INTERVAL: Duration = Duration::from_millis(80);
/// Pictures of fewer pixels are decoded before anybody could look at a preview.
const WORTH_A_PREVIEW: u64 = 24_000_000;

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

/// Reads a picture: first frame of an animation, upright by its EXIF orientation, 16 bits reduced to 8, grey spread
/// to three channels, alpha dropped (not blended, as the reference does).
pub fn open(file: &Path) -> Result<Picture, ImageError> {
    open_watched(file, &mut |_| true)
}

/// The same; `watch` sees large ones come, and answers whether to go on.
pub fn open_watched(file: &Path, watch: &mut dyn FnMut(Preview) -> bool) -> Result<Picture, ImageError> {
    let io = |source| ImageError::Open { file: file.to_owned(), source };
    let opened = std::fs::File::open(file).map_err(io)?;
    let metadata = opened.metadata().map_err(io)?;
    if metadata.is_dir() {
        return Err(io(std::io::Error::from(std::io::ErrorKind::IsADirectory)));
    }
    if metadata.len() == 0 {
        return Err(ImageError::Empty { file: file.to_owned() });
    }
    let damaged = |details: String| ImageError::Damaged { file: file.to_owned(), details };
    let mut reader = ImageReader::new(BufReader::new(opened)).with_guessed_format().map_err(io)?;
    let Some(format) = reader.format() else { return Err(ImageError::Unknown { file: file.to_owned() }) };
    // Our own limit below is the one that speaks.
    reader.no_limits();
    let mut decoder = reader.into_decoder().map_err(|error| damaged(error.to_string()))?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(ImageError::TooLarge { file: file.to_owned(), width, height });
    }
    let orientation = decoder.orientation().map_err(|error| damaged(error.to_string()))?;
    let colour = decoder.original_color_type();
    let reopen = || std::fs::File::open(file).map(|file| BufReader::with_capacity(1 << 18, file));
    let mut rows = Rows::new(width, height, orientation, watch);
    let by_rows = match (format, colour) {
        (ImageFormat::Jpeg, ExtendedColorType::Rgb8 | ExtendedColorType::L8) => {
            let source = WholeOnly(reopen().map_err(io)?);
            // libjpeg ends on damage by unwinding.
            let outcome = catch_unwind(AssertUnwindSafe(|| jpeg(source, &mut rows)));
            let outcome = outcome.unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<String>().map_or("unknown damage", String::as_str);
                Err(text.trim_start_matches("libjpeg fatal error: ").to_owned())
            });
            outcome.map_err(damaged)?
        }
        (ImageFormat::Png, ExtendedColorType::Rgb8 | ExtendedColorType::Rgba8 | ExtendedColorType::L8) => {
            png(reopen().map_err(io)?, &mut rows).map_err(damaged)?
        }
        _ => false,
    };
    let rgb = if by_rows {
        rows.rgb
    } else {
        DynamicImage::from_decoder(decoder).map_err(|error| damaged(error.to_string()))?.into_rgb8().into_raw()
    };
    Picture::from_rgb(width, height, rgb)
        .map(|picture| upright(picture, orientation))
        .ok_or_else(|| damaged("it has no pixels".into()))
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

    /// A row of three bytes a pixel was added to `rgb`.
    fn row_done(&mut self) -> Result<(), String> {
        let y = self.done;
        self.done += 1;
        if self.every == 0 || !y.is_multiple_of(self.every) {
            return Ok(());
        }
        let row = &self.rgb[self.rgb.len() - self.width as usize * 3..];
        for pixel in row.as_chunks::<3>().0.iter().step_by(self.every as usize) {
            self.preview.extend(pixel);
        }
        if self.last_preview.elapsed() < INTERVAL {
            return Ok(());
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
            if !(self.watch)(preview) {
                return Err("stopped".into());
            }
        }
        Ok(())
    }
}

fn reserve(rows: &mut Rows, bytes: usize) -> Result<(), String> {
    rows.rgb.try_reserve_exact(bytes).map_err(|_| format!("{} MB of memory are not there", bytes >> 20))
}

/// libjpeg takes the end of a file for the end of the picture; here it is an error.
struct WholeOnly<R>(R);

impl<R: Read> Read for WholeOnly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: BufRead> BufRead for WholeOnly<R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        match self.0.fill_buf()? {
            [] => Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "the file ends too early")),
            bytes => Ok(bytes),
        }
    }

    fn consume(&mut self, amount: usize) {
        self.0.consume(amount);
    }
}

/// Whether it was one that libjpeg turns into RGB.
fn jpeg(source: impl BufRead, rows: &mut Rows) -> Result<bool, String> {
    let words = |error: std::io::Error| error.to_string();
    let decoder = mozjpeg::Decompress::new_reader(source).map_err(words)?;
    if !matches!(decoder.color_space(), ColorSpace::JCS_GRAYSCALE | ColorSpace::JCS_RGB | ColorSpace::JCS_YCbCr) {
        return Ok(false);
    }
    let mut started = decoder.rgb().map_err(words)?;
    if (started.width(), started.height()) != (rows.width as usize, rows.height as usize) {
        return Err("its header contradicts itself".into());
    }
    let stride = rows.width as usize * 3;
    reserve(rows, stride * rows.height as usize)?;
    for _ in 0..rows.height {
        let from = rows.rgb.len();
        rows.rgb.resize(from + stride, 0);
        started.read_scanlines_into(&mut rows.rgb[from..]).map_err(words)?;
        rows.row_done()?;
    }
    Ok(true)
}

/// Whether it was one whose rows come in order.
fn png(source: impl BufRead + std::io::Seek, rows: &mut Rows) -> Result<bool, String> {
    let mut decoder = png::Decoder::new(source);
    decoder.set_ignore_text_chunk(true);
    let mut reader = decoder.read_info().map_err(|error| error.to_string())?;
    let (colour, depth) = reader.output_color_type();
    let samples = match colour {
        png::ColorType::Rgb => 3,
        png::ColorType::Rgba => 4,
        png::ColorType::Grayscale => 1,
        _ => return Ok(false),
    };
    if reader.info().interlaced || depth != png::BitDepth::Eight {
        return Ok(false);
    }
    reserve(rows, rows.width as usize * rows.height as usize * 3)?;
    while let Some(row) = reader.next_row().map_err(|error| error.to_string())? {
        match samples {
            3 => rows.rgb.extend(row.data()),
            1 => row.data().iter().for_each(|&grey| rows.rgb.extend([grey; 3])),
            _ => row.data().as_chunks::<4>().0.iter().for_each(|pixel| rows.rgb.extend(&pixel[..3])),
        }
        rows.row_done()?;
    }
    Ok(true)
}
