//! libtorch as a machine: devices, memory, weights as tensors, networks that come and go. Knows no network.

pub mod accelerator;
pub mod allocator;
pub mod device;
pub mod driver;
mod layers;
mod lazy_model;
pub mod memory;
mod message;
pub mod nccl;
pub mod operators;
pub mod precision;
pub mod rng;
pub mod speed;
pub mod store;
pub mod tensor;
pub mod trace;
mod warnings;
pub mod weights;

pub use layers::Layers;
pub use lazy_model::LazyModel;
pub use warnings::log_warnings;

unsafe extern "C" {
    fn coz_compute_alone();
}

/// What this thread computes from now on it computes alone: others beside it do the same.
pub fn compute_alone() {
    // SAFETY: sets this thread's number of threads.
    unsafe { coz_compute_alone() };
}

/// While this lives, this thread computes without keeping what training would need.
pub fn without_gradients() -> impl Drop {
    tch::no_grad_guard()
}
