//! What happens: events and outcomes come in, actions are carried out, the camera moves. Paints nothing.

mod camera;
mod files;
mod jobs;
mod keyboard_box;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use egui::ViewportCommand;

use super::actions::Action;
use super::bindings::Bindings;
use super::state::{Cause, Document, Edited, Message};
use super::{Viewer, bindings, commands, network_facts, theme};
use crate::base;
use crate::base::Backbone;
use crate::document::Direction;
use crate::hub::{ModelAsset, Transfer};

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
            let used = base::memory::resident().unwrap_or(0);
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
        if let Message::UserError(problem, _) = &message {
            tracing::error!("{problem}");
        }
        // A finished thing makes way for whatever comes next.
        self.state.messages.retain(|old| !matches!(old, Message::Done(_)) && *old != message);
        self.state.messages.push(message);
        let surplus = self.state.messages.len().saturating_sub(MESSAGES);
        self.state.messages.drain(..surplus);
    }

    /// What went wrong before has gone well now: nobody need be told of it any more.
    pub(super) fn is_well(&mut self, now: Cause) {
        self.state.messages.retain(|old| !matches!(old, Message::UserError(_, cause) if *cause == now));
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
            let prompt = state.record.as_ref().map(|record| record.prompt.clone()).unwrap_or_default();
            document.edited = Edited { state: state.id, prompt };
        }
        self.state.remember_choices();
        self.evict_pictures();
        self.examine_current();
        self.estimate_soon();
        self.look_up_networks();
        let restored_from = self.state.document.as_mut().and_then(|document| document.restored_from.take());
        self.keep_session(restored_from);
    }

    fn carry_out_one(&mut self, action: Action, context: &egui::Context) {
        let motion = self.state.settings.motion;
        match action {
            Action::Command(command) => (command.row().run)(self, context),
            // A session that can be recovered is opened by its folder.
            Action::OpenFile(path) | Action::Restore(path) => self.open_file(path),
            Action::DiscardRecoverable(folder) => self.discard_recoverable(folder),
            Action::Export(exporter) => self.ask_where_to_export(exporter),
            Action::ExportTo(exporter, to) => self.export(exporter, to),
            Action::SaveTo(to) => self.save_to(to),
            Action::FilmTo(to) => self.film_to(to),
            Action::PlaceBox(parent, target) => self.place_box(parent, target),
            Action::QueueBox(parent, target) => self.queue_box(parent, target),
            Action::GoTo(id) => self.with_document(|document, _| document.go(id, motion)),
            Action::DeleteState(id) => self.with_document(|document, _| document.delete(id, motion)),
            Action::CompareWith(against) => self.state.against = against,
            Action::UseTheme(theme) => {
                self.state.settings.theme = theme;
                theme::apply(context, theme);
            }
            Action::UseBackbone(backbone) => {
                self.state.settings.remember_model(&backbone);
                self.state.settings.backbone.clone_from(&backbone);
                self.state.settings.model_paths.update(&backbone);
                self.state.choose(backbone);
                self.state.settings.auto_backbone = Some(false);
                self.state.session_backbone = false;
                if self.state.models {
                    self.look_for_models();
                }
            }
            Action::AddModels(backbones) => self.add_models(&backbones),
            Action::AddModelFolder(folder) => self.add_model_folder(folder),
            Action::RemoveModelFolder(folder) => self.remove_model_folder(&folder),
            Action::OpenBackbone(spec) => self.tasks.ask_for_diffusion(spec),
            Action::OpenBackboneCheckpoint(spec) => self.tasks.ask_for_checkpoint(spec),
            Action::UseBackboneAt(spec, place) => {
                self.tasks.look_for_diffusion_at(spec, place, self.state.settings.model_paths.clone());
            }
            Action::OpenBackboneFile(backbone, file) => self.tasks.ask_for_backbone_file(backbone, file),
            Action::UseModelFile(file, place) => {
                self.state.settings.model_paths.set(file.id, place);
                self.look_for_models();
                self.look_for_backbones();
            }
            Action::UsePromptSource(spec) if spec.files.is_empty() => self.use_prompt_source(spec.into()),
            Action::UsePromptSource(spec) => {
                let ticket = self.prompt_source_search.start();
                self.tasks.look_for_prompt_source(spec, self.state.settings.model_paths.clone(), ticket);
            }
            Action::OpenPromptSource(spec) => self.tasks.ask_for_prompt_source(spec),
            Action::UsePromptSourceAt(spec, place) => {
                let paths = &mut self.state.settings.model_paths;
                if let Some(file) = spec.distinct_file() {
                    paths.set(file.id, place);
                }
                let ticket = self.prompt_source_search.start();
                self.tasks.look_for_prompt_source(spec, paths.clone(), ticket);
            }
            Action::UseServer(address) => self.use_server(&address),
            Action::TryServer => self.try_server(),
            Action::StopTryingServer => self.stop_trying_server(),
            Action::Download(assets) => self.download(assets),
            Action::Rebuild => {
                if let Some(rebuild) = self.state.rebuild.take() {
                    self.rebuild(rebuild.steps);
                }
            }
            Action::UseMemory(memory) => self.state.settings.memory = memory,
            Action::GoOnWith(remedy) => self.go_on_with(remedy),
            Action::Align(align) => self.state.choices.align = align,
            Action::Rebind(action) => self.state.rebinding = Some(*action),
        }
    }

    /// Stops the first of these there is: a list or window, a film or box, the job that runs, the full screen.
    pub(super) fn cancel(&mut self, context: &egui::Context) {
        let state = &mut self.state;
        if state.rebinding.take().is_some() || state.palette.take().is_some() || state.rebuild.take().is_some() {
            return;
        }
        let selftest = &mut state.selftest.is_open;
        let windows = [&mut state.help, &mut state.film_options, &mut state.models, &mut state.downloads, selftest];
        if windows.map(std::mem::take).contains(&true) {
            return;
        }
        if let Some(document) = &mut self.state.document {
            if document.film.take().is_some() || document.drawing_from.take().is_some() {
                return;
            }
            if document.placed.take().is_some() {
                // A step that runs meanwhile is of another box.
                if self.state.running.as_ref().is_some_and(|running| running.captioning) {
                    self.engine.cancel();
                    self.state.running = None;
                    self.run_next();
                }
                return;
            }
        }
        if self.stop_opening() {
            return;
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

    pub(super) fn look_for_models(&mut self) {
        let (chosen, backbone) = (self.state.settings.model_paths.clone(), self.state.choices.backbone.clone());
        self.tasks.look_for_models(chosen, backbone, self.model_search.start());
    }

    pub(super) fn toggle_models(&mut self) {
        self.state.models = !self.state.models;
        if self.state.models {
            self.look_for_models();
        }
    }

    pub(super) fn toggle_downloads(&mut self) {
        self.state.downloads = !self.state.downloads;
        // One window after the other.
        self.state.models = false;
        if self.state.downloads {
            self.look_for_models();
        }
    }

    fn download(&mut self, assets: Vec<&'static ModelAsset>) {
        if self.state.transfer.is_none() {
            let transfer = Arc::<Transfer>::default();
            self.state.transfer = Some(transfer.clone());
            self.tasks.download(assets, transfer);
        }
    }

    pub(super) fn stop_download(&mut self) {
        if let Some(transfer) = &self.state.transfer {
            transfer.stop.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn use_best_backbone(&mut self) {
        self.state.settings.auto_backbone = Some(true);
        self.state.session_backbone = false;
        self.state.use_best();
        self.look_for_backbones();
    }

    /// Looks again which super-resolution models there are.
    pub(super) fn look_for_backbones(&mut self) {
        self.tasks.look_for_backbones(&self.state.settings, self.backbone_search.start());
    }

    /// Asks whether these are to be added to the models.
    pub(super) fn offer_models(&mut self, files: Vec<PathBuf>) {
        // Of ncnn's pairs the graph stands for both.
        let is_second = |file: &PathBuf| {
            file.extension().is_some_and(|it| it == "bin") && files.contains(&file.with_extension("param"))
        };
        for backbone in files.iter().filter(|file| !is_second(file)).map(Backbone::file) {
            // It may be another file by now.
            self.state.network_facts.remove(&network_facts::id(&backbone));
            self.state.facts_recalled = false;
            if !self.state.offered_models.contains(&backbone) {
                self.state.offered_models.push(backbone);
            }
        }
    }

    fn add_models(&mut self, backbones: &[Backbone]) {
        for backbone in backbones.iter().rev() {
            self.state.settings.remember_model(backbone);
        }
        self.state.offered_models.clear();
        self.look_for_backbones();
    }

    fn add_model_folder(&mut self, folder: PathBuf) {
        if !self.state.settings.model_folders.contains(&folder) {
            self.state.settings.model_folders.push(folder);
        }
        self.look_for_backbones();
    }

    fn remove_model_folder(&mut self, folder: &Path) {
        self.state.settings.model_folders.retain(|known| known != folder);
        self.look_for_backbones();
    }

    pub(super) fn step(&mut self, direction: Direction) {
        self.with_document(|document, motion| document.step(direction, motion));
    }

    pub(super) fn delete_current(&mut self) {
        self.with_document(|document, motion| document.delete(document.history.current().id, motion));
    }

    pub(super) fn undo(&mut self) {
        self.with_document(|document, motion| {
            if document.history.undo() {
                document.show_current(motion);
            }
        });
    }

    pub(super) fn redo(&mut self) {
        self.with_document(|document, motion| {
            if document.history.redo() {
                document.show_current(motion);
            }
        });
    }

    /// The key just pressed is the action's from now on.
    pub(super) fn rebind(&mut self, action: &Action, key: &egui::KeyboardShortcut) {
        let keys = &mut self.state.settings.keys;
        // Whatever else it was given to before.
        keys.values_mut().for_each(|given| given.retain(|other| bindings::parse(other) != Some(*key)));
        let former = keys.keys().filter(|name| commands::current_id(name) == action.id()).cloned();
        former.collect::<Vec<_>>().iter().for_each(|name| _ = keys.remove(name));
        keys.insert(action.id(), vec![bindings::format(key)]);
        self.state.bindings = Bindings::new(keys);
    }

    /// Does something with the open document, which learns whether the camera may take its time.
    pub(super) fn with_document(&mut self, change: impl FnOnce(&mut Document, bool)) {
        let motion = self.state.settings.motion;
        if let Some(document) = &mut self.state.document {
            document.film = None;
            change(document, motion);
        }
    }
}
