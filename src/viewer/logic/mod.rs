//! What happens: events and outcomes come in, actions are carried out, the camera moves. Paints nothing.

mod camera;
mod files;
mod jobs;

use std::sync::Arc;
use std::time::{Duration, Instant};

use egui::ViewportCommand;

use super::Viewer;
use super::actions::{Action, Against, CompareMode};
use super::bindings::{self, Bindings};
use super::state::{Document, Edited, Message, Palette};
use super::theme;
use crate::hub::Transfer;
use crate::prompt::{Extractor, ExtractorKind};
use crate::settings::Theme;
use crate::step::Backbone;

/// One press of a zoom key.
const KEY_ZOOM: f64 = 1.4;
const MESSAGES: usize = 3;
/// How long settings stay as they are before they are written.
const SETTINGS_REST: Duration = Duration::from_millis(300);
/// How often memory in use is looked up, at most.
const MEMORY_EVERY: Duration = Duration::from_secs(2);

impl Viewer {
    /// Takes in what tasks and the engine have sent.
    pub(super) fn receive(&mut self, context: &egui::Context) {
        for outcome in self.tasks.outcomes().try_iter().collect::<Vec<_>>() {
            self.take_outcome(outcome, context);
        }
        for event in self.engine.events().try_iter().collect::<Vec<_>>() {
            self.take_event(event);
        }
        self.save_settings_soon(context);
        if self.state.memory.is_none_or(|(when, _)| when.elapsed() > MEMORY_EVERY) {
            let used = memory_stats::memory_stats().map_or(0, |stats| stats.physical_mem);
            self.state.memory = Some((Instant::now(), used));
        }
        if self.state.document.as_mut().is_some_and(Document::move_camera) {
            context.request_repaint();
        }
    }

    /// Writes settings that have changed, once they have rested for a moment: a window that is being resized changes
    /// them with every frame.
    fn save_settings_soon(&mut self, context: &egui::Context) {
        if !self.state.keeps_settings || self.state.settings == self.state.saved_settings {
            return;
        }
        match &self.settings_seen {
            Some((since, seen)) if *seen == self.state.settings => {
                if since.elapsed() >= SETTINGS_REST {
                    self.state.saved_settings = self.state.settings.clone();
                    self.tasks.save_settings(self.state.settings.clone());
                }
            }
            _ => self.settings_seen = Some((Instant::now(), self.state.settings.clone())),
        }
        context.request_repaint_after(SETTINGS_REST);
    }

    pub(super) fn tell(&mut self, message: Message) {
        // A finished thing makes way for whatever comes next.
        self.state.messages.retain(|old| !matches!(old, Message::Done(_)) && *old != message);
        self.state.messages.push(message);
        let surplus = self.state.messages.len().saturating_sub(MESSAGES);
        self.state.messages.drain(..surplus);
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
        self.examine_current();
        self.estimate_soon();
        let restored_from = self.state.document.as_mut().and_then(|document| document.restored_from.take());
        self.keep_session(restored_from);
    }

    fn carry_out_one(&mut self, action: Action, context: &egui::Context) {
        let motion = self.state.settings.motion;
        match action {
            Action::Open => self.tasks.ask_for_picture(),
            Action::OpenSample => {
                let data = self.autosave_folder.as_deref().and_then(std::path::Path::parent);
                self.tasks.open_sample(data.map_or_else(std::env::temp_dir, Into::into));
            }
            // A session that was left behind is opened by its folder.
            Action::OpenFile(path) | Action::Restore(path) => self.open_file(path),
            Action::DiscardLeft(folder) => self.discard_left(folder),
            Action::Save => self.save(),
            Action::Close => self.close(context),
            Action::Export(kind) => self.ask_where_to_export(kind),
            Action::ExportTo(kind, to) => self.export(kind, to),
            Action::StopExport => {
                if let Some(exporting) = &self.state.exporting {
                    exporting.stop.store(true, std::sync::atomic::Ordering::Relaxed);
                }
            }
            Action::ToggleFilm => self.state.film_options = !self.state.film_options,
            Action::PlayFilm => self.play_film(),
            Action::Copy => {
                if let Some(document) = &self.state.document {
                    self.tasks.copy(document.history.current().picture.clone());
                }
            }
            Action::Quit => context.send_viewport_cmd(ViewportCommand::Close),
            Action::PlaceBox(parent, target) => self.place_box(parent, target),
            Action::QueueBox(parent, target) => self.queue_box(parent, target),
            Action::Run => self.run_placed(),
            Action::Enqueue => self.enqueue(None),
            Action::ClearQueue => self.state.queue.clear(),
            Action::RunAgain => self.run_again(),
            Action::Regenerate => self.find_words(true),
            Action::StopWords => {
                if self.state.running.as_ref().is_some_and(|running| running.proposing) {
                    self.engine.cancel();
                }
            }
            Action::Variants => self.make_variants(),
            Action::EnlargeWhole => self.enlarge_whole(),
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
            Action::Compare(mode) => {
                self.state.compare = if self.state.compare == mode { CompareMode::Off } else { mode };
            }
            Action::CompareWith(against) => self.state.against = against,
            Action::NextReference => {
                self.state.against = match self.state.against {
                    Against::Bicubic => Against::Photo,
                    Against::Photo | Against::State(_) => Against::Bicubic,
                };
            }
            // These last while their keys are held; the canvas looks at the keys.
            Action::HoldReference | Action::HoldHeat | Action::HoldPhoto => {}
            Action::EarlierPrompt => self.recall_prompt(1),
            Action::LaterPrompt => self.recall_prompt(-1),
            Action::Rebind(action) => self.state.rebinding = Some(*action),
            Action::ResetKeys => {
                self.state.settings.keys.clear();
                self.state.bindings = Bindings::new(&self.state.settings.keys);
            }
            Action::Dismiss => _ = self.state.messages.pop(),
            action => self.set(action, context),
        }
    }

    /// Actions that only set something.
    fn set(&mut self, action: Action, context: &egui::Context) {
        let settings = &mut self.state.settings;
        match action {
            Action::TogglePanels => settings.panels = !settings.panels,
            Action::ToggleInfo => settings.info = !settings.info,
            Action::ToggleFullscreen => {
                let fullscreen = context.input(|input| input.viewport().fullscreen.unwrap_or(false));
                context.send_viewport_cmd(ViewportCommand::Fullscreen(!fullscreen));
            }
            Action::ToggleHelp => self.state.help = !self.state.help,
            Action::TogglePalette => {
                self.state.palette = match self.state.palette {
                    Some(_) => None,
                    None => Some(Palette::default()),
                };
            }
            Action::NextTheme => {
                settings.theme = match settings.theme {
                    Theme::Dark => Theme::Light,
                    Theme::Light => Theme::Contrast,
                    Theme::Contrast => Theme::Dark,
                };
                theme::apply(context, settings.theme);
            }
            Action::UseTheme(theme) => {
                settings.theme = theme;
                theme::apply(context, theme);
            }
            Action::ToggleAskFirst => settings.ask_first = !settings.ask_first,
            Action::ToggleFollow => settings.follow = !settings.follow,
            Action::ToggleMotion => settings.motion = !settings.motion,
            Action::ToggleWorkAhead => settings.work_ahead = !settings.work_ahead,
            Action::ToggleLinkPhoto => settings.link_photo = !settings.link_photo,
            Action::RollSeed => settings.seed = fastrand::u32(..).into(),
            Action::ToggleSeedLock => settings.seed_locked = !settings.seed_locked,
            Action::UseBackbone(backbone) => {
                (settings.backbone, settings.auto_backbone) = (backbone, Some(false));
                self.state.session_backbone = false;
                if self.state.models {
                    self.look_for_models();
                }
            }
            Action::UseBestBackbone => {
                settings.auto_backbone = Some(true);
                self.state.session_backbone = false;
                self.state.use_best();
                self.tasks.look_for_backbones();
            }
            Action::UseWords(ExtractorKind::Own) => self.use_words(Extractor::Own),
            Action::UseWords(kind) => self.tasks.look_for_words(kind, settings.places.clone()),
            Action::OpenWords(kind) => self.tasks.ask_for_words(kind),
            Action::UseWordsAt(kind, place) => {
                let places = &mut settings.places;
                match kind {
                    ExtractorKind::Tags => places.ram = Some(place),
                    ExtractorKind::Tuned => places.adapter = Some(place),
                    ExtractorKind::Vlm | ExtractorKind::Own => places.vlm = Some(place),
                }
                self.tasks.look_for_words(kind, places.clone());
            }
            Action::OpenModel => self.tasks.ask_for_model(),
            Action::OpenSd3 => self.tasks.ask_for_sd3(),
            Action::ToggleModels => {
                self.state.models = !self.state.models;
                if self.state.models {
                    self.look_for_models();
                }
            }
            Action::ToggleDownloads => {
                self.state.downloads = !self.state.downloads;
                // One window after the other.
                self.state.models = false;
                if self.state.downloads {
                    self.look_for_models();
                }
            }
            Action::Download(parts) if self.state.transfer.is_none() => {
                let transfer = Arc::<Transfer>::default();
                self.state.transfer = Some(transfer.clone());
                self.tasks.download(parts, transfer);
            }
            Action::StopDownload => {
                if let Some(transfer) = &self.state.transfer {
                    transfer.stop.store(true, std::sync::atomic::Ordering::Relaxed);
                }
            }
            Action::LookForModels => self.look_for_models(),
            Action::UseMemory(memory) => settings.memory = memory,
            Action::GoOnWith(memory) => self.go_on_with(memory),
            Action::Align(align) => settings.align = align,
            _ => {}
        }
    }

    /// Stops the first of these there is: a list or window, a film or box, the job that runs, the full screen.
    fn cancel(&mut self, context: &egui::Context) {
        if self.state.rebinding.take().is_some() || self.state.palette.take().is_some() {
            return;
        }
        let state = &mut self.state;
        let windows = [&mut state.help, &mut state.film_options, &mut state.models, &mut state.downloads];
        if windows.map(std::mem::take).contains(&true) {
            return;
        }
        if let Some(document) = &mut self.state.document {
            if document.film.take().is_some() || document.drawing_from.take().is_some() {
                return;
            }
            if document.placed.take().is_some() {
                self.engine.cancel();
                self.state.running = None;
                return;
            }
        }
        if self.state.running.is_some() {
            // The engine says when it has stopped; until then the status line shows the job. What waits is forgotten:
            // a stop that stops.
            self.state.queue.clear();
            self.engine.cancel();
        } else if context.input(|input| input.viewport().fullscreen.unwrap_or(false)) {
            context.send_viewport_cmd(ViewportCommand::Fullscreen(false));
        } else {
            self.state.messages.pop();
        }
    }

    fn look_for_models(&mut self) {
        let chosen = match &self.state.settings.backbone {
            Backbone::Sd3(files) => Some(files.clone()),
            _ => None,
        };
        self.tasks.look_for_sd3(chosen);
        self.tasks.look_for_word_models(self.state.settings.places.clone());
        self.tasks.look_for_parts(self.state.settings.places.clone());
    }

    /// The key just pressed is the action's from now on.
    pub(super) fn rebind(&mut self, action: &Action, key: &egui::KeyboardShortcut) {
        let keys = &mut self.state.settings.keys;
        // Whatever else it was given to before.
        keys.values_mut().for_each(|given| given.retain(|other| bindings::parse(other) != Some(*key)));
        keys.insert(action.name(), vec![bindings::written(key)]);
        self.state.bindings = Bindings::new(keys);
    }

    fn with_document(&mut self, change: impl FnOnce(&mut Document)) {
        if let Some(document) = &mut self.state.document {
            document.film = None;
            change(document);
        }
    }
}
