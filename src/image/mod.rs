//! Pixels: what a picture is, how it is read and written, resized, colour-matched and shown to a network.
//!
//! Everything here works on 8-bit RGB, as the reference does; the layers above never see another format.

pub mod codec;
pub mod colour;
mod decode;
pub mod lettering;
pub mod picture;
pub mod psnr;
pub mod resample;
pub mod tensor;

pub use codec::{Format, ImageError};
pub use colour::AlignMethod;
pub use picture::Picture;
pub use resample::{Filter, resize};
