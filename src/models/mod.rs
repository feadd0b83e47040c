//! Networks only: tensors in, tensors out. Uses no other module of the project.

pub mod rrdb;
pub mod srvgg;
pub mod weights;

pub use rrdb::RrdbNet;
pub use srvgg::SrvggNetCompact;
pub use weights::{Loader, Weights, WeightsError};
