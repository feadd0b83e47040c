//! Memory: it is known, plans follow it, steps take what was estimated, and where it runs out work goes on.

use tch::{Device, Kind, Tensor};

use super::pictures::{SEED, restore};
use super::{Context, Value};
use crate::base::{MemoryPlan, Precision};
use crate::imaging::{Filter, resize};
use crate::pipelines::PipelineError;
use crate::pipelines::sr::StepInput;
use crate::runtime::accelerator;
use crate::runtime::memory::{fitting, free_memory, peak_of};

/// 0 where it is so.
fn wrong(is_right: bool) -> Value {
    Ok(Some(if is_right { 0.0 } else { 1.0 }))
}

pub(super) fn is_known(context: &Context) -> Value {
    let free = free_memory(context.devices.picture);
    context.note(free.map_or_else(String::new, |free| format!("{:.1} GB free", free as f64 / 1e9)));
    wrong(free.is_some_and(|free| free > 0))
}

pub(super) fn auto_is_resident(context: &Context) -> Value {
    let device = context.devices.picture;
    let free = free_memory(device).unwrap_or(0);
    if fitting([0; 3], free, device == Device::Cpu) != MemoryPlan::Resident {
        // Not even for a model of nothing: other programs have it.
        return Ok(None);
    }
    let plan = context.sd3(Precision::Fp32, MemoryPlan::Auto)?.plan();
    context.note(plan.map_or_else(String::new, |plan| plan.to_string()));
    wrong(plan == Some(MemoryPlan::Resident))
}

/// Sides of steps that are measured; the model has positions for no more.
const SIDES: [u32; 2] = [128, 224];

pub(super) fn estimate(context: &Context) -> Value {
    let device = context.devices.picture;
    let mut largest = 0.0;
    for plan in [MemoryPlan::Resident, MemoryPlan::Streamed] {
        let model = &mut context.sd3(Precision::Fp32, plan)?;
        let small = context.input("", SEED)?;
        restore(model, &small)?;
        for side in SIDES {
            let Some(estimate) = model.estimate((side / 4, side / 4), (side, side))? else { return Ok(None) };
            let input = |prompt: String| {
                let enlarged = resize(&small.enlarged, side, side, Filter::Bicubic).into();
                StepInput { enlarged, prompt, ..small.clone() }
            };
            // What libraries keep for a size is taken with the first step to it.
            restore(model, &input(format!("first of side {side}")))?;
            let input = input(format!("side {side}"));
            accelerator::reset_peak(device);
            let before = accelerator::memory(device);
            let (restored, on_cpu) = peak_of(|| restore(model, &input));
            restored?;
            let on_device = before.zip(accelerator::memory(device)).map(|(before, after)| after.peak - before.used);
            largest = f64::max(largest, on_device.unwrap_or(on_cpu) as f64 / estimate.bytes as f64);
        }
    }
    Ok(Some(largest))
}

/// More than any machine has.
const NUMBERS: i64 = 1 << 46;

pub(super) fn runs_out(context: &Context) -> Value {
    let device = context.devices.picture;
    let model = &mut context.sd3(Precision::Fp32, MemoryPlan::Resident)?;
    let input = context.input("", SEED)?;
    let before = restore(model, &input)?;
    let used = accelerator::memory(device).map(|memory| memory.used);
    let failed = Tensor::f_empty([NUMBERS], (Kind::Float, device)).map_err(PipelineError::from);
    let Err(error) = failed else {
        return Err(PipelineError::Internal(format!("there seems to be room for {NUMBERS} numbers")));
    };
    context.note(error.to_string().lines().next().unwrap_or_default().chars().take(100).collect());
    let is_reported = error.is_out_of_memory();
    let goes_on = restore(model, &context.input("", SEED)?)? == before;
    let streams = restore(&mut context.sd3(Precision::Fp32, MemoryPlan::Streamed)?, &input)? == before;
    let after = accelerator::memory(device).map(|memory| memory.used);
    let is_returned = device == Device::Cpu || used.zip(after).is_some_and(|(used, after)| after <= used + 1_000_000);
    wrong(is_reported && goes_on && streams && is_returned)
}
