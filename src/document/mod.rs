//! What is open: the tree of scale states and all that is kept and exported of it.

mod cached_picture;
pub mod consistency;
pub mod export;
mod history;
pub mod provenance;
pub mod session;

pub use cached_picture::CachedPicture;
pub use history::{Direction, History, HistoryRow, ScaleState, StateId, THUMBNAIL, recipe, thumbnail};
