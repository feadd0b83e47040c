//! WebP, lossless.

use std::io::Write;

use super::{Content, FormatSpec};
use crate::imaging::colour_profile::srgb;

pub(super) static WEBP: FormatSpec = FormatSpec {
    id: "webp",
    label: "WebP",
    extensions: &["webp"],
    encode: Some(encode),
    longest_xmp: usize::MAX,
    has_alpha: true,
};

fn encode(content: &Content, out: &mut dyn Write) -> Result<(), String> {
    let mut encoder = image_webp::WebPEncoder::new(out);
    encoder.set_icc_profile(srgb().to_vec());
    if let Some(xmp) = content.xmp(&WEBP) {
        encoder.set_xmp_metadata(xmp.into());
    }
    if let Some(exif) = content.exif() {
        encoder.set_exif_metadata(exif.to_vec());
    }
    let colour = if content.alpha.is_some() { image_webp::ColorType::Rgba8 } else { image_webp::ColorType::Rgb8 };
    let (width, height) = (content.picture.width(), content.picture.height());
    encoder.encode(&content.samples(), width, height, colour).map_err(|error| error.to_string())
}
