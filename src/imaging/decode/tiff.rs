//! TIFF: every depth, integers with and without sign, numbers with a point, palettes, L*a*b*.

mod directory;

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;
use tiff::decoder::ifd::Value;
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::Tag;
use tiff::{ColorType, TiffError};

use directory::Rewritten;

use super::{AlphaKind, ColourModel, ColourSpace, Depth, ImageError, Job, Picture};
use crate::imaging::exif;

/// ExtraSamples: the colours are multiplied by the opacity already.
const ASSOCIATED: u16 = 1;
/// PlanarConfiguration: all of the first sample, then all of the second.
const PLANAR: u16 = 2;

pub(super) fn read(job: &mut Job, file: BufReader<File>) -> Result<Picture, ImageError> {
    // The library has assertions that some files break.
    let decoded = catch_unwind(AssertUnwindSafe(|| decode(job, file)));
    let decoded = decoded.unwrap_or_else(|_| Err(job.damaged("its structure contradicts itself")));
    let Decoded { layout, orientation, space } = decoded?;
    let samples = job.samples(&space, layout.model, layout.depth, layout.alpha);
    job.finish_whole(&samples, &layout.bytes, [layout.width, layout.height], orientation)
}

/// The XMP packet of a file.
pub(in crate::imaging) fn xmp(file: impl Read + Seek) -> Option<String> {
    directory::File::open(file).ok()?.xmp()
}

struct Decoded {
    layout: Layout,
    orientation: Orientation,
    space: ColourSpace,
}

/// Samples as [`Job::samples`] takes them.
struct Layout {
    width: u32,
    height: u32,
    model: ColourModel,
    alpha: AlphaKind,
    depth: Depth,
    bytes: Vec<u8>,
}

/// What samples mean, where the library does not say.
enum Meaning {
    AsTheySay,
    /// Numbers of colours: all reds, all greens, all blues, in 16 bits.
    Palette(Vec<u64>),
    /// L*a*b*; a and b with a sign, or counted from below.
    Lab {
        is_signed: bool,
    },
}

fn decode(job: &mut Job, file: BufReader<File>) -> Result<Decoded, ImageError> {
    let name = job.file;
    let io = |error: std::io::Error| damaged(name, error.to_string());
    let mut directory = directory::File::open(file).map_err(io)?;
    job.xmp = directory.xmp();
    if directory.is_of_a_camera() {
        // EXIF is a TIFF without a picture; what is more than a picture's is passed over.
        // All of the file is not to be held while it is decoded.
        job.exif = exif::kept(std::fs::read(job.file).map_err(io)?, true, None, None).map(|exif| exif.0);
    }
    let meaning = match directory.number(Tag::PhotometricInterpretation).map_err(io)? {
        Some(directory::PALETTE) => Meaning::Palette(directory.numbers(Tag::ColorMap).map_err(io)?),
        Some(directory::CIE_LAB) => Meaning::Lab { is_signed: true },
        Some(directory::ICC_LAB) => Meaning::Lab { is_signed: false },
        _ => Meaning::AsTheySay,
    };
    match directory.rewritten().map_err(io)? {
        Rewritten::Changed(file) => decode_as(job, file, meaning),
        Rewritten::Unchanged(mut file) => {
            file.rewind().map_err(io)?;
            decode_as(job, file, meaning)
        }
    }
}

fn decode_as(job: &mut Job, file: impl Read + Seek, meaning: Meaning) -> Result<Decoded, ImageError> {
    let name = job.file;
    let failed = |error: TiffError| match error {
        TiffError::UnsupportedError(kind) => not_read(name, format!("a TIFF of a kind ({kind})")),
        TiffError::LimitsExceeded => damaged(name, "it claims more than there can be"),
        error => damaged(name, error.to_string()),
    };
    let mut decoder = Decoder::new(file).map_err(failed)?.with_limits(Limits::unlimited());
    let (width, height) = decoder.dimensions().map_err(failed)?;
    job.check_size(width, height)?;
    let colour = decoder.colortype().map_err(failed)?;
    let bits = colour.bit_depth();
    if !matches!(bits, 1 | 2 | 4 | 8 | 16 | 32 | 64) {
        return Err(not_read(name, format!("a TIFF of a kind ({bits} bits a sample)")));
    }
    let number = |decoder: &mut Decoder<_>, tag| decoder.find_tag_unsigned::<u16>(tag).ok().flatten();
    let orientation = number(&mut decoder, Tag::Orientation).and_then(|value| Orientation::from_exif(value as u8));
    let extra = decoder.find_tag_unsigned_vec::<u16>(Tag::ExtraSamples).ok().flatten().unwrap_or_default();
    let icc = decoder.find_tag(Tag::IccProfile).ok().flatten().map(bytes_of).filter(|icc| !icc.is_empty());
    let alpha = if extra.first() == Some(&ASSOCIATED) { AlphaKind::Associated } else { AlphaKind::Straight };
    let (model, alpha, channels) = match colour {
        ColorType::Gray(_) => (ColourModel::Grey, AlphaKind::None, 1),
        ColorType::GrayA(_) | ColorType::Multiband { num_samples: 2, .. } => (ColourModel::Grey, alpha, 2),
        ColorType::RGB(_) | ColorType::YCbCr(8) => (ColourModel::Rgb, AlphaKind::None, 3),
        ColorType::RGBA(_) => (ColourModel::Rgb, alpha, 4),
        ColorType::CMYK(_) => (ColourModel::Cmyk, AlphaKind::None, 4),
        ColorType::CMYKA(_) => (ColourModel::Cmyk, alpha, 5),
        other => return Err(not_read(name, format!("a TIFF of a kind ({other:?})"))),
    };
    let count = width as usize * height as usize * channels;
    let is_planar = channels > 1 && number(&mut decoder, Tag::PlanarConfiguration) == Some(PLANAR);
    let mut samples = DecodingResult::U8(Vec::new());
    match decoder.read_image_to_buffer(&mut samples) {
        // The strips or tiles before are there.
        Err(TiffError::IoError(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            job.cut_short(0, height)?;
        }
        outcome => outcome.map(|_| ()).map_err(failed)?,
    }
    let row = width as usize * if is_planar { 1 } else { channels };
    let is_palette = matches!(meaning, Meaning::Palette(_));
    let (mut bytes, depth) = samples_of(samples, bits, row, !is_palette);
    if is_planar {
        bytes = interleaved(&bytes, channels, if depth == Depth::Eight { 1 } else { 2 });
    }
    if matches!(colour, ColorType::YCbCr(_)) {
        bytes.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| *pixel = rgb_of(*pixel));
    }
    let expected = count * if depth == Depth::Eight { 1 } else { 2 };
    if bytes.len() < expected {
        return Err(job.damaged(format!("expected {expected} bytes of samples, found {}", bytes.len())));
    }
    let mut layout = Layout { width, height, model, alpha, depth, bytes };
    match meaning {
        Meaning::AsTheySay => {}
        Meaning::Palette(colours) => layout.look_up(&colours),
        Meaning::Lab { is_signed } if layout.alpha == AlphaKind::None && channels == 3 => {
            layout.take_for_lab(is_signed)
        }
        Meaning::Lab { .. } => return Err(not_read(name, "an L*a*b* TIFF with transparency".into())),
    }
    let space = icc.map_or(ColourSpace::Srgb, ColourSpace::Icc);
    let orientation = orientation.unwrap_or(Orientation::NoTransforms);
    Ok(Decoded { layout, orientation, space })
}

impl Layout {
    /// Samples are numbers of colours; a second one stays opacity.
    fn look_up(&mut self, colours: &[u64]) {
        let count = colours.len() / 3;
        // Some programs wrote 8 bits into 16.
        let is_wide = colours.iter().any(|&level| level > 255);
        let colour = |number: usize| {
            [0, 1, 2].map(|plane| {
                let level = if number < count { colours[plane * count + number] } else { 0 };
                if is_wide { ((level.min(65535) + 128) / 257) as u8 } else { level as u8 }
            })
        };
        let channels = if self.alpha == AlphaKind::None { 1 } else { 2 };
        let numbers: Vec<usize> = match self.depth {
            Depth::Eight => self.bytes.iter().map(|&number| number.into()).collect(),
            Depth::Sixteen => self.bytes.as_chunks::<2>().0.iter().map(|it| u16::from_ne_bytes(*it).into()).collect(),
        };
        let is_eight = self.depth == Depth::Eight;
        let opacity = |value: usize| if is_eight { value as u8 } else { (value >> 8) as u8 };
        let pixels = numbers.chunks_exact(channels);
        self.bytes = pixels
            .flat_map(|pixel| colour(pixel[0]).into_iter().chain(pixel[1..].iter().map(|&it| opacity(it))))
            .collect();
        (self.model, self.depth) = (ColourModel::Rgb, Depth::Eight);
    }

    /// Samples are L*a*b*, of which 16 bits are made as ICC profiles of version 2 have them: 0xff00 is 100, 0x8000 is 0.
    fn take_for_lab(&mut self, is_signed: bool) {
        let sign = if is_signed { 0x8000 } else { 0 };
        let wide: Vec<u16> = match self.depth {
            Depth::Eight => self.bytes.iter().map(|&value| u16::from(value) << 8).collect(),
            Depth::Sixteen => self.bytes.as_chunks::<2>().0.iter().map(|it| u16::from_ne_bytes(*it)).collect(),
        };
        let is_full = is_signed && self.depth == Depth::Sixteen;
        let lightness = |l: u16| if is_full { (u32::from(l) * 0xff00 / 0xffff) as u16 } else { l };
        let pixels = wide.as_chunks::<3>().0.iter();
        self.bytes =
            pixels.flat_map(|&[l, a, b]| [lightness(l), a ^ sign, b ^ sign].map(u16::to_ne_bytes)).flatten().collect();
        (self.model, self.depth) = (ColourModel::Lab, Depth::Sixteen);
    }
}

fn damaged(file: &Path, details: impl Into<String>) -> ImageError {
    ImageError::Damaged { file: file.to_owned(), details: details.into() }
}

fn not_read(file: &Path, kind: String) -> ImageError {
    ImageError::NotRead { file: file.to_owned(), kind, hint: "Save it as an ordinary RGB TIFF, or as PNG." }
}

fn bytes_of(value: Value) -> Vec<u8> {
    match value {
        Value::List(values) => values.into_iter().flat_map(bytes_of).collect(),
        Value::Byte(byte) => vec![byte],
        other => other.into_u64().map_or_else(|_| Vec::new(), |number| vec![number as u8]),
    }
}

/// In 8 bits where there are no more, else in 16 of the machine's own order; where one is below zero all are counted from the
/// lowest there can be, and numbers with a point go from 0 to 1.
fn samples_of(samples: DecodingResult, bits: u8, row: usize, is_scaled: bool) -> (Vec<u8>, Depth) {
    let wide = |values: Vec<u16>| (values.iter().flat_map(|value| value.to_ne_bytes()).collect(), Depth::Sixteen);
    let of_float = |value: f64| (value.clamp(0.0, 1.0) * 65535.0).round() as u16;
    match samples {
        DecodingResult::U8(bytes) if bits < 8 => (unpacked(&bytes, bits, row, is_scaled), Depth::Eight),
        DecodingResult::U8(bytes) => (bytes, Depth::Eight),
        DecodingResult::U16(values) => wide(values),
        DecodingResult::U32(values) => wide(values.iter().map(|value| (value >> 16) as u16).collect()),
        DecodingResult::U64(values) => wide(values.iter().map(|value| (value >> 48) as u16).collect()),
        DecodingResult::I8(values) => wide(of_signed(&values, |value| i64::from(value) << 8)),
        DecodingResult::I16(values) => wide(of_signed(&values, i64::from)),
        DecodingResult::I32(values) => wide(of_signed(&values, |value| i64::from(value) >> 16)),
        DecodingResult::I64(values) => wide(of_signed(&values, |value| value >> 48)),
        DecodingResult::F16(values) => wide(values.iter().map(|value| of_float(f64::from(value.to_f32()))).collect()),
        DecodingResult::F32(values) => wide(values.iter().map(|value| of_float(f64::from(*value))).collect()),
        DecodingResult::F64(values) => wide(values.iter().map(|value| of_float(*value)).collect()),
    }
}

/// `wide` makes 16 bits with a sign of each.
fn of_signed<T: Copy>(values: &[T], wide: impl Fn(T) -> i64) -> Vec<u16> {
    let is_below_zero = values.iter().any(|&value| wide(value) < 0);
    let unsigned = |value: i64| if is_below_zero { value + 0x8000 } else { value * 0xffff / 0x7fff };
    values.iter().map(|&value| unsigned(wide(value)).clamp(0, 0xffff) as u16).collect()
}

/// Samples of `size` bytes that lie one after another, side by side.
fn interleaved(planes: &[u8], channels: usize, size: usize) -> Vec<u8> {
    let plane = planes.len() / channels / size * size;
    let sample = |channel: usize, at: usize| &planes[channel * plane + at..][..size];
    (0..plane)
        .step_by(size)
        .flat_map(|at| (0..channels).flat_map(move |channel| sample(channel, at)))
        .copied()
        .collect()
}

/// Samples of less than a byte, to 0 to 255 or as they are; each row begins with a new byte.
fn unpacked(bytes: &[u8], bits: u8, row: usize, is_scaled: bool) -> Vec<u8> {
    let most = (1u32 << bits) - 1;
    let full = if is_scaled { 255 } else { most };
    let (a_byte, stride) = ((8 / bits.max(1)) as usize, (row * usize::from(bits)).div_ceil(8).max(1));
    let sample = |line: &[u8], i: usize| {
        let shift = 8 - bits as usize * (i % a_byte + 1);
        ((u32::from(line[i / a_byte]) >> shift & most) * full / most) as u8
    };
    bytes.chunks_exact(stride).flat_map(|line| (0..row).map(move |i| sample(line, i))).collect()
}

/// JFIF's YCbCr.
fn rgb_of([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let (y, cb, cr) = (f32::from(y), f32::from(cb) - 128.0, f32::from(cr) - 128.0);
    [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb]
        .map(|value| value.round().clamp(0.0, 255.0) as u8)
}
