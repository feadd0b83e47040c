//! Whether a step fits into the memory that is free: told before it begins, with what would fit.

use crate::base::StepEstimate;
use crate::pipelines::PipelineError;
/// Sizes that are proposed are multiples of it.
const MULTIPLE: u32 = 64;

/// What a step from a cut to a result of these sizes takes, as `estimate` says, where `free` bytes can be had; `None` where
/// it is nothing to speak of.
///
/// # Errors
/// [`PipelineError::WillNotFit`].
pub(super) fn fitting(
    mut estimate: impl FnMut((u32, u32), (u32, u32)) -> Result<Option<StepEstimate>, PipelineError>,
    model: &str,
    cut: (u32, u32),
    result: (u32, u32),
    free: Option<u64>,
) -> Result<Option<StepEstimate>, PipelineError> {
    let Some(estimated) = estimate(cut, result)? else { return Ok(None) };
    let Some(free) = free.filter(|free| estimated.bytes > *free) else { return Ok(Some(estimated)) };
    let plan = estimated.smaller.iter().find(|(_, bytes)| *bytes <= free).map(|(plan, _)| *plan);
    let mut side = None;
    let longest = result.0.max(result.1);
    for shorter in (1..longest.div_ceil(MULTIPLE)).rev().map(|i| i * MULTIPLE) {
        let scaled = |(width, height): (u32, u32)| {
            let side = |length: u32| (u64::from(length) * u64::from(shorter) / u64::from(longest)).max(1) as u32;
            (side(width), side(height))
        };
        if estimate(scaled(cut), scaled(result))?.is_none_or(|smaller| smaller.bytes <= free) {
            side = Some(shorter);
            break;
        }
    }
    let (model, needed, (width, height)) = (model.to_owned(), estimated.bytes, result);
    Err(PipelineError::WillNotFit { model, needed, free, width, height, plan, side })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{MemoryPlan, Remedy, UserError};
    use crate::pipelines::sr::{SuperResolver, Upscaler};

    const MB: u64 = 1_000_000;

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        let mut network = Upscaler::built_in(tch::Device::Cpu).expect("it is inside");
        let mut ask = |side: u32, free| {
            fitting(
                |cut, result| SuperResolver::estimate(&mut network, cut, result),
                "it",
                (side / 4, side / 4),
                (side, side),
                free,
            )
        };
        let needed = |side: u32, ask: &mut dyn FnMut(u32, Option<u64>) -> _| {
            let fits: Result<Option<StepEstimate>, PipelineError> = ask(side, None);
            fits.expect("it is not asked whether it fits").expect("it takes something").bytes
        };
        let [small, large] = [512, 1024].map(|side| needed(side, &mut ask));
        assert!(small > 5 * MB && large > 3 * small, "{small} {large}");
        assert!(ask(1024, Some(large)).is_ok_and(|estimate| estimate.is_some_and(|estimate| estimate.secs > 0.0)));
        let error = ask(1024, Some(large - 1)).expect_err("one byte is missing");
        let PipelineError::WillNotFit { needed, side: Some(960), plan: None, .. } = error else { panic!("{error}") };
        assert_eq!(needed, large);
        let refused = UserError::from(ask(1024, Some(small)).expect_err("it is too large"));
        assert!(refused.hint.contains("a size of 512 (--process-size 512)"), "{refused}");
        assert!(refused.details.contains("1024 x 1024"), "{refused}");
    }

    /// A model with plans; so many bytes with each.
    struct WithPlans;

    impl SuperResolver for WithPlans {
        fn restore(
            &mut self,
            _: &crate::pipelines::sr::StepInput,
            _: &mut crate::base::Progress,
        ) -> Result<crate::imaging::Picture, PipelineError> {
            Err(PipelineError::Cancelled)
        }

        fn restore_full_image(
            &mut self,
            _: &crate::pipelines::FullImageInput,
            _: &[String],
            _: &mut crate::base::Progress,
            _: &mut dyn FnMut(crate::pipelines::PartialResult),
        ) -> Result<crate::imaging::Picture, PipelineError> {
            Err(PipelineError::Cancelled)
        }

        fn estimate(&mut self, _: (u32, u32), _: (u32, u32)) -> Result<Option<StepEstimate>, PipelineError> {
            let smaller = vec![(MemoryPlan::Staged, 500 * MB), (MemoryPlan::Streamed, 100 * MB)];
            Ok(Some(StepEstimate { secs: 1.0, bytes: 900 * MB, smaller, remark: None }))
        }
    }

    #[test]
    fn a_smaller_plan_is_proposed() {
        let refused = |free| {
            let refused =
                fitting(|cut, result| WithPlans.estimate(cut, result), "it", (128, 128), (512, 512), Some(free * MB));
            UserError::from(refused.expect_err("it is too large"))
        };
        assert_eq!(refused(600).remedy, Some(Remedy::Memory(MemoryPlan::Staged)));
        assert_eq!(refused(200).remedy, Some(Remedy::Memory(MemoryPlan::Streamed)));
        assert!(refused(200).hint.contains("\"streamed\" (--memory streamed)"));
        assert_eq!(refused(50).remedy, None);
        assert!(refused(50).hint.contains("Close other programs"));
    }
}
