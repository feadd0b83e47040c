//! Plain interpolation, the baseline: no model.

use super::{FullImageInput, PartialResult, PipelineError, StepInput, SuperResolver};
use crate::base::Progress;
use crate::imaging::{Filter, Picture, resize};

/// By this filter.
pub struct Interpolation(pub Filter);

impl SuperResolver for Interpolation {
    fn restore(&mut self, input: &StepInput, _: &mut Progress) -> Result<Picture, PipelineError> {
        Ok(resize(&input.cut, input.enlarged.width(), input.enlarged.height(), self.0))
    }

    fn restore_full_image(
        &mut self,
        input: &FullImageInput,
        _prompts: &[String],
        _: &mut Progress,
        _: &mut dyn FnMut(PartialResult),
    ) -> Result<Picture, PipelineError> {
        Ok(resize(&input.source, input.enlarged.width(), input.enlarged.height(), self.0))
    }
}
