//! Items in the order in which a training takes them, from threads that read and degrade ahead of it.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, bounded};

use super::data::{Dataset, Sample};
use crate::runtime::compute_alone;
use crate::train::TrainError;
use crate::train::distributed::Share;

/// Samples that each worker has ready.
const PREFETCH: usize = 2;

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
