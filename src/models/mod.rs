//! Networks only: tensors in, tensors out. Uses no other module of the project.

pub mod accelerator;
pub mod heap;
pub mod layers;
pub mod qwen;
pub mod ram;
pub mod rrdb;
pub mod sd3;
pub mod srvgg;
pub mod text;
pub mod weights;

pub use rrdb::RrdbNet;
pub use srvgg::SrvggNetCompact;
pub use weights::{Loader, Reading, Told, Weights, WeightsError};
