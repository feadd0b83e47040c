//! The formats that come whole.

use std::fs::File;
use std::io::BufReader;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};
use image_extras::dds::DdsDecoder;
use jxl_oxide::integration::JxlDecoder;

use super::{AlphaKind, ColourModel, ColourSpace, Depth, ImageError, Job, Picture, tone};

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
    let format = reader.format();
    let mut decoder = reader.into_decoder().map_err(|error| failed(job, &error))?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let light = match format {
        Some(ImageFormat::OpenExr) => Light::LinearAssociated,
        Some(ImageFormat::Hdr) => Light::Linear,
        _ => Light::Encoded,
    };
    finish(job, decoder, orientation, light)
}

/// Upright already.
pub(super) fn read_jpeg_xl(job: &mut Job, file: BufReader<File>) -> Result<Picture, ImageError> {
    let decoder = JxlDecoder::new(file).map_err(|error| failed(job, &error))?;
    finish(job, decoder, Orientation::NoTransforms, Light::Encoded)
}

pub(super) fn read_dds(job: &mut Job, file: BufReader<File>) -> Result<Picture, ImageError> {
    let decoder = DdsDecoder::new(file).map_err(|error| failed(job, &error))?;
    finish(job, decoder, Orientation::NoTransforms, Light::Encoded)
}

/// What numbers with a point mean.
enum Light {
    /// As for a screen, from 0 to 1.
    Encoded,
    /// Amounts of light.
    Linear,
    /// The same, multiplied by opacity already.
    LinearAssociated,
}

fn finish(
    job: &mut Job,
    mut decoder: impl ImageDecoder,
    orientation: Orientation,
    light: Light,
) -> Result<Picture, ImageError> {
    let (width, height) = decoder.dimensions();
    job.check_size(width, height)?;
    // Nobody misses the picture for them.
    job.exif = decoder.exif_metadata().ok().flatten();
    job.xmp = decoder.xmp_metadata().ok().flatten().and_then(|xmp| String::from_utf8(xmp).ok());
    let space = match decoder.icc_profile() {
        Ok(Some(icc)) => ColourSpace::Icc(icc),
        Ok(None) => ColourSpace::Srgb,
        Err(error) => {
            job.remarks.push(format!("Its colours are taken for sRGB: its profile cannot be read ({error})"));
            ColourSpace::Srgb
        }
    };
    let mut image = DynamicImage::from_decoder(decoder).map_err(|error| failed(job, &error))?;
    if !matches!(light, Light::Encoded) {
        let peak = tone::map(&mut image, matches!(light, Light::LinearAssociated));
        let peak = peak.min(9999.0);
        job.remarks.push(match peak > 1.0 {
            true => {
                format!("It is a high dynamic range picture (up to {peak:.1} times white), tone-mapped for the screen")
            }
            false => "Its linear light was encoded as sRGB, in which everything here works".into(),
        });
        // More than a screen shows is not in it now.
        image = if image.has_alpha() { image.into_rgba8().into() } else { image.into_rgb8().into() };
    }
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
    let samples = job.samples(&space, model, if is_wide { Depth::Sixteen } else { Depth::Eight }, alpha);
    job.finish_whole(&samples, image.as_bytes(), [width, height], orientation)
}
