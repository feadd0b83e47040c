//! What is opened, kept, saved and exported; the disk itself is the tasks' work.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use egui::ViewportCommand;

use crate::base::magnification_label;
use crate::document::StateId;
use crate::document::export::{Export, Exporter};
use crate::document::session::{Choices, EXTENSION};
use crate::hub::HubError;
use crate::scene::film;
use crate::scene::film::path::ZoomPath;
use crate::viewer::Viewer;
use crate::viewer::state::{Document, Exporting, Message, Opening, Playing};
use crate::viewer::tasks::{Opened, Outcome};

impl Viewer {
    pub(in crate::viewer) fn take_outcome(&mut self, outcome: Outcome, context: &egui::Context) {
        match outcome {
            Outcome::Preview { file, preview } => {
                if let Some(opening) = self.state.opening.as_mut().filter(|opening| opening.file == file) {
                    opening.preview = Some(Arc::new(preview));
                }
            }
            Outcome::Opened(opened) => self.take_opened(*opened, context),
            Outcome::Chosen(action) => self.actions.push(action),
            Outcome::Copied(image) => {
                context.copy_image(image);
                self.tell(Message::Done("Copied".into()));
            }
            Outcome::Examined { document, id, examined } => {
                if let Some(open) = self.state.document.as_mut().filter(|open| open.number == document) {
                    open.examined.insert(id, Some(Arc::new(examined)));
                }
            }
            Outcome::Recoverable(sessions) => {
                // Offered once, when the program starts with a photo; the first page lists them anyway.
                let is_start = std::mem::take(&mut self.offer_recoverable);
                let is_busy = self.state.document.is_some() || self.state.opening.is_some();
                if let Some(newest) = sessions.first().filter(|_| is_start && is_busy) {
                    self.tell(Message::Offer(newest.clone()));
                }
                self.state.recoverable = sessions;
            }
            Outcome::Saved { document, file, revision } => {
                self.state.exporting = None;
                self.state.settings.remember(file.clone());
                self.tell(Message::Done(format!("Saved {}", file.display())));
                if let Some(open) = self.state.document.as_mut().filter(|open| open.number == document) {
                    (open.session_file, open.saved_revision) = (Some(file), revision);
                    if !open.is_unsaved()
                        && let Some(autosave_worker) = &self.autosave_worker
                    {
                        autosave_worker.forget();
                    }
                }
            }
            Outcome::Done(line) => {
                self.state.exporting = None;
                self.tell(Message::Done(line));
            }
            Outcome::Diffusion(found) => self.state.diffusion = found,
            Outcome::Backbones(found) => {
                self.state.backbones = found;
                self.state.use_best();
            }
            Outcome::PromptModels(found) => self.state.prompt_models = found,
            Outcome::Assets(found) => self.state.assets = found,
            Outcome::Downloaded(done) => {
                self.state.transfer = None;
                match done {
                    Ok(()) => self.tell(Message::Done("Downloaded".into())),
                    Err(HubError::Cancelled) => {}
                    Err(error) => self.tell(Message::UserError(error.into())),
                }
                self.look_for_models();
                self.tasks.look_for_backbones();
            }
            Outcome::PromptSource(prompt_source) => self.use_prompt_source(prompt_source),
            Outcome::Exported => self.state.exporting = None,
            Outcome::Failed { problem, opening } => {
                if opening {
                    self.state.opening = None;
                } else {
                    self.state.exporting = None;
                }
                self.tell(Message::UserError(problem));
            }
        }
    }

    fn take_opened(&mut self, opened: Opened, context: &egui::Context) {
        let Opened { file, history, choices, session_file, restored_from, rebuild, note } = opened;
        // Whoever has asked for another one meanwhile wants that one.
        let asked = self.state.opening.as_ref().map(|opening| &opening.file);
        let expected = file.as_ref().or(restored_from.as_ref());
        if asked.is_some() && expected.is_some() && asked != expected {
            return;
        }
        self.close(context);
        self.documents += 1;
        let is_session = choices.is_some();
        let mut document = Document::new(self.documents, history);
        context.send_viewport_cmd(ViewportCommand::Title(format!("{} – Chain-of-Zoom", document.name)));
        document.screen = self.last_screen;
        document.session_file = session_file;
        if std::mem::take(&mut self.state.session_backbone) {
            self.state.use_best();
        }
        if let Some(Choices { process_size, backbone, align, seed, draft, pinned }) = choices {
            self.state.session_backbone = true;
            let settings = &mut self.state.settings;
            (settings.process_size, settings.backbone, settings.align, settings.seed) =
                (process_size, backbone, align, seed);
            self.state.draft = draft;
            document.pinned = pinned.into_iter().map(|(id, prompt)| (StateId(id), prompt)).collect();
        }
        if restored_from.is_some() {
            // In no file of the user's yet, and to be kept anew before the old folder goes.
            document.saved_revision = 0;
            document.kept_revision = u64::MAX;
            document.restored_from = restored_from.clone();
            self.state.recoverable.retain(|session| Some(&session.folder) != restored_from.as_ref());
            self.state.messages.retain(|message| !matches!(message, Message::Offer(_)));
        }
        self.state.document = Some(document);
        if let Some(file) = file {
            let file = file.canonicalize().unwrap_or(file);
            self.state.settings.remember(file);
        }
        if let Some(note) = note {
            self.tell(Message::Done(note));
        }
        if !is_session {
            self.rebuild(rebuild);
        }
    }

    /// Lets the document go; what is unsaved of it stays on the disk.
    pub(in crate::viewer) fn close(&mut self, context: &egui::Context) {
        self.engine.cancel();
        self.keep_session(None);
        if let Some(autosave_worker) = &self.autosave_worker {
            match self.state.document.as_ref().is_some_and(Document::is_unsaved) {
                true => autosave_worker.leave(),
                false => autosave_worker.forget(),
            }
        }
        if let Some(document) = self.state.document.take() {
            self.last_screen = document.screen;
        }
        self.state.running = None;
        self.state.queue.clear();
        // Of the photo before: its states are gone.
        self.state.oom_retry = None;
        self.state.opening = None;
        self.thumbnails.clear();
        context.send_viewport_cmd(ViewportCommand::Title("Chain-of-Zoom".into()));
    }

    /// Brings the autosave up to date with states that came or went; `after` the other folder is not needed any more.
    pub(in crate::viewer) fn keep_session(&mut self, after: Option<PathBuf>) {
        let Some(autosave_worker) = &self.autosave_worker else { return };
        let Some(document) = self.state.document.as_ref() else { return };
        let revision = document.history.revision();
        if revision == document.kept_revision || !document.is_unsaved() {
            return;
        }
        let number = document.number;
        if let Some(session) = self.state.session() {
            autosave_worker.keep(number, session, after);
        }
        if let Some(document) = &mut self.state.document {
            document.kept_revision = revision;
        }
    }

    pub(in crate::viewer) fn open_file(&mut self, file: PathBuf) {
        self.state.opening = Some(Opening { file: file.clone(), preview: None });
        self.tasks.open(file);
    }

    pub(in crate::viewer) fn save(&mut self) {
        match self.state.document.as_ref().and_then(|document| document.session_file.clone()) {
            Some(file) => self.save_to(file),
            None => self.ask_where_to_save(),
        }
    }

    pub(in crate::viewer) fn ask_where_to_save(&mut self) {
        if let Some(document) = &self.state.document {
            self.tasks.ask_where_to_save(format!("{}.{EXTENSION}", document.history.source().stem()));
        }
    }

    pub(in crate::viewer) fn save_to(&mut self, to: PathBuf) {
        let Some(number) = self.state.document.as_ref().map(|document| document.number) else { return };
        let (to, link) = (with_ending(to, EXTENSION), self.state.settings.link_photo);
        if let (Some(exporting), Some(session)) = (self.begin_export("saving"), self.state.session()) {
            self.tasks.save_session(session, number, to, link, exporting);
        }
    }

    /// The photo's stem and the magnification of the state at hand, for file names.
    fn stem_and_magnification(&self) -> Option<(String, String)> {
        let history = &self.state.document.as_ref()?.history;
        Some((history.source().stem(), magnification_label(history.current().magnification)))
    }

    pub(in crate::viewer) fn ask_where_to_film(&mut self) {
        if let Some((stem, magnification)) = self.stem_and_magnification() {
            self.tasks.ask_where_to_film(format!("{stem}_{magnification}.mp4"));
        }
    }

    pub(in crate::viewer) fn film_to(&mut self, to: PathBuf) {
        let Some(branch) = self.state.document.as_ref().map(|it| it.history.branch(it.history.current().id)) else {
            return;
        };
        if let Some(exporting) = self.begin_export("film") {
            self.tasks.film(branch, self.state.settings.film.clone(), with_ending(to, "mp4"), exporting);
        }
    }

    pub(in crate::viewer) fn ask_where_to_export(&mut self, exporter: &'static Exporter) {
        let Some((stem, magnification)) = self.stem_and_magnification() else { return };
        let ending = self.state.settings.export_format.extension();
        let name = format!("{}.{ending}", (exporter.file_stem)(&stem, &magnification));
        self.tasks.ask_where_to_export(exporter, name);
    }

    pub(in crate::viewer) fn export(&mut self, exporter: &'static Exporter, to: PathBuf) {
        let Some(document) = &self.state.document else { return };
        let (history, format) = (&document.history, self.state.settings.export_format);
        let to = if exporter.is_folder { to } else { with_ending(to, format.extension()) };
        let export = Export {
            source: history.source().clone(),
            chain: history.chain(history.current().id).into_iter().cloned().collect(),
            all: history.outline().into_iter().map(|(_, state)| state.picture.clone()).collect(),
            format,
            size: self.state.settings.process_size,
        };
        self.tasks.export(exporter, export, to);
    }

    pub(in crate::viewer) fn stop_export(&mut self) {
        if let Some(exporting) = &self.state.exporting {
            exporting.stop.store(true, Ordering::Relaxed);
        }
    }

    pub(in crate::viewer) fn copy(&mut self) {
        if let Some(document) = &self.state.document {
            self.tasks.copy(document.history.current().picture.clone());
        }
    }

    pub(in crate::viewer) fn open_sample(&mut self) {
        let data = self.autosave_folder.as_deref().and_then(Path::parent);
        self.tasks.open_sample(data.map_or_else(std::env::temp_dir, Into::into));
    }

    /// One at a time; a second one is refused in words.
    fn begin_export(&mut self, what: &str) -> Option<Exporting> {
        if self.state.exporting.is_some() {
            self.tell(Message::Done("One export runs already: wait, or stop it".into()));
            return None;
        }
        let exporting =
            Exporting { what: what.into(), done: Arc::default(), stop: Arc::default(), start: Instant::now() };
        self.state.exporting = Some(exporting.clone());
        Some(exporting)
    }

    pub(in crate::viewer) fn play_film(&mut self) {
        let options = film::Options { ..self.state.settings.film.clone() };
        let Some(document) = &mut self.state.document else { return };
        if document.film.take().is_some() {
            return;
        }
        let branch = document.history.branch(document.history.current().id);
        let [width, height] = document.screen.map(|side| side as u32);
        // The canvas's own shape: it is the canvas that plays.
        match ZoomPath::new(&branch, &film::Options { width, height, ..options }) {
            Some(path) => {
                document.tween = None;
                document.film = Some(Playing { branch, path, start: Instant::now() });
                self.state.film_options = false;
            }
            None => self.tell(Message::UserError(film::FilmError::NoChain.into())),
        }
    }

    /// Asks the tasks about the state at hand, once.
    pub(in crate::viewer) fn examine_current(&mut self) {
        let Some(document) = &mut self.state.document else { return };
        let state = document.history.current();
        if state.record.is_none() || document.examined.contains_key(&state.id) {
            return;
        }
        let id = state.id;
        let chain = document.history.chain(id).into_iter().cloned().collect();
        document.examined.insert(id, None);
        self.tasks.examine(document.number, chain);
    }

    pub(in crate::viewer) fn discard_recoverable(&mut self, folder: PathBuf) {
        self.state.messages.retain(|message| !matches!(message, Message::Offer(session) if session.folder == folder));
        if let Some(all) = self.autosave_folder.clone() {
            self.tasks.discard_recoverable(folder, all);
        }
    }
}

/// The same with this ending, where it has none.
fn with_ending(mut file: PathBuf, ending: &str) -> PathBuf {
    if file.extension().is_none() {
        file.set_extension(ending);
    }
    file
}
