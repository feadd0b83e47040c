//! JPEG through libjpeg, as in Pillow, so the pixels are the same; arithmetic coding too. Inks stay inks until their profile
//! is applied.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use mozjpeg::decompress::DecompressStarted;
use mozjpeg::{ColorSpace, Decompress, Marker};

use super::{AlphaKind, ColourModel, ColourSpace, Depth, ImageError, Job, Picture, Pixels, Rows};

const EXIF: &[u8] = b"Exif\0\0";
const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
const PROFILE: &[u8] = b"ICC_PROFILE\0";
const ADOBE: &[u8] = b"Adobe";
/// So many bytes a decoder may look ahead of what it needs.
const AHEAD: usize = 64;

pub(super) fn read(
    job: &mut Job,
    reopen: impl Fn() -> Result<BufReader<File>, ImageError>,
) -> Result<Picture, ImageError> {
    let (rows_done, ended_at) = (Cell::new(0), Cell::new(None));
    let file = reopen()?;
    // libjpeg ends on damage by unwinding.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        decode(job, Tail { inner: file, rows_done: &rows_done, ended_at: &ended_at }, &rows_done)
    }));
    let rows = outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map_or("unknown damage", String::as_str);
        Err(Failure::Damaged(text.trim_start_matches("libjpeg fatal error: ").to_owned()))
    });
    let Decoded { pixels, size: [width, height], orientation } = match rows {
        Ok(decoded) => decoded,
        Err(Failure::Image(error)) => return Err(error),
        Err(Failure::Damaged(details)) => return Err(job.damaged(details)),
    };
    if let Some(row) = ended_at.get() {
        let zeros = Cell::new(0);
        let file = reopen()?;
        let skimmed = catch_unwind(AssertUnwindSafe(|| skim(Zeros { inner: file, count: &zeros })));
        match skimmed {
            Ok(Ok(())) if zeros.get() <= AHEAD => job.remarks.push("The file ends without its end marker".into()),
            _ => job.cut_short(row, height)?,
        }
    }
    job.finish(pixels, width, height, orientation)
}

struct Decoded {
    pixels: Pixels,
    size: [u32; 2],
    orientation: Orientation,
}

enum Failure {
    Image(ImageError),
    Damaged(String),
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Damaged(error.to_string())
    }
}

fn decode(job: &mut Job, source: impl BufRead, rows_done: &Cell<u32>) -> Result<Decoded, Failure> {
    let markers = [Marker::APP(1), Marker::APP(2), Marker::APP(14)];
    let decoder = Decompress::with_markers(&markers).from_reader(source)?;
    let (width, height) = (decoder.width() as u32, decoder.height() as u32);
    job.check_size(width, height)?;
    let below = |prefix: &[u8]| -> Vec<Vec<u8>> {
        decoder.markers().filter_map(|marker| Some(marker.data.strip_prefix(prefix)?.to_vec())).collect()
    };
    job.exif = below(EXIF).into_iter().next();
    job.xmp = below(XMP).into_iter().next().and_then(|xmp| String::from_utf8(xmp).ok());
    let orientation = job.exif.as_deref().and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms);
    // In numbered pieces, each behind its number and the count of all.
    let mut pieces = below(PROFILE);
    pieces.sort_by_key(|piece| piece.first().copied());
    let icc: Vec<u8> = pieces.iter().flat_map(|piece| piece.get(2..).unwrap_or_default().to_vec()).collect();
    let space = if icc.is_empty() { ColourSpace::Srgb } else { ColourSpace::Icc(icc) };
    let is_inverted = !below(ADOBE).is_empty();
    let (mut started, model) = started(decoder, is_inverted)?;
    let samples = job.samples(&space, model, Depth::Eight, AlphaKind::None);
    let rows = Rows { samples: &samples, width, height, orientation, watch: &mut *job.watch };
    let (outcome, pixels) = rows
        .read(|take| {
            let mut row = vec![0u8; width as usize * samples.bytes_a_pixel()];
            for y in 0..height {
                started.read_scanlines_into(row.as_mut_slice())?;
                rows_done.set(y + 1);
                if !take(&row) {
                    return Err(Failure::Image(ImageError::Cancelled));
                }
            }
            Ok(())
        })
        .map_err(Failure::Damaged)?;
    outcome?;
    Ok(Decoded { pixels, size: [width, height], orientation })
}

fn started<R: BufRead>(
    decoder: Decompress<R>,
    is_inverted: bool,
) -> std::io::Result<(DecompressStarted<R>, ColourModel)> {
    Ok(match decoder.color_space() {
        ColorSpace::JCS_GRAYSCALE => (decoder.grayscale()?, ColourModel::Grey),
        ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK => {
            let model = if is_inverted { ColourModel::InvertedCmyk } else { ColourModel::Cmyk };
            (decoder.to_colorspace(ColorSpace::JCS_CMYK)?, model)
        }
        _ => (decoder.rgb()?, ColourModel::Rgb),
    })
}

/// Decodes all of it, for nothing but to see how much of the file that takes.
fn skim(source: impl BufRead) -> std::io::Result<()> {
    let (mut started, model) = started(Decompress::new_reader(source)?, false)?;
    let mut row = vec![0u8; started.width() * model.channels()];
    for _ in 0..started.height() {
        started.read_scanlines_into(row.as_mut_slice())?;
    }
    Ok(())
}

/// A file behind whose end comes nothing, which libjpeg takes for the end of the picture; how far that was then is noted.
struct Tail<'a> {
    inner: BufReader<File>,
    rows_done: &'a Cell<u32>,
    ended_at: &'a Cell<Option<u32>>,
}

impl Read for Tail<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.inner.read(buffer)
    }
}

impl BufRead for Tail<'_> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        let bytes = self.inner.fill_buf()?;
        if bytes.is_empty() {
            self.ended_at.set(self.ended_at.get().or(Some(self.rows_done.get())));
        }
        Ok(bytes)
    }

    fn consume(&mut self, amount: usize) {
        self.inner.consume(amount);
    }
}

/// A file with zeros behind its end, which are counted: a picture that is whole needs but few of them.
struct Zeros<'a> {
    inner: BufReader<File>,
    count: &'a Cell<usize>,
}

impl Read for Zeros<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.inner.read(buffer)
    }
}

impl BufRead for Zeros<'_> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        let bytes = self.inner.fill_buf()?;
        if !bytes.is_empty() {
            return Ok(bytes);
        }
        self.count.set(self.count.get() + 1);
        if self.count.get() > AHEAD {
            // Enough is known.
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        Ok(&[0])
    }

    fn consume(&mut self, amount: usize) {
        // The zero was none of its own.
        if !self.inner.buffer().is_empty() {
            self.inner.consume(amount);
        }
    }
}
