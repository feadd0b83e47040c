//! Chain-of-Zoom: extreme super-resolution by repeated x4 steps (arXiv 2505.18600), as a library under one program.
//!
//! The modules in the order of the data: [`image`] (pixels) -> [`region`] (where) -> [`prompt`] (words) -> [`step`]
//! (one enlargement) -> [`history`] (the tree of scale states) -> [`export`] (files). [`models`] holds the networks and
//! knows none of them. [`engine`] is the thread that owns models and runs steps; [`canvas`] draws a history with wgpu;
//! [`hub`] finds models on the disk; [`viewer`] and [`cli`] are the two faces of the program. [`train`] made the built-in weights, [`random`] makes models to measure with.
//!
//! Each module uses only those before it; `cargo xtask check` sees to that.

pub mod canvas;
pub mod cli;
pub mod digest;
pub mod engine;
pub mod export;
pub mod film;
pub mod history;
pub mod hub;
pub mod image;
pub mod models;
pub mod problem;
pub mod prompt;
pub mod random;
pub mod region;
pub mod session;
pub mod settings;
pub mod step;
pub mod train;
pub mod viewer;
