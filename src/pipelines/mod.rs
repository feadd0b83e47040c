//! What a user picks: super-resolution models and sources of prompts, each behind one trait, each with a registry.

pub mod caption;
mod error;
mod full_image;
pub mod sr;

pub use error::PipelineError;
pub use full_image::{FullImageInput, PartialResult};
