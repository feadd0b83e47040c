//! WebP, lossless.

use std::io::Write;

use super::FormatSpec;
use crate::imaging::Picture;

pub(super) static WEBP: FormatSpec =
    FormatSpec { id: "webp", extensions: &["webp"], encode: Some(encode), longest_xmp: usize::MAX };

fn encode(picture: &Picture, xmp: Option<&str>, out: &mut dyn Write) -> Result<(), String> {
    let mut encoder = image_webp::WebPEncoder::new(out);
    if let Some(xmp) = xmp {
        encoder.set_xmp_metadata(xmp.into());
    }
    encoder
        .encode(picture.rgb(), picture.width(), picture.height(), image_webp::ColorType::Rgb8)
        .map_err(|error| error.to_string())
}
