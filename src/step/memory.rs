//! How much of a model is in memory at once, and the parts that come and go by that plan.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tch::Device;

use super::{DeviceChoice, Progress, Stage, StepError};
use crate::models::{Reading, Told, Weights, accelerator, heap};

/// What a step needs beside the weights, with room to spare: activations at 512 x 512.
const ACTIVATIONS: u64 = 1_500_000_000;
/// The largest piece of a text encoder that is read at once, the embedding of its tokens among them.
const TEXT_PIECES: u64 = 800_000_000;

/// Which of a model's weights stay in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryPlan {
    /// One of the others, by the free memory.
    #[default]
    Auto,
    /// All of them.
    Resident,
    /// Those that see the picture. Text encoders are read layer by layer for each new prompt, and dropped; what finds words
    /// and what makes pictures take turns.
    Staged,
    /// None: every layer is read when it is its turn, while the one before computes.
    Streamed,
}

impl MemoryPlan {
    /// All, as people write and read them.
    pub const ALL: [(Self, &str); 4] =
        [(Self::Auto, "auto"), (Self::Resident, "resident"), (Self::Staged, "staged"), (Self::Streamed, "streamed")];

    /// The plan that needs less.
    pub fn smaller(self) -> Option<Self> {
        match self {
            Self::Auto | Self::Resident => Some(Self::Staged),
            Self::Staged => Some(Self::Streamed),
            Self::Streamed => None,
        }
    }

    /// The plan of a model of so many bytes that finds words, beside one that has no plan.
    pub(crate) fn for_words(self, bytes: u64, device: DeviceChoice) -> Result<Self, StepError> {
        if self != Self::Auto {
            return Ok(self);
        }
        let device = device.resolve()?.text;
        let free = free_memory(device);
        Ok(free.map_or(Self::Staged, |free| Self::fitting([bytes, 0, 0], free, device == Device::Cpu)))
    }

    /// The plan for weights of so many bytes (those that find words, those for text, those for the picture) in so much
    /// free memory. `shared`: other programs live in that memory too, so it is not filled up.
    pub(crate) fn fitting([words, text, picture]: [u64; 3], free: u64, shared: bool) -> Self {
        let (all, most) = if shared { (free / 10 * 6, free / 10 * 8) } else { (free / 10 * 9, free / 10 * 9) };
        // What finds words and what makes pictures take turns.
        let largest = words.max(picture + TEXT_PIECES);
        if words + text + picture + ACTIVATIONS <= all {
            Self::Resident
        } else if largest + ACTIVATIONS <= most {
            Self::Staged
        } else {
            Self::Streamed
        }
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(plan, _)| plan == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

impl FromStr for MemoryPlan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().find(|(_, name)| *name == text);
        known
            .map(|(plan, _)| *plan)
            .ok_or_else(|| format!("expected auto, resident, staged or streamed, found {text:?}"))
    }
}

/// Bytes that this program may still take of the machine's memory.
pub fn free_memory_of_machine() -> Option<u64> {
    let mut system = sysinfo::System::new().ok()?;
    system.refresh_memory();
    // A container's limit is lower than what the machine has.
    let limit = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    Some(system.available_memory().min(limit))
}

/// The same on a device.
pub(crate) fn free_memory(device: Device) -> Option<u64> {
    match device {
        Device::Cpu => free_memory_of_machine(),
        _ => accelerator::memory(device).map(|memory| memory.free),
    }
}

/// Bytes of memory this program occupies, mapped files that were read included.
pub fn memory_of_process() -> Option<u64> {
    memory_stats::memory_stats().map(|stats| stats.physical_mem as u64)
}

/// The most it has occupied so far; `None` where the system does not tell.
pub fn peak_memory_of_process() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

/// The most that tensors have occupied on the CUDA device that sees the picture.
pub fn peak_memory_of(device: DeviceChoice) -> Option<u64> {
    accelerator::memory(device.resolve().ok()?.picture).map(|memory| memory.peak)
}

type Open<N> = dyn Fn(Reading, Told) -> Result<N, StepError> + Send;

/// One network of a model, in memory while the plan says so.
pub(crate) struct Part<N> {
    open: Box<Open<N>>,
    /// All that is read for it.
    weights: Vec<Weights>,
    /// How many numbers that is.
    numbers: u64,
    network: Option<N>,
    reading: Reading,
    keep: bool,
}

impl<N> Part<N> {
    /// Compares all names and shapes and reads nothing yet.
    pub fn new(
        weights: Vec<Weights>,
        open: impl Fn(Reading, Told) -> Result<N, StepError> + Send + 'static,
    ) -> Result<Self, StepError> {
        let mut numbers = 0;
        let mut counted = |some: u64| {
            numbers += some;
            true
        };
        open(Reading::Checked, &mut counted)?;
        Ok(Self { open: Box::new(open), weights, numbers, network: None, reading: Reading::Lent, keep: true })
    }

    /// Whole and for good, or layer by layer for each use.
    pub fn plan(&mut self, keep: bool) {
        self.keep = keep;
        self.reading = if keep { Reading::Lent } else { Reading::Streamed };
    }

    /// Bytes of its weights at so many a number.
    pub fn bytes(&self, size: usize) -> u64 {
        self.numbers * size as u64
    }

    /// The network, read now where it is not there.
    pub fn read(&mut self, progress: &mut Progress) -> Result<&N, StepError> {
        match &mut self.network {
            Some(network) => Ok(network),
            empty => {
                let (all, mut done) = (self.numbers.max(1), 0);
                // Where layers are read as they are used, there is nothing to wait for now.
                let keep = self.keep;
                let mut told = |numbers: u64| {
                    done += numbers;
                    !keep || progress.at(Stage::Loading, done as f32 / all as f32).is_ok()
                };
                Ok(empty.insert((self.open)(self.reading, &mut told)?))
            }
        }
    }

    /// The same, and what its memory was is given back: another model needs it now.
    pub fn make_room(&mut self) {
        self.leave();
        heap::give_back();
        accelerator::give_back();
    }

    /// It is not needed for now: it goes, unless it is to stay.
    pub fn done(&mut self) {
        if !self.keep {
            self.leave();
        }
    }

    /// It goes, to be read again when it is asked for.
    pub fn leave(&mut self) {
        self.network = None;
        self.weights.iter().for_each(Weights::release);
    }
}

impl<N> Drop for Part<N> {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_follows_the_free_memory() {
        let gb = 1_000_000_000;
        let plan = |free: u64, shared| MemoryPlan::fitting([0, 11 * gb, 4 * gb], free * gb, shared);
        assert_eq!(
            [80, 12, 5].map(|free| plan(free, false)),
            [MemoryPlan::Resident, MemoryPlan::Staged, MemoryPlan::Streamed]
        );
        assert_eq!(
            [30, 20, 7].map(|free| plan(free, true)),
            [MemoryPlan::Resident, MemoryPlan::Staged, MemoryPlan::Streamed]
        );
        // Beside a model that finds words.
        let plan = |free: u64| MemoryPlan::fitting([8 * gb, 11 * gb, 4 * gb], free * gb, false);
        assert_eq!([30, 24, 9].map(plan), [MemoryPlan::Resident, MemoryPlan::Staged, MemoryPlan::Streamed]);
    }

    #[test]
    fn there_is_free_memory_to_tell_of() {
        assert!(free_memory(Device::Cpu).is_some_and(|free| free > 1_000_000));
    }
}
