//! Boxes become jobs: at once, after the one that runs, several of one box, or ahead of being asked for.

use std::time::Instant;

use crate::canvas::Overlay;
use crate::engine::{Done, Event, Job, JobId, Made, Restorer};
use crate::history::StateId;
use crate::history::recipe::Step;
use crate::image::AlignMethod;
use crate::prompt::{Asking, Extractor};
use crate::region::{MAX_FACTOR, Plan, Region, square_around};
use crate::step::{Backbone, MemoryPlan, Seen, Stage, Whole};
use crate::viewer::Viewer;
use crate::viewer::state::{Message, PlacedBox, Queued, Running};

/// New tokens for each tile of a whole picture, as in the reference.
const TILE_TOKENS: usize = 16;

impl Viewer {
    pub(super) fn take_event(&mut self, event: Event) {
        if let Event::Ready { cuda_devices } = event {
            self.state.cuda_devices = Some(cuda_devices);
            return;
        }
        match event {
            Event::Loaded { backbone, plan } => {
                self.state.loaded = Some((backbone, plan));
                return;
            }
            Event::Unloaded => {
                self.state.loaded = None;
                return;
            }
            Event::Estimated { backbone, secs } => {
                // Asked for anew where the device or the size is another; then older steps tell nothing.
                self.state.pace.insert(backbone.name(), secs);
                return;
            }
            _ => {}
        }
        let Some(running) = &mut self.state.running else { return };
        let wanted = running.job;
        match event {
            Event::Progress { job, step, stage, fraction } if job == wanted => {
                if stage != running.stage {
                    running.tiles = None;
                }
                if step != running.step || (stage != Stage::Loading && running.stage == Stage::Loading) {
                    // Loading is not the pace of a step.
                    running.step_start = Instant::now();
                }
                let before = if step == running.step { running.fraction } else { 0.0 };
                let is_all = running.proposing && stage == Stage::Prompting;
                running.fraction = if is_all { fraction } else { stage.of_step(fraction) }.max(before);
                running.loading = (stage == Stage::Loading).then_some(fraction);
                (running.step, running.stage) = (step, stage);
            }
            Event::Enlarged { job, step, picture } if job == wanted => {
                if let Some(&region) = running.asked.regions.get(step) {
                    running.overlays = vec![Overlay { parent: running.parent, region, picture }];
                }
                running.has_preview = false;
            }
            Event::Preview { job, picture, .. } if job == wanted => {
                if let [enlarged] = running.overlays.as_mut_slice() {
                    enlarged.picture = picture;
                    running.has_preview = true;
                }
            }
            Event::Seen { job, step, seen } if job == wanted => match seen {
                Seen::Tiles { done, of } => running.tiles = Some((done, of)),
                Seen::Piece { left, top, picture } => {
                    let (Some(&all), Some(whole)) = (running.asked.regions.get(step), running.overlays.first()) else {
                        return;
                    };
                    let side = |length: u32| {
                        (f64::from(length) * f64::from(all.width) / f64::from(whole.picture.width())) as u32
                    };
                    let (width, height) = (side(picture.width()), side(picture.height()));
                    let region = Region { x: side(left), y: side(top), width, height };
                    if width > 0 && height > 0 && region.fits(all.width, all.height) {
                        running.overlays.push(Overlay { parent: running.parent, region, picture });
                    }
                }
            },
            Event::Wording { job, found, .. } | Event::Proposed { job, found } if job == wanted => {
                self.state.found = found
            }
            Event::Made { job, made, .. } if job == wanted => self.keep(*made),
            Event::Finished { job, done } if job == wanted => {
                let (step, parent, job) = (running.step, running.parent, running.asked.clone());
                let run = running.then_run && done == Done::Completed;
                if !running.proposing {
                    // They are with their state now.
                    self.state.found.clear();
                }
                self.state.running = None;
                if run {
                    self.run_placed();
                    return;
                }
                if let Done::Failed(problem) = done {
                    let regions = job.regions[step.min(job.regions.len())..].to_vec();
                    self.state.starved =
                        problem.smaller.map(|_| Queued { parent, after: None, job: Job { regions, ..job } });
                    self.tell(Message::Problem(problem));
                }
                self.run_next();
            }
            // Of a job that is no longer wanted.
            _ => {}
        }
    }

    fn keep(&mut self, made: Made) {
        let (Some(running), Some(document)) = (&mut self.state.running, &mut self.state.document) else { return };
        if let Some(model) = made.making.model.as_ref().filter(|_| made.making.whole.is_none()) {
            self.state.pace.insert(model.name(), made.making.elapsed.as_secs_f64());
        }
        // What was shown in its place so far: the new state fades in over it.
        let before = running.overlays.first().filter(|_| running.has_preview).map(|overlay| overlay.picture.clone());
        let picture = before.unwrap_or(made.enlarged);
        let overlay = Overlay { parent: running.parent, region: made.making.region, picture };
        (running.overlays, running.tiles, running.has_preview) = (Vec::new(), None, false);
        running.step_start = Instant::now();
        // Where the parent was deleted meanwhile there is no place for its child, nor for those after it.
        let Some(id) = document.history.add(running.parent, made.making, made.picture, made.thumbnail) else {
            self.engine.cancel();
            return;
        };
        // What waits for the state before may go on from it.
        for queued in self.state.queue.iter_mut().filter(|queued| queued.after == Some(running.job)) {
            (queued.parent, queued.after) = (id, None);
        }
        running.parent = id;
        if self.state.settings.motion {
            document.born.insert(id, (Instant::now(), overlay));
        }
        if self.state.settings.follow && running.looked_from == document.history.current().id {
            running.looked_from = id;
            document.go(id, self.state.settings.motion);
        }
    }

    pub(super) fn place_box(&mut self, parent: StateId, target: Region) {
        let size = self.state.settings.process_size;
        let Some(document) = &mut self.state.document else { return };
        document.placed = document.placed_box(parent, target, size);
        self.state.found.clear();
        if document.placed.is_none() {
            return;
        }
        if self.state.settings.ask_first {
            self.find_words(false);
        } else {
            self.run_placed();
        }
    }

    /// Looks for the words of the box that waits; `anew`: for others than the likeliest.
    pub(super) fn find_words(&mut self, anew: bool) {
        let Some(placed) = self.state.document.as_ref().and_then(|document| document.placed.clone()) else { return };
        let Some(mut job) = self.job(&placed, self.prompt_for(placed.parent)) else { return };
        if anew && job.extractor == Extractor::Own {
            return;
        }
        if anew {
            job.asking.temperature = self.state.settings.temperature;
            job.asking.seed = fastrand::u32(..).into();
        }
        self.state.found.clear();
        let has_words = job.extractor != Extractor::Own;
        self.start(placed.parent, Some(job), true);
        self.state.found_for = Some(placed).filter(|_| has_words);
    }

    /// Words are found by this from now on; those of the box that waits too.
    pub(super) fn use_words(&mut self, extractor: Extractor) {
        self.state.settings.extractor = extractor;
        self.state.found.clear();
        if self.state.models {
            self.tasks.look_for_word_models(self.state.settings.places.clone());
        }
        // A step that runs is not stopped for that.
        let is_free = self.state.running.as_ref().is_none_or(|running| running.proposing);
        if is_free && self.state.document.as_ref().is_some_and(|document| document.placed.is_some()) {
            self.find_words(false);
        }
    }

    /// The placed box; without one the reference's, the middle of the view x4.
    fn take_placed(&mut self) -> Option<PlacedBox> {
        let size = self.state.settings.process_size;
        let document = self.state.document.as_mut()?;
        document.placed.take().or_else(|| {
            let state = document.history.get(document.camera.anchor)?;
            let side = f64::from(size.div_ceil(MAX_FACTOR));
            let [x, y] = document.camera.center;
            let target = square_around(x, y, side, state.picture.width(), state.picture.height());
            document.placed_box(state.id, target, size)
        })
    }

    pub(super) fn run_placed(&mut self) {
        let waits = self.state.document.as_ref().is_some_and(|document| document.placed.is_some());
        if let Some(running) = self.state.running.as_mut().filter(|running| waits && running.proposing) {
            running.then_run = true;
            return;
        }
        let Some(placed) = self.take_placed() else { return };
        self.roll_unless_locked();
        let job = self.job_with_words(&placed);
        self.remember_prompt();
        self.start(placed.parent, job, false);
    }

    /// All of the state at hand, four times as large.
    pub(super) fn enlarge_whole(&mut self) {
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
            asking: Asking { max_new_tokens: TILE_TOKENS, ..job.asking },
            whole: Some(Whole { tiling: self.state.settings.tiling, prompts: Vec::new() }),
            ..job
        };
        self.start(placed.parent, Some(job), false);
    }

    pub(super) fn enqueue(&mut self, placed: Option<PlacedBox>) {
        let Some(placed) = placed.or_else(|| self.take_placed()) else { return };
        self.roll_unless_locked();
        self.remember_prompt();
        if let Some(job) = self.job_with_words(&placed) {
            self.state.queue.push_back(Queued { parent: placed.parent, after: None, job });
            self.run_next();
        }
    }

    pub(super) fn queue_box(&mut self, parent: StateId, target: Region) {
        let size = self.state.settings.process_size;
        let placed = self.state.document.as_ref().and_then(|document| document.placed_box(parent, target, size));
        if placed.is_some() {
            self.enqueue(placed);
        }
    }

    /// Starts what waits, if nothing runs.
    pub(super) fn run_next(&mut self) {
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
    pub(super) fn rebuild(&mut self, steps: Vec<Step>) {
        let Some(document) = &self.state.document else { return };
        let photo = document.history.photo();
        for (i, step) in steps.into_iter().enumerate() {
            let (backbone, align) = match step.making.model {
                Some(model) => (model.backbone, model.align),
                None => (Backbone::Bicubic, AlignMethod::NoFix),
            };
            let job = Job {
                source: photo.picture.clone(),
                regions: vec![step.making.region],
                size: (step.width, step.height),
                prompt: step.making.prompt,
                found: None,
                extractor: Extractor::Own,
                asking: Asking::default(),
                whole: step.making.whole,
                seed: step.making.seed,
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

    /// Goes on, with this memory plan from now on, where the memory ran out.
    pub(super) fn go_on_with(&mut self, memory: MemoryPlan) {
        self.state.settings.memory = memory;
        self.state
            .messages
            .retain(|message| !matches!(message, Message::Problem(problem) if problem.smaller.is_some()));
        if let Some(mut starved) = self.state.starved.take() {
            starved.job.restorer.memory = memory;
            self.state.queue.push_front(starved);
            self.run_next();
        }
    }

    pub(super) fn run_again(&mut self) {
        self.roll_unless_locked();
        if let Some((parent, job)) = self.job_again() {
            self.start(parent, Some(job), false);
        }
    }

    /// The placed box, or the state at hand again, several times: with each line of its words, or, where there is but
    /// one, with new seeds. After each other, and after what runs.
    pub(super) fn make_variants(&mut self) {
        let placed = self.state.document.as_mut().and_then(|document| document.placed.take());
        let base = match placed {
            Some(placed) => self.job_with_words(&placed).map(|job| (placed.parent, job)),
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
        let (parent, making) = (state.parent?, state.making.as_ref()?);
        let plan = Plan { regions: vec![making.region], nested: vec![], factor: 1.0 };
        let placed = PlacedBox { parent, target: making.region, plan };
        let size = (state.picture.width(), state.picture.height());
        let job = self.job(&placed, document.edited.prompt.clone())?;
        // Its words are as they are; those of tiles unless others were written over them.
        let is_edited = document.edited.prompt != making.prompt;
        let whole = making.whole.clone().map(|whole| match is_edited {
            true => Whole { prompts: Vec::new(), ..whole },
            false => whole,
        });
        Some((parent, Job { size, whole, extractor: Extractor::Own, ..job }))
    }

    fn job(&self, placed: &PlacedBox, prompt: String) -> Option<Job> {
        let settings = &self.state.settings;
        Some(Job {
            source: self.state.document.as_ref()?.history.get(placed.parent)?.picture.clone(),
            regions: placed.plan.regions.clone(),
            size: (settings.process_size, settings.process_size),
            prompt,
            found: None,
            extractor: settings.extractor.clone(),
            asking: Asking {
                message: Some(settings.message.trim().to_owned()).filter(|message| !message.is_empty()),
                both: settings.both_images,
                ..Asking::default()
            },
            whole: None,
            seed: settings.seed,
            preview: true,
            restorer: Restorer {
                backbone: settings.backbone.clone(),
                device: settings.device,
                memory: settings.memory,
                align: settings.align,
            },
        })
    }

    /// The same with the user's own words, and those that were found for the box.
    fn job_with_words(&self, placed: &PlacedBox) -> Option<Job> {
        let job = self.job(placed, self.prompt_for(placed.parent))?;
        let is_found = self.state.found_for.as_ref() == Some(placed) && !self.state.found.is_empty();
        Some(Job { found: is_found.then(|| self.state.found.clone()), ..job })
    }

    /// The user's words, and those pinned above the state.
    fn prompt_for(&self, parent: StateId) -> String {
        let mut words = vec![self.state.draft.trim()];
        if let Some(document) = &self.state.document {
            words.extend(document.pinned_words(parent));
        }
        words.retain(|part| !part.is_empty());
        words.join(", ")
    }

    fn remember_prompt(&mut self) {
        self.state.recalled = None;
        let draft = self.state.draft.clone();
        self.state.settings.remember_prompt(&draft);
    }

    /// The words used before, `by` further back.
    pub(super) fn recall_prompt(&mut self, by: isize) {
        let prompts = &self.state.settings.prompts;
        let next = match self.state.recalled {
            None if by > 0 => Some(0),
            None => return,
            Some(at) => at.checked_add_signed(by).map(|at| at.min(prompts.len().saturating_sub(1))),
        };
        self.state.recalled = next;
        let found = next.and_then(|back| prompts.iter().rev().nth(back));
        self.state.draft = found.cloned().unwrap_or_default();
    }

    fn roll_unless_locked(&mut self) {
        if !self.state.settings.seed_locked {
            self.state.settings.seed = fastrand::u32(..).into();
        }
    }

    /// Prepares the box that is being placed, while nothing else is to be done.
    pub(in crate::viewer) fn work_ahead(&mut self, placed: Option<&PlacedBox>) {
        let settings = &self.state.settings;
        let wanted = placed.filter(|_| settings.work_ahead && self.state.running.is_none()).cloned();
        if wanted == self.ahead {
            return;
        }
        match &wanted {
            Some(placed) => {
                if let Some(job) = self.job(placed, self.prompt_for(placed.parent)) {
                    self.engine.prepare(job);
                }
            }
            // Placed for good: the job that runs now takes what was prepared.
            None if self.state.running.is_some() => {}
            None => self.engine.drop_work_ahead(),
        }
        self.ahead = wanted;
    }

    fn start(&mut self, parent: StateId, job: Option<Job>, proposing: bool) {
        let (Some(job), Some(document)) = (job, &mut self.state.document) else { return };
        document.film = None;
        let looked_from = document.history.current().id;
        let asked = job.clone();
        let job: JobId = if proposing { self.engine.propose(job) } else { self.engine.run(job) };
        self.state.running = Some(Running {
            job,
            proposing,
            then_run: false,
            asked,
            parent,
            looked_from,
            step: 0,
            stage: Stage::Prompting,
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
    pub(super) fn estimate_soon(&mut self) {
        let settings = &self.state.settings;
        let restorer = Restorer {
            backbone: settings.backbone.clone(),
            device: settings.device,
            memory: settings.memory,
            align: settings.align,
        };
        let side = settings.process_size;
        let wanted = Some((restorer.backbone.clone(), restorer.device, side));
        if self.state.document.is_some() && self.state.running.is_none() && self.state.estimated != wanted {
            self.state.estimated = wanted;
            self.engine.estimate(restorer, (side, side));
        }
    }
}
