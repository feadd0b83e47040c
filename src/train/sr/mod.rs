//! Training of the restoring model (OSEDiff on Stable Diffusion 3), with the mathematics of the reference.

pub mod data;
pub mod degradation;
mod logs;
pub mod losses;
pub mod memory;
pub mod model;
pub mod options;
pub mod preview;
mod prompts;
pub mod replay;
pub mod samples;
pub mod state;
pub mod trainer;
pub mod validation;
pub mod visualization;
