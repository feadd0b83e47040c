//! The loop on the engine's thread: builds models on first need, runs jobs step by step, turns failures into events.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};

use super::message::{Command, Done, Event, Job, JobId, Made};
use super::{Restorer, Wake};
use crate::digest;
use crate::history::{self, Making};
use crate::image::psnr::luma_psnr;
use crate::image::{Filter, Picture, colour, resize};
use crate::prompt::{Fixed, PromptInput, Prompter};
use crate::region::Region;
use crate::step::{
    self, Backbone, DeviceChoice, MemoryPlan, ModelUsed, Progress, Stage, StepError, StepInput, SuperResolver,
    cuda_devices,
};

pub(super) struct Worker {
    outbox: Outbox,
    wanted: Arc<AtomicU64>,
    prompter: Box<dyn Prompter>,
    loaded: Option<Loaded>,
    /// The only work ahead that is still of use.
    wanted_ahead: Arc<AtomicU64>,
    ahead: Option<Ahead>,
}

/// What was done for a box before it was asked for.
struct Ahead {
    source: Arc<Picture>,
    region: Region,
    size: (u32, u32),
    hint: String,
    cut: Arc<Picture>,
    enlarged: Arc<Picture>,
    prompt: String,
}

impl Ahead {
    fn is_for(&self, source: &Arc<Picture>, region: Region, job: &Job) -> bool {
        Arc::ptr_eq(&self.source, source) && (self.region, self.size, &self.hint) == (region, job.size, &job.prompt)
    }
}

/// The model loaded last, with what it was loaded for.
struct Loaded {
    backbone: Backbone,
    device: DeviceChoice,
    memory: MemoryPlan,
    /// The same backbone, with what it left to the device decided.
    settled: Backbone,
    sha256: Option<String>,
    resolver: Box<dyn SuperResolver>,
}

impl Loaded {
    fn is_for(&self, restorer: &Restorer) -> bool {
        (&self.backbone, self.device, self.memory) == (&restorer.backbone, restorer.device, restorer.memory)
    }
}

#[derive(Clone)]
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
    pub(super) fn new(events: Sender<Event>, wake: Wake, wanted: Arc<AtomicU64>, wanted_ahead: Arc<AtomicU64>) -> Self {
        let outbox = Outbox { events, wake };
        Self { outbox, wanted, prompter: Box::new(Fixed), loaded: None, wanted_ahead, ahead: None }
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
                Command::Prepare(id, job) => self.guarded_ahead(id, &job),
            }
        }
    }

    /// Runs one job and reports how it ended; not even a panic in it ends the thread.
    fn guarded(&mut self, id: JobId, work: impl FnOnce(&mut Self) -> Result<(), StepError>) {
        let outcome = catch_unwind(AssertUnwindSafe(|| work(self))).unwrap_or_else(|panic| {
            // A model that panicked half-way is not trusted again.
            self.free();
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
            Err(StepError::Internal(text.lines().next().unwrap_or_default().to_owned()))
        });
        if outcome.as_ref().is_err_and(StepError::is_out_of_memory) {
            self.free();
        }
        let done = match outcome {
            Ok(()) => Done::Completed,
            Err(StepError::Cancelled) => Done::Cancelled,
            Err(error) => Done::Failed(error.into()),
        };
        self.outbox.send(Event::Finished { job: id, done });
    }

    /// Works ahead. What fails here fails again, and is told, when it is asked for.
    fn guarded_ahead(&mut self, id: JobId, job: &Job) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.prepare(id, job)));
        match outcome {
            Ok(Ok(true)) => self.outbox.send(Event::Prepared { job: id }),
            Ok(Err(error)) if error.is_out_of_memory() => self.free(),
            Ok(_) => {}
            Err(_) => self.free(),
        }
    }

    /// Gives up the model: makes room for another try.
    fn free(&mut self) {
        self.loaded = None;
        step::give_back();
        self.outbox.send(Event::Unloaded);
    }

    /// Cut, words and weights for the job's first step; whether all of it was still wanted.
    fn prepare(&mut self, id: JobId, job: &Job) -> Result<bool, StepError> {
        let wanted = self.wanted_ahead.clone();
        let is_wanted = || wanted.load(Ordering::Acquire) == id.0;
        let Some(&region) = job.regions.first().filter(|_| is_wanted()) else { return Ok(false) };
        let (cut, enlarged) = StepInput::cut(&job.source, region, job.size.0, job.size.1)?;
        let (cut, enlarged) = (Arc::new(cut), Arc::new(enlarged));
        if !is_wanted() {
            return Ok(false);
        }
        let prompt = words(&mut *self.prompter, job, &job.source, &enlarged);
        let (source, hint) = (job.source.clone(), job.prompt.clone());
        let ahead_of = enlarged.clone();
        self.ahead = Some(Ahead { source, region, size: job.size, hint, cut, enlarged, prompt });
        if !is_wanted() {
            return Ok(false);
        }
        if !reduces_only(region, job) {
            let mut told = |_, _| is_wanted();
            self.load(&job.restorer)?.resolver.prepare(&ahead_of, &mut Progress::new(&mut told))?;
        }
        Ok(true)
    }

    fn load(&mut self, restorer: &Restorer) -> Result<&mut Loaded, StepError> {
        let Restorer { backbone, device, memory, .. } = restorer;
        match &mut self.loaded {
            Some(loaded) if loaded.is_for(restorer) => {}
            slot => {
                // The old one goes first: two need not fit at once.
                if slot.take().is_some() {
                    self.outbox.send(Event::Unloaded);
                }
                let resolver = backbone.load(*device, *memory)?;
                let sha256 = match backbone {
                    Backbone::File(file) => digest::sha256(file).ok(),
                    _ => None,
                };
                self.outbox.send(Event::Loaded { backbone: backbone.clone(), plan: resolver.plan() });
                let settled = backbone.settled(*device);
                let (backbone, device, memory) = (backbone.clone(), *device, *memory);
                *slot = Some(Loaded { backbone, device, memory, settled, sha256, resolver });
            }
        }
        self.loaded.as_mut().ok_or_else(|| StepError::Internal("the model went away".into()))
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
        let Some(&region) = job.regions.first() else { return Ok(()) };
        let prompt = match &self.ahead {
            Some(ahead) if ahead.is_for(&job.source, region, job) => ahead.prompt.clone(),
            _ => {
                let (_, enlarged) = StepInput::cut(&job.source, region, job.size.0, job.size.1)?;
                words(&mut *self.prompter, job, &job.source, &Arc::new(enlarged))
            }
        };
        self.outbox.send(Event::Proposed { job: id, prompt });
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
        let wanted = self.wanted.clone();
        let outbox = self.outbox.clone();
        let mut told = |stage, fraction| {
            outbox.send(Event::Progress { job: id, step, stage, fraction });
            wanted.load(Ordering::Acquire) == id.0
        };
        let mut progress = Progress::new(&mut told);
        progress.at(Stage::Prompting, 0.0)?;
        let mut start = Instant::now();
        let ahead = self.ahead.take().filter(|ahead| ahead.is_for(source, region, job));
        let (cut, enlarged, words_ahead) = match ahead {
            Some(ahead) => (ahead.cut, ahead.enlarged, Some(ahead.prompt)),
            None => {
                let (cut, enlarged) = StepInput::cut(source, region, job.size.0, job.size.1)?;
                (Arc::new(cut), Arc::new(enlarged), None)
            }
        };
        self.outbox.send(Event::Enlarged { job: id, step, picture: enlarged.clone() });

        let (picture, prompt, model) = if reduces_only(region, job) {
            (enlarged.clone(), String::new(), None)
        } else {
            let is_loaded = self.loaded.as_ref().is_some_and(|loaded| loaded.is_for(&job.restorer));
            if !is_loaded {
                progress.at(Stage::Loading, 0.0)?;
            }
            let loaded = self.load(&job.restorer)?;
            if !is_loaded {
                start = Instant::now();
            }
            // What needs no words comes before them.
            loaded.resolver.prepare(&enlarged, &mut progress)?;
            let prompt = words_ahead.unwrap_or_else(|| words(&mut *self.prompter, job, source, &enlarged));
            let input =
                StepInput { cut: cut.clone(), enlarged: enlarged.clone(), prompt: prompt.clone(), seed: job.seed };
            let loaded = self.load(&job.restorer)?;
            let restored = loaded.resolver.restore(&input, &mut progress)?;
            let align = job.restorer.align;
            let used = ModelUsed { backbone: loaded.settled.clone(), align, sha256: loaded.sha256.clone() };
            (Arc::new(colour::align(align, &restored, &enlarged)), prompt, Some(used))
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

/// A box at least as large as its result needs no model.
fn reduces_only(region: Region, job: &Job) -> bool {
    region.width >= job.size.0 && region.height >= job.size.1
}

fn words(prompter: &mut dyn Prompter, job: &Job, previous: &Arc<Picture>, enlarged: &Arc<Picture>) -> String {
    prompter.propose(&PromptInput { previous: previous.clone(), enlarged: enlarged.clone(), hint: job.prompt.clone() })
}
