//! Random numbers. libtorch has one generator for the whole process: seeding it and drawing are one act behind a lock,
//! so that a seed names a picture, with several engines beside each other too.

use std::sync::{Mutex, PoisonError};

static GENERATOR: Mutex<()> = Mutex::new(());

/// What `draw` returns, with the CPU's generator at the beginning of `seed` (`torch.manual_seed`). `draw` computes nothing
/// else: all other draws wait for it.
pub fn seeded<T>(seed: u64, draw: impl FnOnce() -> T) -> T {
    let _locked = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    #[allow(clippy::disallowed_methods, reason = "the one place")]
    tch::manual_seed(seed.cast_signed());
    draw()
}

/// Noise for tests, another with every call.
#[cfg(test)]
pub(crate) fn noise(shape: &[i64]) -> tch::Tensor {
    static CALLS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let call = CALLS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    seeded(call, || tch::Tensor::randn(shape, (tch::Kind::Float, tch::Device::Cpu)))
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    #[test]
    fn a_seed_means_the_same_beside_other_draws() {
        let draw = |seed| seeded(seed, || Tensor::randn([4, 64, 64], (Kind::Float, Device::Cpu)));
        let alone: Vec<Tensor> = (0..8).map(draw).collect();
        std::thread::scope(|scope| {
            for (seed, alone) in (0..8).zip(&alone) {
                let alone = alone.shallow_clone();
                scope.spawn(move || (0..50).for_each(|_| assert!(draw(seed).equal(&alone), "seed {seed}")));
            }
        });
    }
}
