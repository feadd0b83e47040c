//! Options that several commands share.

mod align;
mod backbone;
mod model_files;
mod prompt;

pub(super) use align::Align;
pub(super) use backbone::BackboneArguments;
pub(super) use prompt::PromptArguments;
