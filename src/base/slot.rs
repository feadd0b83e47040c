//! Work beside the caller's thread, of which only the latest counts (as editors do it: helix's `TaskController`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Numbers all work of the process.
static GENERATIONS: AtomicU64 = AtomicU64::new(1);

/// Tells work to stop; clones are the same token.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// From now on the work is of no use.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it is of no use any more.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// One piece of work: its answers carry the generation, and it stops with the token.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// Never used twice.
    pub generation: u64,
    /// To be asked now and then.
    pub cancel: CancelToken,
}

/// A place for one piece of work. Starting another cancels the one before, dropping cancels, and late answers of what is
/// not in it any more are told by their generation.
#[derive(Debug, Default)]
pub struct Slot(Option<Ticket>);

impl Slot {
    /// Begins new work.
    pub fn start(&mut self) -> Ticket {
        self.start_with(CancelToken::default())
    }

    /// Begins work that goes on with other work, whose token becomes its own.
    pub fn adopt(&mut self, other: Ticket) -> Ticket {
        self.start_with(other.cancel)
    }

    fn start_with(&mut self, cancel: CancelToken) -> Ticket {
        self.clear();
        let ticket = Ticket { generation: GENERATIONS.fetch_add(1, Ordering::Relaxed), cancel };
        self.0.insert(ticket).clone()
    }

    /// What is in it, begun now where there is nothing: for work that comes in many pieces.
    pub fn ticket(&mut self) -> Ticket {
        match &self.0 {
            Some(ticket) => ticket.clone(),
            None => self.start(),
        }
    }

    /// Cancels what is in it; its last answer is still of interest.
    pub fn cancel(&self) {
        if let Some(ticket) = &self.0 {
            ticket.cancel.cancel();
        }
    }

    /// Cancels what is in it; none of its answers are of interest.
    pub fn clear(&mut self) {
        self.cancel();
        self.0 = None;
    }

    /// Gives away what is in it, uncancelled.
    pub fn take(&mut self) -> Option<Ticket> {
        self.0.take()
    }

    /// Takes an answer: whether it is of what is in here, which is done with it.
    pub fn finish(&mut self, generation: u64) -> bool {
        let is_current = self.is_current(generation);
        if is_current {
            self.0 = None;
        }
        is_current
    }

    /// Whether answers of this generation are of interest.
    pub fn is_current(&self, generation: u64) -> bool {
        self.0.as_ref().is_some_and(|ticket| ticket.generation == generation)
    }

    /// Whether something is in it.
    pub fn is_busy(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_latest_counts() {
        let mut slot = Slot::default();
        let (first, second) = (slot.start(), slot.start());
        assert!(first.cancel.is_cancelled() && !second.cancel.is_cancelled());
        assert!(!slot.finish(first.generation) && slot.is_busy(), "a late answer ends nothing");
        assert!(slot.finish(second.generation) && !slot.is_busy());

        let begun = slot.start();
        let mut other = Slot::default();
        let adopted = other.adopt(slot.take().expect("it is in there"));
        drop(slot);
        assert!(!begun.cancel.is_cancelled(), "who gave it away does not stop it");
        other.cancel();
        assert!(begun.cancel.is_cancelled() && other.is_current(adopted.generation));
    }
}
