//! How good pictures are: metrics, and their statistics over whole runs.

mod error;
pub mod metrics;

pub use error::EvaluateError;
