//! The ground floor: plain data that every layer shares. No pixels, no tensors, no window, no network.

mod align;
mod backbone;
mod device;
mod error;
mod files;
mod folders;
mod full_image;
mod hash;
pub mod memory;
mod memory_plan;
mod model_files;
pub mod names;
mod precision;
mod progress;
mod prompt_source;
mod recipe;
mod region;
mod units;

pub use align::AlignMethod;
pub use backbone::{BACKBONES, BICUBIC, BUILT_IN, Backbone, BackboneKind, BackboneSpec, FILE, ModelUsed, NEAREST};
pub use device::DeviceChoice;
pub use error::UserError;
pub use files::{WriteError, write_atomic};
pub use folders::Folders;
pub use full_image::{FullImage, Tiling};
pub use hash::sha256;
pub use memory_plan::MemoryPlan;
pub use model_files::{Content, FileSpec, ModelFiles, Published};
pub use precision::Precision;
pub use progress::{Cancelled, Progress, Stage, TileProgress};
pub use prompt_source::{CaptionRequest, ENCODED, PROMPT_SOURCES, PromptSource, PromptSourceSpec, USER, joined};
pub use recipe::{PROGRAM, Recipe, RecipeStep, Source, StepRecord};
pub use region::{MAX_FACTOR, Plan, Region, plan, square_around};
pub use units::magnification_label;
