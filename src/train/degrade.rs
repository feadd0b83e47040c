//! From a sharp picture to the small one a camera or a website would have made of it: mostly a clean bicubic
//! reduction, often with mild blur, noise and JPEG, so that real photos and the chain's own results work too.

use std::io::Cursor;

use fastrand::Rng;
use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageFormat};

use crate::imaging::{Filter, Picture, resize};

/// The small picture for `sharp`, 1/`scale` of its size. Most of them are clean.
pub fn reduced(rng: &mut Rng, sharp: &Picture, scale: u32) -> Picture {
    let (width, height) = (sharp.width() / scale, sharp.height() / scale);
    if rng.f32() < 0.75 {
        return resize(sharp, width, height, Filter::Bicubic);
    }
    let blurry = if rng.f32() < 0.5 { blurred(sharp, 0.5 + 2.5 * rng.f32()) } else { sharp.clone() };
    let mut small = resize(&blurry, width, height, Filter::Bicubic);
    if rng.f32() < 0.5 {
        let sigma = 5.0 * rng.f32();
        small = noisy(rng, &small, sigma);
    }
    if rng.f32() < 0.5 {
        small = through_jpeg(&small, rng.u8(65..96)).unwrap_or(small);
    }
    small
}

/// Gaussian blur with `sigma` pixels.
pub fn blurred(picture: &Picture, sigma: f32) -> Picture {
    let rgb = image::RgbImage::from_raw(picture.width(), picture.height(), picture.rgb().to_vec());
    let blurred = rgb.map(|rgb| image::imageops::fast_blur(&rgb, sigma).into_raw());
    blurred.and_then(|rgb| Picture::from_rgb(picture.width(), picture.height(), rgb)).unwrap_or_else(|| picture.clone())
}

/// Roughly Gaussian noise with `sigma` levels, half of the time the same in all channels.
fn noisy(rng: &mut Rng, picture: &Picture, sigma: f32) -> Picture {
    let grey = rng.bool();
    // The sum of three uniforms has variance 1/4 on [-1.5, 1.5].
    let mut normal = || (rng.f32() + rng.f32() + rng.f32() - 1.5) * 2.0 * sigma;
    Picture::from_fn(picture.width(), picture.height(), |x, y| {
        let shared = normal();
        picture.pixel(x, y).map(|value| {
            let noise = if grey { shared } else { normal() };
            (f32::from(value) + noise).round().clamp(0.0, 255.0) as u8
        })
    })
}

fn through_jpeg(picture: &Picture, quality: u8) -> Option<Picture> {
    let mut bytes = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
    let rgb8 = ExtendedColorType::Rgb8;
    image::ImageEncoder::write_image(encoder, picture.rgb(), picture.width(), picture.height(), rgb8).ok()?;
    let decoded = image::ImageReader::with_format(Cursor::new(bytes), ImageFormat::Jpeg).decode().ok()?;
    Picture::from_rgb(picture.width(), picture.height(), decoded.into_rgb8().into_raw())
}
