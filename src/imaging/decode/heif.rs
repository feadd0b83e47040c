//! HEIC and AVIF through libheif, where it is on the machine (version 1.12 and later): looked for when the first such file is
//! opened. Structures and numbers are those of `libheif/heif.h`.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs::File;
use std::io::{BufReader, Read};
use std::sync::OnceLock;

use image::metadata::Orientation;
use libloading::Library;

use super::{AlphaKind, ColourModel, ColourSpace, Depth, ImageError, Job, Picture};

/// As the system's loader knows it, the likeliest first.
#[cfg(target_os = "macos")]
const NAMES: [&str; 3] = ["libheif.1.dylib", "/opt/homebrew/lib/libheif.1.dylib", "/usr/local/lib/libheif.1.dylib"];
#[cfg(windows)]
const NAMES: [&str; 3] = ["heif.dll", "libheif.dll", "libheif-1.dll"];
#[cfg(all(unix, not(target_os = "macos")))]
const NAMES: [&str; 2] = ["libheif.so.1", "libheif.so"];

/// `heif_error`.
#[repr(C)]
struct Status {
    code: c_int,
    subcode: c_int,
    message: *const c_char,
}

/// `heif_error_Unsupported_filetype`, `_Unsupported_feature`, `_Decoder_plugin_error`.
const NOT_READ: [c_int; 3] = [3, 4, 7];

/// `heif_color_profile_nclx`, as far as it is read.
#[repr(C)]
struct Nclx {
    version: u8,
    primaries: c_int,
    transfer: c_int,
}

const COLOURSPACE_RGB: c_int = 1;
const INTERLEAVED: c_int = 10;
const RGB: c_int = 10;
const RGBA: c_int = 11;
/// In the machine's own order.
const WIDE_RGB: c_int = if cfg!(target_endian = "little") { 14 } else { 12 };
const WIDE_RGBA: c_int = WIDE_RGB + 1;

/// As they are called in the library.
macro_rules! functions {
    ($($name:ident($($argument:ty),*) $(-> $result:ty)?;)*) => {
        #[allow(non_snake_case, reason = "one of them is")]
        struct Heif {
            $($name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            /// Holds them.
            _library: Library,
        }

        impl Heif {
            /// # Safety
            /// It is libheif.
            unsafe fn of(library: Library) -> Result<Self, libloading::Error> {
                // SAFETY: the types are those of its header.
                Ok(unsafe { Self { $($name: *library.get(stringify!($name))?,)* _library: library } })
            }
        }
    };
}

functions! {
    heif_context_alloc() -> *mut c_void;
    heif_context_free(*mut c_void);
    heif_context_read_from_memory_without_copy(*mut c_void, *const u8, usize, *const c_void) -> Status;
    heif_context_get_primary_image_handle(*mut c_void, *mut *mut c_void) -> Status;
    heif_image_handle_release(*mut c_void);
    heif_image_handle_get_width(*mut c_void) -> c_int;
    heif_image_handle_get_height(*mut c_void) -> c_int;
    heif_image_handle_has_alpha_channel(*mut c_void) -> c_int;
    heif_image_handle_is_premultiplied_alpha(*mut c_void) -> c_int;
    heif_image_handle_get_luma_bits_per_pixel(*mut c_void) -> c_int;
    heif_image_handle_get_raw_color_profile_size(*mut c_void) -> usize;
    heif_image_handle_get_raw_color_profile(*mut c_void, *mut u8) -> Status;
    heif_image_handle_get_nclx_color_profile(*mut c_void, *mut *mut Nclx) -> Status;
    heif_nclx_color_profile_free(*mut Nclx);
    heif_image_handle_get_list_of_metadata_block_IDs(*mut c_void, *const c_char, *mut u32, c_int) -> c_int;
    heif_image_handle_get_metadata_size(*mut c_void, u32) -> usize;
    heif_image_handle_get_metadata(*mut c_void, u32, *mut u8) -> Status;
    heif_decode_image(*mut c_void, *mut *mut c_void, c_int, c_int, *const c_void) -> Status;
    heif_image_release(*mut c_void);
    heif_image_get_width(*mut c_void, c_int) -> c_int;
    heif_image_get_height(*mut c_void, c_int) -> c_int;
    heif_image_get_bits_per_pixel_range(*mut c_void, c_int) -> c_int;
    heif_image_get_plane_readonly(*mut c_void, c_int, *mut c_int) -> *const u8;
}

/// `None` where it is not on this machine.
fn heif() -> Option<&'static Heif> {
    static HEIF: OnceLock<Option<Heif>> = OnceLock::new();
    let load = || {
        for name in NAMES {
            // SAFETY: libheif does nothing but register its decoders when it is loaded.
            match unsafe { Library::new(name).and_then(|library| Heif::of(library)) } {
                Ok(heif) => return Some(heif),
                Err(error) => tracing::info!("{name}: {error}"),
            }
        }
        None
    };
    HEIF.get_or_init(load).as_ref()
}

/// Something of libheif's that is released in the end.
struct Owned {
    it: *mut c_void,
    release: unsafe extern "C" fn(*mut c_void),
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: it came from libheif, which takes back nothing as well.
        unsafe { (self.release)(self.it) };
    }
}

/// `kind` with its article, as in "an AVIF picture".
pub(super) fn read(job: &mut Job, mut file: BufReader<File>, kind: &'static str) -> Result<Picture, ImageError> {
    let not_read = |kind: String, hint| ImageError::NotRead { file: job.file.to_owned(), kind, hint };
    let Some(heif) = heif() else {
        return Err(not_read(kind.into(), "Install libheif (1.12 or later), or convert it to PNG or JPEG."));
    };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|source| ImageError::Open { file: job.file.to_owned(), source })?;
    let decoded =
        decode(heif, &bytes, &|width, height| job.check_size(width, height)).map_err(|failure| match failure {
            Failure::Image(error) => error,
            Failure::Heif(code, words) if NOT_READ.contains(&code) => {
                let hint = "Install libheif's decoder for it (a plugin on some systems), or convert it to PNG or JPEG.";
                not_read(format!("{kind} of a kind ({words})"), hint)
            }
            Failure::Heif(_, words) => job.damaged(words),
        })?;
    job.exif = decoded.exif;
    let depth = if decoded.is_wide { Depth::Sixteen } else { Depth::Eight };
    let samples = job.samples(&decoded.space, ColourModel::Rgb, depth, decoded.alpha);
    // libheif turns pictures itself.
    job.finish_whole(&samples, &decoded.rows, [decoded.width, decoded.height], Orientation::NoTransforms)
}

struct Decoded {
    width: u32,
    height: u32,
    alpha: AlphaKind,
    is_wide: bool,
    space: ColourSpace,
    exif: Option<Vec<u8>>,
    /// Without gaps.
    rows: Vec<u8>,
}

enum Failure {
    Image(ImageError),
    /// libheif's number and words.
    Heif(c_int, String),
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

fn check(status: &Status) -> Result<(), Failure> {
    if status.code == 0 {
        return Ok(());
    }
    let words = match status.message.is_null() {
        true => format!("libheif's error {}.{}", status.code, status.subcode),
        // SAFETY: libheif's messages are strings of its own that stay.
        false => unsafe { CStr::from_ptr(status.message) }.to_string_lossy().into_owned(),
    };
    Err(Failure::Heif(status.code, words))
}

fn decode(
    heif: &Heif,
    bytes: &[u8],
    check_size: &dyn Fn(u32, u32) -> Result<(), ImageError>,
) -> Result<Decoded, Failure> {
    // SAFETY: called as the header says; `bytes` outlive the context, and each pointer is given back once.
    unsafe {
        let context = Owned { it: (heif.heif_context_alloc)(), release: heif.heif_context_free };
        let null = std::ptr::null();
        check(&(heif.heif_context_read_from_memory_without_copy)(context.it, bytes.as_ptr(), bytes.len(), null))?;
        let mut it = std::ptr::null_mut();
        check(&(heif.heif_context_get_primary_image_handle)(context.it, &mut it))?;
        let handle = Owned { it, release: heif.heif_image_handle_release };
        let side = |length: c_int| u32::try_from(length).unwrap_or(0);
        check_size(
            side((heif.heif_image_handle_get_width)(handle.it)),
            side((heif.heif_image_handle_get_height)(handle.it)),
        )?;
        let alpha = match (heif.heif_image_handle_has_alpha_channel)(handle.it) != 0 {
            true if (heif.heif_image_handle_is_premultiplied_alpha)(handle.it) != 0 => AlphaKind::Associated,
            true => AlphaKind::Straight,
            false => AlphaKind::None,
        };
        let is_wide = (heif.heif_image_handle_get_luma_bits_per_pixel)(handle.it) > 8;
        let (chroma, channels) = match (alpha == AlphaKind::None, is_wide) {
            (true, false) => (RGB, 3),
            (true, true) => (WIDE_RGB, 3),
            (false, false) => (RGBA, 4),
            (false, true) => (WIDE_RGBA, 4),
        };
        let mut it = std::ptr::null_mut();
        check(&(heif.heif_decode_image)(handle.it, &mut it, COLOURSPACE_RGB, chroma, null))?;
        let image = Owned { it, release: heif.heif_image_release };
        let width = side((heif.heif_image_get_width)(image.it, INTERLEAVED));
        let height = side((heif.heif_image_get_height)(image.it, INTERLEAVED));
        check_size(width, height)?;
        let mut stride = 0;
        let plane = (heif.heif_image_get_plane_readonly)(image.it, INTERLEAVED, &mut stride);
        let row = width as usize * channels * if is_wide { 2 } else { 1 };
        let stride = usize::try_from(stride).unwrap_or(0);
        if plane.is_null() || stride < row || row == 0 {
            return Err(Failure::Heif(0, "it has no pixels".into()));
        }
        let mut rows = Vec::with_capacity(row * height as usize);
        for y in 0..height as usize {
            rows.extend_from_slice(std::slice::from_raw_parts(plane.add(y * stride), row));
        }
        if is_wide {
            let bits = (heif.heif_image_get_bits_per_pixel_range)(image.it, INTERLEAVED).clamp(9, 16) as u32;
            for sample in rows.as_chunks_mut::<2>().0 {
                let value = u32::from(u16::from_ne_bytes(*sample));
                *sample = ((value << (16 - bits) | value >> (2 * bits - 16)) as u16).to_ne_bytes();
            }
        }
        Ok(Decoded { width, height, alpha, is_wide, space: space(heif, &handle), exif: exif(heif, &handle), rows })
    }
}

/// # Safety
/// `handle` is a picture's.
unsafe fn space(heif: &Heif, handle: &Owned) -> ColourSpace {
    // SAFETY: called as the header says.
    unsafe {
        let mut icc = vec![0; (heif.heif_image_handle_get_raw_color_profile_size)(handle.it)];
        if !icc.is_empty() && (heif.heif_image_handle_get_raw_color_profile)(handle.it, icc.as_mut_ptr()).code == 0 {
            return ColourSpace::Icc(icc);
        }
        let mut nclx = std::ptr::null_mut();
        if (heif.heif_image_handle_get_nclx_color_profile)(handle.it, &mut nclx).code != 0 || nclx.is_null() {
            return ColourSpace::Srgb;
        }
        let number = |value: c_int| u8::try_from(value).unwrap_or(2);
        let (primaries, transfer) = (number((*nclx).primaries), number((*nclx).transfer));
        (heif.heif_nclx_color_profile_free)(nclx);
        of_points(primaries, transfer)
    }
}

/// What nobody says is sRGB's, and so are the curves of video, which are meant for the same screens.
fn of_points(primaries: u8, transfer: u8) -> ColourSpace {
    const UNSPECIFIED: u8 = 2;
    const SRGB: u8 = 13;
    let primaries = if primaries == UNSPECIFIED { 1 } else { primaries };
    let transfer = if matches!(transfer, UNSPECIFIED | 1 | 6 | 14 | 15) { SRGB } else { transfer };
    match (primaries, transfer) {
        (1, SRGB) => ColourSpace::Srgb,
        _ => ColourSpace::Cicp { primaries, transfer },
    }
}

/// Behind four bytes that say where it begins.
///
/// # Safety
/// `handle` is a picture's.
unsafe fn exif(heif: &Heif, handle: &Owned) -> Option<Vec<u8>> {
    // SAFETY: called as the header says.
    let block = unsafe {
        let mut id = 0;
        if (heif.heif_image_handle_get_list_of_metadata_block_IDs)(handle.it, c"Exif".as_ptr(), &mut id, 1) < 1 {
            return None;
        }
        let mut block = vec![0; (heif.heif_image_handle_get_metadata_size)(handle.it, id)];
        let status = (heif.heif_image_handle_get_metadata)(handle.it, id, block.as_mut_ptr());
        (status.code == 0).then_some(block)?
    };
    let (start, rest) = block.split_first_chunk::<4>()?;
    rest.get(u32::from_be_bytes(*start) as usize..).map(<[u8]>::to_vec)
}
