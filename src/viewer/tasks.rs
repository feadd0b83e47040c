//! Work beside the window's thread: decoding, encoding, dialogs, settings. Each task is a short-lived named thread; what
//! comes of it arrives over one channel. A little longer than most files: what each task does is elsewhere.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender};

use super::actions::Action;
use super::found_models::FoundModels;
use super::network_facts::Memory;
use super::open::{Opened, open};
use super::selftest::Selftest;
use super::state::{Examined, Exporting};
use super::{dialogs, sample, selftest};
use crate::base::{
    Backbone, BackboneSpec, DeviceChoice, FileSpec, Folders, MODEL_ENDINGS, Precision, PromptSource, PromptSourceSpec,
    ServerEndpoint, Source, Ticket, UserError,
};
use crate::document::consistency::examine;
use crate::document::export::{Export, Exporter};
use crate::document::session::autosave::RecoverableSession;
use crate::document::session::{EXTENSION, Session, autosave};
use crate::document::{CachedPicture, History, ScaleState, StateId, session};
use crate::engine::{NetworkFacts, ServerTrial, is_network};
use crate::hub;
use crate::hub::{HubError, ModelAsset, ModelPaths, Patience, Transfer};
use crate::imaging::codec::Preview;
use crate::imaging::formats::readable;
use crate::imaging::{Filter, Format, ImageError, Picture, resize};
use crate::scene::film;

/// What came of a task.
pub(super) enum Outcome {
    /// More of a large picture is decoded.
    Preview { generation: u64, preview: Preview },
    /// A picture or a session is open, or why not.
    Opened { generation: u64, opened: Result<Box<Opened>, UserError> },
    /// The user chose something in a dialog.
    Chosen { document: Option<u64>, action: Action },
    /// A picture is ready for the clipboard.
    Copied(egui::ColorImage),
    /// Something is known of a state.
    Examined { generation: u64, id: StateId, examined: Result<Examined, UserError> },
    /// A picture is in memory again, or cannot be.
    Loaded(Result<(), UserError>),
    /// Sessions can be recovered.
    Recoverable(Vec<RecoverableSession>),
    /// The session is on the disk, with states up to this revision.
    Saved { document: u64, file: PathBuf, revision: u64 },
    /// What there is of models that consist of several files.
    Models { generation: u64, found: FoundModels },
    /// The super-resolution models on this machine, the best first.
    Backbones { generation: u64, found: Vec<Backbone> },
    /// What is known of networks that were looked up.
    RecalledNetworks { generation: u64, known: Vec<(Backbone, NetworkFacts)> },
    /// What was measured of a network, with its terms.
    KeptNetwork(Backbone, NetworkFacts),
    /// What was to be downloaded is there, or why not.
    Downloaded(Result<(), HubError>),
    /// Where prompts come from from now on.
    PromptSource { generation: u64, prompt_source: PromptSource },
    /// What was found where a server that writes prompts should be.
    ServerTrial { generation: u64, trial: Box<ServerTrial> },
    /// An export is over: a line worth telling, nothing where it was stopped, or why it did not work.
    Exported { generation: u64, result: Result<Option<String>, UserError> },
    /// Something happened in the self-test.
    Selftest { generation: u64, event: selftest::Event },
    /// It did not work.
    Failed(UserError),
}

/// Threads for short work on pictures: enough to keep up, few enough to leave the models their processor.
const POOL: usize = 2;

pub(super) struct Tasks {
    outcomes: Receiver<Outcome>,
    sender: Sender<Outcome>,
    context: egui::Context,
    pool: rayon::ThreadPool,
    /// Settings given to be written so far, and which of them were written last.
    settings_given: u64,
    settings_written: Arc<Mutex<u64>>,
}

impl Tasks {
    pub(super) fn new(context: egui::Context) -> std::io::Result<Self> {
        let (sender, outcomes) = crossbeam_channel::unbounded();
        let named = |i| format!("coz-pool-{i}");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(POOL).thread_name(named);
        // What panics is in the log, and ends nothing.
        let pool = pool.panic_handler(|_| ()).build();
        let pool = pool.map_err(std::io::Error::other)?;
        Ok(Self { outcomes, sender, context, pool, settings_given: 0, settings_written: Arc::default() })
    }

    pub(super) fn outcomes(&self) -> &Receiver<Outcome> {
        &self.outcomes
    }

    /// Writes settings now, after those on their way; later ones do not come.
    pub(super) fn save_last_settings(&mut self, settings: &crate::viewer::settings::Settings) -> Result<(), String> {
        let mut last = self.settings_written.lock().unwrap_or_else(PoisonError::into_inner);
        *last = u64::MAX;
        settings.save()
    }

    fn spawn(&self, name: &str, work: impl FnOnce() -> Option<Outcome> + Send + 'static) {
        let (sender, context) = (self.sender.clone(), self.context.clone());
        let run = move || {
            if let Some(outcome) = work() {
                // The window may be closed by now; then nobody needs the outcome.
                _ = sender.send(outcome);
                context.request_repaint();
            }
        };
        if let Err(error) = std::thread::Builder::new().name(format!("coz-{name}")).spawn(run) {
            let problem = UserError::new("The system is out of threads", error.to_string(), "Close other programs.");
            // As above.
            _ = self.sender.send(Outcome::Failed(problem));
        }
    }

    /// Short work, after what came before it.
    fn spawn_in_pool(&self, work: impl FnOnce() -> Option<Outcome> + Send + 'static) {
        let (sender, context) = (self.sender.clone(), self.context.clone());
        self.pool.spawn(move || {
            if let Some(outcome) = work() {
                // As above.
                _ = sender.send(outcome);
                context.request_repaint();
            }
        });
    }

    /// For threads of their own.
    pub(super) fn sender(&self) -> Sender<Outcome> {
        self.sender.clone()
    }

    pub(super) fn open(&self, file: PathBuf, keep_location: bool, ticket: Ticket) {
        let (sender, context) = (self.sender.clone(), self.context.clone());
        let Ticket { generation, cancel } = ticket;
        self.spawn("open", move || {
            let mut watch = |preview| {
                // The window may be closed by now.
                _ = sender.send(Outcome::Preview { generation, preview });
                context.request_repaint();
                !cancel.is_cancelled()
            };
            let opened = open(&file, keep_location, &mut watch, &cancel).map(Box::new);
            (!cancel.is_cancelled()).then_some(Outcome::Opened { generation, opened })
        });
    }

    /// Tests whether the device computes what it should.
    pub(super) fn selftest(&self, test: Selftest, device: DeviceChoice, ticket: Ticket) {
        let (sender, context) = (self.sender.clone(), self.context.clone());
        self.spawn("selftest", move || {
            selftest::run(&test, device, &ticket, &|event| {
                // The window may be closed by now.
                _ = sender.send(Outcome::Selftest { generation: ticket.generation, event });
                context.request_repaint();
            });
            None
        });
    }

    /// Puts the sample photo into `folder`, and has it opened.
    pub(super) fn open_sample(&self, folder: PathBuf) {
        self.spawn("sample", move || {
            Some(match sample::put_into(&folder) {
                Ok(file) => Outcome::Chosen { document: None, action: Action::OpenFile(file) },
                Err(error) => Outcome::Failed(error.into()),
            })
        });
    }

    pub(super) fn open_pasted(&self, image: Arc<egui::ColorImage>, ticket: Ticket) {
        self.spawn("paste", move || {
            let [width, height] = image.size.map(|side| u32::try_from(side).unwrap_or(0));
            // Its colours are multiplied by their opacity: white shows behind them.
            let over_white = |pixel: &egui::Color32| {
                [pixel.r(), pixel.g(), pixel.b()].map(|level| level.saturating_add(255 - pixel.a()))
            };
            let rgb = image.pixels.iter().flat_map(over_white).collect();
            let source = Source { name: "pasted".into(), ..Source::default() };
            let picture = Picture::from_rgb(width, height, rgb)?;
            let opacity = image.pixels.iter().flat_map(|pixel| [pixel.a(); 3]).collect();
            let alpha =
                Picture::from_rgb(width, height, opacity).filter(|_| !image.pixels.iter().all(|it| it.is_opaque()));
            let opened = Ok(Box::new(Opened::photo(None, source, picture, alpha.as_ref())));
            Some(Outcome::Opened { generation: ticket.generation, opened })
        });
    }

    /// Looks for sessions that were left behind.
    pub(super) fn look_for_recoverable(&self, folder: PathBuf) {
        self.spawn("recover", move || Some(Outcome::Recoverable(autosave::recoverable(&folder))));
    }

    /// Throws some of them away, then looks again.
    pub(super) fn discard_recoverable(&self, sessions: Vec<PathBuf>, folder: PathBuf) {
        self.spawn("recover", move || {
            sessions.iter().for_each(|session| autosave::discard(session));
            Some(Outcome::Recoverable(autosave::recoverable(&folder)))
        });
    }

    /// Finds out how consistent the last state of a chain is.
    pub(super) fn examine(&self, chain: Vec<ScaleState>, ticket: Ticket) {
        self.spawn_in_pool(move || {
            let (chain, id) = (chain.iter().collect::<Vec<_>>(), chain.last()?.id);
            if ticket.cancel.is_cancelled() {
                return None;
            }
            let examined = examined(&chain).map_err(UserError::from).transpose()?;
            Some(Outcome::Examined { generation: ticket.generation, id, examined })
        });
    }

    /// Has a picture in memory again.
    pub(super) fn load(&self, picture: CachedPicture) {
        self.spawn_in_pool(move || {
            let loaded = picture.reload();
            if loaded.is_ok() {
                picture.finish_loading();
            }
            Some(Outcome::Loaded(loaded.map_err(UserError::from)))
        });
    }

    /// Saves a session; `number` names the document.
    pub(super) fn save_session(
        &self,
        session: Session,
        number: u64,
        file: PathBuf,
        link_photo: bool,
        exporting: Exporting,
    ) {
        self.spawn("save", move || {
            let mut on_progress = |fraction: f32| exporting.report((fraction * 1000.0) as u32, 1000);
            let revision = session.history.revision();
            let generation = exporting.ticket.generation;
            Some(match session::save(&session, &file, link_photo, &mut on_progress) {
                Ok(()) => Outcome::Saved { document: number, file, revision },
                Err(_) if exporting.ticket.cancel.is_cancelled() => Outcome::Exported { generation, result: Ok(None) },
                Err(error) => Outcome::Exported { generation, result: Err(error.into()) },
            })
        });
    }

    /// Makes a film of a branch.
    pub(super) fn film(&self, branch: History, options: film::Options, file: PathBuf, exporting: Exporting) {
        self.spawn("film", move || {
            let mut on_frame = |done: u32, all: u32| exporting.report(done, all);
            let result = match film::make(&branch, &options, &file, &mut on_frame) {
                Ok(film) => Ok(Some(format!("{:.1} s of film: {}", film.seconds, file.display()))),
                Err(film::FilmError::Cancelled) => Ok(None),
                Err(error) => Err(error.into()),
            };
            Some(Outcome::Exported { generation: exporting.ticket.generation, result })
        });
    }

    pub(super) fn copy(&self, picture: CachedPicture) {
        self.spawn("copy", move || {
            let picture = match picture.load() {
                Ok(picture) => picture,
                Err(error) => return Some(Outcome::Failed(error.into())),
            };
            let size = [picture.width() as usize, picture.height() as usize];
            Some(Outcome::Copied(egui::ColorImage::from_rgb(size, picture.rgb())))
        });
    }

    /// Shows one of the system's dialogs; what it returns is carried out.
    fn dialog(&self, ask: impl FnOnce(rfd::FileDialog) -> Option<Action> + Send + 'static) {
        self.spawn("dialog", || match dialogs::missing() {
            Some(problem) => Some(Outcome::Failed(problem)),
            None => ask(rfd::FileDialog::new()).map(|action| Outcome::Chosen { document: None, action }),
        });
    }

    /// The same, for the document of this number only.
    fn dialog_for(&self, document: u64, ask: impl FnOnce(rfd::FileDialog) -> Option<Action> + Send + 'static) {
        self.spawn("dialog", move || match dialogs::missing() {
            Some(problem) => Some(Outcome::Failed(problem)),
            None => {
                let action = ask(rfd::FileDialog::new())?;
                Some(Outcome::Chosen { document: Some(document), action })
            }
        });
    }

    pub(super) fn ask_for_picture(&self) {
        self.dialog(|dialog| {
            let all: Vec<&str> = readable().chain([EXTENSION]).collect();
            let dialog = dialog.set_title("Open a picture or a session").add_filter("Pictures and sessions", &all);
            dialog.pick_file().map(Action::OpenFile)
        });
    }

    pub(super) fn ask_for_model(&self) {
        self.dialog(|dialog| {
            let dialog = dialog.set_title("Open a super-resolution network").add_filter("Models", &MODEL_ENDINGS);
            dialog.pick_file().map(|file| Action::UseBackbone(Backbone::file(file)))
        });
    }

    /// Asks for the folder of a diffusion model.
    pub(super) fn ask_for_diffusion(&self, spec: &'static BackboneSpec) {
        self.dialog(move |dialog| {
            let dialog = dialog.set_title(format!("Open the folder of {}", spec.files.first()?.label));
            dialog.pick_folder().map(|folder| Action::UseBackboneAt(spec, folder))
        });
    }

    /// Asks for the single file that holds a diffusion model.
    pub(super) fn ask_for_checkpoint(&self, spec: &'static BackboneSpec) {
        self.dialog(move |dialog| {
            let label = spec.files.first()?.label;
            let dialog = dialog.set_title(format!("Open a single file of {label}")).add_filter(label, &["safetensors"]);
            dialog.pick_file().map(|file| Action::UseBackboneAt(spec, file))
        });
    }

    /// Looks for the other files of a diffusion model in this folder or file, and has it used; where some are not found, that is told,
    /// and the place remembered.
    pub(super) fn look_for_diffusion_at(&self, spec: &'static BackboneSpec, place: PathBuf, others: ModelPaths) {
        let sender = self.sender.clone();
        self.spawn("models", move || {
            let main = spec.files.first()?;
            let mut explicit = ModelPaths::default();
            explicit.set(main.id, place.clone());
            let action = match hub::backbone(spec, &explicit.or(others), Precision::Auto) {
                Ok(backbone) => Action::UseBackbone(backbone),
                Err(problem) => {
                    // The window may be closed by now.
                    _ = sender.send(Outcome::Failed(problem));
                    Action::UseModelFile(main, place)
                }
            };
            Some(Outcome::Chosen { document: None, action })
        });
    }

    /// Looks for models that consist of several files, and for all that can be downloaded.
    pub(super) fn look_for_models(&self, chosen: ModelPaths, backbone: Backbone, ticket: Ticket) {
        self.spawn("models", move || {
            let found = FoundModels::look(&chosen, &backbone);
            Some(Outcome::Models { generation: ticket.generation, found })
        });
    }

    /// Looks for super-resolution models: those of the program, then networks that the user has opened, then those in the
    /// user's folders.
    pub(super) fn look_for_backbones(&self, settings: &crate::viewer::settings::Settings, ticket: Ticket) {
        let (opened, folders) = (settings.opened_networks(), settings.model_folders.clone());
        let explicit = settings.model_paths.clone().with_files_of(&settings.backbone);
        self.spawn("models", move || {
            let mut found = hub::backbones(&explicit);
            let opened = opened.into_iter().filter(|file| file.is_file());
            // What was downloaded, or put there by hand.
            let own = Folders::of_user().map(|folders| folders.models);
            let in_folders = folders.iter().chain(&own).flat_map(|folder| hub::models_in(folder));
            let in_folders = in_folders.filter(|file| !ticket.cancel.is_cancelled() && is_network(file));
            let mut known: BTreeSet<PathBuf> =
                found.iter().filter_map(Backbone::network_file).map(Path::to_owned).collect();
            let others = opened.chain(in_folders).filter(|file| known.insert(file.clone())).map(Backbone::file);
            found.extend(others);
            Some(Outcome::Backbones { generation: ticket.generation, found })
        });
    }

    /// Looks up what is known of these networks.
    pub(super) fn recall_networks(&self, networks: Vec<Backbone>, memory: Memory, ticket: Ticket) {
        self.spawn("networks", move || {
            Some(Outcome::RecalledNetworks { generation: ticket.generation, known: memory.recall(&networks) })
        });
    }

    /// Keeps what was measured of a network, after what came before it.
    pub(super) fn keep_network(&self, backbone: Backbone, facts: NetworkFacts, memory: Memory) {
        self.spawn_in_pool(move || {
            let facts = memory.keep(&backbone, facts);
            Some(Outcome::KeptNetwork(backbone, facts))
        });
    }

    /// Asks for a folder of models.
    pub(super) fn ask_for_model_folder(&self) {
        self.dialog(|dialog| dialog.set_title("A folder of models").pick_folder().map(Action::AddModelFolder));
    }

    /// Downloads models.
    pub(super) fn download(&self, assets: Vec<&'static ModelAsset>, transfer: Arc<Transfer>) {
        self.spawn("download", move || {
            Some(Outcome::Downloaded(hub::download(&assets, &transfer, Patience::default())))
        });
    }

    /// Asks for a file of a diffusion model that is in no folder.
    pub(super) fn ask_for_backbone_file(&self, backbone: Backbone, file: &'static FileSpec) {
        self.dialog(move |dialog| {
            let dialog = dialog.set_title(format!("Open {}", file.label));
            let place = dialog.add_filter(file.label, &["pkl", "pt", "pth", "safetensors"]).pick_file()?;
            Some(match backbone.main_file() {
                Some(_) => Action::UseBackbone(backbone.with(file.role, place)),
                None => Action::UseModelFile(file, place),
            })
        });
    }

    /// Asks for the folder or file by which a prompt source's model is known.
    pub(super) fn ask_for_prompt_source(&self, spec: &'static PromptSourceSpec) {
        self.dialog(move |dialog| {
            let file = spec.distinct_file()?;
            let dialog = dialog.set_title(format!("Open {}", file.label));
            let place = match file.is_folder() {
                false => dialog.add_filter(file.label, &["pth", "safetensors"]).pick_file()?,
                true => dialog.pick_folder()?,
            };
            Some(Action::UsePromptSourceAt(spec, place))
        });
    }

    /// Looks for the model of a prompt source that is to be used.
    pub(super) fn look_for_prompt_source(
        &self,
        spec: &'static PromptSourceSpec,
        explicit: ModelPaths,
        Ticket { generation, .. }: Ticket,
    ) {
        self.spawn("prompts", move || match hub::prompt_source(spec, &explicit, Precision::Auto) {
            Ok(prompt_source) => Some(Outcome::PromptSource { generation, prompt_source }),
            Err(problem) => {
                let open = Action::OpenPromptSource(spec).label();
                let hint = format!("Download it, or choose {open:?} in \"Models and memory\".");
                Some(Outcome::Failed(UserError { hint, ..problem }))
            }
        });
    }

    /// Finds out what there is of a server that writes prompts.
    pub(super) fn try_server(&self, server: ServerEndpoint, Ticket { generation, cancel }: Ticket) {
        self.spawn("trial", move || {
            let trial = ServerTrial::run(&server, &cancel)?;
            Some(Outcome::ServerTrial { generation, trial: Box::new(trial) })
        });
    }

    /// Asks for the file or folder of an export.
    pub(super) fn ask_where_to_export(&self, document: u64, exporter: &'static Exporter, name: String) {
        self.dialog_for(document, move |dialog| {
            let dialog = dialog.set_title(Action::Export(exporter).label().trim_end_matches('…'));
            let place = match exporter.is_folder {
                true => dialog.pick_folder(),
                false => dialog
                    .add_filter("Pictures", &Format::all().map(Format::extension).collect::<Vec<_>>())
                    .set_file_name(name)
                    .save_file(),
            };
            place.map(|place| Action::ExportTo(exporter, place))
        });
    }

    /// Asks for the file of a film.
    pub(super) fn ask_where_to_film(&self, document: u64, name: String) {
        self.dialog_for(document, |dialog| {
            let dialog = dialog.set_title("Export the film").add_filter("Films", &["mp4", "gif"]);
            dialog.set_file_name(name).save_file().map(Action::FilmTo)
        });
    }

    /// Asks for the file of a session.
    pub(super) fn ask_where_to_save(&self, document: u64, name: String) {
        self.dialog_for(document, |dialog| {
            let dialog = dialog.set_title("Save the session as").add_filter("Sessions", &[EXTENSION]);
            dialog.set_file_name(name).save_file().map(Action::SaveTo)
        });
    }

    pub(super) fn export(&self, exporter: &'static Exporter, export: Export, to: PathBuf, exporting: Exporting) {
        self.spawn("export", move || {
            let mut on_progress = |done: usize, all: usize| exporting.report(done as u32, all as u32);
            let result = match (exporter.write)(&export, &to, &mut on_progress) {
                Err(_) if exporting.ticket.cancel.is_cancelled() => Ok(None),
                result => result.map(Some).map_err(UserError::from),
            };
            Some(Outcome::Exported { generation: exporting.ticket.generation, result })
        });
    }

    /// Writes settings; those given later stay.
    pub(super) fn save_settings(&mut self, settings: crate::viewer::settings::Settings) {
        self.settings_given += 1;
        let (number, written) = (self.settings_given, self.settings_written.clone());
        self.spawn("settings", move || {
            let mut last = written.lock().unwrap_or_else(PoisonError::into_inner);
            if *last > number {
                return None;
            }
            *last = number;
            let details = settings.save().err()?;
            let problem = UserError::new("The settings were not saved", details, "They hold until you quit.");
            Some(Outcome::Failed(problem))
        });
    }
}

/// What can be found out of the last state of a chain that begins with the photo.
fn examined(chain: &[&ScaleState]) -> Result<Option<Examined>, ImageError> {
    let [.., parent, state] = chain else { return Ok(None) };
    let Some(region) = state.record.as_ref().map(|record| record.region) else { return Ok(None) };
    let cut = parent.picture.load()?.crop(region.x.into(), region.y.into(), region.width, region.height);
    let bicubic = resize(&cut, state.picture.width(), state.picture.height(), Filter::Bicubic);
    bicubic.prepare_levels();
    Ok(Some(Examined { consistency: examine(chain)?, bicubic: Arc::new(bicubic) }))
}
