//! Chain-of-Zoom
#![allow(missing_docs)]
pub mod image;
pub mod models;
pub mod train;
