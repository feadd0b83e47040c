//! Networks: tensors in, tensors out. Sizes come from configs or from the tensors themselves.

pub mod layers;
pub mod qwen;
pub mod ram;
pub mod rrdb;
pub mod sd3;
pub mod single_image;
pub mod srvgg;
pub mod text;

pub use rrdb::RrdbNet;
pub use srvgg::SrvggNetCompact;
