//! JPEG of quality 95.

use std::io::Write;

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder};
use img_parts::jpeg::{Jpeg, JpegSegment, markers};

use super::FormatSpec;
use crate::imaging::Picture;

/// One segment holds at most 64 KB, header included.
pub(super) static JPEG: FormatSpec =
    FormatSpec { id: "jpeg", extensions: &["jpg", "jpeg", "jfif"], encode: Some(encode), longest_xmp: 65_000 };

/// What begins an APP1 segment with XMP in it.
const XMP_NAME: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

fn encode(picture: &Picture, xmp: Option<&str>, out: &mut dyn Write) -> Result<(), String> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 95)
        .write_image(picture.rgb(), picture.width(), picture.height(), ExtendedColorType::Rgb8)
        .map_err(|error| error.to_string())?;
    if let Some(xmp) = xmp {
        let mut jpeg = Jpeg::from_bytes(bytes.into()).map_err(|error| error.to_string())?;
        let contents = [XMP_NAME, xmp.as_bytes()].concat().into();
        jpeg.segments_mut().insert(0, JpegSegment::new_with_contents(markers::APP1, contents));
        jpeg.encoder().write_to(out).map_err(|error| error.to_string())?;
        return Ok(());
    }
    out.write_all(&bytes).map_err(|error| error.to_string())
}
