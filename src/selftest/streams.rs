//! Layers that are read while others compute: what is handed over is whole, and nothing is left behind.

use std::time::Duration;

use tch::{Kind, Tensor};

use super::pictures::{SEED, restore};
use super::{Context, Value};
use crate::base;
use crate::base::{MemoryPlan, Precision};
use crate::pipelines::PipelineError;
use crate::runtime::weights::{LoadMode, Loader, Weights, WeightsError};
use crate::runtime::{Layers, accelerator, rng};

const LAYERS: i64 = 8;
const WIDTH: i64 = 512;
const PASSES: usize = 50;
/// Longest delay of a layer, on either side.
const DELAY_US: u64 = 3000;

fn delay() {
    std::thread::sleep(Duration::from_micros(fastrand::u64(0..DELAY_US)));
}

pub(super) fn hand_over(context: &Context) -> Value {
    let file = context.fixtures.path("layers.safetensors");
    let layer = |i: i64| Ok::<_, PipelineError>((format!("{i}"), rng::randn(i as u64, &[WIDTH, WIDTH])?));
    let layers = (0..LAYERS).map(layer).collect::<Result<Vec<_>, _>>()?;
    Tensor::write_safetensors(&layers, &file)?;
    let (weights, device) = (Weights::open(&file)?, context.devices.picture);
    let open = |mode: LoadMode, is_delayed: bool| {
        let mut loader = Loader::new(&weights, "", device, Kind::Float).mode(mode);
        Layers::load(&mut loader, LAYERS, move |loader, i| {
            if is_delayed && loader.load_mode() != LoadMode::ShapesOnly {
                delay();
            }
            loader.tensor(&i.to_string(), &[WIDTH, WIDTH])
        })
    };
    let x = rng::randn(SEED, &[64, WIDTH])?.f_to_device(device)?;
    let pass = |layers: &Layers<Tensor>, is_delayed: bool| -> Result<Tensor, WeightsError> {
        let mut x = x.shallow_clone();
        layers.each(|_, weight| {
            if is_delayed {
                delay();
            }
            x = x.f_matmul(weight)?.f_tanh()?;
            Ok::<(), WeightsError>(())
        })?;
        Ok(x)
    };
    let expected = pass(&open(LoadMode::Copy, false)?, false)?;
    let streamed = open(LoadMode::Stream, true)?;
    let mut wrong = 0;
    for _ in 0..PASSES {
        wrong += i32::from(!pass(&streamed, true)?.f_equal(&expected)?);
    }
    Ok(Some(wrong.into()))
}

const STEPS: u64 = 100;
/// After so many of them everything is there that stays.
const WARM: u64 = 10;

pub(super) fn memory(context: &Context) -> Value {
    let device = context.devices.picture;
    let taken = || match accelerator::memory(device) {
        Some(memory) => Some(memory.reserved),
        None => base::memory::resident(),
    };
    let model = &mut context.sd3(Precision::Fp32, MemoryPlan::Streamed)?;
    let mut before = None;
    for step in 0..WARM + STEPS {
        if step == WARM {
            before = taken();
        }
        restore(model, &context.input(&format!("prompt {step}"), step)?)?;
    }
    let grown = before.zip(taken()).map(|(before, after)| after.saturating_sub(before) as f64 / 1e6);
    Ok(Some(grown.unwrap_or(f64::NAN)))
}
