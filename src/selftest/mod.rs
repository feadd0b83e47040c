//! Whether this machine computes what it should: every network against the reference's own numbers, pictures in every
//! precision and memory plan, streams, random numbers, stopping, memory that runs out. `coz selftest` and *Self-test* in the
//! window run it; its models are the tiny ones of the parity tests.

mod captions;
mod device;
mod fixtures;
mod memory;
mod networks;
mod pictures;
mod report;
mod streams;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use serde::Serialize;
use tch::{Device, TchError, Tensor};

pub use device::lose_device;
use fixtures::Fixtures;
pub use report::{Checked, Message, format_line, headline, summary};

use crate::base::{DeviceChoice, UserError};
use crate::pipelines::PipelineError;
use crate::runtime::device::{self as devices, Devices};
use crate::runtime::{log_warnings, without_gradients};

/// What a check measures must be so.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// Not more than this.
    AtMost(f64),
    /// Not less.
    AtLeast(f64),
}

impl Limit {
    fn number(self) -> f64 {
        match self {
            Self::AtMost(number) | Self::AtLeast(number) => number,
        }
    }

    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

/// What a check measures; `None` where it does not apply to the device.
type Value = Result<Option<f64>, PipelineError>;
type Run = fn(&Context) -> Value;

/// For what reports how far it is: nobody listens.
fn quiet(_: f32) -> Result<(), PipelineError> {
    Ok(())
}

/// One check. A new one is a function in a file here, and a line in [`CHECKS`].
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// To be chosen by.
    pub name: &'static str,
    /// What is measured, in a few words.
    pub about: &'static str,
    limit: Limit,
    run: Run,
}

/// All checks, in the order in which they run.
pub const CHECKS: [Check; 39] = {
    use Limit::{AtLeast, AtMost};
    const fn check(name: &'static str, about: &'static str, limit: Limit, run: Run) -> Check {
        Check { name, about, limit, run }
    }
    [
        check("memory-known", "free memory is known (0: it is)", AtMost(0.0), memory::is_known),
        check(
            "no-such-device",
            "a device that is not there is refused (0: it is)",
            AtMost(0.0),
            device::absent_is_refused,
        ),
        check(
            "auto-plan",
            "tiny models are resident by themselves (0: they are)",
            AtMost(0.0),
            memory::auto_is_resident,
        ),
        check("noise", "draws of four seeds that differ from torch.manual_seed", AtMost(0.0), device::noise),
        check("transformer", "SD3 transformer against diffusers, relative", AtMost(1e-5), networks::transformer),
        check(
            "transformer-lora",
            "the same with the LoRA, parts of it in half precision",
            AtMost(1e-3),
            networks::transformer_lora,
        ),
        check("vae-encoder", "VAE encoder against diffusers, relative", AtMost(1e-5), networks::vae_encoder),
        check("vae-encoder-lora", "the same with the LoRA", AtMost(1e-5), networks::vae_encoder_lora),
        check("vae-decoder", "VAE decoder against diffusers, relative", AtMost(1e-5), networks::vae_decoder),
        check("vae-decoder-tf32", "the same with TF32", AtMost(3e-3), networks::vae_decoder_tf32),
        check("clip", "CLIP L against transformers, relative", AtMost(1e-5), networks::clip),
        check("clip-2", "CLIP G against transformers, relative", AtMost(1e-5), networks::clip_2),
        check("clip-h", "CLIP H against transformers, relative", AtMost(1e-5), networks::clip_h),
        check("unet", "SD 2.1 UNet with OSEDiff's LoRAs against diffusers, relative", AtMost(1e-5), networks::unet),
        check("t5", "T5 encoder against transformers, relative", AtMost(1e-5), networks::t5),
        check(
            "vision-tower",
            "Qwen2.5-VL's images against transformers, relative",
            AtMost(1e-5),
            captions::vision_tower,
        ),
        check("language-model", "its logits against transformers, relative", AtMost(1e-5), captions::language_model),
        check("language-model-bf16", "the same in bf16 against fp32, relative", AtMost(0.1), captions::bf16),
        check("language-model-fp16", "the same in fp16 against fp32, relative", AtMost(0.02), captions::fp16),
        check("tokens", "tokens of 64 that differ from transformers", AtMost(0.0), captions::tokens),
        check("tags", "pictures of 2 that RAM with DAPE tags otherwise", AtMost(0.0), captions::tags),
        check("rrdb", "ESRGAN's network against PyTorch, relative", AtMost(1e-5), networks::rrdb),
        check("compact", "the compact network against PyTorch, relative", AtMost(1e-5), networks::compact),
        check("step", "a step against the reference's, dB", AtLeast(48.0), pictures::step),
        check(
            "step-sd21",
            "a step of OSEDiff on SD 2.1 against the reference's, in every plan, dB",
            AtLeast(48.0),
            pictures::sd21_step,
        ),
        check("step-cpu", "a step against the CPU's, dB", AtLeast(60.0), pictures::step_against_cpu),
        check(
            "step-levels",
            "share of its levels more than 1 apart from the CPU's",
            AtMost(1e-3),
            pictures::levels_against_cpu,
        ),
        check("bf16", "a step in bf16 against fp32, dB", AtLeast(35.0), pictures::bf16),
        check("fp16", "a step in fp16 against fp32, dB", AtLeast(35.0), pictures::fp16),
        check(
            "dtypes",
            "operators on tensors of a surprising device or dtype",
            AtMost(0.0),
            pictures::surprising_operators,
        ),
        check("plans", "levels that depend on the memory plan", AtMost(0.0), pictures::plans),
        check("repeat", "levels that differ between three runs", AtMost(0.0), pictures::repeat),
        check("engines", "levels that depend on a model beside it, 20 steps", AtMost(0.0), pictures::beside_each_other),
        check("hand-over", "streamed passes of 50 with delays that differ", AtMost(0.0), streams::hand_over),
        check("streamed-memory", "MB that 100 streamed steps leave behind", AtMost(64.0), streams::memory),
        check("cancel", "longest time to stop, of 23 places, ms", AtMost(200.0), pictures::cancel),
        check("estimate", "memory of a step, of what was estimated", AtMost(1.0), memory::estimate),
        check(
            "out-of-memory",
            "memory that runs out is reported, and the next steps work (0: so it is)",
            AtMost(0.0),
            memory::runs_out,
        ),
        check("device-lost", "a device that fails is reported (0: it is)", AtMost(0.0), device::loss_is_reported),
    ]
};

/// What a check has measured.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Of the check.
    pub name: &'static str,
    /// What was measured; none where the check failed before.
    pub value: Option<f64>,
    /// What it may be.
    pub limit: f64,
    /// How long it took.
    pub ms: f64,
    /// Whether all is well.
    pub ok: bool,
    /// What went wrong, or what is worth knowing.
    #[serde(skip)]
    pub note: String,
    #[serde(skip)]
    check: Check,
}

/// What checks share.
struct Context {
    device: DeviceChoice,
    devices: Devices,
    fixtures: Fixtures,
    /// For the outcome of the check that runs.
    note: RefCell<String>,
}

impl Context {
    fn is_cuda(&self) -> bool {
        self.devices.picture.is_cuda()
    }

    fn note(&self, text: String) {
        *self.note.borrow_mut() = text;
    }
}

/// The checks of these names, all where there are none.
///
/// # Errors
/// A name that no check has.
pub fn chosen(names: &[String]) -> Result<Vec<Check>, UserError> {
    if let Some(unknown) = names.iter().find(|name| !CHECKS.iter().any(|check| check.name == name.as_str())) {
        let known = CHECKS.map(|check| check.name).join(", ");
        return Err(UserError::new(
            "There is no such check",
            format!("no check {unknown:?}"),
            &format!("There are {known}."),
        ));
    }
    let is_chosen = |check: &Check| names.is_empty() || names.iter().any(|name| name == check.name);
    Ok(CHECKS.into_iter().filter(is_chosen).collect())
}

/// Runs checks on a device. `on_outcome` is called with each outcome and answers whether to go on; checks that do not apply
/// are passed over. Slow: not on a thread that anybody waits for.
///
/// # Errors
/// Where the device is not there, and where the fixtures cannot be written to the disk.
pub fn run(
    checks: &[Check],
    device: DeviceChoice,
    on_outcome: &mut dyn FnMut(Outcome) -> bool,
) -> Result<(), UserError> {
    let _no_grad = without_gradients();
    log_warnings();
    let devices = devices::resolve(device).map_err(PipelineError::from)?;
    let fixtures = Fixtures::unpack().map_err(|error| {
        UserError::new(
            "The self-test cannot begin",
            error.to_string(),
            "It needs room for 15 MB in the folder for temporary files.",
        )
    })?;
    let context = Context { device, devices, fixtures, note: RefCell::default() };
    for check in checks {
        let start = Instant::now();
        let measured = catch_unwind(AssertUnwindSafe(|| (check.run)(&context)))
            .unwrap_or_else(|panic| Err(PipelineError::of_panic(panic.as_ref())));
        let ms = start.elapsed().as_secs_f64() * 1000.0;
        let note = context.note.take();
        let (value, note) = match measured {
            Ok(None) => continue,
            Ok(Some(value)) => (Some(value), note),
            Err(error) => (None, UserError::from(error).to_string()),
        };
        let ok = value.is_some_and(|value| check.limit.holds(value));
        let outcome = Outcome { name: check.name, value, limit: check.limit.number(), ms, ok, note, check: *check };
        if !on_outcome(outcome) {
            break;
        }
    }
    Ok(())
}

/// How far apart tensors are, of the size of the second: the ratio of their norms.
///
/// # Errors
/// Where their shapes differ, or the second is nothing.
fn relative_difference(ours: &Tensor, theirs: &Tensor) -> Result<f64, TchError> {
    if ours.size() != theirs.size() {
        return Err(TchError::Shape(format!("expected {:?}, found {:?}", theirs.size(), ours.size())));
    }
    let wide = |x: &Tensor| x.f_to_device(Device::Cpu)?.f_to_kind(tch::Kind::Double);
    let (ours, theirs) = (wide(ours)?, wide(theirs)?);
    let size = theirs.f_norm()?.f_double_value(&[])?;
    if size <= 0.0 {
        return Err(TchError::Torch("there is nothing to compare with".into()));
    }
    Ok(ours.f_sub(&theirs)?.f_norm()?.f_double_value(&[])? / size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_have_names_of_their_own() {
        let mut names = CHECKS.map(|check| check.name);
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
        assert_eq!(chosen(&[]).map(|all| all.len()).ok(), Some(CHECKS.len()));
        let some = chosen(&["t5".into(), "noise".into()]).expect("there are such checks");
        assert_eq!(some.iter().map(|check| check.name).collect::<Vec<_>>(), ["noise", "t5"]);
        assert!(chosen(&["t6".into()]).is_err_and(|error| error.hint.contains("t5")));
    }

    #[test]
    fn a_wrong_number_is_found() {
        let (a, b) = (Tensor::from_slice(&[3.0, 4.0]), Tensor::from_slice(&[3.0, 4.5]));
        assert_eq!(relative_difference(&a, &a).expect("they are alike"), 0.0);
        assert_eq!(relative_difference(&b, &a).expect("they are alike"), 0.1);
        assert!(relative_difference(&a.get(0), &a).is_err());
        assert!(relative_difference(&a, &a.zeros_like()).is_err());
        assert!(Limit::AtMost(1e-5).holds(1e-5) && !Limit::AtMost(1e-5).holds(f64::NAN));
        assert!(Limit::AtLeast(35.0).holds(36.0) && !Limit::AtLeast(35.0).holds(34.0));
    }
}
