//! Networks: tensors in, tensors out. Sizes come from configs or from the tensors themselves.

pub mod dat;
pub mod drct;
pub mod hat;
pub mod layers;
pub mod omnisr;
pub mod plksr;
pub mod qwen;
pub mod ram;
pub mod rrdb;
pub mod sd2;
pub mod sd3;
pub mod single_image;
pub mod span;
pub mod srvgg;
pub mod swinir;
pub mod text;
pub mod vae;

pub use rrdb::RrdbNet;
pub use srvgg::SrvggNetCompact;
