//! Chain-of-Zoom: extreme super-resolution by repeated x4 steps (arXiv 2505.18600), as a library under one program.
//!
//! The layers in the order of the data; each uses only those before it (`docs/architecture.md`, `cargo xtask check`):
//! [`base`] and [`imaging`], plain data and pixels; [`document`] and [`scene`], what is open and how it is seen;
//! [`checkpoint`], [`runtime`], [`networks`] and [`pipelines`], from model files to a restored picture;
//! [`evaluate`], how good pictures are; [`hub`], models on
//! this machine and how to get them; [`engine`], the one thread that owns models; [`train`] and [`synthetic`], how weights
//! are made; [`selftest`], whether all of it computes what it should here; [`viewer`] and [`cli`], the two faces of the
//! program.

pub mod base;
pub mod checkpoint;
pub mod cli;
pub mod document;
pub mod engine;
pub mod evaluate;
pub mod hub;
pub mod imaging;
pub mod networks;
pub mod pipelines;
pub mod runtime;
pub mod scene;
pub mod selftest;
pub mod synthetic;
pub mod train;
pub mod viewer;
