//! The formats that come whole.

use std::fs::File;
use std::io::BufReader;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};

use super::{AlphaKind, ColourModel, ColourSpace, Depth, ImageError, Job, Picture};

/// What is sound, but of a kind that is not read, is not called damaged.
fn failed(job: &Job, error: &image::ImageError) -> ImageError {
    match error {
        image::ImageError::Unsupported(kind) => ImageError::NotRead {
            file: job.file.to_owned(),
            kind: format!("of a kind ({kind})"),
            hint: "Save it as an ordinary PNG or JPEG.",
        },
        error => job.damaged(error.to_string()),
    }
}

pub(super) fn read(job: &mut Job, file: BufReader<File>) -> Result<Picture, ImageError> {
    let io = |source| ImageError::Open { file: job.file.to_owned(), source };
    let mut reader = ImageReader::new(file).with_guessed_format().map_err(io)?;
    if reader.format().is_none() {
        // TGA alone begins like anything.
        match ImageFormat::from_path(job.file) {
            Ok(ImageFormat::Tga) => reader.set_format(ImageFormat::Tga),
            _ => return Err(ImageError::Unknown { file: job.file.to_owned() }),
        }
    }
    // Our own limit below is the one that speaks.
    reader.no_limits();
    let mut decoder = reader.into_decoder().map_err(|error| failed(job, &error))?;
    let (width, height) = decoder.dimensions();
    job.check_size(width, height)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let space = match decoder.icc_profile() {
        Ok(Some(icc)) => ColourSpace::Icc(icc),
        Ok(None) => ColourSpace::Srgb,
        Err(error) => {
            job.remarks.push(format!("Its colours are taken for sRGB: its profile cannot be read ({error})"));
            ColourSpace::Srgb
        }
    };
    let image = DynamicImage::from_decoder(decoder).map_err(|error| failed(job, &error))?;
    let (model, alpha, image) = match image {
        DynamicImage::ImageLuma8(_) | DynamicImage::ImageLuma16(_) => (ColourModel::Grey, AlphaKind::None, image),
        DynamicImage::ImageLumaA8(_) | DynamicImage::ImageLumaA16(_) => (ColourModel::Grey, AlphaKind::Straight, image),
        DynamicImage::ImageRgb8(_) | DynamicImage::ImageRgb16(_) => (ColourModel::Rgb, AlphaKind::None, image),
        DynamicImage::ImageRgba8(_) | DynamicImage::ImageRgba16(_) => (ColourModel::Rgb, AlphaKind::Straight, image),
        // Numbers with a point, from 0 to 1.
        other if other.has_alpha() => {
            (ColourModel::Rgb, AlphaKind::Straight, DynamicImage::ImageRgba16(other.into_rgba16()))
        }
        other => (ColourModel::Rgb, AlphaKind::None, DynamicImage::ImageRgb16(other.into_rgb16())),
    };
    let is_wide = image.color().bytes_per_pixel() / image.color().channel_count() == 2;
    let mut samples = job.samples(&space, model, if is_wide { Depth::Sixteen } else { Depth::Eight }, alpha);
    let mut rgb = Vec::new();
    let stride = (width as usize * samples.bytes_a_pixel()).max(1);
    image.as_bytes().chunks_exact(stride).for_each(|row| samples.add(row, &mut rgb));
    job.finish(rgb, width, height, orientation)
}
