//! PNG row by row: every depth, palettes, interlaced ones, and what its chunks say of colours.

use std::io::{BufRead, Seek};

use image::metadata::Orientation;
use png::{ColorType, Transformations};

use super::{AlphaKind, ColourModel, ColourSpace, Depth, ImageError, Job, Picture, Rows};
use crate::imaging::colour_profile::SRGB_CHROMATICITIES;

const XMP: &str = "XML:com.adobe.xmp";

pub(super) fn read(job: &mut Job, mut source: impl BufRead + Seek) -> Result<Picture, ImageError> {
    let mut reader = opened(&mut source).map_err(|error| job.damaged(error))?;
    let info = reader.info();
    let (width, height, is_interlaced) = (info.width, info.height, info.interlaced);
    job.check_size(width, height)?;
    let space = colour_space(info);
    job.exif = info.exif_metadata.as_deref().map(<[u8]>::to_vec);
    job.xmp = info.utf8_text.iter().find(|text| text.keyword == XMP).and_then(|text| text.get_text().ok());
    let orientation = job.exif.as_deref().and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms);
    let (colour, depth) = reader.output_color_type();
    let depth = if depth == png::BitDepth::Sixteen { Depth::Sixteen } else { Depth::Eight };
    let (model, alpha) = match colour {
        ColorType::Grayscale => (ColourModel::Grey, AlphaKind::None),
        ColorType::GrayscaleAlpha => (ColourModel::Grey, AlphaKind::Straight),
        ColorType::Rgba => (ColourModel::Rgb, AlphaKind::Straight),
        ColorType::Rgb | ColorType::Indexed => (ColourModel::Rgb, AlphaKind::None),
    };
    let samples = job.samples(&space, model, depth, alpha);
    let stride = width as usize * samples.bytes_a_pixel();
    let mut cut = None;
    let mut done = 0;
    let rows = Rows { samples: &samples, width, height, orientation, watch: &mut *job.watch };
    let read = rows.read(|take| {
        if is_interlaced {
            let mut all = vec![0; stride * height as usize];
            cut = reader.next_frame(&mut all).err().map(|error| error.to_string());
            return all.chunks_exact_mut(stride).all(|row| {
                native(row, depth);
                take(row)
            });
        }
        let mut native_row = Vec::new();
        while done < height {
            match reader.next_row() {
                Ok(Some(row)) if depth == Depth::Eight => {
                    done += 1;
                    if !take(row.data()) {
                        return false;
                    }
                }
                Ok(Some(row)) => {
                    native_row.clear();
                    native_row.extend_from_slice(row.data());
                    native(&mut native_row, depth);
                    done += 1;
                    if !take(&native_row) {
                        return false;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    cut = Some(error.to_string());
                    break;
                }
            }
        }
        true
    });
    let (goes_on, pixels) = read.map_err(|details| job.damaged(details))?;
    if !goes_on {
        return Err(ImageError::Cancelled);
    }
    match cut {
        None if !is_interlaced && done < height => job.cut_short(done, height)?,
        None if reader.finish().is_err() => job.remarks.push("The file ends without its end marker".into()),
        None => {}
        Some(details) if (done == 0 && !is_interlaced) || !is_end(&details) => return Err(job.damaged(details)),
        Some(_) => job.cut_short(done, height)?,
    }
    job.finish(pixels, width, height, orientation)
}

/// At its first row. Palettes, colours that stand for nothing and samples of less than a byte are expanded; else that would
/// only take time.
fn opened<R: BufRead + Seek>(source: &mut R) -> Result<png::Reader<&mut R>, String> {
    let words = |error: png::DecodingError| error.to_string();
    let expanded = {
        let mut decoder = png::Decoder::new(&mut *source);
        decoder.set_ignore_text_chunk(true);
        let reader = decoder.read_info().map_err(words)?;
        let info = reader.info();
        info.trns.is_some() || info.color_type == ColorType::Indexed || (info.bit_depth as u8) < 8
    };
    source.rewind().map_err(|error| error.to_string())?;
    let mut decoder = png::Decoder::new(source);
    if expanded {
        decoder.set_transformations(Transformations::EXPAND);
    }
    decoder.read_info().map_err(words)
}

/// Whether it is the end of the file that came too early.
fn is_end(details: &str) -> bool {
    details.to_lowercase().contains("end of file") || details.to_lowercase().contains("eof")
}

/// Samples of 16 bits come the other way round.
fn native(row: &mut [u8], depth: Depth) {
    if depth == Depth::Sixteen {
        row.as_chunks_mut::<2>().0.iter_mut().for_each(|sample| *sample = u16::from_be_bytes(*sample).to_ne_bytes());
    }
}

/// What comes first counts: cICP, a profile, sRGB, gamma and primaries (PNG, third edition, 4.3).
fn colour_space(info: &png::Info) -> ColourSpace {
    if let Some(points) = info.coding_independent_code_points
        && points.matrix_coefficients == 0
    {
        let (primaries, transfer) = (points.color_primaries, points.transfer_function);
        return if (primaries, transfer) == (1, 13) {
            ColourSpace::Srgb
        } else {
            ColourSpace::Cicp { primaries, transfer }
        };
    }
    if let Some(icc) = &info.icc_profile {
        return ColourSpace::Icc(icc.to_vec());
    }
    if info.srgb.is_some() || (info.gama_chunk.is_none() && info.chrm_chunk.is_none()) {
        return ColourSpace::Srgb;
    }
    let gamma = info.gama_chunk.map_or(1.0 / 2.2, |gamma| f64::from(gamma.into_value()));
    let chromaticities = info.chrm_chunk.map_or(SRGB_CHROMATICITIES, |chrm| {
        let [white, red, green, blue] = [chrm.white, chrm.red, chrm.green, chrm.blue];
        [white.0, white.1, red.0, red.1, green.0, green.1, blue.0, blue.1].map(|value| f64::from(value.into_value()))
    });
    ColourSpace::Gamma { gamma, chromaticities }
}
