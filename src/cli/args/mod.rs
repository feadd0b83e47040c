//! Options that several commands share.

mod align;
mod backbone;
mod model_files;
pub(in crate::cli) mod opening;
mod prompt;
pub(in crate::cli) mod results;

pub(super) use align::Align;
pub(super) use backbone::BackboneArguments;
pub(super) use prompt::PromptArguments;
