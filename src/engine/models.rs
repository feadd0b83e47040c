//! The models that are open: a captioner and a super-resolution model. They share the memory, so they share its plan.

use super::fits::fitting;
use super::message::{Event, Job, Restorer};
use super::outbox::Outbox;
use crate::base::{AlignMethod, Backbone, DeviceChoice, MemoryPlan, ModelUsed, PromptSource};
use crate::pipelines::caption::Captioner;
use crate::pipelines::sr::SuperResolver;
use crate::pipelines::{PipelineError, caption, sr};
use crate::runtime::device::{self, Devices};
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
    devices: Devices,
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
    /// Where it runs.
    devices: Devices,
    /// The plan that it chose, or was given, at opening.
    opened_plan: Option<MemoryPlan>,
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
    /// Refuses a step that will not fit into the memory that is free now; where the plan was left to the program, both follow
    /// a smaller one first.
    pub(super) fn check_step_fits(
        &mut self,
        cut: (u32, u32),
        result: (u32, u32),
        outbox: &Outbox,
    ) -> Result<(), PipelineError> {
        let before = self.loaded.resolver.plan();
        let is_shared = before != Some(MemoryPlan::Resident) && self.loaded.devices.text == self.loaded.devices.picture;
        // It goes before the picture is made, where that needs the room.
        let captioner = self.captioner.as_ref().filter(|_| is_shared);
        let reclaimable = captioner.map_or(0, |captioner| captioner.bytes_loaded());
        self.loaded.check_fits(cut, result, reclaimable)?;
        let Some(plan) = self.loaded.resolver.plan() else { return self.loaded.send_estimate(cut, result, outbox) };
        self.together = plan == MemoryPlan::Resident;
        if let Some(captioner) = &mut self.captioner {
            captioner.set_plan(plan);
        }
        if before != Some(plan) {
            outbox.send(Event::Loaded { backbone: self.loaded.backbone.clone(), plan: Some(plan) });
        }
        self.loaded.send_estimate(cut, result, outbox)
    }
}

impl LoadedCaptioner {
    fn open(job: &Job) -> Result<Self, PipelineError> {
        let (device, memory) = (job.restorer.device, job.restorer.memory);
        let model = caption::open(&job.prompt_source, device)?;
        let bytes = model.as_ref().map_or(0, |model| model.bytes());
        let own_plan = plan_for_captioner(memory, bytes, device)?;
        let devices = device::resolve(device)?;
        Ok(Self { prompt_source: job.prompt_source.clone(), device, devices, memory, own_plan, model })
    }

    fn is_for(&self, job: &Job) -> bool {
        (&self.prompt_source, self.device, self.memory)
            == (&job.prompt_source, job.restorer.device, job.restorer.memory)
            && self.devices.are_those_of(self.device)
    }
}

impl Loaded {
    fn open(restorer: &Restorer, other_model_bytes: u64) -> Result<Self, PipelineError> {
        let Restorer { backbone, device, memory, .. } = restorer.clone();
        let resolver = sr::open(&backbone, device, memory, other_model_bytes)?;
        let resolved = sr::resolved(&backbone, device);
        let digest = WeightsDigest::of(backbone.clone());
        let (devices, opened_plan) = (device::resolve(device)?, resolver.plan());
        Ok(Self {
            resolved,
            backbone,
            device,
            memory,
            other_model_bytes,
            digest,
            devices,
            opened_plan,
            estimated: None,
            resolver,
        })
    }

    /// Refuses what will not fit into the memory that is free now, `reclaimable` bytes of another model included. Where the
    /// plan was left to the program, it is the one chosen at opening, or the first smaller one with which it fits.
    pub(super) fn check_fits(
        &mut self,
        cut: (u32, u32),
        result: (u32, u32),
        reclaimable: u64,
    ) -> Result<(), PipelineError> {
        if let Some(plan) = self.opened_plan.filter(|_| self.memory == MemoryPlan::Auto) {
            self.resolver.set_plan(plan);
        }
        loop {
            let free = free_memory(self.devices.picture).map(|free| free + reclaimable);
            let estimate = |cut, result| self.resolver.estimate(cut, result);
            match fitting(estimate, &self.backbone.name(), cut, result, free) {
                Err(PipelineError::WillNotFit { plan: Some(plan), .. }) if self.memory == MemoryPlan::Auto => {
                    self.resolver.set_plan(plan);
                }
                fits => return fits.map(drop),
            }
        }
    }

    /// The same of a full image, by a model that has no plan.
    pub(super) fn check_full_image_fits(
        &mut self,
        source: (u32, u32),
        result: (u32, u32),
    ) -> Result<(), PipelineError> {
        let free = free_memory(self.devices.picture);
        let estimate = |source, result| self.resolver.estimate_full_image(source, result);
        fitting(estimate, &self.backbone.name(), source, result, free).map(drop)
    }

    /// Sends what a step takes, before the first to results of that size.
    pub(super) fn send_estimate(
        &mut self,
        cut: (u32, u32),
        result: (u32, u32),
        outbox: &Outbox,
    ) -> Result<(), PipelineError> {
        if self.estimated != Some(result)
            && let Some(estimate) = self.resolver.estimate(cut, result)?
        {
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
            && self.devices.are_those_of(self.device)
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::{BUILT_IN, Progress, StepEstimate};
    use crate::imaging::Picture;
    use crate::pipelines::sr::StepInput;
    use crate::pipelines::{FullImageInput, PartialResult};

    /// A model whose resident plan takes more than any machine has where results are large.
    struct WithPlans(MemoryPlan);

    impl SuperResolver for WithPlans {
        fn restore(&mut self, _: &StepInput, _: &mut Progress) -> Result<Picture, PipelineError> {
            Err(PipelineError::Cancelled)
        }

        fn restore_full_image(
            &mut self,
            _: &FullImageInput,
            _: &[String],
            _: &mut Progress,
            _: &mut dyn FnMut(PartialResult),
        ) -> Result<Picture, PipelineError> {
            Err(PipelineError::Cancelled)
        }

        fn estimate(&mut self, _: (u32, u32), (side, _): (u32, u32)) -> Result<Option<StepEstimate>, PipelineError> {
            let bytes = |plan| if plan == MemoryPlan::Resident && side > 512 { u64::MAX / 2 } else { 1 };
            let smaller = vec![(MemoryPlan::Streamed, bytes(MemoryPlan::Streamed))];
            Ok(Some(StepEstimate { secs: 1.0, bytes: bytes(self.0), smaller, remark: None }))
        }

        fn plan(&self) -> Option<MemoryPlan> {
            Some(self.0)
        }

        fn set_plan(&mut self, plan: MemoryPlan) {
            self.0 = plan;
        }
    }

    fn loaded(memory: MemoryPlan) -> Loaded {
        let backbone = Backbone::from(&BUILT_IN);
        Loaded {
            resolved: backbone.clone(),
            digest: WeightsDigest::Known(None),
            backbone,
            device: DeviceChoice::Cpu,
            memory,
            other_model_bytes: 0,
            devices: device::resolve(DeviceChoice::Cpu).expect("there is a processor"),
            opened_plan: Some(MemoryPlan::Resident),
            estimated: None,
            resolver: Box::new(WithPlans(MemoryPlan::Resident)),
        }
    }

    #[test]
    fn a_step_that_is_too_large_follows_a_smaller_plan_and_the_next_does_not() {
        let mut model = loaded(MemoryPlan::Auto);
        let mut plan_for = |side: u32| {
            let fits = model.check_fits((side / 4, side / 4), (side, side), 0);
            (fits.is_ok(), model.resolver.plan())
        };
        assert_eq!(plan_for(512), (true, Some(MemoryPlan::Resident)));
        assert_eq!(plan_for(1024), (true, Some(MemoryPlan::Streamed)));
        assert_eq!(plan_for(512), (true, Some(MemoryPlan::Resident)));
        // What the user has chosen stays, and the step is refused.
        let mut model = loaded(MemoryPlan::Resident);
        assert!(model.check_fits((256, 256), (1024, 1024), 0).is_err());
        assert_eq!(model.resolver.plan(), Some(MemoryPlan::Resident));
    }

    #[test]
    fn an_estimate_changes_no_plan() {
        let (sender, receiver) = crossbeam_channel::unbounded();
        let outbox = Outbox::new(sender, Arc::new(|| {}));
        let mut model = loaded(MemoryPlan::Auto);
        for _ in 0..2 {
            assert!(model.send_estimate((256, 256), (1024, 1024), &outbox).is_ok());
        }
        assert_eq!(receiver.try_iter().count(), 1, "it is sent once");
        assert_eq!(model.resolver.plan(), Some(MemoryPlan::Resident));
    }
}
