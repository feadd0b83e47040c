//! Pixels: what a picture is, how it is read and written, resized and colour-matched.
//!
//! Everything here works on 8-bit RGB, as the reference does; the layers above never see another format.

pub mod codec;
pub mod colour;
mod colour_profile;
mod decode;
pub mod exif;
pub mod formats;
pub mod lettering;
mod metadata;
pub mod metrics;
pub mod picture;
pub mod resample;
mod transparency;
mod xmp;

pub use codec::ImageError;
pub use formats::{Content, Format};
pub use metadata::Metadata;
pub use picture::Picture;
pub use resample::{Filter, resize, resize_and_center_crop, resize_part};
pub use transparency::{over_checker, straight, without_hidden};
pub use xmp::Xmp;
