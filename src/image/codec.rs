//! Picture files: what is read, what is written, and what is said when it does not work.

use std::io::Write;
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageDecoder, ImageEncoder, ImageReader};

use super::Picture;
pub use super::decode::{Preview, open, open_watched, png_of_size};

/// Larger pictures are refused before a byte of them is decoded: 512 megapixels are 1.5 GB as RGB.
pub const MAX_PIXELS: u64 = 512 << 20;

/// Why a picture could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file could not be opened.
    #[error("cannot open {}: {source}", file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file holds no picture we know, whatever its name.
    #[error("{} is not a picture in a known format: expected PNG, JPEG, WebP, TIFF, BMP or GIF", file.display())]
    Unknown {
        /// The file.
        file: PathBuf,
    },
    /// The file is empty.
    #[error("{} is empty (zero bytes)", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// The header promises more than can be held.
    #[error("{} claims {width} x {height} pixels; at most {} megapixels can be opened", file.display(), MAX_PIXELS >> 20)]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// Pixels across, as claimed.
        width: u32,
        /// Pixels down, as claimed.
        height: u32,
    },
    /// Known format, broken content.
    #[error("{} is damaged or cut short: {details}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What the decoder said.
        details: String,
    },
    /// The name's ending says no format we write.
    #[error("{} does not end in .png, .jpg or .webp: the ending chooses the format", file.display())]
    Ending {
        /// The file.
        file: PathBuf,
    },
    /// The file could not be written; nothing half-written is left.
    #[error("cannot write {}: {details}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// What the system or the encoder said.
        details: String,
    },
}

/// Formats that are written; reading also knows TIFF, BMP and GIF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Lossless.
    Png,
    /// Quality 95.
    Jpeg,
    /// Lossless.
    WebP,
}

impl Format {
    /// All of them, the default first.
    pub const ALL: [Format; 3] = [Format::Png, Format::Jpeg, Format::WebP];

    /// The file name's ending, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Png => "png",
            Format::Jpeg => "jpg",
            Format::WebP => "webp",
        }
    }

    /// From a file name's ending.
    pub fn of(file: &Path) -> Result<Self, ImageError> {
        let ending = file.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        match ending.as_str() {
            "png" => Ok(Format::Png),
            "jpg" | "jpeg" => Ok(Format::Jpeg),
            "webp" => Ok(Format::WebP),
            _ => Err(ImageError::Ending { file: file.to_owned() }),
        }
    }
}

/// Endings of the files that can be read, for dialogs and folders.
pub const READABLE: [&str; 9] = ["png", "jpg", "jpeg", "webp", "tif", "tiff", "bmp", "gif", "jfif"];

/// Writes `picture` in the format its name ends in. The file appears whole or not at all.
pub fn save(picture: &Picture, file: &Path) -> Result<(), ImageError> {
    save_with(picture, file, None)
}

/// The same with a text about it: an XMP packet, which other programs show and search.
pub fn save_with(picture: &Picture, file: &Path, xmp: Option<&str>) -> Result<(), ImageError> {
    let format = Format::of(file)?;
    write_whole(file, |out| match format {
        Format::Png => encode_png(picture, xmp, out).map_err(|error| error.to_string()),
        Format::Jpeg => encode_jpeg(picture, xmp, out),
        Format::WebP => encode_webp(picture, xmp, out),
    })
}

/// As PNG, compressed quickly; `xmp` as the text chunk that XMP's specification names.
pub fn encode_png(picture: &Picture, xmp: Option<&str>, out: impl Write) -> Result<(), png::EncodingError> {
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

/// What a JPEG's APP1 segment holds besides its header.
const LARGEST_JPEG_XMP: usize = 65_000;

fn encode_jpeg(picture: &Picture, xmp: Option<&str>, out: &mut impl Write) -> Result<(), String> {
    let (width, height) = (picture.width(), picture.height());
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 95)
        .write_image(picture.rgb(), width, height, ExtendedColorType::Rgb8)
        .map_err(|error| error.to_string())?;
    // After the start-of-image marker.
    let (start, rest) = bytes.split_at(2);
    let mut segment = Vec::new();
    if let Some(xmp) = xmp.filter(|xmp| xmp.len() < LARGEST_JPEG_XMP) {
        const NAME: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
        let length = (2 + NAME.len() + xmp.len()) as u16;
        segment.extend([0xff, 0xe1]);
        segment.extend(length.to_be_bytes());
        segment.extend(NAME);
        segment.extend(xmp.as_bytes());
    }
    [start, &segment, rest].iter().try_for_each(|part| out.write_all(part)).map_err(|error| error.to_string())
}

fn encode_webp(picture: &Picture, xmp: Option<&str>, out: &mut impl Write) -> Result<(), String> {
    let mut encoder = image_webp::WebPEncoder::new(out);
    if let Some(xmp) = xmp {
        encoder.set_xmp_metadata(xmp.into());
    }
    encoder
        .encode(picture.rgb(), picture.width(), picture.height(), image_webp::ColorType::Rgb8)
        .map_err(|error| error.to_string())
}

/// The XMP packet that a picture file carries; `None` where there is none that can be read.
pub fn xmp(file: &Path) -> Option<String> {
    let reader = ImageReader::open(file).ok()?.with_guessed_format().ok()?;
    let xmp = reader.into_decoder().ok()?.xmp_metadata().ok()??;
    String::from_utf8(xmp).ok()
}

/// Writes through a temporary file beside `file` and renames it; its folder is made where it is missing.
pub fn write_whole<E: std::fmt::Display>(
    file: &Path,
    write: impl FnOnce(&mut std::io::BufWriter<&mut std::fs::File>) -> Result<(), E>,
) -> Result<(), ImageError> {
    let failed = |details: String| ImageError::Write { file: file.to_owned(), details };
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|error| failed(error.to_string()))?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".coz-").suffix(".part");
    // As any other program would create it: what the umask allows.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut part = builder.tempfile_in(folder).map_err(|error| failed(error.to_string()))?;
    let mut out = std::io::BufWriter::new(part.as_file_mut());
    write(&mut out).map_err(|error| failed(error.to_string()))?;
    out.flush().map_err(|error| failed(error.to_string()))?;
    drop(out);
    // On the disk before it takes its name: after a power cut there is the old file or the new one.
    part.as_file().sync_all().map_err(|error| failed(error.to_string()))?;
    part.persist(file).map_err(|error| failed(error.error.to_string()))?;
    // The name too; systems that cannot do this need not be told.
    if cfg!(unix) {
        _ = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
    }
    Ok(())
}
