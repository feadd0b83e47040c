//! What is opened, kept, saved and exported; the disk itself is the tasks' work.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use egui::ViewportCommand;

use crate::base::{UserError, magnification_label};
use crate::document::export::{Export, Exporter};
use crate::document::session::{EXTENSION, autosave};
use crate::document::{CachedPicture, StateId};
use crate::hub::HubError;
use crate::scene::film;
use crate::scene::film::path::ZoomPath;
use crate::viewer::open::Opened;
use crate::viewer::state::{Cause, Document, Examined, Exporting, Message, Opening, Playing};
use crate::viewer::tasks::Outcome;
use crate::viewer::{Viewer, network_facts};

/// What is found out of states takes at most so much memory, those at hand apart.
const EXAMINED_BYTES: u64 = 64 << 20;

impl Viewer {
    pub(in crate::viewer) fn take_outcome(&mut self, outcome: Outcome, context: &egui::Context) {
        match outcome {
            Outcome::Preview { generation, preview } => {
                let is_current = self.opening.is_current(generation);
                if let Some(opening) = self.state.opening.as_mut().filter(|_| is_current) {
                    opening.preview = Some(Arc::new(preview));
                }
            }
            Outcome::Opened { generation, opened } => {
                // Whoever has asked for another one meanwhile wants that one.
                if self.opening.finish(generation) {
                    self.state.opening = None;
                    match opened {
                        Ok(opened) => {
                            self.is_well(Cause::Opening);
                            self.take_opened(*opened, context);
                        }
                        Err(problem) => self.tell(Message::UserError(problem, Cause::Opening)),
                    }
                }
            }
            Outcome::Chosen { document, action } => {
                // A place for what is not open any more is none for what is.
                if document.is_none() || document == self.state.document.as_ref().map(|open| open.number) {
                    self.actions.push(action);
                }
            }
            Outcome::Copied(image) => {
                context.copy_image(image);
                self.tell(Message::Done("Copied".into()));
            }
            Outcome::Examined { generation, id, examined } => {
                if self.examining.is_current(generation) {
                    self.take_examined(id, examined);
                }
            }
            Outcome::Loaded(loaded) => {
                if let Err(problem) = loaded {
                    self.tell(Message::UserError(problem, Cause::Other));
                }
                self.loaded_pictures += 1;
                self.evict_pictures();
            }
            Outcome::Recoverable(sessions) => {
                // Offered once, when the program starts with a photo; the first page lists them anyway.
                let is_start = std::mem::take(&mut self.offer_recoverable);
                let is_busy = self.state.document.is_some() || self.state.opening.is_some();
                let oldest = autosave::surplus(&sessions, autosave::ROOM);
                if is_start && !oldest.is_empty() {
                    let oldest = oldest.iter().map(|session| session.folder.clone()).collect();
                    let bytes = sessions.iter().map(|session| session.bytes).sum();
                    self.tell(Message::Surplus { count: sessions.len(), bytes, oldest });
                }
                if let Some(newest) = sessions.first().filter(|_| is_start && is_busy) {
                    self.tell(Message::Offer(newest.clone()));
                }
                self.state.recoverable = sessions;
            }
            Outcome::Saved { document, file, revision } => {
                self.exports.clear();
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
            Outcome::Models { generation, found } => {
                if self.model_search.finish(generation) {
                    self.state.found = found;
                }
            }
            Outcome::Backbones { generation, found } => {
                if self.backbone_search.finish(generation) {
                    self.state.backbones = found;
                    self.state.facts_recalled = false;
                    self.state.use_best();
                }
            }
            Outcome::RecalledNetworks { generation, known } => {
                if self.network_recall.finish(generation) {
                    let known = known.into_iter().map(|(backbone, facts)| (network_facts::id(&backbone), Ok(facts)));
                    self.state.network_facts.extend(known);
                }
            }
            Outcome::KeptNetwork(backbone, facts) => {
                self.state.network_facts.insert(network_facts::id(&backbone), Ok(facts));
            }
            Outcome::Downloaded(done) => {
                self.state.transfer = None;
                match done {
                    Ok(()) => {
                        self.is_well(Cause::Download);
                        self.tell(Message::Done("Downloaded".into()));
                    }
                    Err(HubError::Cancelled) => {}
                    Err(error) => self.tell(Message::UserError(error.into(), Cause::Download)),
                }
                self.look_for_models();
                self.look_for_backbones();
            }
            Outcome::PromptSource { generation, prompt_source } => {
                if self.prompt_source_search.finish(generation) {
                    self.use_prompt_source(prompt_source);
                }
            }
            Outcome::ServerTrial { generation, trial } => self.take_server_trial(generation, *trial),
            Outcome::Exported { generation, result } => {
                if self.exports.finish(generation) {
                    self.state.exporting = None;
                    match result {
                        Ok(Some(line)) => {
                            self.is_well(Cause::Writing);
                            self.tell(Message::Done(line));
                        }
                        Ok(None) => {}
                        Err(problem) => self.tell(Message::UserError(problem, Cause::Writing)),
                    }
                }
            }
            Outcome::Selftest { generation, event } => self.take_selftest(generation, event),
            Outcome::Failed(problem) => self.tell(Message::UserError(problem, Cause::Other)),
        }
    }

    fn take_opened(&mut self, opened: Opened, context: &egui::Context) {
        let Opened { file, history, choices, session_file, restored_from, rebuild, note } = opened;
        self.close(context);
        self.documents += 1;
        let mut document = Document::new(self.documents, history);
        context.send_viewport_cmd(ViewportCommand::Title(format!("{} – Chain-of-Zoom", document.name)));
        document.screen = self.last_screen;
        document.session_file = session_file;
        if let Some(choices) = choices {
            self.state.session_backbone = true;
            self.state.use_choices(choices);
        }
        if restored_from.is_some() {
            // In no file of the user's yet, and to be kept anew before the old folder goes.
            document.saved_revision = 0;
            document.kept_revision = None;
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
        self.state.rebuild = rebuild;
    }

    /// Lets the document go; what is unsaved of it stays on the disk.
    pub(in crate::viewer) fn close(&mut self, context: &egui::Context) {
        self.engine.close_document();
        self.examining.clear();
        self.prefetched = None;
        self.keep_session(None);
        if let Some(autosave_worker) = &self.autosave_worker {
            if !self.state.document.as_ref().is_some_and(Document::is_unsaved) {
                autosave_worker.forget();
            }
            autosave_worker.leave();
        }
        if let Some(document) = self.state.document.take() {
            self.last_screen = document.screen;
        }
        self.state.reset_choices();
        self.state.rebuild = None;
        self.state.running = None;
        self.state.queue.clear();
        // Of the photo before: its states are gone.
        self.state.retry = None;
        self.stop_opening();
        self.thumbnails.clear();
        context.send_viewport_cmd(ViewportCommand::Title("Chain-of-Zoom".into()));
    }

    /// Brings the autosave up to date with states that came or went; `after` the other folder is not needed any more.
    pub(in crate::viewer) fn keep_session(&mut self, after: Option<PathBuf>) {
        let Some(autosave_worker) = &self.autosave_worker else { return };
        let Some(document) = self.state.document.as_ref() else { return };
        let revision = document.history.revision();
        if Some(revision) == document.kept_revision || !document.is_unsaved() {
            return;
        }
        let number = document.number;
        if let Some(session) = self.state.session() {
            autosave_worker.keep(number, session, after);
        }
        if let Some(document) = &mut self.state.document {
            document.kept_revision = Some(revision);
        }
    }

    pub(in crate::viewer) fn open_file(&mut self, file: PathBuf) {
        self.state.opening = Some(Opening { file: file.clone(), preview: None });
        self.tasks.open(file, self.state.settings.keep_location, self.opening.start());
    }

    pub(in crate::viewer) fn open_pasted(&mut self, image: Arc<egui::ColorImage>) {
        self.state.opening = None;
        self.tasks.open_pasted(image, self.opening.start());
    }

    /// Whether something was on its way.
    pub(in crate::viewer) fn stop_opening(&mut self) -> bool {
        self.opening.clear();
        self.state.opening.take().is_some()
    }

    pub(in crate::viewer) fn save(&mut self) {
        match self.state.document.as_ref().and_then(|document| document.session_file.clone()) {
            Some(file) => self.save_to(file),
            None => self.ask_where_to_save(),
        }
    }

    pub(in crate::viewer) fn ask_where_to_save(&mut self) {
        if let Some(document) = &self.state.document {
            self.tasks.ask_where_to_save(document.number, format!("{}.{EXTENSION}", document.history.source().stem()));
        }
    }

    pub(in crate::viewer) fn save_to(&mut self, to: PathBuf) {
        let Some(number) = self.state.document.as_ref().map(|document| document.number) else { return };
        let (to, link) = (with_ending(to, EXTENSION), self.state.settings.link_photo);
        if let (Some(exporting), Some(session)) = (self.begin_export("saving"), self.state.session()) {
            self.tasks.save_session(session, number, to, link, exporting);
        }
    }

    /// The document's number, the photo's stem and the magnification of the state at hand, for file names.
    fn name_parts(&self) -> Option<(u64, String, String)> {
        let Document { number, history, .. } = self.state.document.as_ref()?;
        Some((*number, history.source().stem(), magnification_label(history.current().magnification)))
    }

    pub(in crate::viewer) fn ask_where_to_film(&mut self) {
        if let Some((number, stem, magnification)) = self.name_parts() {
            self.tasks.ask_where_to_film(number, format!("{stem}_{magnification}.mp4"));
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
        let Some((number, stem, magnification)) = self.name_parts() else { return };
        let ending = self.state.settings.export_format.extension();
        let name = format!("{}.{ending}", (exporter.file_stem)(&stem, &magnification));
        self.tasks.ask_where_to_export(number, exporter, name);
    }

    pub(in crate::viewer) fn export(&mut self, exporter: &'static Exporter, to: PathBuf) {
        let Some(exporting) = self.begin_export("export") else { return };
        let Some(document) = &self.state.document else { return };
        let (history, format) = (&document.history, self.state.settings.export_format);
        let to = if exporter.is_folder { to } else { with_ending(to, format.extension()) };
        let export = Export {
            source: history.source().clone(),
            chain: history.chain(history.current().id).into_iter().cloned().collect(),
            all: history.outline().into_iter().map(|(_, state)| state.picture.clone()).collect(),
            format,
            size: self.state.choices.process_size,
        };
        self.tasks.export(exporter, export, to, exporting);
    }

    pub(in crate::viewer) fn stop_export(&mut self) {
        self.exports.cancel();
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
        self.state.document.as_ref()?;
        if self.state.exporting.is_some() {
            self.tell(Message::Done("One export runs already: wait, or stop it".into()));
            return None;
        }
        let ticket = self.exports.start();
        let exporting = Exporting { what: what.into(), done: Arc::default(), ticket, start: Instant::now() };
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
            None => self.tell(Message::UserError(film::FilmError::NoChain.into(), Cause::Other)),
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
        self.tasks.examine(chain, self.examining.ticket());
    }

    fn take_examined(&mut self, id: StateId, examined: Result<Examined, UserError>) {
        let examined = match examined {
            Ok(examined) => examined,
            Err(problem) => return self.tell(Message::UserError(problem, Cause::Other)),
        };
        let Some(document) = &mut self.state.document else { return };
        document.examined.insert(id, Some(Arc::new(examined)));
        let bytes: u64 = document.examined.values().flatten().map(|examined| examined.bytes()).sum();
        if bytes > EXAMINED_BYTES {
            // They are found out anew when they are looked at again.
            document.examined.retain(|&other, examined| other == id || examined.is_none());
        }
    }

    fn picture_budget(&self) -> u64 {
        self.state.settings.picture_bytes().unwrap_or(self.picture_bytes)
    }

    /// These are on the canvas at their own size, what matters most first: read again where they have left memory, and kept
    /// there as far as the budget goes.
    pub(in crate::viewer) fn look_at(&mut self, mut pictures: Vec<CachedPicture>) {
        let (budget, mut bytes) = (self.picture_budget(), 0);
        let fitting = pictures.iter().take_while(|picture| {
            // Three bytes a pixel, and a third of that again for the halvings.
            bytes += 4 * u64::from(picture.width()) * u64::from(picture.height());
            bytes <= budget
        });
        pictures.truncate(fitting.count().max(1));
        for picture in pictures.iter().filter(|picture| picture.begin_loading()) {
            self.tasks.load(picture.clone());
        }
        if let Some(document) = &mut self.state.document {
            document.in_view = pictures;
        }
    }

    /// Keeps the states' pictures within their budget. Where too few are on the disk yet, they are written first.
    pub(in crate::viewer) fn evict_pictures(&mut self) {
        let budget = self.picture_budget();
        let Some(document) = &mut self.state.document else { return };
        let revision = document.history.revision();
        // Looking through all of them is left out where nothing has changed since.
        let now = (document.history.version(), budget, self.loaded_pictures);
        if document.evicted_at == Some(now) {
            return;
        }
        let is_enough = document.history.evict(budget, &document.in_view);
        document.evicted_at = is_enough.then_some(now);
        if !is_enough
            && document.spilled_revision != Some(revision)
            && let Some(autosave_worker) = &self.autosave_worker
        {
            document.spilled_revision = Some(revision);
            autosave_worker.keep_pictures(document.number, document.history.clone());
        }
    }

    pub(in crate::viewer) fn discard_recoverable(&mut self, folders: Vec<PathBuf>) {
        self.state.messages.retain(|message| match message {
            Message::Offer(session) => !folders.contains(&session.folder),
            Message::Surplus { oldest, .. } => !folders.iter().any(|folder| oldest.contains(folder)),
            Message::UserError(..) | Message::Waiting(_) | Message::Done(_) => true,
        });
        if let Some(all) = self.autosave_folder.clone() {
            self.tasks.discard_recoverable(folders, all);
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
