//! TIFF: every depth, integers with and without sign, numbers with a point, palettes apart.

use std::fs::File;
use std::io::BufReader;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use tiff::decoder::ifd::Value;
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::Tag;
use tiff::{ColorType, TiffError};

use super::{AlphaKind, ColourModel, ColourSpace, Depth, ImageError, Job, Picture};

/// ExtraSamples: the colours are multiplied by the opacity already.
const ASSOCIATED: u16 = 1;

pub(super) fn read(job: &mut Job, file: BufReader<File>) -> Result<Picture, ImageError> {
    // The library has assertions that some files break.
    let decoded = catch_unwind(AssertUnwindSafe(|| decode(job, file)));
    let decoded = decoded.unwrap_or_else(|_| Err(job.damaged("its structure contradicts itself")));
    let Decoded { mut layout, orientation, space } = decoded?;
    let (width, height) = (layout.width, layout.height);
    let mut samples = job.samples(&space, layout.model, layout.depth, layout.alpha);
    let stride = (width as usize * samples.bytes_a_pixel()).max(1);
    let mut rgb = Vec::new();
    std::mem::take(&mut layout.bytes).chunks_exact(stride).for_each(|row| samples.add(row, &mut rgb));
    job.finish(rgb, width, height, orientation)
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

fn decode(job: &Job, file: BufReader<File>) -> Result<Decoded, ImageError> {
    let failed = |error: TiffError| match error {
        TiffError::UnsupportedError(kind) => not_read(job, format!("a TIFF of a kind ({kind})")),
        TiffError::LimitsExceeded => job.damaged("it claims more than there can be"),
        error => job.damaged(error.to_string()),
    };
    let mut decoder = Decoder::new(file).map_err(failed)?.with_limits(Limits::unlimited());
    let (width, height) = decoder.dimensions().map_err(failed)?;
    job.check_size(width, height)?;
    let colour = decoder.colortype().map_err(failed)?;
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
        other => return Err(not_read(job, format!("a TIFF of a kind ({other:?})"))),
    };
    let count = width as usize * height as usize * channels;
    let samples = decoder.read_image().map_err(failed)?;
    let (mut bytes, depth) = samples_of(samples, colour.bit_depth(), width as usize * channels);
    if matches!(colour, ColorType::YCbCr(_)) {
        bytes.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| *pixel = rgb_of(*pixel));
    }
    let expected = count * if depth == Depth::Eight { 1 } else { 2 };
    if bytes.len() < expected {
        return Err(job.damaged(format!("expected {expected} bytes of samples, found {}", bytes.len())));
    }
    let space = icc.map_or(ColourSpace::Srgb, ColourSpace::Icc);
    let orientation = orientation.unwrap_or(Orientation::NoTransforms);
    Ok(Decoded { layout: Layout { width, height, model, alpha, depth, bytes }, orientation, space })
}

fn not_read(job: &Job, kind: String) -> ImageError {
    ImageError::NotRead { file: job.file.to_owned(), kind, hint: "Save it as an ordinary RGB TIFF, or as PNG." }
}

fn bytes_of(value: Value) -> Vec<u8> {
    match value {
        Value::List(values) => values.into_iter().flat_map(bytes_of).collect(),
        Value::Byte(byte) => vec![byte],
        other => other.into_u64().map_or_else(|_| Vec::new(), |number| vec![number as u8]),
    }
}

/// In 8 bits where there are no more, else in 16 of the machine's own order; a sign is counted from below, and numbers with a
/// point go from 0 to 1.
fn samples_of(samples: DecodingResult, bits: u8, row: usize) -> (Vec<u8>, Depth) {
    let wide = |values: Vec<u16>| (values.iter().flat_map(|value| value.to_ne_bytes()).collect(), Depth::Sixteen);
    let of_float = |value: f64| (value.clamp(0.0, 1.0) * 65535.0).round() as u16;
    match samples {
        DecodingResult::U8(bytes) if bits < 8 => (unpacked(&bytes, bits, row), Depth::Eight),
        DecodingResult::U8(bytes) => (bytes, Depth::Eight),
        DecodingResult::I8(values) => (values.iter().map(|value| (*value as u8) ^ 0x80).collect(), Depth::Eight),
        DecodingResult::U16(values) => wide(values),
        DecodingResult::I16(values) => wide(values.iter().map(|value| (*value as u16) ^ 0x8000).collect()),
        DecodingResult::U32(values) => wide(values.iter().map(|value| (value >> 16) as u16).collect()),
        DecodingResult::I32(values) => wide(values.iter().map(|value| ((value >> 16) as u16) ^ 0x8000).collect()),
        DecodingResult::U64(values) => wide(values.iter().map(|value| (value >> 48) as u16).collect()),
        DecodingResult::I64(values) => wide(values.iter().map(|value| ((value >> 48) as u16) ^ 0x8000).collect()),
        DecodingResult::F16(values) => wide(values.iter().map(|value| of_float(f64::from(value.to_f32()))).collect()),
        DecodingResult::F32(values) => wide(values.iter().map(|value| of_float(f64::from(*value))).collect()),
        DecodingResult::F64(values) => wide(values.iter().map(|value| of_float(*value)).collect()),
    }
}

/// Samples of less than a byte; each row begins with a new one.
fn unpacked(bytes: &[u8], bits: u8, row: usize) -> Vec<u8> {
    let most = (1u32 << bits) - 1;
    let (a_byte, stride) = ((8 / bits.max(1)) as usize, (row * usize::from(bits)).div_ceil(8).max(1));
    let sample = |line: &[u8], i: usize| {
        let shift = 8 - bits as usize * (i % a_byte + 1);
        ((u32::from(line[i / a_byte]) >> shift & most) * 255 / most) as u8
    };
    bytes.chunks_exact(stride).flat_map(|line| (0..row).map(move |i| sample(line, i))).collect()
}

/// JFIF's YCbCr.
fn rgb_of([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let (y, cb, cr) = (f32::from(y), f32::from(cb) - 128.0, f32::from(cr) - 128.0);
    [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb]
        .map(|value| value.round().clamp(0.0, 255.0) as u8)
}
