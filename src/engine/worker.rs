//! The loop on the engine's thread: builds models on first need, runs jobs step by step, turns failures into events.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};

use super::message::{Command, Done, Event, Job, JobId, Made};
use super::{Restorer, Wake};
use crate::history::{self, Making};
use crate::image::psnr::luma_psnr;
use crate::image::{Filter, Picture, colour, resize};
use crate::prompt::{Fixed, PromptInput, Prompter};
use crate::region::Region;
use crate::step::{Backbone, DeviceChoice, Progress, Stage, StepError, StepInput, SuperResolver, cuda_devices};

pub(super) struct Worker {
    outbox: Outbox,
    wanted: Arc<AtomicU64>,
    prompter: Box<dyn Prompter>,
    /// The model loaded last, with what it was loaded for.
    loaded: Option<(Backbone, DeviceChoice, Box<dyn SuperResolver>)>,
}

struct Outbox {
    events: Sender<Event>,
    wake: Wake,
}

impl Outbox {
    fn send(&self, event: Event) {
        // Nobody listens any more when the handle is being dropped; then Quit is already on its way.
        _ = self.events.send(event);
        (self.wake)();
    }
}

impl Worker {
    pub(super) fn new(events: Sender<Event>, wake: Wake, wanted: Arc<AtomicU64>) -> Self {
        Self { outbox: Outbox { events, wake }, wanted, prompter: Box::new(Fixed), loaded: None }
    }

    pub(super) fn run(mut self, inbox: &Receiver<Command>) {
        let _no_grad = tch::no_grad_guard();
        // Looking for CUDA takes a moment; here nobody waits for it.
        self.outbox.send(Event::Ready { cuda_devices: cuda_devices() });
        while let Ok(command) = inbox.recv() {
            match command {
                Command::Quit => return,
                Command::Run(id, job) => self.guarded(id, |worker| worker.chain(id, &job)),
                Command::Propose(id, job) => self.guarded(id, |worker| worker.propose(id, &job)),
            }
        }
    }

    /// Runs one job and reports how it ended; not even a panic in it ends the thread.
    fn guarded(&mut self, id: JobId, work: impl FnOnce(&mut Self) -> Result<(), StepError>) {
        let outcome = catch_unwind(AssertUnwindSafe(|| work(self))).unwrap_or_else(|panic| {
            // A model that panicked half-way is not trusted again.
            self.loaded = None;
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
            Err(StepError::Internal(text.lines().next().unwrap_or_default().to_owned()))
        });
        let done = match outcome {
            Ok(()) => Done::Completed,
            Err(StepError::Cancelled) => Done::Cancelled,
            Err(error) => Done::Failed(error.into()),
        };
        self.outbox.send(Event::Finished { job: id, done });
    }

    fn chain(&mut self, id: JobId, job: &Job) -> Result<(), StepError> {
        let mut source = job.source.clone();
        for (step, &region) in job.regions.iter().enumerate() {
            let made = self.step(id, step, job, &source, region)?;
            source = made.picture.clone();
            self.outbox.send(Event::Made { job: id, step, made: Box::new(made) });
        }
        Ok(())
    }

    fn propose(&mut self, id: JobId, job: &Job) -> Result<(), StepError> {
        if let Some(&region) = job.regions.first() {
            let (_, enlarged) = StepInput::cut(&job.source, region, job.size.0, job.size.1)?;
            let prompt = words(&mut *self.prompter, job, &job.source, &Arc::new(enlarged));
            self.outbox.send(Event::Proposed { job: id, prompt });
        }
        Ok(())
    }

    fn step(
        &mut self,
        id: JobId,
        step: usize,
        job: &Job,
        source: &Arc<Picture>,
        region: Region,
    ) -> Result<Made, StepError> {
        let (outbox, wanted) = (&self.outbox, self.wanted.clone());
        let mut told = |stage, fraction| {
            outbox.send(Event::Progress { job: id, step, stage, fraction });
            wanted.load(Ordering::Acquire) == id.0
        };
        let mut progress = Progress::new(&mut told);
        progress.at(Stage::Prompting, 0.0)?;
        let mut start = Instant::now();
        let (cut, enlarged) = StepInput::cut(source, region, job.size.0, job.size.1)?;
        let (cut, enlarged) = (Arc::new(cut), Arc::new(enlarged));
        self.outbox.send(Event::Enlarged { job: id, step, picture: enlarged.clone() });

        let reduced_only = region.width >= job.size.0 && region.height >= job.size.1;
        let (picture, prompt, model) = if reduced_only {
            (enlarged.clone(), String::new(), None)
        } else {
            let prompt = words(&mut *self.prompter, job, source, &enlarged);
            let input =
                StepInput { cut: cut.clone(), enlarged: enlarged.clone(), prompt: prompt.clone(), seed: job.seed };
            let Restorer { backbone, device, align } = &job.restorer;
            let resolver = match &mut self.loaded {
                Some((loaded, on, resolver)) if loaded == backbone && on == device => resolver,
                slot => {
                    progress.at(Stage::Loading, 0.0)?;
                    // The old one goes first: two need not fit at once.
                    *slot = None;
                    let resolver = backbone.load(device)?;
                    start = Instant::now();
                    &mut slot.insert((backbone.clone(), *device, resolver)).2
                }
            };
            let restored = resolver.restore(&input, &mut progress)?;
            (Arc::new(colour::align(*align, &restored, &enlarged)), prompt, Some(backbone.used()))
        };
        let agreement = model.is_some().then(|| {
            let reduced = resize(&picture, region.width, region.height, Filter::Bicubic);
            luma_psnr(&reduced, &cut, 0)
        });
        Ok(Made {
            thumbnail: Arc::new(history::thumbnail(&picture)),
            picture,
            enlarged,
            making: Making { region, prompt, model, seed: job.seed, agreement, elapsed: start.elapsed() },
        })
    }
}

fn words(prompter: &mut dyn Prompter, job: &Job, previous: &Arc<Picture>, enlarged: &Arc<Picture>) -> String {
    prompter.propose(&PromptInput { previous: previous.clone(), enlarged: enlarged.clone(), hint: job.prompt.clone() })
}
