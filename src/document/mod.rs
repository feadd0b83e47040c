//! What is open: the tree of scale states and all that is kept and exported of it.

pub mod consistency;
pub mod export;
mod history;
pub mod provenance;
pub mod session;

pub use history::{Direction, History, ScaleState, StateId, recipe, thumbnail};
