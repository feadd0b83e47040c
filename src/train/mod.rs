//! Trainers: of the restoring model's LoRAs ([`sr`]), of the prompt extractor's ([`vlm`]), and of the network inside the program.
//!
//! How that was made, `coz train builtin` repeats. No photo is involved. [`scenes`] draws dead leaves (occluding shapes with a power-law size distribution, which have
//! the edge statistics of natural images), [`degrade`] makes small pictures of them, [`fit`] teaches SRVGGNetCompact
//! the way back; `coz measure` compares the result with bicubic on real photos it has never seen.

pub mod adamw;
mod csv_log;
pub mod degrade;
pub mod distributed;
mod error;
mod files;
pub mod fit;
pub mod plot;
pub mod scenes;
pub mod schedule;
mod seed;
mod sheet;
pub mod sr;
pub mod state;
pub mod tape;
mod tensorboard;
pub mod vlm;
mod warnings;

pub use error::TrainError;
