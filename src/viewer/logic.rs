//! What happens: events and outcomes come in, actions are carried out, the camera moves. Paints nothing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use egui::ViewportCommand;

use super::Viewer;
use super::actions::{Action, ExportKind};
use super::state::{Document, Edited, Glide, Message, PlacedBox, Running};
use super::tasks::{ExportInput, Outcome};
use super::theme;
use crate::canvas::{Camera, Overlay};
use crate::engine::{Done, Event, Job, JobId, Made, Restorer};
use crate::export::stills::magnification_label;
use crate::history::{Direction, History, StateId};
use crate::region::{self, MAX_FACTOR, Region, square_around};
use crate::settings::Theme;
use crate::step::Stage;

const GLIDE: Duration = Duration::from_millis(250);
const FADE: Duration = Duration::from_millis(350);
/// One press of a zoom key.
const KEY_ZOOM: f64 = 1.4;
const MESSAGES: usize = 3;

impl Viewer {
    /// Takes in what tasks and the engine have sent.
    pub(super) fn receive(&mut self, context: &egui::Context) {
        for outcome in self.tasks.outcomes().try_iter().collect::<Vec<_>>() {
            self.take_outcome(outcome, context);
        }
        for event in self.engine.events().try_iter().collect::<Vec<_>>() {
            self.take_event(event);
        }
        if self.state.keeps_settings && self.state.settings != self.state.saved_settings {
            self.state.saved_settings = self.state.settings.clone();
            self.tasks.save_settings(self.state.settings.clone());
        }
        self.move_camera(context);
    }

    fn take_outcome(&mut self, outcome: Outcome, context: &egui::Context) {
        match outcome {
            Outcome::Opened { name, file, picture, thumbnail } => {
                self.engine.cancel();
                self.state.running = None;
                self.state.opening = None;
                self.thumbnails.clear();
                context.send_viewport_cmd(ViewportCommand::Title(format!("{name} – Chain-of-Zoom")));
                let mut document = Document::new(name, History::new(picture, thumbnail));
                if let Some(old) = &self.state.document {
                    document.screen = old.screen;
                }
                self.state.document = Some(document);
                if let Some(file) = file {
                    self.state.settings.remember(file);
                }
            }
            Outcome::Chosen(action) => self.actions.push(action),
            Outcome::Copied(image) => {
                context.copy_image(image);
                self.tell(Message::Done("Copied".into()));
            }
            Outcome::Done(line) => self.tell(Message::Done(line)),
            Outcome::Failed { problem, opening } => {
                if opening {
                    self.state.opening = None;
                }
                self.tell(Message::Problem(problem));
            }
        }
    }

    fn tell(&mut self, message: Message) {
        // A finished thing makes way for whatever comes next.
        self.state.messages.retain(|old| matches!(old, Message::Problem(_)) && *old != message);
        self.state.messages.push(message);
        let surplus = self.state.messages.len().saturating_sub(MESSAGES);
        self.state.messages.drain(..surplus);
    }

    fn take_event(&mut self, event: Event) {
        if let Event::Ready { cuda_devices } = event {
            self.state.cuda_devices = Some(cuda_devices);
            return;
        }
        let Some(running) = &mut self.state.running else { return };
        let wanted = running.job;
        match event {
            Event::Progress { job, step, stage, fraction } if job == wanted => {
                (running.step, running.stage, running.fraction) = (step, stage, fraction);
            }
            Event::Enlarged { job, step, picture } if job == wanted => {
                if let Some(&region) = running.regions.get(step) {
                    running.overlay = Some(Overlay { parent: running.parent, region, picture });
                }
            }
            // Whoever has typed meanwhile keeps their own words.
            Event::Proposed { job, prompt } if job == wanted && self.state.draft == running.asked_with => {
                self.state.draft = prompt;
            }
            Event::Made { job, made, .. } if job == wanted => self.keep(*made),
            Event::Finished { job, done } if job == wanted => {
                self.state.running = None;
                if let Done::Failed(problem) = done {
                    self.tell(Message::Problem(problem));
                }
            }
            // Of a job that is no longer wanted.
            _ => {}
        }
    }

    fn keep(&mut self, made: Made) {
        let (Some(running), Some(document)) = (&mut self.state.running, &mut self.state.document) else { return };
        let overlay = Overlay { parent: running.parent, region: made.making.region, picture: made.enlarged };
        running.overlay = None;
        // Where the parent was deleted meanwhile there is no place for its child, nor for those after it.
        let Some(id) = document.history.add(running.parent, made.making, made.picture, made.thumbnail) else {
            self.engine.cancel();
            return;
        };
        running.parent = id;
        if self.state.settings.motion {
            document.born.insert(id, (Instant::now(), overlay));
        }
        if self.state.settings.follow && running.looked_from == document.history.current().id {
            running.looked_from = id;
            document.go(id, self.state.settings.motion);
        }
    }

    /// Glides, fades, and settles the camera on what it looks at.
    fn move_camera(&mut self, context: &egui::Context) {
        let Some(document) = &mut self.state.document else { return };
        document.born.retain(|_, (since, _)| since.elapsed() < FADE);
        if document.fit_pending && document.screen[0] > 0.0 {
            document.camera = Camera::fitted(document.history.current(), document.screen);
            document.fit_pending = false;
        }
        if let Some(glide) = &document.glide {
            let t = (glide.start.elapsed().as_secs_f64() / GLIDE.as_secs_f64()).min(1.0);
            let eased = 1.0 - (1.0 - t).powi(3);
            document.camera = glide.from.between(&glide.to, &document.history, eased);
            if t >= 1.0 {
                document.glide = None;
            }
        }
        if document.glide.is_some() || !document.born.is_empty() {
            context.request_repaint();
        }
    }

    /// Does what was asked for, in order.
    pub(super) fn carry_out(&mut self, context: &egui::Context) {
        for action in std::mem::take(&mut self.actions) {
            self.carry_out_one(action, context);
        }
        if let Some(document) = &mut self.state.document
            && document.edited.state != document.history.current().id
        {
            let state = document.history.current();
            let prompt = state.making.as_ref().map(|making| making.prompt.clone()).unwrap_or_default();
            document.edited = Edited { state: state.id, prompt };
        }
    }

    fn carry_out_one(&mut self, action: Action, context: &egui::Context) {
        let motion = self.state.settings.motion;
        match action {
            Action::Open => self.tasks.ask_for_picture(),
            Action::OpenFile(file) => {
                self.state.opening = Some(file.clone());
                self.tasks.open(file);
            }
            Action::Export(kind) => self.ask_where_to_export(kind),
            Action::ExportTo(kind, to) => self.export(kind, to),
            Action::Copy => {
                if let Some(document) = &self.state.document {
                    self.tasks.copy(document.history.current().picture.clone());
                }
            }
            Action::Quit => context.send_viewport_cmd(ViewportCommand::Close),
            Action::PlaceBox(parent, target) => self.place_box(parent, target),
            Action::Run => self.run_placed(),
            Action::RunAgain => self.run_again(),
            Action::Cancel => self.cancel(context),
            Action::GoTo(id) => self.with_document(|document| document.go(id, motion)),
            Action::Go(direction) => self.with_document(|document| document.step(direction, motion)),
            Action::Delete => self.with_document(|document| document.delete(document.history.current().id, motion)),
            Action::DeleteState(id) => self.with_document(|document| document.delete(id, motion)),
            Action::Undo => self.with_document(|document| {
                if document.history.undo() {
                    document.show_current(motion);
                }
            }),
            Action::Redo => self.with_document(|document| {
                if document.history.redo() {
                    document.show_current(motion);
                }
            }),
            Action::Fit => self.with_document(|document| document.show_current(motion)),
            Action::OneToOne => self.with_document(|document| document.look_at_scale(1.0, motion)),
            Action::TwoToOne => self.with_document(|document| document.look_at_scale(2.0, motion)),
            Action::ZoomIn => self.with_document(|document| document.zoom_middle(KEY_ZOOM)),
            Action::ZoomOut => self.with_document(|document| document.zoom_middle(1.0 / KEY_ZOOM)),
            Action::Use(tool) => self.state.tool = tool,
            Action::TogglePanels => self.state.settings.panels = !self.state.settings.panels,
            Action::ToggleFullscreen => {
                let fullscreen = context.input(|input| input.viewport().fullscreen.unwrap_or(false));
                context.send_viewport_cmd(ViewportCommand::Fullscreen(!fullscreen));
            }
            Action::ToggleHelp => self.state.help = !self.state.help,
            Action::ToggleTheme => {
                let theme = &mut self.state.settings.theme;
                *theme = if *theme == Theme::Dark { Theme::Light } else { Theme::Dark };
                theme::apply(context, *theme);
            }
            Action::ToggleAskFirst => self.state.settings.ask_first = !self.state.settings.ask_first,
            Action::ToggleFollow => self.state.settings.follow = !self.state.settings.follow,
            Action::RollSeed => self.state.settings.seed = fastrand::u32(..).into(),
            Action::ToggleSeedLock => self.state.settings.seed_locked = !self.state.settings.seed_locked,
            Action::UseBackbone(backbone) => self.state.settings.backbone = backbone,
            Action::OpenModel => self.tasks.ask_for_model(),
            Action::Align(align) => self.state.settings.align = align,
            Action::Dismiss => _ = self.state.messages.pop(),
        }
    }

    fn with_document(&mut self, change: impl FnOnce(&mut Document)) {
        if let Some(document) = &mut self.state.document {
            change(document);
        }
    }

    fn place_box(&mut self, parent: StateId, target: Region) {
        let size = self.state.settings.process_size;
        let Some(document) = &mut self.state.document else { return };
        document.placed = document.placed_box(parent, target, size);
        let Some(placed) = document.placed.clone() else { return };
        if self.state.settings.ask_first {
            let job = self.job(&placed, self.state.draft.clone());
            self.start(placed.parent, job, true);
        } else {
            self.run_placed();
        }
    }

    fn run_placed(&mut self) {
        let size = self.state.settings.process_size;
        let Some(document) = &mut self.state.document else { return };
        let placed = document.placed.take().or_else(|| {
            // The reference's box: the middle, x4.
            let state = document.history.get(document.camera.anchor)?;
            let side = f64::from(size.div_ceil(MAX_FACTOR));
            let [x, y] = document.camera.center;
            let target = square_around(x, y, side, state.picture.width(), state.picture.height());
            document.placed_box(state.id, target, size)
        });
        if let Some(placed) = placed {
            if !self.state.settings.seed_locked {
                self.state.settings.seed = fastrand::u32(..).into();
            }
            let job = self.job(&placed, self.state.draft.clone());
            self.start(placed.parent, job, false);
        }
    }

    fn run_again(&mut self) {
        let Some(document) = &self.state.document else { return };
        let state = document.history.current();
        let (Some(parent), Some(making)) = (state.parent, &state.making) else { return };
        let plan = region::Plan { regions: vec![making.region], nested: vec![], factor: 1.0 };
        let placed = PlacedBox { parent, target: making.region, plan };
        if !self.state.settings.seed_locked {
            self.state.settings.seed = fastrand::u32(..).into();
        }
        let job = self.job(&placed, document.edited.prompt.clone());
        self.start(parent, job, false);
    }

    fn job(&self, placed: &PlacedBox, prompt: String) -> Option<Job> {
        let settings = &self.state.settings;
        Some(Job {
            source: self.state.document.as_ref()?.history.get(placed.parent)?.picture.clone(),
            regions: placed.plan.regions.clone(),
            size: (settings.process_size, settings.process_size),
            prompt,
            seed: settings.seed,
            restorer: Restorer { backbone: settings.backbone.clone(), device: settings.device, align: settings.align },
        })
    }

    fn start(&mut self, parent: StateId, job: Option<Job>, proposing: bool) {
        let (Some(job), Some(document)) = (job, &self.state.document) else { return };
        let looked_from = document.history.current().id;
        let (regions, asked_with) = (job.regions.clone(), job.prompt.clone());
        let job: JobId = if proposing { self.engine.propose(job) } else { self.engine.run(job) };
        self.state.running = Some(Running {
            job,
            proposing,
            asked_with,
            parent,
            looked_from,
            regions,
            step: 0,
            stage: Stage::Prompting,
            fraction: 0.0,
            start: Instant::now(),
            overlay: None,
        });
    }

    fn cancel(&mut self, context: &egui::Context) {
        if self.state.help {
            self.state.help = false;
            return;
        }
        if let Some(document) = &mut self.state.document {
            if document.drawing_from.take().is_some() {
                return;
            }
            if document.placed.take().is_some() {
                self.engine.cancel();
                self.state.running = None;
                return;
            }
        }
        if self.state.running.is_some() {
            // The engine says when it has stopped; until then the status line shows the job.
            self.engine.cancel();
        } else if context.input(|input| input.viewport().fullscreen.unwrap_or(false)) {
            context.send_viewport_cmd(ViewportCommand::Fullscreen(false));
        } else {
            self.state.messages.pop();
        }
    }

    fn ask_where_to_export(&mut self, kind: ExportKind) {
        let Some(document) = &self.state.document else { return };
        let format = self.state.settings.export_format.extension();
        let stem = document.stem();
        let name = match kind {
            ExportKind::Strip => format!("{stem}_strip.{format}"),
            ExportKind::Sheet => format!("{stem}_sheet.{format}"),
            _ => format!("{stem}_{}.{format}", magnification_label(document.history.current().magnification)),
        };
        self.tasks.ask_where_to_export(kind, name);
    }

    fn export(&mut self, kind: ExportKind, mut to: std::path::PathBuf) {
        let Some(document) = &self.state.document else { return };
        if to.extension().is_none() && matches!(kind, ExportKind::State | ExportKind::Strip | ExportKind::Sheet) {
            to.set_extension(self.state.settings.export_format.extension());
        }
        let history = &document.history;
        self.tasks.export(ExportInput {
            kind,
            to,
            stem: document.stem(),
            format: self.state.settings.export_format,
            chain: history.chain(history.current().id).into_iter().cloned().collect(),
            all: history.outline().into_iter().map(|(_, state)| state.picture.clone()).collect(),
            size: self.state.settings.process_size,
        });
    }
}

impl Document {
    fn stem(&self) -> String {
        let stem = std::path::Path::new(&self.name).file_stem().unwrap_or_default();
        stem.to_string_lossy().into_owned()
    }

    /// Looks at a state.
    pub(super) fn go(&mut self, id: StateId, motion: bool) {
        self.history.go(id);
        self.show_current(motion);
    }

    fn step(&mut self, direction: Direction, motion: bool) {
        if self.history.step(direction).is_some() {
            self.show_current(motion);
        }
    }

    fn delete(&mut self, id: StateId, motion: bool) {
        let before = self.history.current().id;
        self.history.delete(id);
        if self.history.get(self.camera.anchor).is_none() || self.history.current().id != before {
            // What the camera was anchored to may be gone; it starts from where the history went.
            self.camera = Camera::fitted(self.history.current(), self.screen);
            self.glide = None;
        }
        if self.history.current().id != before {
            self.show_current(motion);
        }
        if self.placed.as_ref().is_some_and(|placed| self.history.get(placed.parent).is_none()) {
            self.placed = None;
        }
    }

    fn show_current(&mut self, motion: bool) {
        let to = Camera::fitted(self.history.current(), self.screen);
        self.move_to(to, motion);
    }

    fn look_at_scale(&mut self, scale: f64, motion: bool) {
        self.camera.settle(&self.history, self.screen);
        self.move_to(Camera { scale, ..self.camera }, motion);
    }

    fn move_to(&mut self, to: Camera, motion: bool) {
        // Where there is no way between the two (one was deleted), the camera jumps.
        let connected = self.camera.relative_to(&self.history, to.anchor).is_some();
        if motion && connected {
            self.glide = Some(Glide { from: self.camera, to, start: Instant::now() });
        } else {
            self.glide = None;
            self.camera = to;
        }
    }

    fn zoom_middle(&mut self, factor: f64) {
        self.glide = None;
        let middle = [self.screen[0] / 2.0, self.screen[1] / 2.0];
        self.camera.zoom_at(&self.history, middle, factor, self.screen);
        self.follow_camera();
    }

    /// After the hand moved the camera: the state it looks at is the state at hand.
    pub(super) fn follow_camera(&mut self) {
        self.glide = None;
        let looked_at = self.camera.settle(&self.history, self.screen);
        self.history.look(looked_at);
    }

    /// How far a state has faded in.
    pub(super) fn opacity(born: &HashMap<StateId, (Instant, Overlay)>, id: StateId) -> f32 {
        born.get(&id).map_or(1.0, |(since, _)| (since.elapsed().as_secs_f32() / FADE.as_secs_f32()).min(1.0))
    }
}
