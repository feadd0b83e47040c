//! The loop on the engine's thread: builds models on first need, runs jobs step by step, turns failures into events.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use super::Wake;
use super::message::{Command, Done, Event, Job, JobId, Made, Restorer};
use super::models::{Loaded, Models, Opened};
use crate::history::{self, Making};
use crate::image::psnr::luma_psnr;
use crate::image::{Filter, Picture, colour, resize};
use crate::prompt::{PromptInput, joined};
use crate::region::{MAX_FACTOR, Region};
use crate::step::{
    self, Backbone, ModelUsed, Network, Progress, Stage, StepError, StepInput, SuperResolver, cuda_devices,
};

/// Regions of longer sides are not previewed: the built-in network would keep the model waiting.
const PREVIEWED: u32 = 1024;

pub(super) struct Worker {
    pub(super) outbox: Outbox,
    pub(super) wanted: Arc<AtomicU64>,
    pub(super) models: Models,
    /// The only work ahead that is still of use.
    wanted_ahead: Arc<AtomicU64>,
    ahead: Option<Ahead>,
    /// The built-in network, for previews.
    preview: Option<Network>,
}

/// How a step begins.
#[derive(Clone)]
struct Beginning {
    cut: Arc<Picture>,
    enlarged: Arc<Picture>,
    /// The words, where there are any yet.
    found: Option<String>,
}

/// The beginning of a job's first step, done before it was asked for, or kept for the next job on the same box.
struct Ahead {
    job: Job,
    beginning: Beginning,
}

impl Ahead {
    fn is_of(&self, source: &Arc<Picture>, region: Region, size: (u32, u32)) -> bool {
        Arc::ptr_eq(&self.job.source, source) && self.job.regions.first() == Some(&region) && self.job.size == size
    }
}

#[derive(Clone)]
pub(super) struct Outbox {
    events: Sender<Event>,
    wake: Wake,
}

impl Outbox {
    pub fn send(&self, event: Event) {
        // Nobody listens any more when the handle is being dropped; then Quit is already on its way.
        _ = self.events.send(event);
        (self.wake)();
    }
}

impl Worker {
    pub(super) fn new(events: Sender<Event>, wake: Wake, wanted: Arc<AtomicU64>, wanted_ahead: Arc<AtomicU64>) -> Self {
        let outbox = Outbox { events, wake };
        Self { outbox, wanted, models: Models::default(), wanted_ahead, ahead: None, preview: None }
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
                Command::Estimate(restorer, size) => self.guarded_estimate(&restorer, size),
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

    /// Estimates a step of networks that are quickly loaded. What fails here fails again, and is reported, when it is
    /// asked for.
    fn guarded_estimate(&mut self, restorer: &Restorer, (width, height): (u32, u32)) {
        if !matches!(restorer.backbone, Backbone::BuiltIn | Backbone::File(_)) {
            return;
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| -> Result<Option<f64>, StepError> {
            let loaded = self.models.load(restorer, 0, &self.outbox)?;
            loaded.resolver.estimate_secs(width / MAX_FACTOR, height / MAX_FACTOR)
        }));
        match outcome {
            Ok(Ok(Some(secs))) => {
                self.outbox.send(Event::Estimated { backbone: restorer.backbone.clone(), secs });
            }
            Ok(Err(error)) if error.is_out_of_memory() => self.free(),
            Ok(_) => {}
            Err(_) => self.free(),
        }
    }

    /// The region by the built-in network, at the size of the result; `None` for models that are as fast, and where it
    /// fails: the model itself is still to come.
    fn preview(
        &mut self,
        job: &Job,
        cut: &Arc<Picture>,
        enlarged: &Arc<Picture>,
        is_wanted: &dyn Fn() -> bool,
    ) -> Option<Arc<Picture>> {
        let is_slow = match job.restorer.backbone {
            Backbone::Sd3(_) => true,
            Backbone::File(_) => job.restorer.device.resolve().is_ok_and(|devices| devices.picture == tch::Device::Cpu),
            Backbone::BuiltIn | Backbone::Bicubic | Backbone::Nearest => false,
        };
        let is_small = cut.width().max(cut.height()) <= PREVIEWED;
        if !job.preview || !is_slow || !is_small {
            return None;
        }
        let network = match self.preview.take() {
            Some(network) => network,
            None => Network::built_in(tch::Device::Cpu).ok()?,
        };
        let network = self.preview.insert(network);
        let input = StepInput { cut: cut.clone(), enlarged: enlarged.clone(), prompt: String::new(), seed: 0 };
        network.restore(&input, &mut Progress::new(&mut |_, _| is_wanted())).ok().map(Arc::new)
    }

    /// Gives up the models: makes room for another try.
    fn free(&mut self) {
        self.models.close();
        step::give_back();
        self.outbox.send(Event::Unloaded);
    }

    /// Cut, words and weights for the job's first step; whether all of it was still wanted.
    fn prepare(&mut self, id: JobId, job: &Job) -> Result<bool, StepError> {
        let wanted = self.wanted_ahead.clone();
        let is_wanted = || wanted.load(Ordering::Acquire) == id.0;
        if job.regions.is_empty() || !is_wanted() {
            return Ok(false);
        }
        let mut told = |_, _| is_wanted();
        self.find(job, &mut Progress::new(&mut told), &is_wanted, &mut |_| ())?;
        Ok(true)
    }

    /// Has cut and words of the job's first step in `ahead`.
    fn find(
        &mut self,
        job: &Job,
        progress: &mut Progress,
        is_wanted: &(dyn Fn() -> bool + Sync),
        written: &mut dyn FnMut(&str),
    ) -> Result<(), StepError> {
        let Some(&region) = job.regions.first() else { return Ok(()) };
        let mut beginning = self.begin(job, 0, &job.source, region)?;
        self.ahead = Some(Ahead { job: job.clone(), beginning: beginning.clone() });
        if !reduces_only(region, job) {
            let opened = self.models.open(job, &self.outbox)?;
            encode_and_find(opened, job, &job.source, &mut beginning, progress, is_wanted, written)?;
            self.ahead = Some(Ahead { job: job.clone(), beginning });
        }
        Ok(())
    }

    /// The region cut and enlarged, and its words where they are known: from what was done ahead, where that is for it.
    fn begin(&self, job: &Job, step: usize, source: &Arc<Picture>, region: Region) -> Result<Beginning, StepError> {
        let told = job.found.clone().filter(|_| step == 0);
        if let Some(ahead) = self.ahead.as_ref().filter(|ahead| ahead.is_of(source, region, job.size)) {
            let found = ahead.beginning.found.clone().filter(|_| step == 0 && ahead.job.begins_like(job));
            return Ok(Beginning { found: told.or(found), ..ahead.beginning.clone() });
        }
        let (cut, enlarged) = StepInput::cut(source, region, job.size.0, job.size.1)?;
        Ok(Beginning { cut: Arc::new(cut), enlarged: Arc::new(enlarged), found: told })
    }

    fn chain(&mut self, id: JobId, job: &Job) -> Result<(), StepError> {
        let mut source = job.source.clone();
        for (step, &region) in job.regions.iter().enumerate() {
            let made = match &job.whole {
                None => self.step(id, step, job, &source, region)?,
                Some(whole) => self.whole(id, step, job, &source, whole)?,
            };
            source = made.picture.clone();
            self.outbox.send(Event::Made { job: id, step, made: Box::new(made) });
        }
        Ok(())
    }

    fn propose(&mut self, id: JobId, job: &Job) -> Result<(), StepError> {
        let (wanted, outbox) = (self.wanted.clone(), self.outbox.clone());
        let is_wanted = || wanted.load(Ordering::Acquire) == id.0;
        let mut told = telling(&outbox, id, 0, &is_wanted);
        let mut written = |found: &str| outbox.send(Event::Wording { job: id, step: 0, found: found.to_owned() });
        self.find(job, &mut Progress::new(&mut told), &is_wanted, &mut written)?;
        let found = self.ahead.as_ref().and_then(|ahead| ahead.beginning.found.clone()).unwrap_or_default();
        self.outbox.send(Event::Proposed { job: id, found });
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
        let (wanted, outbox) = (self.wanted.clone(), self.outbox.clone());
        let is_wanted = || wanted.load(Ordering::Acquire) == id.0;
        let mut told = telling(&outbox, id, step, &is_wanted);
        let mut progress = Progress::new(&mut told);
        progress.at(Stage::Prompting, 0.0)?;
        let mut start = Instant::now();
        let mut beginning = self.begin(job, step, source, region)?;
        let (cut, enlarged) = (beginning.cut.clone(), beginning.enlarged.clone());
        self.outbox.send(Event::Enlarged { job: id, step, picture: enlarged.clone() });

        let (picture, prompt, model) = if reduces_only(region, job) {
            (enlarged.clone(), String::new(), None)
        } else {
            if let Some(picture) = self.preview(job, &cut, &enlarged, &is_wanted) {
                self.outbox.send(Event::Preview { job: id, step, picture });
            }
            start = Instant::now();
            let are_open = self.models.are_for(job);
            if !are_open {
                progress.at(Stage::Loading, 0.0)?;
            }
            let opened = self.models.open(job, &self.outbox)?;
            if !are_open {
                start = Instant::now();
            }
            let mut written = |found: &str| outbox.send(Event::Wording { job: id, step, found: found.to_owned() });
            let loaded = encode_and_find(opened, job, source, &mut beginning, &mut progress, &is_wanted, &mut written)?;
            let found = beginning.found.clone();
            if step == 0 {
                // Variants of this box begin the same.
                self.ahead = Some(Ahead { job: job.clone(), beginning });
            }
            let prompt = found.map_or_else(|| job.prompt.clone(), |found| joined(&found, &job.prompt));
            let input =
                StepInput { cut: cut.clone(), enlarged: enlarged.clone(), prompt: prompt.clone(), seed: job.seed };
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
            making: Making { region, prompt, model, seed: job.seed, agreement, whole: None, elapsed: start.elapsed() },
        })
    }
}

/// How long progress within a stage is kept back: every word of it has the window drawn again, which may take the models'
/// own processor.
const REST: Duration = Duration::from_millis(100);

/// Tells of a step's progress now and then, and of every new stage; answers whether to go on.
pub(super) fn telling<'a>(
    outbox: &'a Outbox,
    job: JobId,
    step: usize,
    is_wanted: &'a dyn Fn() -> bool,
) -> impl FnMut(Stage, f32) -> bool + 'a {
    let mut last: Option<(Stage, Instant)> = None;
    move |stage, fraction| {
        if last.is_none_or(|(last, when)| last != stage || when.elapsed() >= REST) {
            last = Some((stage, Instant::now()));
            outbox.send(Event::Progress { job, step, stage, fraction });
        }
        is_wanted()
    }
}

/// A box at least as large as its result needs no model.
fn reduces_only(region: Region, job: &Job) -> bool {
    region.width >= job.size.0 && region.height >= job.size.1
}

/// Has the picture encoded and its words found: at the same time where both models stay in memory, else one after the
/// other. Where the words are known, or nothing is there to find any, it is only encoded.
fn encode_and_find<'a>(
    opened: Opened<'a>,
    job: &Job,
    source: &Arc<Picture>,
    beginning: &mut Beginning,
    progress: &mut Progress,
    is_wanted: &(dyn Fn() -> bool + Sync),
    written: &mut dyn FnMut(&str),
) -> Result<&'a mut Loaded, StepError> {
    let Opened { prompter, loaded, together } = opened;
    let (resolver, enlarged) = (&mut loaded.resolver, beginning.enlarged.clone());
    let Some(prompter) = prompter.filter(|_| beginning.found.is_none()) else {
        resolver.prepare(&enlarged, progress)?;
        return Ok(loaded);
    };
    let input = PromptInput { previous: source.clone(), enlarged: enlarged.clone(), asking: job.asking.clone() };
    let found = if together {
        std::thread::scope(|scope| {
            let encoding = scope.spawn(|| {
                let _no_grad = tch::no_grad_guard();
                resolver.prepare(&enlarged, &mut Progress::new(&mut |_, _| is_wanted()))
            });
            let found = prompter.propose(&input, progress, written);
            let encoded = encoding.join().unwrap_or_else(|_| Err(StepError::Internal("encoding broke off".into())));
            encoded.and(found)
        })
    } else {
        resolver.prepare(&enlarged, progress)?;
        resolver.rest();
        let found = prompter.propose(&input, progress, written);
        prompter.rest();
        found
    };
    beginning.found = Some(found?);
    Ok(loaded)
}
