//! Boxes become jobs: at once, after the one that runs, several of one box, or ahead of being asked for. Longer
//! than most files: all ways to begin a job end in the same few lines.

use std::path::Path;
use std::time::Instant;

use crate::base::{
    AlignMethod, BICUBIC, CaptionRequest, FullImage, MAX_FACTOR, Plan, PromptSource, RecipeStep, Region, Remedy, Stage,
    square_around,
};
use crate::document::StateId;
use crate::engine::{Event, Job, JobId, JobOutcome, Restorer, StepOutput};
use crate::hub;
use crate::scene::canvas::Overlay;
use crate::viewer::Viewer;
use crate::viewer::actions::Action;
use crate::viewer::state::{Cause, Message, PlacedBox, Queued, Retry, Running};

/// New tokens for each tile of a full image, as in the reference.
const TILE_TOKENS: usize = 16;

impl Viewer {
    pub(in crate::viewer) fn take_event(&mut self, event: Event) {
        if let Event::Ready { cuda_devices } = event {
            self.state.cuda_devices = Some(cuda_devices);
            return;
        }
        match event {
            Event::Loaded { backbone, plan } => {
                self.state.loaded = Some((backbone, plan));
                return;
            }
            Event::Measured { backbone, facts } => return self.take_measured(backbone, facts),
            Event::Scored { document, state, metric, score } => return self.take_score(document, state, metric, score),
            Event::ScoresDone { problem } => return self.scores_done(problem),
            Event::Unloaded => {
                self.state.loaded = None;
                return;
            }
            Event::Estimated { backbone, estimate } => {
                // Asked for anew where the device or the size is another; then older steps tell nothing.
                self.state.pace.insert(backbone.name(), estimate.secs);
                self.state.step_estimates.insert(backbone.name(), estimate);
                return;
            }
            _ => {}
        }
        let Some(running) = &mut self.state.running else { return };
        let active = running.job;
        match event {
            Event::Progress { job, step, stage, fraction } if job == active => {
                if stage != running.stage {
                    running.tiles = None;
                }
                if step != running.step || (stage != Stage::Loading && running.stage == Stage::Loading) {
                    // Loading is not the pace of a step.
                    running.step_start = Instant::now();
                }
                let before = if step == running.step { running.fraction } else { 0.0 };
                let is_all = running.captioning && stage == Stage::Prompting;
                running.fraction = if is_all { fraction } else { stage.of_step(fraction) }.max(before);
                running.loading = (stage == Stage::Loading).then_some(fraction);
                (running.step, running.stage) = (step, stage);
            }
            Event::Enlarged { job, step, picture } if job == active => {
                if let Some(&region) = running.asked.regions.get(step) {
                    running.overlays = vec![Overlay { parent: running.parent, region, picture }];
                }
                running.has_preview = false;
            }
            Event::Preview { job, picture, .. } if job == active => {
                if let [enlarged] = running.overlays.as_mut_slice() {
                    enlarged.picture = picture;
                    running.has_preview = true;
                }
            }
            Event::Tiles { job, tiles, .. } if job == active => running.tiles = Some((tiles.done, tiles.total)),
            Event::Partial { job, step, left, top, picture } if job == active => {
                let (Some(&all), Some(enlarged)) = (running.asked.regions.get(step), running.overlays.first()) else {
                    return;
                };
                let side = |length: u32| {
                    (f64::from(length) * f64::from(all.width) / f64::from(enlarged.picture.width())) as u32
                };
                let (width, height) = (side(picture.width()), side(picture.height()));
                let region = Region { x: side(left), y: side(top), width, height };
                if width > 0 && height > 0 && region.fits(all.width, all.height) {
                    running.overlays.push(Overlay { parent: running.parent, region, picture });
                }
            }
            Event::Captioning { job, text, .. } | Event::Captioned { job, text } if job == active => {
                self.state.extracted_prompt = text;
            }
            Event::StepDone { job, output, .. } if job == active => self.keep(*output),
            Event::Finished { job, outcome } if job == active => {
                let (step, parent, job) = (running.step, running.parent, running.asked.clone());
                let captioning = running.captioning;
                let run = running.then_run && outcome == JobOutcome::Completed;
                if !running.captioning {
                    // It is with its state now.
                    self.state.extracted_prompt.clear();
                }
                self.state.running = None;
                if outcome == JobOutcome::Completed {
                    self.is_well(Cause::Job);
                }
                if run {
                    self.run_placed();
                    return;
                }
                let mut waits = false;
                if let JobOutcome::Failed(problem) = outcome {
                    if problem.remedy.is_some() {
                        let regions = job.regions[step.min(job.regions.len())..].to_vec();
                        self.state.retry = Some(match captioning {
                            true => Retry::Caption,
                            false => {
                                Retry::Steps(Box::new(Queued { parent, after: None, job: Job { regions, ..job } }))
                            }
                        });
                    }
                    // Without the device what waits would fail too.
                    waits = matches!(problem.remedy, Some(Remedy::Device(_)));
                    self.tell(Message::UserError(problem, Cause::Job));
                }
                if !waits {
                    self.run_next();
                }
            }
            // Of a job that is no longer active.
            _ => {}
        }
    }

    fn keep(&mut self, output: StepOutput) {
        let (Some(running), Some(document)) = (&mut self.state.running, &mut self.state.document) else { return };
        if let Some(model) = output.record.model.as_ref().filter(|_| output.record.full_image.is_none()) {
            self.state.pace.insert(model.backbone.name(), output.record.elapsed.as_secs_f64());
        }
        // What was shown in its place so far: the new state fades in over it.
        let before = running.overlays.first().filter(|_| running.has_preview).map(|overlay| overlay.picture.clone());
        let picture = before.unwrap_or(output.enlarged);
        let overlay = Overlay { parent: running.parent, region: output.record.region, picture };
        (running.overlays, running.tiles, running.has_preview) = (Vec::new(), None, false);
        running.step_start = Instant::now();
        // Where the parent was deleted meanwhile there is no place for its child, nor for those after it.
        let Some(id) = document.history.add(running.parent, output.record, output.picture, output.thumbnail) else {
            self.engine.cancel();
            return;
        };
        // What waits for the state before may go on from it.
        for queued in self.state.queue.iter_mut().filter(|queued| queued.after == Some(running.job)) {
            (queued.parent, queued.after) = (id, None);
        }
        running.parent = id;
        if self.state.settings.motion {
            document.fading_in.insert(id, (Instant::now(), overlay));
        }
        if self.state.settings.follow && running.looked_from == document.history.current().id {
            running.looked_from = id;
            document.go(id, self.state.settings.motion);
        }
    }

    pub(in crate::viewer) fn place_box(&mut self, parent: StateId, target: Region) {
        let size = self.state.choices.process_size;
        let Some(document) = &mut self.state.document else { return };
        document.placed = document.placed_box(parent, target, size);
        self.state.extracted_prompt.clear();
        if document.placed.is_none() {
            return;
        }
        if self.state.settings.edit_prompt_first {
            self.caption_box(false);
        } else {
            self.run_placed();
        }
    }

    /// Extracts the prompt of the box that waits; `anew`: another than the likeliest.
    pub(in crate::viewer) fn caption_box(&mut self, anew: bool) {
        let Some(placed) = self.state.document.as_ref().and_then(|document| document.placed.clone()) else { return };
        let Some(mut job) = self.job(&placed, self.prompt_for(placed.parent)) else { return };
        if anew && job.prompt_source.is_user() {
            return;
        }
        if anew {
            job.request.temperature = self.state.settings.temperature;
            job.request.seed = fastrand::u32(..).into();
        }
        self.state.extracted_prompt.clear();
        let is_extracted = !job.prompt_source.is_user();
        self.start(placed.parent, Some(job), true);
        self.state.extracted_for = Some(placed).filter(|_| is_extracted);
    }

    pub(in crate::viewer) fn stop_captioning(&mut self) {
        if self.state.running.as_ref().is_some_and(|running| running.captioning) {
            self.engine.cancel();
        }
    }

    /// Prompts come from this from now on; that of the box that waits too.
    pub(in crate::viewer) fn use_prompt_source(&mut self, prompt_source: PromptSource) {
        self.prompt_source_search.clear();
        self.state.settings.prompt_source = prompt_source;
        self.state.extracted_prompt.clear();
        if self.state.models {
            self.look_for_models();
        }
        // A step that runs is not stopped for that.
        let is_free = self.state.running.as_ref().is_none_or(|running| running.captioning);
        if is_free && self.state.document.as_ref().is_some_and(|document| document.placed.is_some()) {
            self.caption_box(false);
        }
    }

    /// The placed box; without one that in the middle.
    fn take_placed(&mut self) -> Option<PlacedBox> {
        self.state.document.as_mut()?.placed.take().or_else(|| self.middle_box())
    }

    /// The reference's box: the middle of the view x4.
    pub(super) fn middle_box(&self) -> Option<PlacedBox> {
        let size = self.state.choices.process_size;
        let document = self.state.document.as_ref()?;
        let state = document.history.get(document.camera.anchor)?;
        let side = f64::from(size.div_ceil(MAX_FACTOR));
        let [x, y] = document.camera.center;
        let target = square_around(x, y, side, state.picture.width(), state.picture.height());
        document.placed_box(state.id, target, size)
    }

    pub(in crate::viewer) fn run_placed(&mut self) {
        let waits = self.state.document.as_ref().is_some_and(|document| document.placed.is_some());
        if let Some(running) = self.state.running.as_mut().filter(|running| waits && running.captioning) {
            running.then_run = true;
            return;
        }
        let Some(placed) = self.take_placed() else { return };
        self.roll_unless_locked();
        let job = self.job_with_prompt(&placed);
        self.remember_prompt();
        self.start(placed.parent, job, false);
    }

    /// All of the state at hand, four times as large.
    pub(in crate::viewer) fn enlarge_full_image(&mut self) {
        let Some(document) = &mut self.state.document else { return };
        document.placed = None;
        let state = document.history.current();
        let (width, height) = (state.picture.width(), state.picture.height());
        let region = Region { x: 0, y: 0, width, height };
        let plan = Plan { regions: vec![region], nested: vec![], factor: f64::from(MAX_FACTOR) };
        let placed = PlacedBox { parent: state.id, target: region, plan };
        self.roll_unless_locked();
        self.remember_prompt();
        let Some(job) = self.job(&placed, self.prompt_for(placed.parent)) else { return };
        let job = Job {
            size: (width.saturating_mul(MAX_FACTOR), height.saturating_mul(MAX_FACTOR)),
            request: CaptionRequest { max_new_tokens: TILE_TOKENS, ..job.request },
            full_image: Some(FullImage {
                tiling: self.state.settings.tiling.or(job.restorer.backbone.spec.tiling),
                prompts: Vec::new(),
            }),
            ..job
        };
        self.start(placed.parent, Some(job), false);
    }

    pub(in crate::viewer) fn enqueue(&mut self, placed: Option<PlacedBox>) {
        let Some(placed) = placed.or_else(|| self.take_placed()) else { return };
        self.roll_unless_locked();
        self.remember_prompt();
        if let Some(job) = self.job_with_prompt(&placed) {
            self.state.queue.push_back(Queued { parent: placed.parent, after: None, job });
            self.run_next();
        }
    }

    pub(in crate::viewer) fn queue_box(&mut self, parent: StateId, target: Region) {
        let size = self.state.choices.process_size;
        let placed = self.state.document.as_ref().and_then(|document| document.placed_box(parent, target, size));
        if placed.is_some() {
            self.enqueue(placed);
        }
    }

    /// Starts what waits, if nothing runs.
    pub(in crate::viewer) fn run_next(&mut self) {
        while self.state.running.is_none()
            && let Some(next) = self.state.queue.pop_front()
        {
            let source = self.state.document.as_ref().and_then(|document| document.history.get(next.parent));
            // What it waited for failed, or its state was deleted meanwhile.
            let Some(source) = source.filter(|_| next.after.is_none()) else { continue };
            let job = Job { source: source.picture.clone(), ..next.job };
            self.start(next.parent, Some(job), false);
            // The next one may go on from what this one makes.
            if let (Some(running), Some(follower)) = (&self.state.running, self.state.queue.front_mut())
                && follower.after == Some(JobId(0))
            {
                follower.after = Some(running.job);
            }
        }
    }

    /// Makes the steps of a recipe again, one after another.
    pub(in crate::viewer) fn rebuild(&mut self, steps: Vec<RecipeStep>) {
        let Some(document) = &self.state.document else { return };
        let photo = document.history.photo();
        for (i, step) in steps.into_iter().enumerate() {
            let (backbone, align) = match step.record.model {
                Some(model) => (model.backbone, model.align),
                None => ((&BICUBIC).into(), AlignMethod::NoFix),
            };
            let job = Job {
                source: photo.picture.clone(),
                regions: vec![step.record.region],
                size: (step.width, step.height),
                prompt: step.record.prompt,
                extracted_prompt: None,
                prompt_source: PromptSource::default(),
                request: CaptionRequest::default(),
                full_image: step.record.full_image,
                seed: step.record.seed,
                preview: true,
                restorer: Restorer {
                    backbone,
                    device: self.state.settings.device,
                    memory: self.state.settings.memory,
                    align,
                },
            };
            // All but the first wait for the one before; which job that is shows when it starts.
            let after = (i > 0).then_some(JobId(0));
            self.state.queue.push_back(Queued { parent: photo.id, after, job });
        }
        self.run_next();
    }

    /// Goes on where something failed, with this changed from now on.
    pub(in crate::viewer) fn go_on_with(&mut self, remedy: Remedy) {
        let settings = &mut self.state.settings;
        match remedy {
            Remedy::Memory(memory) => settings.memory = memory,
            Remedy::Device(device) => settings.device = device,
            Remedy::Backbone(spec) => {
                // What failed was asked of another kind of model: it is not done again by itself.
                self.state.messages.retain(|message| !is_with_remedy(message));
                let file = self.state.choices.backbone.network_file().map(Path::to_owned);
                self.actions.extend(file.map(|file| Action::UseBackboneAt(spec, file)));
                return;
            }
        }
        let (memory, device) = (settings.memory, settings.device);
        self.state.messages.retain(|message| !is_with_remedy(message));
        let retry = self.state.retry.take();
        if let Some(Retry::Steps(queued)) = &retry {
            self.state.queue.push_front((**queued).clone());
        }
        for queued in &mut self.state.queue {
            (queued.job.restorer.memory, queued.job.restorer.device) = (memory, device);
        }
        match retry {
            Some(Retry::Caption) => self.caption_box(false),
            _ => self.run_next(),
        }
    }

    pub(in crate::viewer) fn run_again(&mut self) {
        self.roll_unless_locked();
        if let Some((parent, job)) = self.job_again() {
            self.start(parent, Some(job), false);
        }
    }

    /// The placed box, or the state at hand again, several times: with each line of its prompt, or, where there is but
    /// one, with new seeds. After each other, and after what runs.
    pub(in crate::viewer) fn make_variants(&mut self) {
        let placed = self.state.document.as_mut().and_then(|document| document.placed.take());
        let base = match placed {
            Some(placed) => self.job_with_prompt(&placed).map(|job| (placed.parent, job)),
            None => self.job_again(),
        };
        let Some((parent, job)) = base else { return };
        let lines: Vec<&str> = job.prompt.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let jobs: Vec<Job> = if lines.len() > 1 {
            lines.into_iter().map(|line| Job { prompt: line.into(), ..job.clone() }).collect()
        } else {
            let seed = |i: u32| if i == 0 { job.seed } else { fastrand::u32(..).into() };
            (0..self.state.settings.variants).map(|i| Job { seed: seed(i), ..job.clone() }).collect()
        };
        self.state.queue.extend(jobs.into_iter().map(|job| Queued { parent, after: None, job }));
        self.run_next();
    }

    fn job_again(&self) -> Option<(StateId, Job)> {
        let document = self.state.document.as_ref()?;
        let state = document.history.current();
        let (parent, record) = (state.parent?, state.record.as_ref()?);
        let plan = Plan { regions: vec![record.region], nested: vec![], factor: 1.0 };
        let placed = PlacedBox { parent, target: record.region, plan };
        let size = (state.picture.width(), state.picture.height());
        let job = self.job(&placed, document.edited.prompt.clone())?;
        // Its prompt is as it is; those of tiles unless another was written over them.
        let is_edited = document.edited.prompt != record.prompt;
        let full_image = record.full_image.clone().map(|full_image| match is_edited {
            true => FullImage { prompts: Vec::new(), ..full_image },
            false => full_image,
        });
        Some((parent, Job { size, full_image, prompt_source: PromptSource::default(), ..job }))
    }

    fn job(&self, placed: &PlacedBox, prompt: String) -> Option<Job> {
        let (settings, choices) = (&self.state.settings, &self.state.choices);
        Some(Job {
            source: self.state.document.as_ref()?.history.get(placed.parent)?.picture.clone(),
            regions: placed.plan.regions.clone(),
            size: (choices.process_size, choices.process_size),
            prompt,
            extracted_prompt: None,
            prompt_source: self.prompt_source(),
            request: CaptionRequest {
                message: Some(settings.message.trim().to_owned()).filter(|message| !message.is_empty()),
                include_parent: settings.include_parent,
                ..CaptionRequest::default()
            },
            full_image: None,
            seed: choices.seed,
            preview: true,
            restorer: self.restorer(),
        })
    }

    /// Where prompts come from, with the user's own server.
    fn prompt_source(&self) -> PromptSource {
        let source = self.state.settings.prompt_source.clone();
        if !source.is_server() {
            return source;
        }
        source.asked_at(hub::with_key(self.state.settings.server.clone()))
    }

    /// The model that is chosen, and how it runs.
    fn restorer(&self) -> Restorer {
        let (settings, choices) = (&self.state.settings, &self.state.choices);
        Restorer {
            backbone: choices.backbone.clone(),
            device: settings.device,
            memory: settings.memory,
            align: choices.align,
        }
    }

    /// The same with the user's own prompt, and what was extracted for the box.
    fn job_with_prompt(&self, placed: &PlacedBox) -> Option<Job> {
        let job = self.job(placed, self.prompt_for(placed.parent))?;
        let is_extracted = self.state.extracted_for.as_ref() == Some(placed) && !self.state.extracted_prompt.is_empty();
        Some(Job { extracted_prompt: is_extracted.then(|| self.state.extracted_prompt.clone()), ..job })
    }

    /// The user's prompt, and those pinned above the state.
    fn prompt_for(&self, parent: StateId) -> String {
        let mut parts = vec![self.state.choices.draft.trim()];
        if let Some(document) = &self.state.document {
            parts.extend(document.pinned_prompts(parent));
        }
        parts.retain(|part| !part.is_empty());
        parts.join(", ")
    }

    fn remember_prompt(&mut self) {
        self.state.recalled = None;
        let draft = self.state.choices.draft.clone();
        self.state.settings.remember_prompt(&draft);
    }

    /// The prompt used before, `by` further back.
    pub(in crate::viewer) fn recall_prompt(&mut self, by: isize) {
        let prompts = &self.state.settings.prompts;
        let next = match self.state.recalled {
            None if by > 0 => Some(0),
            None => return,
            Some(at) => at.checked_add_signed(by).map(|at| at.min(prompts.len().saturating_sub(1))),
        };
        self.state.recalled = next;
        let earlier = next.and_then(|back| prompts.iter().rev().nth(back));
        self.state.choices.draft = earlier.cloned().unwrap_or_default();
    }

    fn roll_unless_locked(&mut self) {
        if !self.state.settings.seed_locked {
            self.state.choices.seed = fastrand::u32(..).into();
        }
    }

    /// Prepares the box that is being placed, while nothing else is to be done.
    pub(in crate::viewer) fn prefetch(&mut self, placed: Option<&PlacedBox>) {
        let settings = &self.state.settings;
        let active = placed.filter(|_| settings.prefetch && self.state.running.is_none()).cloned();
        if active == self.prefetched {
            return;
        }
        match &active {
            Some(placed) => {
                if let Some(job) = self.job(placed, self.prompt_for(placed.parent)) {
                    self.engine.prepare(job);
                }
            }
            // What was prepared for the job that runs now is that job's.
            None => self.engine.drop_prefetch(),
        }
        self.prefetched = active;
    }

    fn start(&mut self, parent: StateId, job: Option<Job>, captioning: bool) {
        let (Some(job), Some(document)) = (job, &mut self.state.document) else { return };
        document.film = None;
        let looked_from = document.history.current().id;
        let (asked, stage) = (job.clone(), job.first_stage());
        let job: JobId = if captioning { self.engine.caption(job) } else { self.engine.run(job) };
        self.state.running = Some(Running {
            job,
            captioning,
            then_run: false,
            asked,
            parent,
            looked_from,
            step: 0,
            stage,
            fraction: 0.0,
            loading: None,
            start: Instant::now(),
            step_start: Instant::now(),
            overlays: Vec::new(),
            has_preview: false,
            tiles: None,
        });
    }

    /// Has the chosen model loaded and a step estimated, while nothing else is to be done.
    pub(in crate::viewer) fn estimate_soon(&mut self) {
        let (restorer, side) = (self.restorer(), self.state.choices.process_size);
        let active = Some((restorer.backbone.clone(), restorer.device, side));
        if self.state.document.is_some() && self.state.running.is_none() && self.state.estimated != active {
            self.state.estimated = active;
            self.engine.estimate(restorer, (side, side));
        }
    }
}

fn is_with_remedy(message: &Message) -> bool {
    matches!(message, Message::UserError(problem, _) if problem.remedy.is_some())
}

#[cfg(test)]
mod tests;
