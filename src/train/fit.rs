//! Fits SRVGGNetCompact x4 to scenes: Adam, Charbonnier loss, cosine rate, exponential moving average of the weights
//! (what Real-ESRGAN ships as `params_ema`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use fastrand::Rng;
use tch::nn::{self, OptimizerConfig};
use tch::{Device, Kind, Tensor};

use super::{degrade, scenes};
use crate::imaging::{Filter, Picture, resize};
use crate::networks::SrvggNetCompact;
use crate::runtime::rng;
use crate::runtime::tensor::tensor_from_picture;
use crate::runtime::weights::{Loader, Weights};

const SCALE: i64 = 4;
const SCENE_SIDE: u32 = 320;
const SCENES: usize = 96;
/// Side of a training patch at low resolution.
const PATCH: u32 = 40;
const BATCH: usize = 12;
const DECAY: f64 = 0.999;
/// Below this error (in [0, 1]) the loss is nearly quadratic, which is what PSNR counts; above, linear.
const ROUNDING: f64 = 0.03;

/// What to train and for how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Channels inside.
    pub features: i64,
    /// Convolutions inside, between the first and the last.
    pub depth: i64,
    /// Wall-clock time; the rate falls to zero at its end.
    pub duration: Duration,
    /// Learning rate at the start.
    pub rate: f64,
    /// Weights to start from instead of random ones.
    pub from: Option<PathBuf>,
    /// For weights, scenes and patches.
    pub seed: u64,
}

/// Trains and writes half-precision safetensors to `out`; again every few hundred steps, whole or not at all.
/// `report(step, loss, fraction done)` is called now and then.
pub fn fit(plan: &Plan, out: &Path, mut report: impl FnMut(u64, f64, f64)) -> anyhow::Result<()> {
    let mut rng = Rng::with_seed(plan.seed);
    let store = nn::VarStore::new(Device::Cpu);
    rng::seeded(plan.seed, || initialise(&store, plan));
    if let Some(from) = &plan.from {
        let weights = Weights::open(from)?;
        let mut loader = Loader::new(&weights, "", Device::Cpu, Kind::Float);
        for (name, mut tensor) in store.variables() {
            let value = loader.tensor(&name, &tensor.size())?;
            tch::no_grad(|| tensor.copy_(&value));
        }
        loader.finish("the network to train")?;
    }
    let named: BTreeMap<String, Tensor> = store.variables().into_iter().collect();
    let mut averaged: BTreeMap<String, Tensor> =
        named.iter().map(|(name, tensor)| (name.clone(), tensor.detach().copy())).collect();
    let network = SrvggNetCompact::load(&Weights::from_tensors(named), "", Device::Cpu, Kind::Float)?;
    let mut optimizer = nn::adam(0.9, 0.99, 0.0).build(&store, plan.rate)?;

    let mut pool: Vec<Picture> = (0..SCENES).map(|_| scenes::scene(&mut rng, SCENE_SIDE)).collect();
    let start = Instant::now();
    let mut smoothed_loss = 0.0;
    for step in 0u64.. {
        let done = start.elapsed().as_secs_f64() / plan.duration.as_secs_f64();
        if done >= 1.0 {
            break;
        }
        optimizer
            .set_lr(plan.rate * (0.5 + 0.5 * (std::f64::consts::PI * done).cos()) * (step as f64 / 100.0).min(1.0));
        let (small, sharp) = batch(&mut rng, &pool)?;
        let error = network.forward(&small)? - sharp;
        let loss = (error.square() + ROUNDING * ROUNDING).sqrt().mean(Kind::Float);
        optimizer.backward_step_clip_norm(&loss, 0.5);

        let loss = loss.double_value(&[]);
        smoothed_loss = if step == 0 { loss } else { 0.99 * smoothed_loss + 0.01 * loss };
        let decay = DECAY.min((1.0 + step as f64) / (10.0 + step as f64));
        tch::no_grad(|| {
            for (name, tensor) in store.variables() {
                if let Some(average) = averaged.get_mut(&name) {
                    *average = &*average * decay + tensor.detach() * (1.0 - decay);
                }
            }
        });
        // Fresh scenes all along: the pool never repeats for long.
        if step % 3 == 0 {
            let replaced = rng.usize(..pool.len());
            pool[replaced] = scenes::scene(&mut rng, SCENE_SIDE);
        }
        if step % 50 == 0 {
            report(step, smoothed_loss, done);
        }
        if step % 250 == 249 {
            save(&averaged, out)?;
        }
    }
    save(&averaged, out)
}

/// Random weights under the checkpoint's own keys.
fn initialise(store: &nn::VarStore, plan: &Plan) {
    let root = store.root() / "body";
    let last = 2 * (plan.depth + 1);
    for i in 0..=last {
        let path = &root / i;
        if i % 2 == 1 {
            _ = path.var("weight", &[plan.features], nn::Init::Const(0.2));
            continue;
        }
        let channels_in = if i == 0 { 3 } else { plan.features };
        let channels_out = if i == last { 3 * SCALE * SCALE } else { plan.features };
        // The last layer starts near zero: the network starts as its nearest-neighbour base.
        let gain = if i == last { 0.1 } else { 1.0 };
        let stdev = gain * (2.0 / (1.04 * 9.0 * channels_in as f64)).sqrt();
        _ = path.var("weight", &[channels_out, channels_in, 3, 3], nn::Init::Randn { mean: 0.0, stdev });
        _ = path.var("bias", &[channels_out], nn::Init::Const(0.0));
    }
}

/// `([B, 3, PATCH, PATCH], [B, 3, 4 PATCH, 4 PATCH])`, both in [0, 1].
fn batch(rng: &mut Rng, pool: &[Picture]) -> anyhow::Result<(Tensor, Tensor)> {
    let (mut small, mut sharp) = (Vec::new(), Vec::new());
    let side = PATCH * SCALE as u32;
    for _ in 0..BATCH {
        let scene = &pool[rng.usize(..pool.len())];
        // The later steps of a chain see what an earlier one made large: smooth, without detail to be found.
        let closeness = if rng.f32() < 0.2 { 2.0 + 6.0 * rng.f32() } else { 1.0 };
        let cut = (side as f32 / closeness) as u32;
        let place = i64::from(SCENE_SIDE - cut);
        let patch = scene.crop(rng.i64(0..=place), rng.i64(0..=place), cut, cut);
        let patch = resize(&patch, side, side, Filter::Bicubic);
        let pair = [degrade::reduced(rng, &patch, SCALE as u32), patch];
        let (flip_x, flip_y, swap) = (rng.bool(), rng.bool(), rng.bool());
        for (picture, into) in pair.iter().zip([&mut small, &mut sharp]) {
            let mut tensor = tensor_from_picture(picture, Device::Cpu)?;
            if flip_x {
                tensor = tensor.flip([3]);
            }
            if flip_y {
                tensor = tensor.flip([2]);
            }
            if swap {
                tensor = tensor.transpose(2, 3);
            }
            into.push(tensor);
        }
    }
    Ok((Tensor::f_cat(&small, 0)?, Tensor::f_cat(&sharp, 0)?))
}

fn save(tensors: &BTreeMap<String, Tensor>, out: &Path) -> anyhow::Result<()> {
    let half: Vec<(&String, Tensor)> = tensors.iter().map(|(name, t)| (name, t.to_kind(Kind::Half))).collect();
    let part = out.with_extension("part");
    Tensor::write_safetensors(&half, &part).with_context(|| format!("cannot write {}", part.display()))?;
    std::fs::rename(&part, out).with_context(|| format!("cannot write {}", out.display()))
}
