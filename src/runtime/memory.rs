//! Memory plans: which fits into the memory that is free.

use std::cell::Cell;
use std::ffi::c_void;

use tch::Device;

use super::device::NoDevice;
use super::{accelerator, device};
use crate::base;
use crate::base::{DeviceChoice, MemoryPlan};

unsafe extern "C" {
    fn coz_memory_count_begin() -> *mut c_void;
    fn coz_memory_count_end(count: *mut c_void) -> i64;
}

/// What a step needs beside the weights, with room to spare: activations at 512 x 512.
pub const ACTIVATIONS: u64 = 1_500_000_000;
/// The largest piece of a text encoder that is read at once, the embedding of its tokens among them.
const TEXT_PIECES: u64 = 800_000_000;

/// Whether a device has room for so many bytes while all that is there stays. Never the system's own memory, in which other
/// programs live.
pub fn has_room(device: Device, bytes: u64) -> bool {
    device != Device::Cpu && free_memory(device).is_some_and(|free| bytes <= free)
}

/// The plan of a captioner of so many bytes, beside a super-resolution model that has no plan.
///
/// # Errors
/// Where the device is not there.
pub fn plan_for_captioner(plan: MemoryPlan, bytes: u64, device: DeviceChoice) -> Result<MemoryPlan, NoDevice> {
    if plan != MemoryPlan::Auto {
        return Ok(plan);
    }
    let device = device::resolve(device)?.text;
    let free = free_memory(device);
    Ok(free.map_or(MemoryPlan::Staged, |free| fitting([bytes, 0, 0], free, device == Device::Cpu)))
}

/// The plan for weights of so many bytes (the captioner's, those for text, those for the picture) in so much free
/// memory. `shared`: other programs live in that memory too, so it is not filled up.
pub fn fitting([captioner, text, picture]: [u64; 3], free: u64, shared: bool) -> MemoryPlan {
    let (all, most) = if shared { (free / 10 * 6, free / 10 * 8) } else { (free / 10 * 9, free / 10 * 9) };
    // Captioner and super-resolution model take turns.
    let largest = captioner.max(picture + TEXT_PIECES);
    if captioner + text + picture + ACTIVATIONS <= all {
        MemoryPlan::Resident
    } else if largest + ACTIVATIONS <= most {
        MemoryPlan::Staged
    } else {
        MemoryPlan::Streamed
    }
}

/// Bytes of weights, as in [`fitting`], that are in memory at once with a plan. What is used up of the system's memory
/// beside them is not counted.
pub fn weights_in_memory(plan: MemoryPlan, [captioner, text, picture]: [u64; 3]) -> u64 {
    let piece = text.min(TEXT_PIECES);
    match plan {
        MemoryPlan::Auto | MemoryPlan::Resident => captioner + text + picture,
        MemoryPlan::Staged => captioner.max(picture + piece),
        MemoryPlan::Streamed => piece,
    }
}

thread_local! {
    /// Bytes of numbers that are in no tensor, now and at most, since the count began.
    static OTHERS: Cell<[i64; 2]> = const { Cell::new([0; 2]) };
}

/// Counts bytes of numbers that are in no tensor and come (or go, where it is negative), for [`peak_of`].
pub fn count(bytes: i64) {
    let [now, peak] = OTHERS.get();
    OTHERS.set([now + bytes, peak.max(now + bytes)]);
}

/// What `work` returns, and the most bytes that what it makes on this thread takes at once: tensors, and what is counted by
/// [`count`].
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, u64) {
    struct Count(*mut c_void);
    impl Count {
        fn end(self) -> u64 {
            let count = std::mem::ManuallyDrop::new(self);
            // SAFETY: it was begun on this thread, and ends once.
            unsafe { coz_memory_count_end(count.0) }.max(0) as u64
        }
    }
    impl Drop for Count {
        fn drop(&mut self) {
            // SAFETY: as above; here `work` has panicked.
            unsafe { coz_memory_count_end(self.0) };
        }
    }
    // SAFETY: only numbers are written down, until the count ends.
    let count = Count(unsafe { coz_memory_count_begin() });
    let outside = OTHERS.replace([0; 2]);
    let result = work();
    let others = OTHERS.replace(outside)[1].max(0) as u64;
    (result, count.end() + others)
}

/// The most bytes of memory that this program has used so far: of a device in tensors, of the machine in all.
pub fn peak(device: Device) -> Option<u64> {
    match accelerator::memory(device) {
        Some(memory) => Some(memory.peak),
        None => base::memory::peak_resident(),
    }
}

/// Bytes that this program may still take of a device's memory.
pub fn free_memory(device: Device) -> Option<u64> {
    match device {
        Device::Cpu => base::memory::available(),
        _ => accelerator::memory(device).map(|memory| memory.free),
    }
}

/// The same of a CUDA device by its number.
pub fn free_on_cuda(number: usize) -> Option<u64> {
    free_memory(Device::Cuda(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_counted() {
        let zeros = |numbers: i64| tch::Tensor::zeros([numbers], (tch::Kind::Float, Device::Cpu));
        let (sum, peak) = peak_of(|| {
            drop(zeros(1_000_000));
            (zeros(300_000) + zeros(300_000)).sum(tch::Kind::Float).double_value(&[])
        });
        assert_eq!(sum, 0.0);
        assert!((4_000_000..4_100_000).contains(&peak), "{peak}");
        let (_, peak) = peak_of(|| {
            count(5000);
            count(-4000);
            count(2000);
        });
        assert_eq!(peak, 5000);
        let (peak_outside, peak) = peak_of(|| peak_of(|| zeros(1000)).1);
        assert!(peak_outside >= 4000 && peak < 4000, "the inner one counts its own");
    }

    #[test]
    fn the_plan_follows_the_free_memory() {
        let gb = 1_000_000_000;
        let plan = |free: u64, shared| fitting([0, 11 * gb, 4 * gb], free * gb, shared);
        assert_eq!(
            [80, 12, 5].map(|free| plan(free, false)),
            [MemoryPlan::Resident, MemoryPlan::Staged, MemoryPlan::Streamed]
        );
        assert_eq!(
            [30, 20, 7].map(|free| plan(free, true)),
            [MemoryPlan::Resident, MemoryPlan::Staged, MemoryPlan::Streamed]
        );
        // Beside a captioner.
        let plan = |free: u64| fitting([8 * gb, 11 * gb, 4 * gb], free * gb, false);
        assert_eq!([30, 24, 9].map(plan), [MemoryPlan::Resident, MemoryPlan::Staged, MemoryPlan::Streamed]);
    }
}
