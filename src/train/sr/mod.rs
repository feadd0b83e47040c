//! Training of the restoring model (OSEDiff on Stable Diffusion 3), with the mathematics of the reference.

pub mod adamw;
pub mod data;
pub mod degradation;
pub mod losses;
pub mod model;
pub mod preview;
pub mod replay;
pub mod samples;
pub mod schedule;
pub mod state;
pub mod tape;
pub mod trainer;
pub mod validation;
pub mod visualization;
