//! The engine: the one thread that owns all models. Commands in, events out, both plain data; tensors never cross.
//!
//! The latest job wins: starting one stops the one before at its next tile or stage.

mod fits;
mod full_image;
mod message;
mod models;
mod network_facts;
mod outbox;
mod prompt_server;
mod scoring;
mod worker;

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
pub use full_image::LARGEST;
use message::Command;
pub use message::{Event, Job, JobId, JobOutcome, Restorer, StepOutput};
pub use network_facts::{NetworkFacts, is_network};
pub use prompt_server::ServerTrial;
pub use scoring::ScoreRequest;

use crate::base::{Backbone, DeviceChoice, Slot, Ticket};

/// Called after each event was sent, to wake whoever receives them.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// A handle to the engine's thread. Dropping it stops the thread.
pub struct Engine {
    commands: Sender<Command>,
    events: Receiver<Event>,
    job: Slot,
    prefetch: Slot,
    measuring: Slot,
    scoring: Slot,
    /// What the prefetch is for.
    prefetched: Option<Job>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Engine {
    /// Starts the thread. Nothing is loaded before the first job.
    pub fn start(wake: Wake) -> std::io::Result<Self> {
        let (commands, inbox) = crossbeam_channel::unbounded();
        let (sender, events) = crossbeam_channel::unbounded();
        let outbox = outbox::Outbox::new(sender, wake);
        // Built on its own thread: what it owns never leaves it.
        let run = move || worker::Worker::new(outbox).run(&inbox);
        let thread = std::thread::Builder::new().name("coz-engine".into()).spawn(run)?;
        let (job, prefetch, measuring, scoring) = Default::default();
        Ok(Self { commands, events, job, prefetch, measuring, scoring, prefetched: None, thread: Some(thread) })
    }

    /// Starts a job; a running one is stopped.
    pub fn run(&mut self, job: Job) -> JobId {
        let ticket = self.begin(&job);
        let id = JobId::from(&ticket);
        self.send(Command::Run(ticket, job));
        id
    }

    /// Only extracts the prompt for the job's first step; a running job is stopped.
    pub fn caption(&mut self, job: Job) -> JobId {
        let ticket = self.begin(&job);
        let id = JobId::from(&ticket);
        self.send(Command::Caption(ticket, job));
        id
    }

    /// A job takes over what was prefetched for it, and with it what stops that; else it is dropped.
    fn begin(&mut self, job: &Job) -> Ticket {
        self.measuring.clear();
        self.scoring.clear();
        let is_for = |other: Job| other.begins_like(job) && other.restorer == job.restorer;
        match self.prefetched.take().is_some_and(is_for).then(|| self.prefetch.take()).flatten() {
            Some(prefetch) => self.job.adopt(prefetch),
            None => {
                self.prefetch.clear();
                self.job.start()
            }
        }
    }

    /// Does ahead what the job's first step will need, while nothing else runs; earlier prefetches are dropped. A real
    /// job never waits for it, unless it is the same work.
    pub fn prepare(&mut self, job: Job) -> JobId {
        self.measuring.clear();
        let ticket = self.prefetch.start();
        let id = JobId::from(&ticket);
        self.prefetched = Some(job.clone());
        self.send(Command::Prepare(ticket, job));
        id
    }

    /// Has the model opened, and told what a step to a result of this width and height takes.
    pub fn estimate(&self, restorer: Restorer, size: (u32, u32)) {
        self.send(Command::Estimate(restorer, size));
    }

    /// Finds out what a network is and how fast it is on this device, while nothing else runs: whatever comes next stops it.
    pub fn measure(&mut self, backbone: Backbone, device: DeviceChoice) {
        let ticket = self.measuring.start();
        self.send(Command::Measure(ticket, backbone, device));
    }

    /// Scores states, while no job runs: one that comes stops it.
    pub fn score(&mut self, request: ScoreRequest) {
        let ticket = self.scoring.start();
        self.send(Command::Score(ticket, request));
    }

    /// The box that was being placed is no longer.
    pub fn drop_prefetch(&mut self) {
        self.prefetched = None;
        self.prefetch.clear();
    }

    /// Stops whatever runs, at its next tile or stage.
    pub fn cancel(&self) {
        self.job.cancel();
    }

    /// The photo is closed: stops whatever runs, and lets its pictures go.
    pub fn close_document(&mut self) {
        self.cancel();
        self.drop_prefetch();
        self.scoring.clear();
        self.send(Command::Forget);
    }

    fn send(&self, command: Command) {
        // The thread outlives this handle's use of it; were it gone, no event would come and nothing would break.
        _ = self.commands.send(command);
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
        self.measuring.clear();
        self.scoring.clear();
        self.send(Command::Quit);
        if let Some(thread) = self.thread.take() {
            // What panicked there is an event and in the log already.
            _ = thread.join();
        }
    }
}
