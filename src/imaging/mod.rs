//! Pixels: what a picture is, how it is read and written, resized and colour-matched.
//!
//! Everything here works on 8-bit RGB, as the reference does; the layers above never see another format.

pub mod codec;
pub mod colour;
mod colour_profile;
mod decode;
pub mod formats;
pub mod lettering;
pub mod metrics;
pub mod picture;
pub mod resample;
mod xmp;

pub use codec::ImageError;
pub use formats::Format;
pub use picture::Picture;
pub use resample::{Filter, resize, resize_part};
pub use xmp::Xmp;
