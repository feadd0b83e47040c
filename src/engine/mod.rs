//! The engine: the one thread that owns all models. Commands in, events out, both plain data; tensors never cross.
//!
//! The latest job wins: starting one stops the one before at its next tile or stage.

mod message;
mod models;
mod whole;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender};

use message::Command;
pub use message::{Done, Event, Job, JobId, Made, Restorer};

/// Called after each event was sent, to wake whoever receives them.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// A handle to the engine's thread. Dropping it stops the thread.
pub struct Engine {
    commands: Sender<Command>,
    events: Receiver<Event>,
    /// The only job that may run; the worker compares its own job with it at every checkpoint.
    wanted: Arc<AtomicU64>,
    /// The only work ahead that is still of use, and what it is for.
    wanted_ahead: Arc<AtomicU64>,
    ahead: Option<Job>,
    next: u64,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Engine {
    /// Starts the thread. Nothing is loaded before the first job.
    pub fn start(wake: Wake) -> std::io::Result<Self> {
        let (commands, inbox) = crossbeam_channel::unbounded();
        let (outbox, events) = crossbeam_channel::unbounded();
        let wanted = Arc::new(AtomicU64::new(0));
        let wanted_ahead = Arc::new(AtomicU64::new(0));
        let (still_wanted, still_ahead) = (wanted.clone(), wanted_ahead.clone());
        // Built on its own thread: what it owns never leaves it.
        let run = move || worker::Worker::new(outbox, wake, still_wanted, still_ahead).run(&inbox);
        let thread = std::thread::Builder::new().name("coz-engine".into()).spawn(run)?;
        Ok(Self { commands, events, wanted, wanted_ahead, ahead: None, next: 1, thread: Some(thread) })
    }

    /// Starts a job; a running one is stopped.
    pub fn run(&mut self, job: Job) -> JobId {
        self.drop_other_work_ahead(&job);
        self.send(|id| Command::Run(id, job))
    }

    /// Only finds the words for the job's first step; a running job is stopped.
    pub fn propose(&mut self, job: Job) -> JobId {
        self.drop_other_work_ahead(&job);
        self.send(|id| Command::Propose(id, job))
    }

    /// Does ahead what the job's first step will need, while nothing else runs; earlier work ahead is dropped. A real
    /// job never waits for it, unless it is the same work.
    pub fn prepare(&mut self, job: Job) -> JobId {
        let id = JobId(self.next);
        self.next += 1;
        self.wanted_ahead.store(id.0, Ordering::Release);
        self.ahead = Some(job.clone());
        _ = self.commands.send(Command::Prepare(id, job));
        id
    }

    /// Has the model loaded and a step of this width and height estimated, where that takes but a moment.
    pub fn estimate(&self, restorer: Restorer, size: (u32, u32)) {
        _ = self.commands.send(Command::Estimate(restorer, size));
    }

    /// The box that was being placed is no longer.
    pub fn drop_work_ahead(&mut self) {
        self.ahead = None;
        self.wanted_ahead.store(0, Ordering::Release);
    }

    fn drop_other_work_ahead(&mut self, job: &Job) {
        let same = |ahead: &Job| ahead.begins_like(job) && ahead.restorer == job.restorer;
        if !self.ahead.as_ref().is_some_and(same) {
            self.drop_work_ahead();
        }
    }

    fn send(&mut self, command: impl FnOnce(JobId) -> Command) -> JobId {
        let id = JobId(self.next);
        self.next += 1;
        self.wanted.store(id.0, Ordering::Release);
        // The thread outlives this handle's use of it; were it gone, no event would come and nothing would break.
        _ = self.commands.send(command(id));
        id
    }

    /// Stops whatever runs, at its next tile or stage.
    pub fn cancel(&self) {
        self.wanted.store(0, Ordering::Release);
    }

    /// What happened since the last call.
    pub fn events(&self) -> &Receiver<Event> {
        &self.events
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.cancel();
        self.drop_work_ahead();
        _ = self.commands.send(Command::Quit);
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}
