//! The engine: the one thread that owns all models. Commands in, events out, both plain data; tensors never cross.
//!
//! The latest job wins: starting one stops the one before at its next tile or stage.

mod full_image;
mod message;
mod models;
mod outbox;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender};
use message::Command;
pub use message::{Event, Job, JobId, JobOutcome, Restorer, StepOutput};

/// Called after each event was sent, to wake whoever receives them.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// A handle to the engine's thread. Dropping it stops the thread.
pub struct Engine {
    commands: Sender<Command>,
    events: Receiver<Event>,
    /// The only job that may run; the worker compares its own job with it at every checkpoint.
    active_job: Arc<AtomicU64>,
    /// The only prefetch that is still of use, and what it is for.
    active_prefetch: Arc<AtomicU64>,
    prefetched: Option<Job>,
    next: u64,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Engine {
    /// Starts the thread. Nothing is loaded before the first job.
    pub fn start(wake: Wake) -> std::io::Result<Self> {
        let (commands, inbox) = crossbeam_channel::unbounded();
        let (sender, events) = crossbeam_channel::unbounded();
        let (active_job, active_prefetch) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let worker = (outbox::Outbox::new(sender, wake), active_job.clone(), active_prefetch.clone());
        // Built on its own thread: what it owns never leaves it.
        let run = move || worker::Worker::new(worker.0, worker.1, worker.2).run(&inbox);
        let thread = std::thread::Builder::new().name("coz-engine".into()).spawn(run)?;
        Ok(Self { commands, events, active_job, active_prefetch, prefetched: None, next: 1, thread: Some(thread) })
    }

    /// Starts a job; a running one is stopped.
    pub fn run(&mut self, job: Job) -> JobId {
        self.drop_other_prefetch(&job);
        self.send(|id| Command::Run(id, job))
    }

    /// Only extracts the prompt for the job's first step; a running job is stopped.
    pub fn caption(&mut self, job: Job) -> JobId {
        self.drop_other_prefetch(&job);
        self.send(|id| Command::Caption(id, job))
    }

    /// Does ahead what the job's first step will need, while nothing else runs; earlier prefetches are dropped. A real
    /// job never waits for it, unless it is the same work.
    pub fn prepare(&mut self, job: Job) -> JobId {
        let id = JobId(self.next);
        self.next += 1;
        self.active_prefetch.store(id.0, Ordering::Release);
        self.prefetched = Some(job.clone());
        _ = self.commands.send(Command::Prepare(id, job));
        id
    }

    /// Has the model loaded and a step of this width and height estimated, where that takes but a moment.
    pub fn estimate(&self, restorer: Restorer, size: (u32, u32)) {
        _ = self.commands.send(Command::Estimate(restorer, size));
    }

    /// The box that was being placed is no longer.
    pub fn drop_prefetch(&mut self) {
        self.prefetched = None;
        self.active_prefetch.store(0, Ordering::Release);
    }

    fn drop_other_prefetch(&mut self, job: &Job) {
        let same = |other: &Job| other.begins_like(job) && other.restorer == job.restorer;
        if !self.prefetched.as_ref().is_some_and(same) {
            self.drop_prefetch();
        }
    }

    fn send(&mut self, command: impl FnOnce(JobId) -> Command) -> JobId {
        let id = JobId(self.next);
        self.next += 1;
        self.active_job.store(id.0, Ordering::Release);
        // The thread outlives this handle's use of it; were it gone, no event would come and nothing would break.
        _ = self.commands.send(command(id));
        id
    }

    /// Stops whatever runs, at its next tile or stage.
    pub fn cancel(&self) {
        self.active_job.store(0, Ordering::Release);
    }

    /// What happened since the last call.
    pub fn events(&self) -> &Receiver<Event> {
        &self.events
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.cancel();
        self.drop_prefetch();
        _ = self.commands.send(Command::Quit);
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}
