//! JPEG, of quality 95 where nothing else is said.

use std::io::Write;

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder};
use img_parts::jpeg::{Jpeg, JpegSegment, markers};

use super::{Content, FormatSpec};
use crate::imaging::colour_profile::srgb;

/// One segment holds at most 64 KB, header included.
pub(super) static JPEG: FormatSpec = FormatSpec {
    id: "jpeg",
    label: "JPEG",
    extensions: &["jpg", "jpeg", "jfif"],
    encode: Some(encode),
    longest_xmp: 65_000,
    has_alpha: false,
};

/// What begins an APP1 segment with XMP in it.
const XMP_NAME: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

fn encode(content: &Content, out: &mut dyn Write) -> Result<(), String> {
    let words = |error: image::ImageError| error.to_string();
    let (picture, mut bytes) = (content.picture, Vec::new());
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, content.quality.clamp(1, 100));
    encoder.set_icc_profile(srgb().to_vec()).map_err(|error| error.to_string())?;
    if let Some(exif) = content.exif() {
        encoder.set_exif_metadata(exif.to_vec()).map_err(|error| error.to_string())?;
    }
    encoder.write_image(picture.rgb(), picture.width(), picture.height(), ExtendedColorType::Rgb8).map_err(words)?;
    let Some(xmp) = content.xmp(&JPEG) else { return out.write_all(&bytes).map_err(|error| error.to_string()) };
    let mut jpeg = Jpeg::from_bytes(bytes.into()).map_err(|error| error.to_string())?;
    let contents = [XMP_NAME, xmp.as_bytes()].concat().into();
    // Behind JFIF's header and EXIF, which have to be first.
    let leading = |segment: &JpegSegment| {
        segment.marker() == markers::APP0
            || (segment.marker() == markers::APP1 && segment.contents().starts_with(b"Exif"))
    };
    let at = jpeg.segments().iter().take_while(|segment| leading(segment)).count();
    jpeg.segments_mut().insert(at, JpegSegment::new_with_contents(markers::APP1, contents));
    jpeg.encoder().write_to(out).map(drop).map_err(|error| error.to_string())
}
