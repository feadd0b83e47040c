//! Steps of Chain-of-Zoom's own model: against the reference and the CPU, in every precision and plan, again, beside another,
//! and stopped.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use tch::{Device, Kind};

use super::{Context, Value};
use crate::base::{DeviceChoice, MemoryPlan, Precision, Progress, Region};
use crate::imaging::metrics::luma_psnr;
use crate::imaging::{Picture, resize_and_center_crop};
use crate::pipelines::sr::{StepInput, SuperResolver};
use crate::pipelines::{PipelineError, sr};
use crate::runtime::device::has_bf16;
use crate::runtime::operators::{self, Operator};
use crate::runtime::without_gradients;

type Model = Box<dyn SuperResolver>;

/// Of a state.
const SIDE: u32 = 64;
/// Of pictures that are the same.
const MOST_DB: f64 = 100.0;

impl Context {
    pub(super) fn sd3(&self, precision: Precision, plan: MemoryPlan) -> Result<Model, PipelineError> {
        sr::open(&self.fixtures.sd3(precision)?, self.device, plan, 0)
    }

    /// The first step of the reference's own chain, at another seed and with another prompt where one is given.
    pub(super) fn input(&self, prompt: &str, seed: u64) -> Result<StepInput, PipelineError> {
        let photo = self.fixtures.cases("sd3")?.picture("chain.0.photo")?;
        let state = resize_and_center_crop(&photo, SIDE);
        let region = Region::square(SIDE * 3 / 8, SIDE * 3 / 8, SIDE / 4);
        let (cut, enlarged) = StepInput::cut(&state, region, SIDE, SIDE)?;
        Ok(StepInput { cut: Arc::new(cut), enlarged: Arc::new(enlarged), prompt: prompt.to_owned(), seed })
    }

    fn restored(&self, precision: Precision, plan: MemoryPlan) -> Result<Picture, PipelineError> {
        restore(&mut self.sd3(precision, plan)?, &self.input("", SEED)?)
    }
}

/// Of the reference's chain.
pub(super) const SEED: u64 = 42;

pub(super) fn restore(model: &mut Model, input: &StepInput) -> Result<Picture, PipelineError> {
    model.restore(input, &mut Progress::new(&mut |_, _| true))
}

fn psnr(ours: &Picture, theirs: &Picture) -> Option<f64> {
    Some(luma_psnr(ours, theirs, 0).min(MOST_DB))
}

/// Levels that are more than `most` apart.
fn levels_apart(ours: &Picture, theirs: &Picture, most: u8) -> usize {
    ours.rgb().iter().zip(theirs.rgb()).filter(|(a, b)| a.abs_diff(**b) > most).count()
}

pub(super) fn step(context: &Context) -> Value {
    let theirs = context.fixtures.cases("sd3")?.picture("chain.0.1")?;
    Ok(psnr(&context.restored(Precision::Fp32, MemoryPlan::Resident)?, &theirs))
}

/// A step of OSEDiff on Stable Diffusion 2.1, in each memory plan.
pub(super) fn sd21_step(context: &Context) -> Value {
    let cases = context.fixtures.cases("sd21")?;
    let (enlarged, theirs) = (Arc::new(cases.picture("step.0.picture")?), cases.picture("step.0.result")?);
    let prompts: Vec<String> = context.fixtures.config("sd21/prompts.json")?;
    let number = |name: &str| Ok::<_, PipelineError>(cases.numbers(name)?.first().copied().unwrap_or(0));
    let prompt = prompts.get(number("step.0.prompt")? as usize).cloned().unwrap_or_default();
    let input = StepInput { cut: enlarged.clone(), enlarged, prompt, seed: number("step.0.seed")? as u64 };
    let mut least = MOST_DB;
    for plan in [MemoryPlan::Resident, MemoryPlan::Staged, MemoryPlan::Streamed] {
        let restored = restore(&mut sr::open(&context.fixtures.sd21()?, context.device, plan, 0)?, &input)?;
        least = luma_psnr(&restored, &theirs, 0).min(least);
    }
    Ok(Some(least))
}

/// The same step on the device and on the CPU; `None` where they are the same.
fn on_both(context: &Context) -> Result<Option<[Picture; 2]>, PipelineError> {
    if !context.is_cuda() {
        return Ok(None);
    }
    let input = context.input("", SEED)?;
    let on_cpu = &mut sr::open(&context.fixtures.sd3(Precision::Fp32)?, DeviceChoice::Cpu, MemoryPlan::Resident, 0)?;
    let here = &mut context.sd3(Precision::Fp32, MemoryPlan::Resident)?;
    Ok(Some([restore(here, &input)?, restore(on_cpu, &input)?]))
}

pub(super) fn step_against_cpu(context: &Context) -> Value {
    Ok(on_both(context)?.and_then(|[here, on_cpu]| psnr(&here, &on_cpu)))
}

pub(super) fn levels_against_cpu(context: &Context) -> Value {
    let share = |[here, on_cpu]: [Picture; 2]| levels_apart(&here, &on_cpu, 1) as f64 / here.rgb().len() as f64;
    Ok(on_both(context)?.map(share))
}

/// Older CUDA devices only pretend to multiply in it, by way of float32.
fn has_bf16_of_its_own(context: &Context) -> bool {
    !context.is_cuda() || has_bf16(context.devices.picture)
}

fn against_fp32(context: &Context, precision: Precision) -> Value {
    let wide = context.restored(Precision::Fp32, MemoryPlan::Resident)?;
    Ok(psnr(&context.restored(precision, MemoryPlan::Resident)?, &wide))
}

pub(super) fn bf16(context: &Context) -> Value {
    if !has_bf16_of_its_own(context) {
        return Ok(None);
    }
    against_fp32(context, Precision::Bf16)
}

pub(super) fn fp16(context: &Context) -> Value {
    against_fp32(context, Precision::Fp16)
}

/// What takes the time: in half of the width it is to be done in that.
const HEAVY: [&str; 7] = [
    "aten::linear",
    "aten::matmul",
    "aten::mm",
    "aten::addmm",
    "aten::bmm",
    "aten::conv2d",
    "aten::scaled_dot_product_attention",
];
/// The decoder's last convolution is in float32, whatever the rest.
const LAST_CONVOLUTION: &str = "aten::conv2d of Float, Float, Float";
/// What moves and converts tensors.
const MOVING: [&str; 4] = ["aten::to", "aten::_to_copy", "aten::copy_", "aten::item"];

/// What is odd about an operator of a model in 16 bits.
fn surprise(operator: &Operator) -> Option<String> {
    let Operator { name, inputs } = operator;
    // A single number may be anywhere and of any width.
    let tensors = || inputs.iter().filter(|input| input.dims > 0);
    let on_cpu = tensors().filter(|input| input.is_on_cpu).count();
    let kinds =
        || tensors().filter_map(|input| input.kind).map(|kind| format!("{kind:?}")).collect::<Vec<_>>().join(", ");
    if on_cpu > 0 && on_cpu < tensors().count() && !MOVING.contains(&name.as_str()) {
        return Some(format!("{name} on several devices"));
    }
    let is_wide = tensors().any(|input| input.kind == Some(Kind::Double));
    let is_heavy_and_wide = HEAVY.contains(&name.as_str()) && tensors().any(|input| input.kind == Some(Kind::Float));
    (is_wide || is_heavy_and_wide).then(|| format!("{name} of {}", kinds()))
}

pub(super) fn surprising_operators(context: &Context) -> Value {
    if !has_bf16_of_its_own(context) {
        return Ok(None);
    }
    let model = &mut context.sd3(Precision::Bf16, MemoryPlan::Resident)?;
    // Weights are read, and LoRAs merged in float32.
    restore(model, &context.input("", SEED)?)?;
    let again = context.input("another prompt", SEED)?;
    let (restored, operators) = operators::of(|| restore(model, &again));
    restored?;
    if operators.is_empty() {
        return Err(PipelineError::Internal("no operator was seen".into()));
    }
    let mut surprises: Vec<String> = operators.iter().filter_map(surprise).collect();
    if let Some(last) = surprises.iter().position(|text| text == LAST_CONVOLUTION) {
        surprises.remove(last);
    }
    let different: BTreeSet<&str> = surprises.iter().map(String::as_str).collect();
    context.note(different.into_iter().collect::<Vec<_>>().join("; "));
    Ok(Some(surprises.len() as f64))
}

pub(super) fn plans(context: &Context) -> Value {
    let resident = context.restored(Precision::Fp32, MemoryPlan::Resident)?;
    let mut apart = 0;
    for plan in [MemoryPlan::Staged, MemoryPlan::Streamed] {
        apart += levels_apart(&context.restored(Precision::Fp32, plan)?, &resident, 0);
    }
    if let Device::Cuda(number) = context.devices.picture {
        let devices = DeviceChoice::TwoCuda(number, number);
        let apart_from_itself =
            &mut sr::open(&context.fixtures.sd3(Precision::Fp32)?, devices, MemoryPlan::Resident, 0)?;
        apart += levels_apart(&restore(apart_from_itself, &context.input("", SEED)?)?, &resident, 0);
    }
    Ok(Some(apart as f64))
}

pub(super) fn repeat(context: &Context) -> Value {
    // A new model each time: nothing that was encoded is kept.
    let again = || context.restored(Precision::Fp32, MemoryPlan::Resident);
    let first = again()?;
    Ok(Some((levels_apart(&again()?, &first, 0) + levels_apart(&again()?, &first, 0)) as f64))
}

/// Steps of each of two models that work beside each other.
const STEPS: u64 = 20;

pub(super) fn beside_each_other(context: &Context) -> Value {
    let steps = |(mut model, inputs): (Model, Vec<StepInput>)| -> Result<Vec<Picture>, PipelineError> {
        let _no_grad = without_gradients();
        inputs.iter().map(|input| restore(&mut model, input)).collect()
    };
    // Another picture, prompt and seed with every step: all of it is computed.
    let open = |first: u64| -> Result<(Model, Vec<StepInput>), PipelineError> {
        let inputs = (first..first + STEPS).map(|seed| context.input(&format!("prompt {seed}"), seed));
        Ok((context.sd3(Precision::Fp32, MemoryPlan::Resident)?, inputs.collect::<Result<_, _>>()?))
    };
    let alone = [0, 100].map(|first| open(first).and_then(steps));
    let (one, other) = (open(0)?, open(100)?);
    let together = std::thread::scope(|scope| {
        let other = scope.spawn(|| steps(other));
        let one = steps(one);
        [one, other.join().unwrap_or_else(|_| Err(PipelineError::Internal("a thread panicked".into())))]
    });
    let mut apart = 0;
    for (alone, together) in alone.into_iter().zip(together) {
        apart += alone?.iter().zip(&together?).map(|(alone, together)| levels_apart(together, alone, 0)).sum::<usize>();
    }
    Ok(Some(apart as f64))
}

/// Places that are drawn, beside the first two and the last.
const PLACES: usize = 20;

pub(super) fn cancel(context: &Context) -> Value {
    let model = &mut context.sd3(Precision::Fp32, MemoryPlan::Streamed)?;
    let expected = restore(model, &context.input("", SEED)?)?;
    let mut reports = 0;
    let mut on_progress = |_, _| {
        reports += 1;
        true
    };
    model.restore(&context.input("another prompt", SEED)?, &mut Progress::new(&mut on_progress))?;
    let mut random = fastrand::Rng::with_seed(SEED);
    let drawn: Vec<usize> = (0..PLACES).map(|_| random.usize(0..reports)).collect();
    let mut longest = 0.0;
    for (i, place) in [0, 1, reports - 1].into_iter().chain(drawn).enumerate() {
        let (mut seen, mut stopped) = (0, None);
        let mut on_progress = |_, _| {
            seen += 1;
            if seen > place {
                stopped.get_or_insert_with(Instant::now);
            }
            stopped.is_none()
        };
        let input = context.input(&format!("prompt {i}"), SEED)?;
        match model.restore(&input, &mut Progress::new(&mut on_progress)) {
            Err(PipelineError::Cancelled) => {}
            Err(error) => return Err(error),
            Ok(_) => return Err(PipelineError::Internal(format!("it was not stopped at report {place} of {reports}"))),
        }
        longest = stopped.map_or(f64::INFINITY, |stopped| f64::max(longest, stopped.elapsed().as_secs_f64() * 1000.0));
    }
    if levels_apart(&restore(model, &context.input("", SEED)?)?, &expected, 0) > 0 {
        return Err(PipelineError::Internal("after it was stopped the next result is another".into()));
    }
    Ok(Some(longest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::operators::Input;

    #[test]
    fn what_is_odd_about_an_operator_is_found() {
        let input = |kind, is_on_cpu| Input { is_on_cpu, kind: Some(kind), dims: 2 };
        let operator = |name: &str, inputs: &[Input]| Operator { name: name.into(), inputs: inputs.to_vec() };
        let (here, there) = (input(Kind::BFloat16, false), input(Kind::BFloat16, true));
        assert_eq!(surprise(&operator("aten::mm", &[here, here])), None);
        assert_eq!(surprise(&operator("aten::copy_", &[here, there])), None);
        assert!(surprise(&operator("aten::add", &[here, there])).is_some_and(|text| text.contains("several devices")));
        assert!(surprise(&operator("aten::mm", &[here, input(Kind::Float, false)])).is_some());
        assert_eq!(surprise(&operator("aten::mul", &[here, input(Kind::Float, false)])), None, "it is cheap");
        assert!(surprise(&operator("aten::mul", &[here, input(Kind::Double, false)])).is_some());
        let number = Input { dims: 0, ..input(Kind::Double, true) };
        assert_eq!(surprise(&operator("aten::mul", &[here, number])), None, "one number may be anywhere");
    }
}
