//! Memory plans: which fits into the memory that is free.

use tch::Device;

use super::device::NoDevice;
use super::{accelerator, device};
use crate::base;
use crate::base::{DeviceChoice, MemoryPlan};

/// What a step needs beside the weights, with room to spare: activations at 512 x 512.
const ACTIVATIONS: u64 = 1_500_000_000;
/// The largest piece of a text encoder that is read at once, the embedding of its tokens among them.
const TEXT_PIECES: u64 = 800_000_000;

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

/// Bytes that this program may still take of a device's memory.
pub fn free_memory(device: Device) -> Option<u64> {
    match device {
        Device::Cpu => base::memory::available(),
        _ => accelerator::memory(device).map(|memory| memory.free),
    }
}

/// The most that tensors have occupied on the CUDA device that sees the picture.
pub fn peak_on_device(choice: DeviceChoice) -> Option<u64> {
    accelerator::memory(device::resolve(choice).ok()?.picture).map(|memory| memory.peak)
}

#[cfg(test)]
mod tests {
    use super::*;

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
