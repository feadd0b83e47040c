//! PNG, compressed quickly.

use std::io::Write;

use super::FormatSpec;
use crate::imaging::Picture;

pub(super) static PNG: FormatSpec = FormatSpec {
    id: "png",
    extensions: &["png"],
    encode: Some(|picture, xmp, out| encode(picture, xmp, out).map_err(|error| error.to_string())),
    longest_xmp: usize::MAX,
};

/// As PNG; `xmp` as the text chunk that XMP's specification names.
pub fn encode(picture: &Picture, xmp: Option<&str>, out: impl Write) -> Result<(), png::EncodingError> {
    let mut encoder = png::Encoder::new(out, picture.width(), picture.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    if let Some(xmp) = xmp {
        encoder.add_itxt_chunk("XML:com.adobe.xmp".into(), xmp.into())?;
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(picture.rgb())?;
    writer.finish()
}
