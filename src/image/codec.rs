//! Picture files: what is read, what is written, and what is said when it does not work.

use std::io::Write;
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::codecs::webp::WebPEncoder;
use image::{DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder, ImageReader};

use super::Picture;

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

/// Endings of the files that [`open`] can read, for dialogs and folders.
pub const READABLE: [&str; 9] = ["png", "jpg", "jpeg", "webp", "tif", "tiff", "bmp", "gif", "jfif"];

/// Reads a picture: first frame of an animation, upright by its EXIF orientation, 16 bits reduced to 8, grey spread
/// to three channels, alpha dropped (not blended, as the reference does).
pub fn open(file: &Path) -> Result<Picture, ImageError> {
    let io = |source| ImageError::Open { file: file.to_owned(), source };
    let opened = std::fs::File::open(file).map_err(io)?;
    let metadata = opened.metadata().map_err(io)?;
    if metadata.is_dir() {
        return Err(io(std::io::Error::from(std::io::ErrorKind::IsADirectory)));
    }
    if metadata.len() == 0 {
        return Err(ImageError::Empty { file: file.to_owned() });
    }
    let reader = ImageReader::new(std::io::BufReader::new(opened)).with_guessed_format().map_err(io)?;
    decode(reader, file)
}

fn decode<R: std::io::BufRead + std::io::Seek>(mut reader: ImageReader<R>, file: &Path) -> Result<Picture, ImageError> {
    let damaged = |error: image::ImageError| ImageError::Damaged { file: file.to_owned(), details: error.to_string() };
    if reader.format().is_none() {
        return Err(ImageError::Unknown { file: file.to_owned() });
    }
    // Our own limit below is the one that speaks.
    reader.no_limits();
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(ImageError::TooLarge { file: file.to_owned(), width, height });
    }
    let orientation = decoder.orientation().map_err(damaged)?;
    let mut decoded = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    decoded.apply_orientation(orientation);
    let rgb = decoded.into_rgb8();
    let (width, height) = rgb.dimensions();
    Picture::from_rgb(width, height, rgb.into_raw())
        .ok_or_else(|| ImageError::Damaged { file: file.to_owned(), details: "it has no pixels".into() })
}

/// Writes `picture` in the format its name ends in. The file appears whole or not at all.
pub fn save(picture: &Picture, file: &Path) -> Result<(), ImageError> {
    let format = Format::of(file)?;
    write_whole(file, |out| encode(picture, format, out))
}

fn encode(picture: &Picture, format: Format, out: impl Write) -> Result<(), image::ImageError> {
    let (rgb, width, height, kind) = (picture.rgb(), picture.width(), picture.height(), ExtendedColorType::Rgb8);
    match format {
        Format::Png => PngEncoder::new(out).write_image(rgb, width, height, kind),
        Format::Jpeg => JpegEncoder::new_with_quality(out, 95).write_image(rgb, width, height, kind),
        Format::WebP => WebPEncoder::new_lossless(out).write_image(rgb, width, height, kind),
    }
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
    part.persist(file).map_err(|error| failed(error.error.to_string()))?;
    Ok(())
}
