//! What is on the window, without a word on how it is painted. Longer than most files: one list of all there is to see.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::actions::{Action, Against, CompareMode, Tool};
use super::bindings::Bindings;
use super::found_models::FoundModels;
use super::network_facts;
use super::prompt_server::ServerForm;
use super::selftest::Selftest;
use super::settings::Settings;
use crate::base::{
    BUILT_IN, Backbone, BackboneKind, DeviceChoice, METRICS, MemoryPlan, MetricSpec, Plan, RecipeStep, Region, Stage,
    StepEstimate, Ticket, UserError, plan,
};
use crate::document::consistency::Consistency;
use crate::document::session::autosave::RecoverableSession;
use crate::document::session::{Choices, Session};
use crate::document::{CachedPicture, History, ScaleState, StateId};
use crate::engine::{Job, JobId};
use crate::hub::Transfer;
use crate::imaging::Picture;
use crate::imaging::codec::Preview;
use crate::scene::canvas::{Camera, Overlay};
use crate::scene::film::path::ZoomPath;

/// All of it.
pub struct State {
    /// The user's defaults.
    pub settings: Settings,
    /// What is chosen for the next step: the user's defaults, or what the session at hand brought along.
    pub choices: Choices,
    /// The same as it was last seen: what the user has changed since becomes the default.
    pub(super) seen_choices: Choices,
    /// As they are on the disk.
    pub(super) saved_settings: Settings,
    pub(super) keeps_settings: bool,
    /// Which keys do what.
    pub bindings: Bindings,
    /// The photo that is open.
    pub document: Option<Document>,
    /// The file that is being decoded.
    pub opening: Option<Opening>,
    /// The CUDA devices that can be used, once the engine has looked.
    pub cuda_devices: Option<Vec<usize>>,
    /// What the left button does.
    pub tool: Tool,
    /// The prompt that was extracted for the box at hand, as far as it is, and as edited.
    pub extracted_prompt: String,
    /// The box that waits, where it is its.
    pub(super) extracted_for: Option<PlacedBox>,
    /// Which of the prompts used before is shown; counted from the end.
    pub(super) recalled: Option<usize>,
    /// The job that runs.
    pub running: Option<Running>,
    /// Jobs that wait for it.
    pub queue: VecDeque<Queued>,
    /// Seconds a step has taken lately, by model.
    pub(super) pace: HashMap<String, f64>,
    /// Memory that a step takes, by model.
    pub(super) step_estimates: HashMap<String, StepEstimate>,
    /// The export that runs.
    pub exporting: Option<Exporting>,
    /// What went wrong or was done, the newest last.
    pub messages: Vec<Message>,
    /// Sessions that were left behind by a crash or unsaved.
    pub recoverable: Vec<RecoverableSession>,
    /// The window with the keys.
    pub help: bool,
    /// The action whose key is to be changed.
    pub rebinding: Option<Action>,
    /// The film's options.
    pub film_options: bool,
    /// The window with the models.
    pub models: bool,
    /// The window in which they are got.
    pub downloads: bool,
    /// The self-test, and its window.
    pub selftest: Selftest,
    /// What is on its way from the hub.
    pub transfer: Option<Arc<Transfer>>,
    /// The models that consist of several files, and all that can be downloaded.
    pub found: FoundModels,
    /// The server that writes prompts, as it is entered and tried.
    pub server: ServerForm,
    /// The super-resolution models on this machine, the best first; empty while they are looked for.
    pub backbones: Vec<Backbone>,
    /// What is known of networks that were listed.
    pub network_facts: network_facts::Known,
    /// Where that was found out.
    pub(super) facts_device: String,
    /// What was known of them before is looked up.
    pub(super) facts_recalled: bool,
    /// The engine is to measure one.
    pub(super) measuring: bool,
    /// The one that states are scored by.
    pub metric: &'static MetricSpec,
    /// The engine scores states.
    pub scoring: bool,
    /// Model files that were dropped on the window, until the user has said whether they are to be added.
    pub offered_models: Vec<Backbone>,
    /// The open session has a model of its own, which is not the user's default.
    pub(super) session_backbone: bool,
    /// The model whose pace was asked for last, where it runs, and the side of its results.
    pub(super) estimated: Option<(Backbone, DeviceChoice, u32)>,
    /// The model that the engine has open, and its memory plan.
    pub loaded: Option<(Backbone, Option<MemoryPlan>)>,
    /// What was left of a job that failed by something that can be changed.
    pub(super) retry: Option<Retry>,
    /// Steps that an opened picture tells of, until the user has said whether they are to be made again.
    pub rebuild: Option<Rebuild>,
    /// The list of all actions, with what was typed there.
    pub palette: Option<Palette>,
    /// What the state at hand is compared with.
    pub against: Against,
    /// How.
    pub compare: CompareMode,
    /// Where the split is, as a fraction of the canvas.
    pub split: f32,
    /// Bytes of memory in use, looked up now and then.
    pub(super) memory: Option<(Instant, u64)>,
}

/// A file on its way.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Which.
    pub file: PathBuf,
    /// What is decoded so far.
    pub preview: Option<Arc<Preview>>,
}

/// A job that waits.
#[derive(Clone, Debug)]
pub struct Queued {
    /// The state it starts from.
    pub parent: StateId,
    /// It goes on from what this job makes; number 0 stands for the one before it in the queue.
    pub after: Option<JobId>,
    /// What is to be done; its source is looked up when it starts.
    pub job: Job,
}

/// What is to be done again when what it failed by is changed.
#[derive(Clone, Debug)]
pub(super) enum Retry {
    /// The steps that were left.
    Steps(Box<Queued>),
    /// Only the prompt for the box that waits was asked for.
    Caption,
}

/// The steps that a picture says it was made by. Files say anything: nothing runs before the user has seen them.
#[derive(Clone, Debug)]
pub struct Rebuild {
    /// The picture.
    pub file: PathBuf,
    /// With models of this machine.
    pub steps: Vec<RecipeStep>,
    /// Models that are not on this machine; without them the steps cannot be made.
    pub missing: Vec<String>,
}

/// An export that runs.
#[derive(Clone, Debug)]
pub struct Exporting {
    /// For the status line.
    pub what: String,
    /// Parts done, and of how many.
    pub done: Arc<(AtomicU32, AtomicU32)>,
    /// Its answers carry the generation.
    pub ticket: Ticket,
    /// Since when.
    pub start: Instant,
}

impl Exporting {
    /// So much is done; whether to go on.
    pub(super) fn report(&self, done: u32, all: u32) -> bool {
        self.done.0.store(done, Ordering::Relaxed);
        self.done.1.store(all, Ordering::Relaxed);
        !self.ticket.cancel.is_cancelled()
    }
}

/// The list of all actions.
#[derive(Clone, Debug, Default)]
pub struct Palette {
    /// What was typed.
    pub query: String,
    /// Which line is chosen.
    pub selected: usize,
}

/// A line over the canvas.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// Something went wrong; stays until it is closed, or until the same has gone well.
    UserError(UserError, Cause),
    /// Something was done.
    Done(String),
    /// Of several files that were given only the first is open: these are not.
    Waiting(Vec<PathBuf>),
    /// A session was left behind: restore it?
    Offer(RecoverableSession),
    /// Sessions left behind take much room: delete the oldest?
    Surplus {
        /// How many there are.
        count: usize,
        /// What all of them take.
        bytes: u64,
        /// Those that could go.
        oldest: Vec<PathBuf>,
    },
}

/// What has gone wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Opening a file.
    Opening,
    /// A step or a caption.
    Job,
    /// Writing a file.
    Writing,
    /// A download.
    Download,
    /// Anything else.
    Other,
}

/// An open photo with all that was made of it.
pub struct Document {
    /// Tells documents apart.
    pub(super) number: u64,
    /// For titles and file names.
    pub name: String,
    /// Photo and states.
    pub history: History,
    /// What is looked at.
    pub camera: Camera,
    /// Width and height of the canvas in physical pixels.
    pub screen: [f64; 2],
    /// All of the state at hand is to be shown as soon as the canvas's size is known.
    pub(super) fit_pending: bool,
    pub(super) tween: Option<CameraTween>,
    /// States that are still fading in: since when, and over what.
    pub(super) fading_in: HashMap<StateId, (Instant, Overlay)>,
    /// The box that waits for the prompt to be confirmed.
    pub placed: Option<PlacedBox>,
    /// Where a box is being drawn: the pressed point, in physical pixels of the canvas.
    pub(super) drawing_from: Option<[f64; 2]>,
    /// The prompt of the state at hand, as edited.
    pub edited: Edited,
    /// The `.coz` file it was saved to or opened from.
    pub session_file: Option<PathBuf>,
    /// The history's revision on the disk, in that file.
    pub(super) saved_revision: u64,
    /// The same of the autosave.
    pub(super) kept_revision: Option<u64>,
    /// The revision up to which pictures were written to make room in memory.
    pub(super) spilled_revision: Option<u64>,
    /// The autosave it was restored from, until there is a new one.
    pub(super) restored_from: Option<PathBuf>,
    /// What is known of how consistent states are; `None` while it is found out.
    pub(super) examined: HashMap<StateId, Option<Arc<Examined>>>,
    /// What metrics say of states, or why they say nothing.
    pub scores: HashMap<(StateId, &'static str), Result<f64, String>>,
    /// The film being previewed.
    pub film: Option<Playing>,
    /// What is on the canvas at its own size, not as a thumbnail: it stays in memory.
    pub(super) in_view: Vec<CachedPicture>,
    /// The history's version, the budget, and how many pictures had been reread, when all of it was within the budget.
    pub(super) evicted_at: Option<((u64, u64), u64, u64)>,
}

/// What was found out about a state beside the window's thread.
#[derive(Debug)]
pub struct Examined {
    /// `None` where no model ran.
    pub consistency: Option<Consistency>,
    /// Its region, plainly enlarged.
    pub bicubic: Arc<Picture>,
}

impl Examined {
    /// In memory.
    pub(super) fn bytes(&self) -> u64 {
        self.bicubic.bytes() + self.consistency.as_ref().map_or(0, |consistency| consistency.heat.bytes())
    }
}

/// A film on the canvas.
pub struct Playing {
    /// The chain.
    pub branch: History,
    /// The camera's way.
    pub path: ZoomPath,
    /// When it began.
    pub start: Instant,
}

/// The prompt of a state while it is being edited.
#[derive(Clone, Debug, PartialEq)]
pub struct Edited {
    /// Whose.
    pub state: StateId,
    /// The prompt.
    pub prompt: String,
}

/// The camera on its way.
pub(super) struct CameraTween {
    pub from: Camera,
    pub to: Camera,
    pub start: Instant,
}

/// A box on a state and the steps that lead there.
#[derive(Clone, Debug, PartialEq)]
pub struct PlacedBox {
    /// The state it lies on.
    pub parent: StateId,
    /// In that state's pixels.
    pub target: Region,
    /// How it is reached.
    pub plan: Plan,
}

/// A job and how far it is.
pub struct Running {
    /// Which.
    pub job: JobId,
    /// It only extracts a prompt.
    pub captioning: bool,
    /// The box is to be run as soon as it is there.
    pub then_run: bool,
    /// As it was started.
    pub asked: Job,
    /// The state that the running step cuts from.
    pub parent: StateId,
    /// The state that was at hand when the job last moved the camera; whoever goes elsewhere meanwhile is left there.
    pub looked_from: StateId,
    /// The running step, from 0.
    pub step: usize,
    /// What it does.
    pub stage: Stage,
    /// How much of the step is done, 0 to 1, about.
    pub fraction: f32,
    /// How much of the weights is read, 0 to 1, while they are.
    pub loading: Option<f32>,
    /// When the job was started.
    pub start: Instant,
    /// When the running step was.
    pub step_start: Instant,
    /// The overlay is the built-in network's result.
    pub has_preview: bool,
    /// The enlarged region or its preview, shown in place until the result is there; of a full image the pieces that are there so far too.
    pub overlays: Vec<Overlay>,
    /// Tiles of a full image that are done of the stage, and of how many.
    pub tiles: Option<(usize, usize)>,
}

impl State {
    pub(super) fn new(mut settings: Settings, keeps_settings: bool) -> Self {
        settings.auto_backbone = Some(settings.is_auto_backbone());
        let bindings = Bindings::new(&settings.keys);
        Self {
            saved_settings: settings.clone(),
            choices: settings.choices(),
            seen_choices: settings.choices(),
            settings,
            keeps_settings,
            bindings,
            document: None,
            opening: None,
            cuda_devices: None,
            tool: Tool::default(),
            extracted_prompt: String::new(),
            extracted_for: None,
            recalled: None,
            running: None,
            queue: VecDeque::new(),
            pace: HashMap::new(),
            step_estimates: HashMap::new(),
            exporting: None,
            messages: Vec::new(),
            recoverable: Vec::new(),
            help: false,
            rebinding: None,
            film_options: false,
            models: false,
            downloads: false,
            selftest: Selftest::default(),
            transfer: None,
            found: FoundModels::default(),
            server: ServerForm::default(),
            backbones: Vec::new(),
            network_facts: network_facts::Known::new(),
            facts_device: String::new(),
            facts_recalled: false,
            measuring: false,
            metric: &METRICS[0],
            scoring: false,
            offered_models: Vec::new(),
            session_backbone: false,
            estimated: None,
            loaded: None,
            retry: None,
            rebuild: None,
            palette: None,
            against: Against::default(),
            compare: CompareMode::default(),
            split: 0.5,
            memory: None,
        }
    }

    /// The open document as a session.
    pub fn session(&self) -> Option<Session> {
        let document = self.document.as_ref()?;
        Some(Session { history: document.history.clone(), choices: self.choices.clone(), lost_photo: None })
    }

    /// The user's defaults count again; the prompt stays.
    pub(super) fn reset_choices(&mut self) {
        self.session_backbone = false;
        let draft = std::mem::take(&mut self.choices.draft);
        self.use_choices(Choices { draft, ..self.settings.choices() });
        self.use_best();
    }

    /// Choices that are not the user's own.
    pub(super) fn use_choices(&mut self, choices: Choices) {
        self.seen_choices.clone_from(&choices);
        self.choices = choices;
    }

    /// What the user has changed is the default from now on.
    pub(super) fn remember_choices(&mut self) {
        let (now, before, settings) = (&self.choices, &self.seen_choices, &mut self.settings);
        if now == before {
            return;
        }
        if now.process_size != before.process_size {
            settings.process_size = now.process_size;
        }
        if now.backbone != before.backbone {
            settings.backbone.clone_from(&now.backbone);
        }
        if now.align != before.align {
            settings.align = now.align;
        }
        if now.seed != before.seed {
            settings.seed = now.seed;
        }
        self.seen_choices.clone_from(&self.choices);
    }

    /// Seconds that the running job will still take, where its model's pace is known.
    pub fn remaining(&self) -> Option<f64> {
        let running = self.running.as_ref()?;
        if running.asked.full_image.is_some() {
            // Its pace is its own.
            let (elapsed, done) = (running.step_start.elapsed().as_secs_f64(), f64::from(running.fraction));
            return (done > 0.05).then(|| elapsed / done * (1.0 - done));
        }
        let pace = self.step_secs()?;
        let ahead = running.asked.regions.len().saturating_sub(running.step) as f64;
        Some((pace * ahead - running.step_start.elapsed().as_secs_f64()).max(0.0))
    }

    /// Seconds that a step of the chosen model takes, as far as is known.
    pub fn step_secs(&self) -> Option<f64> {
        self.pace.get(&self.choices.backbone.name()).copied()
    }

    /// Memory that a step of the chosen model takes, as far as is known.
    pub fn step_bytes(&self) -> Option<u64> {
        self.step_estimates.get(&self.choices.backbone.name()).map(|estimate| estimate.bytes)
    }

    /// What is to be known of the chosen model's results.
    pub fn step_remark(&self) -> Option<&'static str> {
        self.step_estimates.get(&self.choices.backbone.name())?.remark
    }

    /// Compares so, or stops comparing where it is so already.
    pub(super) fn toggle_compare(&mut self, mode: CompareMode) {
        self.compare = if self.compare == mode { CompareMode::Off } else { mode };
    }

    /// The next thing to compare with.
    pub(super) fn next_reference(&mut self) {
        self.against = match self.against {
            Against::Bicubic => Against::Photo,
            Against::Photo | Against::State(_) => Against::Bicubic,
        };
    }

    /// Whether the best model on this machine is the one in use.
    pub fn uses_best(&self) -> bool {
        self.settings.is_auto_backbone() && !self.session_backbone
    }

    /// Uses it, where the user has not chosen another.
    pub(super) fn use_best(&mut self) {
        if let Some(best) = self.backbones.first().filter(|_| self.uses_best()).cloned() {
            self.choose(best);
        }
    }

    /// Chooses a model, and its way to match colours: whoever has left it as the model before wants it is taken not to mind.
    pub(super) fn choose(&mut self, backbone: Backbone) {
        let before = std::mem::replace(&mut self.choices.backbone, backbone);
        if self.choices.align == before.spec.align {
            self.choices.align = self.choices.backbone.spec.align;
        }
    }

    /// Whether a better model than the built-in is still to be got.
    pub fn lacks_realesrgan(&self) -> bool {
        self.backbones.first().is_some_and(|best| best.is(&BUILT_IN))
    }

    /// Why the best model is that one.
    pub fn reason(&self) -> &'static str {
        match self.backbones.first() {
            Some(best) if best.is_diffusion() => "Best on this machine: all files of this diffusion model are here",
            Some(best) if best.is(&BUILT_IN) => "The only one on this machine",
            _ => "Best on this machine",
        }
    }

    /// The single-image networks that lists show.
    pub fn networks(&self) -> Vec<Backbone> {
        let of_kind = |backbone: &&Backbone| backbone.spec.kind == BackboneKind::SingleImage;
        let chosen = Some(&self.choices.backbone).filter(|chosen| !self.backbones.contains(chosen));
        self.backbones.iter().chain(chosen).filter(of_kind).cloned().collect()
    }

    /// Where models run, for people.
    pub fn device_name(&self) -> String {
        let device = self.settings.device;
        self.cuda_devices.as_ref().map_or_else(|| device.to_string(), |usable| device.among(usable))
    }
}

impl Document {
    pub(super) fn new(number: u64, history: History) -> Self {
        let name = history.source().name.clone();
        let revision = history.revision();
        let camera = Camera::fitted(history.photo(), [1.0, 1.0]);
        let edited = Edited { state: history.photo().id, prompt: String::new() };
        Self {
            number,
            name,
            history,
            camera,
            screen: [0.0; 2],
            fit_pending: true,
            tween: None,
            fading_in: HashMap::new(),
            placed: None,
            drawing_from: None,
            edited,
            session_file: None,
            saved_revision: revision,
            kept_revision: Some(revision),
            spilled_revision: None,
            restored_from: None,
            examined: HashMap::new(),
            scores: HashMap::new(),
            film: None,
            in_view: Vec::new(),
            evicted_at: None,
        }
    }

    /// The box as it would be reached; `None` where the state is gone.
    pub fn placed_box(&self, parent: StateId, target: Region, size: u32) -> Option<PlacedBox> {
        let picture = &self.history.get(parent)?.picture;
        let plan = plan(picture.width(), picture.height(), target, size);
        Some(PlacedBox { parent, target, plan })
    }

    /// Whether it holds states that are in no `.coz` file.
    pub fn is_unsaved(&self) -> bool {
        self.history.revision() != self.saved_revision && !self.history.is_empty()
    }

    /// The prompts that are added to every one for a box on this state.
    pub fn pinned_prompts(&self, parent: StateId) -> Vec<&str> {
        let chain = self.history.chain(parent);
        chain.iter().filter_map(|state| self.history.pinned(state.id)).collect()
    }

    /// What is known of how consistent a state is.
    pub fn examined(&self, id: StateId) -> Option<&Examined> {
        self.examined.get(&id)?.as_deref()
    }

    /// Width and height of the part of the photo behind what is seen of the state at hand, in the photo's own pixels.
    pub fn source_pixels_in_view(&self) -> [f64; 2] {
        let state = self.history.current();
        let Some(view) = self.camera.relative_to(&self.history, state.id) else { return [0.0; 2] };
        let side = |axis: usize| {
            let length = f64::from([state.picture.width(), state.picture.height()][axis]);
            let half = self.screen[axis] / view.scale / 2.0;
            let seen = (view.center[axis] + half).min(length) - (view.center[axis] - half).max(0.0);
            seen.max(0.0) / state.magnification
        };
        [side(0), side(1)]
    }

    /// How a state is called: its magnification, or the photo.
    pub fn title(state: &ScaleState) -> String {
        match state.record {
            Some(_) => crate::base::magnification_label(state.magnification),
            None => "photo".into(),
        }
    }
}
