//! The models that are open: one that finds words, one that restores. They share the memory, so they share its plan.

use super::message::{Event, Job, Restorer};
use super::worker::Outbox;
use crate::digest;
use crate::prompt::{Extractor, Prompter};
use crate::step::{Backbone, DeviceChoice, MemoryPlan, StepError, SuperResolver, weights_file};

/// Those opened last.
#[derive(Default)]
pub(super) struct Models {
    finder: Option<Finder>,
    restorer: Option<Loaded>,
}

/// What finds words, with what it was opened for.
struct Finder {
    extractor: Extractor,
    device: DeviceChoice,
    memory: MemoryPlan,
    /// The plan it would follow alone.
    alone: MemoryPlan,
    prompter: Option<Box<dyn Prompter>>,
}

/// What restores, with what it was loaded for.
pub(super) struct Loaded {
    backbone: Backbone,
    device: DeviceChoice,
    memory: MemoryPlan,
    /// Bytes of the other model, where they matter.
    beside: u64,
    /// The same backbone, with what it left to the device decided.
    pub settled: Backbone,
    pub sha256: Option<String>,
    pub resolver: Box<dyn SuperResolver>,
}

/// Both, for one step.
pub(super) struct Opened<'a> {
    pub prompter: Option<&'a mut Box<dyn Prompter>>,
    pub loaded: &'a mut Loaded,
    /// Both stay in memory, so that they can work at the same time.
    pub together: bool,
}

impl Models {
    /// Whether a job's models are open already.
    pub fn are_for(&self, job: &Job) -> bool {
        self.finder.as_ref().is_some_and(|finder| finder.is_for(job))
            && self.restorer.as_ref().is_some_and(|loaded| loaded.is_for(&job.restorer, self.beside(job)))
    }

    /// Opens what a job needs; what is not needed any more goes first, because both need not fit at once.
    pub fn open(&mut self, job: &Job, outbox: &Outbox) -> Result<Opened<'_>, StepError> {
        if !self.finder.as_ref().is_some_and(|finder| finder.is_for(job)) {
            self.finder = None;
            self.finder = Some(Finder::open(job)?);
        }
        let beside = self.beside(job);
        self.load(&job.restorer, beside, outbox)?;
        let (Some(finder), Some(loaded)) = (&mut self.finder, &mut self.restorer) else {
            return Err(StepError::Internal("the model went away".into()));
        };
        let plan = loaded.resolver.plan().unwrap_or(finder.alone);
        let mut prompter = finder.prompter.as_mut();
        if let Some(prompter) = &mut prompter {
            prompter.follow(plan);
        }
        Ok(Opened { prompter, loaded, together: plan == MemoryPlan::Resident })
    }

    /// Opens what restores, in place of another.
    pub fn load(&mut self, restorer: &Restorer, beside: u64, outbox: &Outbox) -> Result<&mut Loaded, StepError> {
        let loaded = match self.restorer.take() {
            Some(loaded) if loaded.is_for(restorer, beside) => loaded,
            other => {
                if other.is_some() {
                    drop(other);
                    outbox.send(Event::Unloaded);
                }
                let loaded = Loaded::open(restorer, beside)?;
                outbox.send(Event::Loaded { backbone: loaded.backbone.clone(), plan: loaded.resolver.plan() });
                loaded
            }
        };
        Ok(self.restorer.insert(loaded))
    }

    /// Gives all of them up.
    pub fn close(&mut self) {
        *self = Self::default();
    }

    fn beside(&self, job: &Job) -> u64 {
        let finder = self.finder.as_ref().filter(|_| job.restorer.memory == MemoryPlan::Auto);
        finder.and_then(|finder| finder.prompter.as_ref()).map_or(0, |prompter| prompter.bytes())
    }
}

impl Finder {
    fn open(job: &Job) -> Result<Self, StepError> {
        let (device, memory) = (job.restorer.device, job.restorer.memory);
        let prompter = job.extractor.open(device)?;
        let bytes = prompter.as_ref().map_or(0, |prompter| prompter.bytes());
        let alone = memory.for_words(bytes, device)?;
        Ok(Self { extractor: job.extractor.clone(), device, memory, alone, prompter })
    }

    fn is_for(&self, job: &Job) -> bool {
        (&self.extractor, self.device, self.memory) == (&job.extractor, job.restorer.device, job.restorer.memory)
    }
}

impl Loaded {
    fn open(restorer: &Restorer, beside: u64) -> Result<Self, StepError> {
        let Restorer { backbone, device, memory, .. } = restorer.clone();
        let resolver = backbone.load(device, memory, beside)?;
        let sha256 = match &backbone {
            Backbone::File(file) => digest::sha256(&weights_file(file)).ok(),
            _ => None,
        };
        Ok(Self { settled: backbone.settled(device), backbone, device, memory, beside, sha256, resolver })
    }

    fn is_for(&self, restorer: &Restorer, beside: u64) -> bool {
        let same = (&self.backbone, self.device, self.memory) == (&restorer.backbone, restorer.device, restorer.memory);
        // Only a model with a plan minds what is beside it.
        same && (self.beside == beside || self.resolver.plan().is_none())
    }
}
