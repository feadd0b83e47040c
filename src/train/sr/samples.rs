//! Items in the order in which a training takes them, from threads that read and degrade ahead of it.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, bounded};

use super::data::{Dataset, Sample};
use crate::runtime::compute_alone;
use crate::train::TrainError;

/// Samples that each worker has ready.
const PREFETCH: usize = 2;

/// Which items a process takes: of each `size * batch` in a row the `rank`-th batch.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Where the row begins.
    pub first: u64,
    /// Items of a micro-batch.
    pub batch: u64,
    /// This process.
    pub rank: u64,
    /// All of them.
    pub size: u64,
}

impl Share {
    /// The number of the `i`-th item of this process.
    pub fn item(&self, i: u64) -> u64 {
        self.first + i / self.batch * self.batch * self.size + self.rank * self.batch + i % self.batch
    }
}

type Worker = (Receiver<Result<Sample, TrainError>>, JoinHandle<()>);

/// Items, epoch after epoch.
pub struct Samples {
    workers: Vec<Worker>,
    next: usize,
}

impl Samples {
    /// This process's share of an endless row of items, by so many threads.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(dataset: &Arc<Dataset>, seed: u64, share: Share, workers: usize) -> std::io::Result<Self> {
        let start = |worker: usize| -> std::io::Result<Worker> {
            let (sender, receiver) = bounded(PREFETCH);
            let dataset = dataset.clone();
            let work = move || {
                compute_alone();
                let mut order = (0, dataset.order(seed, 0));
                for number in (worker as u64..).step_by(workers).map(|i| share.item(i)) {
                    let (epoch, place) = (number / dataset.len() as u64, number % dataset.len() as u64);
                    if order.0 != epoch {
                        order = (epoch, dataset.order(seed, epoch));
                    }
                    if sender.send(dataset.sample(seed, epoch, order.1[place as usize])).is_err() {
                        return;
                    }
                }
            };
            Ok((receiver, std::thread::Builder::new().name(format!("coz-data-{worker}")).spawn(work)?))
        };
        Ok(Self { workers: (0..workers).map(start).collect::<Result<_, _>>()?, next: 0 })
    }
}

impl Iterator for Samples {
    type Item = Result<Sample, TrainError>;

    /// Never `None`; an error where a photo cannot be read.
    fn next(&mut self) -> Option<Self::Item> {
        let (receiver, _) = &self.workers[self.next % self.workers.len()];
        self.next += 1;
        let ended = |_| Err(TrainError::Stopped("a thread that reads photos has ended".into()));
        Some(receiver.recv().unwrap_or_else(ended))
    }
}

impl Drop for Samples {
    /// Nobody computes any more when the program ends.
    fn drop(&mut self) {
        let threads: Vec<JoinHandle<()>> = self.workers.drain(..).map(|(_, thread)| thread).collect();
        for thread in threads {
            // What panicked there was reported where its samples did not come.
            _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_share_what_one_would_take() {
        let share = |rank: u64| Share { first: 100, batch: 2, rank, size: 3 };
        let of = |rank: u64| (0..4).map(|i| share(rank).item(i)).collect::<Vec<_>>();
        assert_eq!([of(0), of(1), of(2)], [[100, 101, 106, 107], [102, 103, 108, 109], [104, 105, 110, 111]]);
    }
}
