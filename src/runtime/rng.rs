//! Random numbers. What a picture depends on is drawn on the CPU, from a generator of its own: a seed names a picture, with
//! several engines beside each other too. The numbers are those of `torch.manual_seed`.

use std::ffi::{c_char, c_void};
use std::sync::{Mutex, PoisonError};

use tch::{TchError, Tensor};

use super::message::reason;

unsafe extern "C" {
    fn coz_rng_randn(seed: u64, sizes: *const i64, count: usize, error: *mut c_char, length: usize) -> *mut c_void;
    fn coz_rng_poisson(seed: u64, rates: *const c_void, error: *mut c_char, length: usize) -> *mut c_void;
    fn coz_rng_multinomial(seed: u64, shares: *const c_void, error: *mut c_char, length: usize) -> *mut c_void;
}

/// Normally distributed numbers of 32 bits on the CPU.
///
/// # Errors
/// Where there is no memory for them.
pub fn randn(seed: u64, shape: &[i64]) -> Result<Tensor, TchError> {
    // SAFETY: so many sizes are read.
    made(|error, length| unsafe { coz_rng_randn(seed, shape.as_ptr(), shape.len(), error, length) })
}

/// Counts with these means, on the CPU.
///
/// # Errors
/// Where a mean is below zero.
pub fn poisson(seed: u64, rates: &Tensor) -> Result<Tensor, TchError> {
    // SAFETY: the tensor lives, and is only read.
    made(|error, length| unsafe { coz_rng_poisson(seed, rates.as_ptr().cast(), error, length) })
}

/// An index, drawn from `shares` (`[N]`, on the CPU, none below zero).
///
/// # Errors
/// Where the shares are none.
pub fn multinomial(seed: u64, shares: &Tensor) -> Result<Tensor, TchError> {
    // SAFETY: the tensor lives, and is only read.
    made(|error, length| unsafe { coz_rng_multinomial(seed, shares.as_ptr().cast(), error, length) })
}

fn made(call: impl FnOnce(*mut c_char, usize) -> *mut c_void) -> Result<Tensor, TchError> {
    let mut tensor = std::ptr::null_mut();
    let reason = reason(|error, length| tensor = call(error, length));
    match tensor.is_null() {
        true => Err(TchError::Torch(reason)),
        // SAFETY: a tensor that nobody else has.
        false => Ok(unsafe { Tensor::from_ptr(tensor.cast()) }),
    }
}

static GENERATOR: Mutex<()> = Mutex::new(());

/// What `draw` returns, with libtorch's one generator of the process at the beginning of `seed`: for what draws from that
/// alone, such as the first weights in training. All others wait for it.
pub fn seeded<T>(seed: u64, draw: impl FnOnce() -> T) -> T {
    let _locked = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    #[allow(clippy::disallowed_methods, reason = "the one place")]
    tch::manual_seed(seed.cast_signed());
    draw()
}

/// Noise for tests, another with every call.
#[cfg(test)]
pub(crate) fn noise(shape: &[i64]) -> Tensor {
    static CALLS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let call = CALLS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    randn(call, shape).expect("there is memory")
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn a_seed_means_the_same_beside_other_draws() {
        let draw = |seed| randn(seed, &[4, 64, 64]).expect("there is memory");
        let alone: Vec<Tensor> = (0..8).map(draw).collect();
        std::thread::scope(|scope| {
            for (seed, alone) in (0..8).zip(&alone) {
                let alone = alone.shallow_clone();
                scope.spawn(move || (0..50).for_each(|_| assert!(draw(seed).equal(&alone), "seed {seed}")));
            }
        });
    }

    #[test]
    fn numbers_are_those_of_torchs_own_generator() {
        for seed in [0, 42, 1 << 63, u64::MAX] {
            let usual = seeded(seed, || Tensor::randn([3, 17], (Kind::Float, Device::Cpu)));
            assert!(randn(seed, &[3, 17]).expect("there is memory").equal(&usual), "seed {seed}");
            let shares = usual.abs().get(0);
            let usual = seeded(seed, || shares.multinomial(1, false));
            assert!(multinomial(seed, &shares).expect("they are shares").equal(&usual), "seed {seed}");
        }
        let rates = Tensor::from_slice(&[0.5f32, 3.0, 200.0]);
        let usual = seeded(3, || rates.poisson());
        assert!(poisson(3, &rates).expect("they are rates").equal(&usual));
        let none = Tensor::zeros([4], (Kind::Float, Device::Cpu));
        assert!(multinomial(1, &none).is_err_and(|error| !error.to_string().is_empty()));
    }
}
