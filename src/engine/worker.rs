//! The loop on the engine's thread: builds models on first need, runs jobs step by step, turns failures into events.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::message::{Command, Event, Job, JobId, JobOutcome, Restorer, StepOutput};
use super::models::{Loaded, Models, Opened};
use super::network_facts::NetworkFacts;
use super::outbox::Outbox;
use super::scoring;
use super::scoring::ScoreRequest;
use crate::base::{
    BUILT_IN, Backbone, BackboneKind, DeviceChoice, MAX_FACTOR, Progress, Region, Stage, StepRecord, Ticket, UserError,
    joined,
};
use crate::document;
use crate::evaluate::EvaluateError;
use crate::imaging::metrics::luma_psnr;
use crate::imaging::{Filter, Picture, colour, resize};
use crate::pipelines::PipelineError;
use crate::pipelines::caption::CaptionInput;
use crate::pipelines::sr::{StepInput, SuperResolver, Upscaler};
use crate::runtime::device::usable_devices;
use crate::runtime::{accelerator, device, log_warnings};

/// Regions of longer sides are not previewed: the built-in network would keep the model waiting.
const PREVIEWED: u32 = 1024;

pub(super) struct Worker {
    pub(super) outbox: Outbox,
    pub(super) models: Models,
    prefetched: Option<Prefetched>,
    /// The built-in network, for previews.
    preview: Option<Upscaler>,
}

/// How a step begins.
#[derive(Clone)]
struct PreparedStep {
    cut: Arc<Picture>,
    enlarged: Arc<Picture>,
    /// The prompt that was extracted, where there is one yet.
    extracted_prompt: Option<String>,
}

/// The beginning of a job's first step, done before it was asked for, or kept for the next job on the same box.
struct Prefetched {
    job: Job,
    source: Weak<Picture>,
    step: PreparedStep,
}

impl Prefetched {
    fn new(job: &Job, source: &Arc<Picture>, step: PreparedStep) -> Self {
        Self { job: job.clone(), source: Arc::downgrade(source), step }
    }

    fn is_of(&self, source: &Arc<Picture>, region: Region, size: (u32, u32)) -> bool {
        self.source.as_ptr() == Arc::as_ptr(source)
            && self.job.regions.first() == Some(&region)
            && self.job.size == size
    }
}

impl Worker {
    pub(super) fn new(outbox: Outbox) -> Self {
        Self { outbox, models: Models::default(), prefetched: None, preview: None }
    }

    pub(super) fn run(mut self, inbox: &Receiver<Command>) {
        let _no_grad = tch::no_grad_guard();
        log_warnings();
        // Looking for CUDA takes a moment; here nobody waits for it.
        self.outbox.send(Event::Ready { cuda_devices: usable_devices() });
        while let Ok(command) = inbox.recv() {
            match command {
                Command::Quit => return,
                Command::Run(ticket, job) => self.guarded(&ticket, &job, Self::chain),
                Command::Caption(ticket, job) => self.guarded(&ticket, &job, Self::caption),
                Command::Prepare(ticket, job) => self.guarded_prefetch(&ticket, &job),
                Command::Forget => self.prefetched = None,
                Command::Measure(ticket, backbone, device) => self.guarded_measure(&ticket, backbone, device),
                Command::Score(ticket, request) => self.guarded_score(&ticket, &request),
                Command::Estimate(restorer, size) => self.guarded_estimate(&restorer, size),
            }
        }
    }

    /// Runs one job and reports how it ended; not even a panic in it ends the thread. Devices that did not work before may
    /// work now.
    fn guarded(&mut self, ticket: &Ticket, job: &Job, work: fn(&mut Self, &Ticket, &Job) -> Result<(), PipelineError>) {
        device::try_failed_again();
        let outcome = catch_unwind(AssertUnwindSafe(|| work(self, ticket, job))).unwrap_or_else(|panic| {
            // A model that panicked half-way is not trusted again.
            self.free();
            Err(PipelineError::of_panic(panic.as_ref()))
        });
        if let Err(error) = &outcome {
            self.clear_after(error, job.restorer.device);
        }
        let outcome = match outcome {
            Ok(()) => JobOutcome::Completed,
            Err(PipelineError::Cancelled) => JobOutcome::Cancelled,
            Err(error) => JobOutcome::Failed(error.into()),
        };
        self.outbox.send(Event::Finished { job: ticket.into(), outcome });
    }

    /// Prefetches. What fails here fails again, and is reported, when it is asked for.
    fn guarded_prefetch(&mut self, ticket: &Ticket, job: &Job) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.prepare(ticket, job)));
        match outcome {
            Ok(Ok(true)) => self.outbox.send(Event::Prepared { job: ticket.into() }),
            Ok(outcome) => self.log_failure("prefetching", outcome.err(), job.restorer.device),
            Err(_) => self.free(),
        }
    }

    /// Tells what a step takes. What fails here fails again, and is reported, when it is asked for.
    fn guarded_estimate(&mut self, restorer: &Restorer, (width, height): (u32, u32)) {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let loaded = self.models.for_estimate(restorer, &self.outbox)?;
            loaded.send_estimate((width / MAX_FACTOR, height / MAX_FACTOR), (width, height), &self.outbox)
        }));
        match outcome {
            Ok(outcome) => self.log_failure("the estimate", outcome.err(), restorer.device),
            Err(_) => self.free(),
        }
    }

    /// Finds out what a network is.
    fn guarded_measure(&mut self, ticket: &Ticket, backbone: Backbone, device: DeviceChoice) {
        let is_active = || !ticket.cancel.is_cancelled();
        let measured = catch_unwind(AssertUnwindSafe(|| NetworkFacts::measure(&backbone, device, &is_active)))
            .unwrap_or_else(|panic| Err(PipelineError::of_panic(panic.as_ref())));
        let facts = match measured {
            Err(PipelineError::Cancelled) => None,
            measured => Some(measured.map_err(UserError::from)),
        };
        self.outbox.send(Event::Measured { backbone, facts });
    }

    /// Scores states.
    fn guarded_score(&mut self, ticket: &Ticket, request: &ScoreRequest) {
        let outcome = catch_unwind(AssertUnwindSafe(|| scoring::score(request, ticket, &self.outbox)))
            .unwrap_or_else(|panic| Err(PipelineError::of_panic(panic.as_ref()).into()));
        if let Err(EvaluateError::Network(error)) = &outcome {
            self.clear_after(error, request.device);
        }
        self.outbox.send(Event::ScoresDone { problem: outcome.err().map(UserError::from) });
    }

    /// What failed and is not reported to anybody.
    fn log_failure(&mut self, work: &str, error: Option<PipelineError>, device: DeviceChoice) {
        match error {
            None | Some(PipelineError::Cancelled) => {}
            Some(error) => {
                tracing::warn!("{work}: {error}");
                self.clear_after(&error, device);
            }
        }
    }

    /// Frees the models' memory where there was too little of it, or a device has stopped; that one is not used any more
    /// where it still fails, and with `auto` the next job runs without it.
    fn clear_after(&mut self, error: &PipelineError, device: DeviceChoice) {
        let is_lost = error.is_device_lost();
        if is_lost || error.is_out_of_memory() {
            self.free();
        }
        if is_lost && let Ok(devices) = device::resolve(device) {
            device::try_again(devices);
            self.outbox.send(Event::Ready { cuda_devices: usable_devices() });
        }
    }

    /// The region by the built-in network, at the size of the result; `None` for models that are as fast, and where it
    /// fails: the model itself is still to come.
    fn preview(
        &mut self,
        job: &Job,
        cut: &Arc<Picture>,
        enlarged: &Arc<Picture>,
        is_active: &dyn Fn() -> bool,
    ) -> Option<Arc<Picture>> {
        let backbone = &job.restorer.backbone;
        let is_slow = match backbone.spec.kind {
            BackboneKind::Diffusion => true,
            BackboneKind::SingleImage => {
                let is_cpu = device::resolve(job.restorer.device).is_ok_and(|it| it.picture == tch::Device::Cpu);
                !backbone.is(&BUILT_IN) && is_cpu
            }
            BackboneKind::Interpolation => false,
        };
        let is_small = cut.width().max(cut.height()) <= PREVIEWED;
        if !job.preview || !is_slow || !is_small {
            return None;
        }
        let mut network = match self.preview.take() {
            Some(network) => network,
            None => {
                let log = |error| self.log_failure("preview", Some(error), DeviceChoice::Cpu);
                Upscaler::built_in(tch::Device::Cpu).map_err(log).ok()?
            }
        };
        let input = StepInput { cut: cut.clone(), enlarged: enlarged.clone(), prompt: String::new(), seed: 0 };
        let preview = network.restore(&input, &mut Progress::new(&mut |_, _| is_active()));
        self.preview = Some(network);
        let log = |error| self.log_failure("preview", Some(error), DeviceChoice::Cpu);
        preview.map_err(log).ok().map(Arc::new)
    }

    /// Gives up the models: makes room for another try.
    fn free(&mut self) {
        self.models.close();
        accelerator::trim();
        self.outbox.send(Event::Unloaded);
    }

    /// Cut, prompt and weights for the job's first step; whether all of it was still of use.
    fn prepare(&mut self, ticket: &Ticket, job: &Job) -> Result<bool, PipelineError> {
        let is_active = || !ticket.cancel.is_cancelled();
        if job.regions.is_empty() || !is_active() {
            return Ok(false);
        }
        let mut on_progress = |_, _| is_active();
        // Nobody has asked for the box yet: what models here see stays here, what a server sees does not.
        let asks = !job.prompt_source.is_server();
        self.prefetch(job, asks, &mut Progress::new(&mut on_progress), &is_active, &mut |_| ())?;
        Ok(true)
    }

    /// Has cut and extracted prompt of the job's first step in `prefetched`; the prompt only where `asks` says so.
    fn prefetch(
        &mut self,
        job: &Job,
        asks: bool,
        progress: &mut Progress,
        is_active: &(dyn Fn() -> bool + Sync),
        on_text: &mut dyn FnMut(&str),
    ) -> Result<(), PipelineError> {
        let Some(&region) = job.regions.first() else { return Ok(()) };
        let source = job.source.load()?;
        let mut prepared = self.begin(job, 0, &source, region)?;
        self.prefetched = Some(Prefetched::new(job, &source, prepared.clone()));
        if !reduces_only(region, job) {
            let mut opened = self.models.open(job, &self.outbox)?;
            opened.captioner = opened.captioner.filter(|_| asks);
            encode_and_caption(opened, job, &source, &mut prepared, progress, is_active, on_text)?;
            self.prefetched = Some(Prefetched::new(job, &source, prepared));
        }
        Ok(())
    }

    /// The region cut and enlarged, and its extracted prompt where that is known: from what was prefetched, where that is
    /// for it.
    fn begin(
        &self,
        job: &Job,
        step: usize,
        source: &Arc<Picture>,
        region: Region,
    ) -> Result<PreparedStep, PipelineError> {
        let known = job.extracted_prompt.clone().filter(|_| step == 0);
        if let Some(prefetched) = self.prefetched.as_ref().filter(|it| it.is_of(source, region, job.size)) {
            let extracted = prefetched.step.extracted_prompt.clone();
            let extracted = extracted.filter(|_| step == 0 && prefetched.job.begins_like(job));
            return Ok(PreparedStep { extracted_prompt: known.or(extracted), ..prefetched.step.clone() });
        }
        let (cut, enlarged) = StepInput::cut(source, region, job.size.0, job.size.1)?;
        Ok(PreparedStep { cut: Arc::new(cut), enlarged: Arc::new(enlarged), extracted_prompt: known })
    }

    fn chain(&mut self, ticket: &Ticket, job: &Job) -> Result<(), PipelineError> {
        let mut source = job.source.load()?;
        for (step, &region) in job.regions.iter().enumerate() {
            let output = match &job.full_image {
                None => self.step(ticket, step, job, &source, region)?,
                Some(full_image) => self.full_image(ticket, step, job, &source, full_image)?,
            };
            // Here nobody waits for what the canvas will want.
            output.picture.prepare_levels();
            source = output.picture.clone();
            self.outbox.send(Event::StepDone { job: ticket.into(), step, output: Box::new(output) });
        }
        Ok(())
    }

    fn caption(&mut self, ticket: &Ticket, job: &Job) -> Result<(), PipelineError> {
        let (id, outbox) = (JobId::from(ticket), self.outbox.clone());
        let is_active = || !ticket.cancel.is_cancelled();
        let mut on_progress = reporter(&outbox, id, 0, &is_active);
        let mut on_text = |text: &str| outbox.send(Event::Captioning { job: id, step: 0, text: text.to_owned() });
        self.prefetch(job, true, &mut Progress::new(&mut on_progress), &is_active, &mut on_text)?;
        let text = self.prefetched.as_ref().and_then(|it| it.step.extracted_prompt.clone()).unwrap_or_default();
        self.outbox.send(Event::Captioned { job: id, text });
        Ok(())
    }

    fn step(
        &mut self,
        ticket: &Ticket,
        step: usize,
        job: &Job,
        source: &Arc<Picture>,
        region: Region,
    ) -> Result<StepOutput, PipelineError> {
        let (id, outbox) = (JobId::from(ticket), self.outbox.clone());
        let is_active = || !ticket.cancel.is_cancelled();
        let mut on_progress = reporter(&outbox, id, step, &is_active);
        let mut progress = Progress::new(&mut on_progress);
        progress.at(job.first_stage(), 0.0)?;
        let mut start = Instant::now();
        let mut prepared = self.begin(job, step, source, region)?;
        let (cut, enlarged) = (prepared.cut.clone(), prepared.enlarged.clone());
        enlarged.prepare_levels();
        self.outbox.send(Event::Enlarged { job: id, step, picture: enlarged.clone() });

        let (picture, prompt, model) = if reduces_only(region, job) {
            (enlarged.clone(), String::new(), None)
        } else {
            if let Some(picture) = self.preview(job, &cut, &enlarged, &is_active) {
                picture.prepare_levels();
                self.outbox.send(Event::Preview { job: id, step, picture });
            }
            start = Instant::now();
            let are_open = self.models.are_for(job);
            if !are_open {
                progress.at(Stage::Loading, 0.0)?;
            }
            let mut opened = self.models.open(job, &self.outbox)?;
            opened.check_step_fits((region.width, region.height), job.size, &self.outbox)?;
            if !are_open {
                start = Instant::now();
            }
            let mut on_text = |text: &str| outbox.send(Event::Captioning { job: id, step, text: text.to_owned() });
            let loaded =
                encode_and_caption(opened, job, source, &mut prepared, &mut progress, &is_active, &mut on_text)?;
            let extracted = prepared.extracted_prompt.clone();
            if step == 0 {
                // Variants of this box begin the same.
                self.prefetched = Some(Prefetched::new(job, source, prepared));
            }
            let prompt = extracted.map_or_else(
                || job.prompt.clone(),
                |extracted| joined(&extracted, &job.prompt, job.restorer.backbone.spec),
            );
            let input =
                StepInput { cut: cut.clone(), enlarged: enlarged.clone(), prompt: prompt.clone(), seed: job.seed };
            let restored = loaded.resolver.restore(&input, &mut progress)?;
            let align = job.restorer.align;
            let used = loaded.model_used(align);
            (Arc::new(colour::align(align, &restored, &enlarged)), prompt, Some(used))
        };
        let consistency = model.is_some().then(|| {
            let reduced = resize(&picture, region.width, region.height, Filter::Bicubic);
            luma_psnr(&reduced, &cut, 0)
        });
        Ok(StepOutput {
            thumbnail: Arc::new(document::thumbnail(&picture)),
            picture,
            enlarged,
            record: StepRecord {
                region,
                prompt,
                model,
                seed: job.seed,
                consistency,
                full_image: None,
                elapsed: start.elapsed(),
            },
        })
    }
}

/// How long progress within a stage is kept back: each report has the window drawn again, which may take the models'
/// own processor.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// Reports a step's progress now and then, and every new stage; answers whether to go on.
pub(super) fn reporter<'a>(
    outbox: &'a Outbox,
    job: JobId,
    step: usize,
    is_active: &'a dyn Fn() -> bool,
) -> impl FnMut(Stage, f32) -> bool + 'a {
    let mut last: Option<(Stage, Instant)> = None;
    move |stage, fraction| {
        if last.is_none_or(|(last, when)| last != stage || when.elapsed() >= REPORT_EVERY) {
            last = Some((stage, Instant::now()));
            outbox.send(Event::Progress { job, step, stage, fraction });
        }
        is_active()
    }
}

/// A box at least as large as its result needs no model.
fn reduces_only(region: Region, job: &Job) -> bool {
    region.width >= job.size.0 && region.height >= job.size.1
}

/// Has the picture encoded and its prompt extracted: at the same time where both models stay in memory, else one after the
/// other. Where the prompt is known, or nothing is there to extract one, it is only encoded.
fn encode_and_caption<'a>(
    opened: Opened<'a>,
    job: &Job,
    source: &Arc<Picture>,
    prepared: &mut PreparedStep,
    progress: &mut Progress,
    is_active: &(dyn Fn() -> bool + Sync),
    on_text: &mut dyn FnMut(&str),
) -> Result<&'a mut Loaded, PipelineError> {
    let Opened { captioner, loaded, together } = opened;
    let (resolver, enlarged) = (&mut loaded.resolver, prepared.enlarged.clone());
    let Some(captioner) = captioner.filter(|_| prepared.extracted_prompt.is_none()) else {
        resolver.prepare(&enlarged, progress)?;
        return Ok(loaded);
    };
    let input = CaptionInput { parent: source.clone(), enlarged: enlarged.clone(), request: job.request.clone() };
    let extracted = if together {
        std::thread::scope(|scope| {
            let encoding = scope.spawn(|| {
                let _no_grad = tch::no_grad_guard();
                resolver.prepare(&enlarged, &mut Progress::new(&mut |_, _| is_active()))
            });
            let extracted = captioner.caption(&input, progress, on_text);
            let encoded = encoding.join().unwrap_or_else(|_| Err(PipelineError::Internal("encoding broke off".into())));
            encoded.and(extracted)
        })
    } else {
        resolver.prepare(&enlarged, progress)?;
        resolver.offload(captioner.bytes_to_load());
        let extracted = captioner.caption(&input, progress, on_text);
        captioner.offload(resolver.bytes_to_load(job.size));
        extracted
    };
    prepared.extracted_prompt = Some(extracted?);
    Ok(loaded)
}
