//! How good pictures are: metrics, and their statistics over whole runs, as the paper reports them.

mod error;
pub mod evaluator;
pub mod metrics;
pub mod paper;
pub mod plot;
pub mod report;
pub mod run;
pub mod scores;
mod statistics;
mod summary;

pub use error::EvaluateError;
pub use run::{Item, References, Run};
pub use statistics::Mean;
pub use summary::{Cell, Failures, Scored, Summary};
