//! What libtorch knows of a CUDA device and its bindings do not tell: memory, capability, streams. `shim.cpp` calls
//! libtorch's own interface for accelerators (`ATen/DeviceAccelerator.h`), which exists in builds without CUDA too.

use std::ffi::{c_char, c_void};
use std::sync::OnceLock;

use tch::{Device, TchError};

use super::driver::driver;
use super::message::{checked, reason};

/// Bytes on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// What any program may still take, and what this one keeps without using it.
    pub free: u64,
    /// What is used by tensors.
    pub used: u64,
    /// The most that was used by tensors so far, or since [`reset_peak`].
    pub peak: u64,
    /// What this program has taken, used or kept.
    pub reserved: u64,
    /// The most of that.
    pub reserved_peak: u64,
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
    fn coz_accelerator_load_cuda(error: *mut c_char, length: usize) -> bool;
    fn coz_accelerator_memory(device: i32, memory: *mut [u64; 5]) -> bool;
    fn coz_accelerator_reset_peak(device: i32);
    fn coz_accelerator_trim();
    fn coz_accelerator_compute_beside(device: i32) -> bool;
    fn coz_accelerator_stream(device: i32, error: *mut c_char, length: usize) -> *mut c_void;
    fn coz_accelerator_choose_kernels();
    fn coz_accelerator_allow_tf32(allowed: bool);
    fn coz_accelerator_wait(device: i32, error: *mut c_char, length: usize) -> bool;
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
        // Elsewhere than on Linux libtorch's CUDA half is linked, and asks the driver itself.
        if cfg!(target_os = "linux") && driver().is_none() {
            return CudaSupport::NoDriver;
        }
        load_cuda().map_or_else(CudaSupport::NoLibraries, |()| {
            // SAFETY: sets a preference, before anything is computed.
            unsafe { coz_accelerator_choose_kernels() };
            CudaSupport::Loaded
        })
    })
}

/// Loads libtorch's CUDA half, driver or not.
///
/// # Errors
/// What the system says.
pub fn load_cuda() -> Result<(), String> {
    let mut is_loaded = false;
    // SAFETY: loading the library only registers its kernels.
    let reason = reason(|error, length| is_loaded = unsafe { coz_accelerator_load_cuda(error, length) });
    if is_loaded { Ok(()) } else { Err(reason) }
}

/// The device's memory; `None` for the processor and where the device does not tell.
pub fn memory(device: Device) -> Option<Memory> {
    let mut memory = [0; 5];
    // SAFETY: five numbers are written, and nothing else is touched.
    let is_known = unsafe { coz_accelerator_memory(number(device)?, &mut memory) };
    let [free, used, peak, reserved, reserved_peak] = memory;
    is_known.then_some(Memory { free, used, peak, reserved, reserved_peak })
}

/// The peak of a device's memory is what is used now.
pub fn reset_peak(device: Device) {
    if let Some(number) = number(device) {
        // SAFETY: sets a number of the allocator's statistics.
        unsafe { coz_accelerator_reset_peak(number) };
    }
}

/// Whether convolutions in float32 may round their numbers to 10 bits (TF32), which CUDA devices multiply faster. They may
/// not before this is called: 32 bits mean 32 bits.
pub fn allow_tf32(allowed: bool) {
    // SAFETY: sets a preference.
    unsafe { coz_accelerator_allow_tf32(allowed) };
}

/// Makes the device this thread's own, and returns its current stream, as CUDA's own libraries take it; the processor has none.
///
/// # Errors
/// What libtorch says.
pub(super) fn stream(device: Device) -> Result<*mut c_void, TchError> {
    let Some(number) = number(device) else { return Ok(std::ptr::null_mut()) };
    let mut stream = std::ptr::null_mut();
    // SAFETY: nothing is written but the reason. The default stream is a null pointer too.
    let reason = reason(|error, length| stream = unsafe { coz_accelerator_stream(number, error, length) });
    if reason.is_empty() { Ok(stream) } else { Err(TchError::Torch(reason)) }
}

/// Gives back to the device what is kept for later tensors.
pub fn trim() {
    // SAFETY: only memory that no tensor uses is given back.
    unsafe { coz_accelerator_trim() };
}

/// What this thread computes on the device from now on does not wait for what other threads compute there, nor they for
/// it.
pub(super) fn compute_beside(device: Device) {
    if let Some(number) = number(device) {
        // SAFETY: sets this thread's current stream. Where that fails all is done in one row, as usual.
        unsafe { coz_accelerator_compute_beside(number) };
    }
}

/// Waits until the device has done all that this thread gave it; on a stream of its own not what others did.
///
/// # Errors
/// What went wrong there since: only now is it known.
pub fn wait(device: Device) -> Result<(), TchError> {
    let Some(number) = number(device) else { return Ok(()) };
    // SAFETY: waits, and changes nothing.
    checked(|error, length| unsafe { coz_accelerator_wait(number, error, length) })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_told_and_ends_nothing() {
        assert!(wait(Device::Cpu).is_ok());
        if super::super::device::cuda_devices() == 0 {
            let error = wait(Device::Cuda(7)).expect_err("there is none").to_string();
            assert!(error.len() > 10, "{error}");
            assert_eq!(memory(Device::Cuda(7)), None);
            compute_beside(Device::Cuda(7));
        }
    }
}
