//! PNG, compressed quickly.

use std::io::Write;

use super::{Content, FormatSpec};

pub(super) static PNG: FormatSpec = FormatSpec {
    id: "png",
    label: "PNG",
    extensions: &["png"],
    encode: Some(|content, out| encode(content, out).map_err(|error| error.to_string())),
    longest_xmp: usize::MAX,
    has_alpha: true,
};

/// XMP as the text chunk that its specification names.
fn encode(content: &Content, out: &mut dyn Write) -> Result<(), png::EncodingError> {
    let mut info = png::Info::with_size(content.picture.width(), content.picture.height());
    info.color_type = if content.alpha.is_some() { png::ColorType::Rgba } else { png::ColorType::Rgb };
    info.bit_depth = png::BitDepth::Eight;
    info.exif_metadata = content.exif().map(Into::into);
    let mut encoder = png::Encoder::with_info(out, info)?;
    encoder.set_source_srgb(png::SrgbRenderingIntent::RelativeColorimetric);
    encoder.set_compression(png::Compression::Fast);
    if let Some(xmp) = content.xmp(&PNG) {
        encoder.add_itxt_chunk("XML:com.adobe.xmp".into(), xmp.into())?;
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&content.samples())?;
    writer.finish()
}
