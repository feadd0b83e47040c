//! Words for a step: what a prompter sees, and what it says.

pub mod vlm;

use std::sync::Arc;

use crate::image::Picture;

/// What a prompter may look at and consider.
#[derive(Clone, Debug)]
pub struct PromptInput {
    /// The state the region is cut from (x_{i-1} of the paper).
    pub previous: Arc<Picture>,
    /// The region, enlarged to the working size by bicubic.
    pub enlarged: Arc<Picture>,
    /// The user's own words; may be empty.
    pub hint: String,
}

/// Finds the words for a region. Lives on the engine's thread.
pub trait Prompter {
    /// The words for this region.
    fn propose(&mut self, input: &PromptInput) -> String;
}

/// The reference's `--prompt_type null`: the user's words as they are, or none.
pub struct Fixed;

impl Prompter for Fixed {
    fn propose(&mut self, input: &PromptInput) -> String {
        input.hint.clone()
    }
}
