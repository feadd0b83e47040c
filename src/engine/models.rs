//! The models that are open: a captioner and a super-resolution model. They share the memory, so they share its plan.

use super::fits::fitting;
use super::message::{Event, Job, Restorer};
use super::outbox::Outbox;
use crate::base::{AlignMethod, Backbone, DeviceChoice, MemoryPlan, ModelUsed, PromptSource, StepEstimate};
use crate::pipelines::caption::Captioner;
use crate::pipelines::sr::SuperResolver;
use crate::pipelines::{PipelineError, caption, sr};
use crate::runtime::device;
use crate::runtime::memory::{free_memory, plan_for_captioner};

/// Those opened last.
#[derive(Default)]
pub(super) struct Models {
    captioner: Option<LoadedCaptioner>,
    restorer: Option<Loaded>,
}

/// A captioner, with what it was opened for.
struct LoadedCaptioner {
    prompt_source: PromptSource,
    device: DeviceChoice,
    memory: MemoryPlan,
    /// The plan it would follow alone.
    own_plan: MemoryPlan,
    model: Option<Box<dyn Captioner>>,
}

/// A super-resolution model, with what it was loaded for.
pub(super) struct Loaded {
    backbone: Backbone,
    device: DeviceChoice,
    memory: MemoryPlan,
    /// Bytes of the other model, where they matter.
    other_model_bytes: u64,
    /// The same backbone, with what it left to the device decided.
    resolved: Backbone,
    digest: WeightsDigest,
    /// The size of results whose estimate was sent.
    estimated: Option<(u32, u32)>,
    pub resolver: Box<dyn SuperResolver>,
}

/// Both, for one step.
pub(super) struct Opened<'a> {
    pub captioner: Option<&'a mut Box<dyn Captioner>>,
    pub loaded: &'a mut Loaded,
    /// Both stay in memory, so that they can work at the same time.
    pub together: bool,
}

impl Models {
    /// Whether a job's models are open already.
    pub(super) fn are_for(&self, job: &Job) -> bool {
        self.captioner.as_ref().is_some_and(|captioner| captioner.is_for(job))
            && self.restorer.as_ref().is_some_and(|loaded| loaded.is_for(&job.restorer, self.other_model_bytes(job)))
    }

    /// Opens what a job needs; what is not needed any more goes first, because both need not fit at once.
    pub(super) fn open(&mut self, job: &Job, outbox: &Outbox) -> Result<Opened<'_>, PipelineError> {
        if !self.captioner.as_ref().is_some_and(|captioner| captioner.is_for(job)) {
            self.captioner = None;
            self.captioner = Some(LoadedCaptioner::open(job)?);
        }
        let other_model_bytes = self.other_model_bytes(job);
        self.load(&job.restorer, other_model_bytes, outbox)?;
        let (Some(captioner), Some(loaded)) = (&mut self.captioner, &mut self.restorer) else {
            return Err(PipelineError::Internal("the model went away".into()));
        };
        let plan = loaded.resolver.plan().unwrap_or(captioner.own_plan);
        let mut captioner = captioner.model.as_mut();
        if let Some(captioner) = &mut captioner {
            captioner.set_plan(plan);
        }
        Ok(Opened { captioner, loaded, together: plan == MemoryPlan::Resident })
    }

    /// Opens what restores, in place of another.
    pub(super) fn load(
        &mut self,
        restorer: &Restorer,
        other_model_bytes: u64,
        outbox: &Outbox,
    ) -> Result<&mut Loaded, PipelineError> {
        let loaded = match self.restorer.take() {
            Some(loaded) if loaded.is_for(restorer, other_model_bytes) => loaded,
            other => {
                if other.is_some() {
                    drop(other);
                    outbox.send(Event::Unloaded);
                }
                let loaded = Loaded::open(restorer, other_model_bytes)?;
                outbox.send(Event::Loaded { backbone: loaded.backbone.clone(), plan: loaded.resolver.plan() });
                loaded
            }
        };
        Ok(self.restorer.insert(loaded))
    }

    /// What restores, to tell what a step takes: as it is open, whatever is beside it, else opened now.
    pub(super) fn for_estimate(&mut self, restorer: &Restorer, outbox: &Outbox) -> Result<&mut Loaded, PipelineError> {
        let open = self.restorer.as_ref().filter(|loaded| loaded.is_of(restorer));
        let other_model_bytes = open.map_or(0, |loaded| loaded.other_model_bytes);
        self.load(restorer, other_model_bytes, outbox)
    }

    /// Gives all of them up.
    pub(super) fn close(&mut self) {
        *self = Self::default();
    }

    fn other_model_bytes(&self, job: &Job) -> u64 {
        let captioner = self.captioner.as_ref().filter(|_| job.restorer.memory == MemoryPlan::Auto);
        captioner.and_then(|captioner| captioner.model.as_ref()).map_or(0, |captioner| captioner.bytes())
    }
}

impl Opened<'_> {
    /// As [`Loaded::check_step_fits`]; the captioner follows where that changes the plan.
    pub(super) fn check_step_fits(
        &mut self,
        cut: (u32, u32),
        result: (u32, u32),
        outbox: &Outbox,
    ) -> Result<(), PipelineError> {
        self.loaded.check_step_fits(cut, result, outbox)?;
        if let Some(plan) = self.loaded.resolver.plan() {
            self.together = plan == MemoryPlan::Resident;
            if let Some(captioner) = &mut self.captioner {
                captioner.set_plan(plan);
            }
        }
        Ok(())
    }
}

impl LoadedCaptioner {
    fn open(job: &Job) -> Result<Self, PipelineError> {
        let (device, memory) = (job.restorer.device, job.restorer.memory);
        let model = caption::open(&job.prompt_source, device)?;
        let bytes = model.as_ref().map_or(0, |model| model.bytes());
        let own_plan = plan_for_captioner(memory, bytes, device)?;
        Ok(Self { prompt_source: job.prompt_source.clone(), device, memory, own_plan, model })
    }

    fn is_for(&self, job: &Job) -> bool {
        (&self.prompt_source, self.device, self.memory)
            == (&job.prompt_source, job.restorer.device, job.restorer.memory)
    }
}

impl Loaded {
    fn open(restorer: &Restorer, other_model_bytes: u64) -> Result<Self, PipelineError> {
        let Restorer { backbone, device, memory, .. } = restorer.clone();
        let resolver = sr::open(&backbone, device, memory, other_model_bytes)?;
        let resolved = sr::resolved(&backbone, device);
        let digest = WeightsDigest::of(backbone.clone());
        Ok(Self { resolved, backbone, device, memory, other_model_bytes, digest, estimated: None, resolver })
    }

    /// Refuses what will not fit into the memory that is free now; where the plan was left to the program, it follows a
    /// smaller one first.
    pub(super) fn check_fits(
        &mut self,
        cut: (u32, u32),
        result: (u32, u32),
    ) -> Result<Option<StepEstimate>, PipelineError> {
        let device = device::resolve(self.device)?.picture;
        loop {
            let free = free_memory(device);
            match fitting(self.resolver.as_mut(), &self.backbone.name(), cut, result, free) {
                Err(PipelineError::WillNotFit { plan: Some(plan), .. }) if self.memory == MemoryPlan::Auto => {
                    self.resolver.set_plan(plan);
                }
                fits => return fits,
            }
        }
    }

    /// The same for a step; its estimate is sent before the first to results of that size.
    pub(super) fn check_step_fits(
        &mut self,
        cut: (u32, u32),
        result: (u32, u32),
        outbox: &Outbox,
    ) -> Result<(), PipelineError> {
        let plan = self.resolver.plan();
        let estimate = self.check_fits(cut, result)?;
        if self.resolver.plan() != plan {
            outbox.send(Event::Loaded { backbone: self.backbone.clone(), plan: self.resolver.plan() });
        }
        if let Some(estimate) = estimate.filter(|_| self.estimated != Some(result)) {
            self.estimated = Some(result);
            outbox.send(Event::Estimated { backbone: self.backbone.clone(), estimate });
        }
        Ok(())
    }

    /// What a result is remembered by.
    pub(super) fn model_used(&mut self, align: AlignMethod) -> ModelUsed {
        ModelUsed { backbone: self.resolved.clone(), align, sha256: self.digest.get() }
    }

    fn is_of(&self, restorer: &Restorer) -> bool {
        (&self.backbone, self.device, self.memory) == (&restorer.backbone, restorer.device, restorer.memory)
    }

    fn is_for(&self, restorer: &Restorer, other_model_bytes: u64) -> bool {
        // Only a model with a plan minds what is beside it.
        self.is_of(restorer) && (self.other_model_bytes == other_model_bytes || self.resolver.plan().is_none())
    }
}

/// The digest of a model's weights: found out beside the first step, which need not wait for it until its result is there.
enum WeightsDigest {
    Pending(std::thread::JoinHandle<Option<String>>),
    Known(Option<String>),
}

impl WeightsDigest {
    fn of(backbone: Backbone) -> Self {
        let digest = move || match sr::weights_digest(&backbone) {
            Ok(digest) => digest,
            Err(error) => {
                tracing::warn!("results of {} say no digest of its weights: {error}", backbone.name());
                None
            }
        };
        match std::thread::Builder::new().name("coz-digest".into()).spawn(digest) {
            Ok(thread) => Self::Pending(thread),
            Err(error) => {
                tracing::warn!("no thread for the digest of weights: {error}");
                Self::Known(None)
            }
        }
    }

    fn get(&mut self) -> Option<String> {
        if let Self::Pending(_) = self
            && let Self::Pending(thread) = std::mem::replace(self, Self::Known(None))
        {
            *self = Self::Known(thread.join().ok().flatten());
        }
        match self {
            Self::Known(digest) => digest.clone(),
            Self::Pending(_) => None,
        }
    }
}
