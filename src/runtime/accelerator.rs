//! What libtorch knows of a CUDA device and its bindings do not tell: memory, capability, streams. `shim.cpp` calls
//! libtorch's own interface for accelerators (`ATen/DeviceAccelerator.h`), which exists in builds without CUDA too.

use std::ffi::{CStr, c_char};
use std::sync::OnceLock;

use tch::{Cuda, Device};

/// Bytes on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// What any program may still take, and what this one keeps without using it.
    pub free: u64,
    /// The most that was used by tensors so far.
    pub peak: u64,
}

/// What there is to compute on NVIDIA devices with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CudaSupport {
    /// No NVIDIA driver is installed.
    NoDriver,
    /// There is a driver, but libtorch's CUDA half cannot be loaded: what the system says.
    NoLibraries(String),
    /// Both are there.
    Loaded,
}

unsafe extern "C" {
    fn coz_accelerator_has_driver() -> bool;
    fn coz_accelerator_load_cuda(error: *mut c_char, length: usize) -> bool;
    fn coz_accelerator_memory(device: i32, memory: *mut [u64; 2]) -> bool;
    fn coz_accelerator_trim();
    fn coz_accelerator_compute_beside(device: i32) -> bool;
}

fn number(device: Device) -> Option<i32> {
    match device {
        Device::Cuda(number) => i32::try_from(number).ok(),
        _ => None,
    }
}

/// Loads libtorch's CUDA half where there is an NVIDIA driver. Must be called before any other use of libtorch, which
/// asks once whether there is CUDA; later calls tell the same again.
pub fn cuda_support() -> &'static CudaSupport {
    static SUPPORT: OnceLock<CudaSupport> = OnceLock::new();
    SUPPORT.get_or_init(|| {
        // SAFETY: loads the driver's library where there is one, whose own start-up code touches nothing of ours; it stays.
        if !unsafe { coz_accelerator_has_driver() } {
            return CudaSupport::NoDriver;
        }
        load_cuda().map_or_else(CudaSupport::NoLibraries, |()| CudaSupport::Loaded)
    })
}

/// Loads libtorch's CUDA half, driver or not.
///
/// # Errors
/// What the system says.
pub fn load_cuda() -> Result<(), String> {
    let mut error: [c_char; 512] = [0; 512];
    // SAFETY: at most so many bytes are written, the last one a zero; loading the library only registers its kernels.
    if unsafe { coz_accelerator_load_cuda(error.as_mut_ptr(), error.len()) } {
        return Ok(());
    }
    // SAFETY: it ends with a zero, see above.
    Err(unsafe { CStr::from_ptr(error.as_ptr()) }.to_string_lossy().into_owned())
}

/// The device's memory; `None` for the processor and where the device does not tell.
pub fn memory(device: Device) -> Option<Memory> {
    let mut memory = [0; 2];
    // SAFETY: two numbers are written, and nothing else is touched.
    let is_known = unsafe { coz_accelerator_memory(number(device)?, &mut memory) };
    let [free, peak] = memory;
    is_known.then_some(Memory { free, peak })
}

/// Gives back to the device what is kept for later tensors.
pub fn trim() {
    // SAFETY: only memory that no tensor uses is given back.
    unsafe { coz_accelerator_trim() };
}

/// What this thread computes on the device from now on does not wait for what other threads compute there, nor they for
/// it; [`wait`] does.
pub(super) fn compute_beside(device: Device) {
    if let Some(number) = number(device) {
        // SAFETY: sets this thread's current stream. Where that fails all is done in one row, as usual.
        unsafe { coz_accelerator_compute_beside(number) };
    }
}

/// Waits until the device has done all it was given.
pub fn wait(device: Device) {
    if let Device::Cuda(number) = device {
        Cuda::synchronize(number as i64);
    }
}

/// Whether the processor multiplies in bfloat16; without that it is slower than float32.
pub fn processor_has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("bf16");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}
