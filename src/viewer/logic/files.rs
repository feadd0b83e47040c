//! What is opened, kept, saved and exported; the disk itself is the tasks' work.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use egui::ViewportCommand;

use crate::export::stills::magnification_label;
use crate::film::path::ZoomPath;
use crate::history::StateId;
use crate::hub::HubError;
use crate::session::{Choices, EXTENSION};
use crate::viewer::Viewer;
use crate::viewer::actions::ExportKind;
use crate::viewer::state::{Document, Exporting, Message, Opening, Playing};
use crate::viewer::tasks::{ExportInput, Opened, Outcome};

impl Viewer {
    pub(super) fn take_outcome(&mut self, outcome: Outcome, context: &egui::Context) {
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
            Outcome::Left(left) => {
                // Offered once, when the program starts with a photo; the first page lists them anyway.
                let is_start = std::mem::take(&mut self.offer_left);
                let is_busy = self.state.document.is_some() || self.state.opening.is_some();
                if let Some(newest) = left.first().filter(|_| is_start && is_busy) {
                    self.tell(Message::Offer(newest.clone()));
                }
                self.state.left = left;
            }
            Outcome::Saved { document, file, revision } => {
                self.state.exporting = None;
                self.state.settings.remember(file.clone());
                self.tell(Message::Done(format!("Saved {}", file.display())));
                if let Some(open) = self.state.document.as_mut().filter(|open| open.number == document) {
                    (open.session_file, open.saved_revision) = (Some(file), revision);
                    if !open.is_unsaved()
                        && let Some(keeper) = &self.keeper
                    {
                        keeper.forget();
                    }
                }
            }
            Outcome::Done(line) => {
                self.state.exporting = None;
                self.tell(Message::Done(line));
            }
            Outcome::Sd3(found) => self.state.sd3 = Some(found),
            Outcome::Backbones(found) => {
                self.state.backbones = found;
                self.state.use_best();
            }
            Outcome::WordModels(found) => self.state.words = found,
            Outcome::Parts(found) => self.state.parts = found,
            Outcome::Downloaded(done) => {
                self.state.transfer = None;
                match done {
                    Ok(()) => self.tell(Message::Done("Downloaded".into())),
                    Err(HubError::Cancelled) => {}
                    Err(error) => self.tell(Message::Problem(error.into())),
                }
                self.look_for_models();
                self.tasks.look_for_backbones();
            }
            Outcome::Words(extractor) => self.use_words(extractor),
            Outcome::Exported => self.state.exporting = None,
            Outcome::Failed { problem, opening } => {
                if opening {
                    self.state.opening = None;
                } else {
                    self.state.exporting = None;
                }
                self.tell(Message::Problem(problem));
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
            document.pinned = pinned.into_iter().map(|(id, words)| (StateId(id), words)).collect();
        }
        if restored_from.is_some() {
            // In no file of the user's yet, and to be kept anew before the old folder goes.
            document.saved_revision = 0;
            document.kept_revision = u64::MAX;
            document.restored_from = restored_from.clone();
            self.state.left.retain(|left| Some(&left.folder) != restored_from.as_ref());
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
    pub(super) fn close(&mut self, context: &egui::Context) {
        self.engine.cancel();
        self.keep_session(None);
        if let Some(keeper) = &self.keeper {
            match self.state.document.as_ref().is_some_and(Document::is_unsaved) {
                true => keeper.leave(),
                false => keeper.forget(),
            }
        }
        if let Some(document) = self.state.document.take() {
            self.last_screen = document.screen;
        }
        self.state.running = None;
        self.state.queue.clear();
        // Of the photo before: its states are gone.
        self.state.starved = None;
        self.state.opening = None;
        self.thumbnails.clear();
        context.send_viewport_cmd(ViewportCommand::Title("Chain-of-Zoom".into()));
    }

    /// Brings the autosave up to date with states that came or went; `after` the other folder is not needed any more.
    pub(in crate::viewer) fn keep_session(&mut self, after: Option<PathBuf>) {
        let Some(keeper) = &self.keeper else { return };
        let Some(document) = self.state.document.as_ref() else { return };
        let revision = document.history.revision();
        if revision == document.kept_revision || !document.is_unsaved() {
            return;
        }
        let number = document.number;
        if let Some(session) = self.state.session() {
            keeper.keep(number, session, after);
        }
        if let Some(document) = &mut self.state.document {
            document.kept_revision = revision;
        }
    }

    pub(super) fn open_file(&mut self, file: PathBuf) {
        self.state.opening = Some(Opening { file: file.clone(), preview: None });
        self.tasks.open(file);
    }

    pub(super) fn save(&mut self) {
        match self.state.document.as_ref().and_then(|document| document.session_file.clone()) {
            Some(file) => self.export(ExportKind::Session, file),
            None => self.ask_where_to_export(ExportKind::Session),
        }
    }

    pub(super) fn ask_where_to_export(&mut self, kind: ExportKind) {
        let Some(document) = &self.state.document else { return };
        let format = self.state.settings.export_format.extension();
        let stem = document.history.source().stem();
        let magnification = magnification_label(document.history.current().magnification);
        let name = match kind {
            ExportKind::Strip => format!("{stem}_strip.{format}"),
            ExportKind::Sheet => format!("{stem}_sheet.{format}"),
            ExportKind::Film => format!("{stem}_{magnification}.mp4"),
            ExportKind::Session => format!("{stem}.{EXTENSION}"),
            _ => format!("{stem}_{magnification}.{format}"),
        };
        self.tasks.ask_where_to_export(kind, name);
    }

    pub(super) fn export(&mut self, kind: ExportKind, mut to: PathBuf) {
        let Some(document) = &self.state.document else { return };
        if to.extension().is_none() && !matches!(kind, ExportKind::Chain | ExportKind::Folders) {
            to.set_extension(match kind {
                ExportKind::Film => "mp4",
                ExportKind::Session => EXTENSION,
                _ => self.state.settings.export_format.extension(),
            });
        }
        let history = &document.history;
        let current = history.current().id;
        match kind {
            ExportKind::Film => {
                if let Some(exporting) = self.begin_export("film") {
                    let Some(document) = &self.state.document else { return };
                    let branch = document.history.branch(current);
                    self.tasks.film(branch, self.state.settings.film.clone(), to, exporting);
                }
            }
            ExportKind::Session => {
                let (number, link) = (document.number, self.state.settings.link_photo);
                if let (Some(exporting), Some(session)) = (self.begin_export("saving"), self.state.session()) {
                    self.tasks.save_session(session, number, to, link, exporting);
                }
            }
            _ => self.tasks.export(ExportInput {
                kind,
                to,
                format: self.state.settings.export_format,
                source: history.source().clone(),
                chain: history.chain(current).into_iter().cloned().collect(),
                all: history.outline().into_iter().map(|(_, state)| state.picture.clone()).collect(),
                size: self.state.settings.process_size,
            }),
        }
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

    pub(super) fn play_film(&mut self) {
        let options = crate::film::Options { ..self.state.settings.film.clone() };
        let Some(document) = &mut self.state.document else { return };
        if document.film.take().is_some() {
            return;
        }
        let branch = document.history.branch(document.history.current().id);
        let [width, height] = document.screen.map(|side| side as u32);
        // The canvas's own shape: it is the canvas that plays.
        match ZoomPath::new(&branch, &crate::film::Options { width, height, ..options }) {
            Some(path) => {
                document.glide = None;
                document.film = Some(Playing { branch, path, start: Instant::now() });
                self.state.film_options = false;
            }
            None => self.tell(Message::Problem(crate::film::FilmError::NoChain.into())),
        }
    }

    /// Asks the tasks about the state at hand, once.
    pub(super) fn examine_current(&mut self) {
        let Some(document) = &mut self.state.document else { return };
        let state = document.history.current();
        if state.making.is_none() || document.examined.contains_key(&state.id) {
            return;
        }
        let id = state.id;
        let chain = document.history.chain(id).into_iter().cloned().collect();
        document.examined.insert(id, None);
        self.tasks.examine(document.number, chain);
    }

    pub(super) fn discard_left(&mut self, folder: PathBuf) {
        self.state.messages.retain(|message| !matches!(message, Message::Offer(left) if left.folder == folder));
        if let Some(all) = self.autosave_folder.clone() {
            self.tasks.discard_left(folder, all);
        }
    }
}
