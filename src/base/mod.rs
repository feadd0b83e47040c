//! The ground floor: plain data that every layer shares. No pixels, no tensors, no window, no network.

mod align;
mod backbone;
mod device;
mod error;
mod estimate;
mod files;
mod folders;
mod full_image;
mod hash;
pub mod hub_cache;
pub mod log;
pub mod memory;
mod memory_plan;
mod metric;
mod model_files;
pub mod names;
mod paths;
mod precision;
mod progress;
mod prompt_source;
mod recipe;
mod region;
mod server;
mod slot;
mod units;

pub use align::AlignMethod;
pub use backbone::{BACKBONES, BICUBIC, BUILT_IN, Backbone, BackboneKind, BackboneSpec, FILE, ModelUsed, NEAREST};
pub use device::DeviceChoice;
pub use error::{Remedy, UserError};
pub use estimate::StepEstimate;
pub use files::{WriteError, end_at_once, free_space, write_atomic, write_private};
pub use folders::Folders;
pub use full_image::{FullImage, Tiling, VaeMode};
pub use hash::{sha256, sha256_of};
pub use memory_plan::MemoryPlan;
pub use metric::{METRICS, MetricFile, MetricSpec};
pub use model_files::{Content, FileSpec, MODEL_ENDINGS, ModelFiles, Published, is_model_file};
pub use paths::path_of;
pub use precision::Precision;
pub use progress::{Cancelled, Progress, Stage, TileProgress};
pub use prompt_source::{
    CaptionRequest, ENCODED, PROMPT_SOURCES, PromptSource, PromptSourceSpec, SERVER, USER, joined,
};
pub use recipe::{Exif, MOST_PIXELS, PROGRAM, Recipe, RecipeStep, Source, StepRecord};
pub use region::{MAX_FACTOR, Plan, Region, plan, square_around};
pub use server::{ServerAddress, ServerEndpoint, ServerKey, is_in_the_cloud};
pub use slot::{CancelToken, Slot, Ticket};
pub use units::{bytes_label, magnification_label, secs_label};
