//! Networks that are in memory while the memory plan says so.

use super::weights::{LoadMode, OnRead, Weights, WeightsError};
use super::{accelerator, allocator};
use crate::base::{Progress, Stage};

type Open<N> = dyn Fn(LoadMode, OnRead) -> Result<N, WeightsError> + Send;

/// One network of a model, opened when it is first used.
pub struct LazyModel<N> {
    open: Box<Open<N>>,
    /// All that is read for it.
    weights: Vec<Weights>,
    /// How many numbers that is.
    numbers: u64,
    network: Option<N>,
    mode: LoadMode,
    keep: bool,
}

impl<N> LazyModel<N> {
    /// Compares all names and shapes and reads nothing yet.
    pub fn new(
        weights: Vec<Weights>,
        open: impl Fn(LoadMode, OnRead) -> Result<N, WeightsError> + Send + 'static,
    ) -> Result<Self, WeightsError> {
        let mut numbers = 0;
        let mut on_read = |some: u64| {
            numbers += some;
            true
        };
        open(LoadMode::ShapesOnly, &mut on_read)?;
        Ok(Self { open: Box::new(open), weights, numbers, network: None, mode: LoadMode::Mmap, keep: true })
    }

    /// Kept whole between uses, or read layer by layer for each.
    pub fn set_keep(&mut self, keep: bool) {
        if std::mem::replace(&mut self.keep, keep) != keep {
            self.unload();
        }
        self.mode = if keep { LoadMode::Mmap } else { LoadMode::Stream };
    }

    /// Bytes of its weights at so many a number.
    pub fn bytes(&self, element_size: usize) -> u64 {
        self.numbers * element_size as u64
    }

    /// Whether it is in memory.
    pub fn is_open(&self) -> bool {
        self.network.is_some()
    }

    /// The network, read now where it is not in memory.
    pub fn get(&mut self, progress: &mut Progress) -> Result<&N, WeightsError> {
        match &mut self.network {
            Some(network) => Ok(network),
            empty => {
                let (all, mut done) = (self.numbers.max(1), 0);
                // Where layers are read as they are used, there is nothing to wait for now.
                let keep = self.keep;
                let mut on_read = |numbers: u64| {
                    done += numbers;
                    !keep || progress.at(Stage::Loading, done as f32 / all as f32).is_ok()
                };
                Ok(empty.insert((self.open)(self.mode, &mut on_read)?))
            }
        }
    }

    /// It goes, and the system gets back what its memory was: another model needs it now.
    pub fn unload_and_trim(&mut self) {
        self.unload();
        allocator::trim();
        accelerator::trim();
    }

    /// It is not needed for now: it goes, unless it is to be kept.
    pub fn unload_unless_kept(&mut self) {
        if !self.keep {
            self.unload();
        }
    }

    /// It goes, to be read again when it is asked for.
    pub fn unload(&mut self) {
        self.network = None;
        self.weights.iter().for_each(Weights::release);
    }
}

impl<N> Drop for LazyModel<N> {
    fn drop(&mut self) {
        self.unload();
    }
}
