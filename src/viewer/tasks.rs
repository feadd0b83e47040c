//! Work beside the window's thread: decoding, encoding, dialogs, settings. Each task is a short-lived named thread; what
//! comes of it arrives over one channel.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, Sender};

use super::actions::Action;
use super::state::{Examined, Exporting, FoundBackbone};
use super::{dialogs, sample};
use crate::base::{
    BACKBONES, Backbone, BackboneSpec, PROMPT_SOURCES, Precision, PromptSource, PromptSourceSpec, Recipe, RecipeStep,
    Source, UserError,
};
use crate::document::consistency::examine;
use crate::document::export::{Export, Exporter};
use crate::document::session::autosave::RecoverableSession;
use crate::document::session::{Choices, EXTENSION, Session, autosave};
use crate::document::{History, ScaleState, StateId, provenance, session};
use crate::hub::{ASSETS, Found, HubError, ModelAsset, ModelPaths, Patience, Transfer};
use crate::imaging::codec::Preview;
use crate::imaging::formats::readable;
use crate::imaging::{Filter, Format, Picture, codec, resize};
use crate::scene::film;
use crate::{base, document, hub};

/// What came of a task.
pub(super) enum Outcome {
    /// More of a large picture is decoded.
    Preview { file: PathBuf, preview: Preview },
    /// A picture or a session is open.
    Opened(Box<Opened>),
    /// The user chose something in a dialog.
    Chosen(Action),
    /// A picture is ready for the clipboard.
    Copied(egui::ColorImage),
    /// Something is known of a state of this document.
    Examined { document: u64, id: StateId, examined: Examined },
    /// Sessions can be recovered.
    Recoverable(Vec<RecoverableSession>),
    /// The session is on the disk, with states up to this revision.
    Saved { document: u64, file: PathBuf, revision: u64 },
    /// Something is done that is worth a line.
    Done(String),
    /// What there is of the diffusion models.
    Diffusion(Vec<(&'static BackboneSpec, FoundBackbone)>),
    /// The super-resolution models on this machine, the best first.
    Backbones(Vec<Backbone>),
    /// Where the models of prompt sources are.
    PromptModels(Vec<(&'static PromptSourceSpec, Result<PathBuf, UserError>)>),
    /// What can be got from the hub, and what of it is there.
    Assets(Vec<(&'static ModelAsset, Found)>),
    /// It is there now, or why not.
    Downloaded(Result<(), HubError>),
    /// Where prompts come from from now on.
    PromptSource(PromptSource),
    /// An export is over, however it ended.
    Exported,
    /// It did not work; `opening` where it was a picture that could not be opened.
    Failed { problem: UserError, opening: bool },
}

/// What was opened.
pub(super) struct Opened {
    /// As asked for; `None` where it was pasted.
    pub file: Option<PathBuf>,
    pub history: History,
    /// Of a session.
    pub choices: Option<Choices>,
    /// The `.coz` file it is kept in.
    pub session_file: Option<PathBuf>,
    /// The autosave it was restored from.
    pub restored_from: Option<PathBuf>,
    /// Steps that an exported picture tells of, to be made again.
    pub rebuild: Vec<RecipeStep>,
    /// Worth a line.
    pub note: Option<String>,
}

impl Opened {
    fn photo(file: Option<PathBuf>, source: Source, picture: Picture) -> Self {
        prepare_levels(&picture);
        let thumbnail = Arc::new(document::thumbnail(&picture));
        let history = History::new(source, Arc::new(picture), thumbnail);
        Self { file, history, choices: None, session_file: None, restored_from: None, rebuild: vec![], note: None }
    }
}

/// The halvings that the canvas will want; here they keep nobody waiting.
fn prepare_levels(picture: &Picture) {
    let side = picture.width().max(picture.height());
    picture.level(side.ilog2().saturating_sub(8));
}

pub(super) struct Tasks {
    outcomes: Receiver<Outcome>,
    sender: Sender<Outcome>,
    context: egui::Context,
}

impl Tasks {
    pub(super) fn new(context: egui::Context) -> Self {
        let (sender, outcomes) = crossbeam_channel::unbounded();
        Self { outcomes, sender, context }
    }

    pub(super) fn outcomes(&self) -> &Receiver<Outcome> {
        &self.outcomes
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
            _ = self.sender.send(Outcome::Failed { problem, opening: false });
        }
    }

    /// For threads of their own.
    pub(super) fn sender(&self) -> Sender<Outcome> {
        self.sender.clone()
    }

    pub(super) fn open(&self, file: PathBuf) {
        let (sender, context) = (self.sender.clone(), self.context.clone());
        self.spawn("open", move || {
            let mut watch = |preview| {
                _ = sender.send(Outcome::Preview { file: file.clone(), preview });
                context.request_repaint();
            };
            Some(match open(&file, &mut watch) {
                Ok(opened) => Outcome::Opened(Box::new(opened)),
                Err(problem) => Outcome::Failed { problem, opening: true },
            })
        });
    }

    /// Puts the sample photo into `folder`, and has it opened.
    pub(super) fn open_sample(&self, folder: PathBuf) {
        self.spawn("sample", move || {
            Some(match sample::put_into(&folder) {
                Ok(file) => Outcome::Chosen(Action::OpenFile(file)),
                Err(error) => Outcome::Failed { problem: error.into(), opening: false },
            })
        });
    }

    pub(super) fn open_pasted(&self, image: Arc<egui::ColorImage>) {
        self.spawn("paste", move || {
            let [width, height] = image.size.map(|side| u32::try_from(side).unwrap_or(0));
            let rgb = image.pixels.iter().flat_map(|pixel| [pixel.r(), pixel.g(), pixel.b()]).collect();
            let source = Source { name: "pasted".into(), ..Source::default() };
            let picture = Picture::from_rgb(width, height, rgb)?;
            Some(Outcome::Opened(Box::new(Opened::photo(None, source, picture))))
        });
    }

    /// Looks for sessions that were left behind.
    pub(super) fn look_for_recoverable(&self, folder: PathBuf) {
        self.spawn("recover", move || Some(Outcome::Recoverable(autosave::recoverable(&folder))));
    }

    /// Throws one of them away, then looks again.
    pub(super) fn discard_recoverable(&self, session: PathBuf, folder: PathBuf) {
        self.spawn("recover", move || {
            autosave::discard(&session);
            Some(Outcome::Recoverable(autosave::recoverable(&folder)))
        });
    }

    /// Finds out how consistent the last state of a chain is.
    pub(super) fn examine(&self, document: u64, chain: Vec<ScaleState>) {
        self.spawn("examine", move || {
            let chain: Vec<&ScaleState> = chain.iter().collect();
            let [.., parent, state] = chain.as_slice() else { return None };
            let region = state.record.as_ref()?.region;
            let cut = parent.picture.crop(region.x.into(), region.y.into(), region.width, region.height);
            let bicubic = resize(&cut, state.picture.width(), state.picture.height(), Filter::Bicubic);
            let consistency = examine(&chain);
            let examined = Examined { consistency, bicubic: Arc::new(bicubic) };
            Some(Outcome::Examined { document, id: state.id, examined })
        });
    }

    /// Saves a session; `number` and `revision` name what was saved.
    pub(super) fn save_session(
        &self,
        session: Session,
        number: u64,
        file: PathBuf,
        link_photo: bool,
        exporting: Exporting,
    ) {
        self.spawn("save", move || {
            let mut on_progress = |fraction: f32| {
                exporting.done.0.store((fraction * 1000.0) as u32, Ordering::Relaxed);
                exporting.done.1.store(1000, Ordering::Relaxed);
                !exporting.stop.load(Ordering::Relaxed)
            };
            let revision = session.history.revision();
            Some(match session::save(&session, &file, link_photo, &mut on_progress) {
                Ok(()) => Outcome::Saved { document: number, file, revision },
                Err(_) if exporting.stop.load(Ordering::Relaxed) => Outcome::Exported,
                Err(error) => Outcome::Failed { problem: error.into(), opening: false },
            })
        });
    }

    /// Makes a film of a branch.
    pub(super) fn film(&self, branch: History, options: film::Options, file: PathBuf, exporting: Exporting) {
        self.spawn("film", move || {
            let mut on_frame = |done: u32, all: u32| {
                exporting.done.0.store(done, Ordering::Relaxed);
                exporting.done.1.store(all, Ordering::Relaxed);
                !exporting.stop.load(Ordering::Relaxed)
            };
            Some(match film::make(&branch, &options, &file, &mut on_frame) {
                Ok(film) => Outcome::Done(format!("{:.1} s of film: {}", film.seconds, file.display())),
                Err(film::FilmError::Cancelled) => Outcome::Exported,
                Err(error) => Outcome::Failed { problem: error.into(), opening: false },
            })
        });
    }

    pub(super) fn copy(&self, picture: Arc<Picture>) {
        self.spawn("copy", move || {
            let size = [picture.width() as usize, picture.height() as usize];
            Some(Outcome::Copied(egui::ColorImage::from_rgb(size, picture.rgb())))
        });
    }

    /// Shows one of the system's dialogs; what it returns is carried out.
    fn dialog(&self, ask: impl FnOnce(rfd::FileDialog) -> Option<Action> + Send + 'static) {
        self.spawn("dialog", || match dialogs::missing() {
            Some(problem) => Some(Outcome::Failed { problem, opening: false }),
            None => ask(rfd::FileDialog::new()).map(Outcome::Chosen),
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
            let dialog = dialog
                .set_title("Open a super-resolution model of the ESRGAN family")
                .add_filter("Models", &["pth", "safetensors", "pt", "param", "bin"]);
            dialog.pick_file().map(|file| Action::UseBackbone(Backbone::file(file)))
        });
    }

    /// Asks for the folder of a diffusion model; its other files are looked for beside it.
    pub(super) fn ask_for_diffusion(&self, spec: &'static BackboneSpec) {
        self.dialog(move |dialog| {
            let main = spec.files.first()?;
            let dialog = dialog.set_title(format!("Open the folder of {}", main.label));
            let mut explicit = ModelPaths::default();
            explicit.set(main.id, dialog.pick_folder()?);
            hub::backbone(spec, &explicit, Precision::Auto).ok().map(Action::UseBackbone)
        });
    }

    /// Looks for the files of the diffusion models: those that are chosen, or wherever they may be.
    pub(super) fn look_for_diffusion(&self, explicit: ModelPaths) {
        self.spawn("models", move || {
            let specs = BACKBONES.into_iter().filter(|spec| spec.is_diffusion());
            let found = specs.map(|spec| {
                let found = match hub::backbone(spec, &explicit, Precision::Auto) {
                    Err(problem) => FoundBackbone::Nothing(problem),
                    Ok(backbone) => match hub::missing(&backbone) {
                        missing if missing.is_empty() => FoundBackbone::Whole(backbone),
                        missing => FoundBackbone::Incomplete(backbone, missing),
                    },
                };
                (spec, found)
            });
            Some(Outcome::Diffusion(found.collect()))
        });
    }

    /// Looks for super-resolution models.
    pub(super) fn look_for_backbones(&self) {
        self.spawn("models", || Some(Outcome::Backbones(hub::backbones())));
    }

    /// Looks for the models of all prompt sources.
    pub(super) fn look_for_prompt_models(&self, explicit: ModelPaths) {
        self.spawn("prompts", move || {
            let with_models = PROMPT_SOURCES.into_iter().filter(|spec| !spec.files.is_empty());
            let found = with_models.map(|spec| {
                let source = hub::prompt_source(spec, &explicit, Precision::Auto);
                (spec, source.map(|source| source.main_file().map(Path::to_owned).unwrap_or_default()))
            });
            Some(Outcome::PromptModels(found.collect()))
        });
    }

    /// Looks for all that can be downloaded.
    pub(super) fn look_for_assets(&self, explicit: ModelPaths) {
        self.spawn("assets", move || {
            Some(Outcome::Assets(ASSETS.iter().map(|asset| (asset, asset.found(&explicit))).collect()))
        });
    }

    /// Downloads models.
    pub(super) fn download(&self, assets: Vec<&'static ModelAsset>, transfer: Arc<Transfer>) {
        self.spawn("download", move || {
            Some(Outcome::Downloaded(hub::download(&assets, &transfer, Patience::default())))
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
    pub(super) fn look_for_prompt_source(&self, spec: &'static PromptSourceSpec, explicit: ModelPaths) {
        self.spawn("prompts", move || match hub::prompt_source(spec, &explicit, Precision::Auto) {
            Ok(source) => Some(Outcome::PromptSource(source)),
            Err(problem) => {
                let open = Action::OpenPromptSource(spec).label();
                let hint = format!("Download it, or choose {open:?} in \"Models and memory\".");
                Some(Outcome::Failed { problem: UserError { hint, ..problem }, opening: false })
            }
        });
    }

    /// Asks for the file or folder of an export.
    pub(super) fn ask_where_to_export(&self, exporter: &'static Exporter, name: String) {
        self.dialog(move |dialog| {
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
    pub(super) fn ask_where_to_film(&self, name: String) {
        self.dialog(|dialog| {
            let dialog = dialog.set_title("Export the film").add_filter("Films", &["mp4", "gif"]);
            dialog.set_file_name(name).save_file().map(Action::FilmTo)
        });
    }

    /// Asks for the file of a session.
    pub(super) fn ask_where_to_save(&self, name: String) {
        self.dialog(|dialog| {
            let dialog = dialog.set_title("Save the session as").add_filter("Sessions", &[EXTENSION]);
            dialog.set_file_name(name).save_file().map(Action::SaveTo)
        });
    }

    pub(super) fn export(&self, exporter: &'static Exporter, export: Export, to: PathBuf) {
        self.spawn("export", move || {
            Some(match (exporter.write)(&export, &to) {
                Ok(line) => Outcome::Done(line),
                Err(error) => Outcome::Failed { problem: error.into(), opening: false },
            })
        });
    }

    pub(super) fn save_settings(&self, settings: crate::viewer::settings::Settings) {
        self.spawn("settings", move || {
            let details = settings.save().err()?;
            let problem = UserError::new("The settings were not saved", details, "They hold until you quit.");
            Some(Outcome::Failed { problem, opening: false })
        });
    }
}

/// Opens what a path names: an autosave's folder, a session, a picture that says how it was made, or a picture.
fn open(file: &Path, watch: &mut dyn FnMut(Preview)) -> Result<Opened, UserError> {
    let is_session = file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case(EXTENSION));
    if is_session || file.is_dir() {
        let Session { history, choices, lost_photo } = session::open(file)?;
        prepare_levels(&history.photo().picture);
        let mut opened = Opened {
            file: is_session.then(|| file.to_owned()),
            history,
            choices: Some(choices),
            session_file: is_session.then(|| file.to_owned()),
            restored_from: (!is_session).then(|| file.to_owned()),
            rebuild: vec![],
            note: None,
        };
        opened.note = match lost_photo {
            Some(photo) => {
                Some(format!("Restored without {}: it is not there any more, or another one", photo.display()))
            }
            None => opened.restored_from.is_some().then(|| "Restored".into()),
        };
        return Ok(opened);
    }
    let mut note = None;
    if let Some(recipe) = codec::xmp(file).and_then(|xmp| provenance::recipe(&xmp)).filter(|r| !r.steps.is_empty()) {
        match photo_of(&recipe, file) {
            Some(photo) => {
                let picture = codec::open_watched(&photo, watch)?;
                if (picture.width(), picture.height()) == (recipe.width, recipe.height) {
                    let source = Source { file: Some(photo), ..recipe.photo };
                    let count = recipe.steps.len();
                    return Ok(Opened {
                        rebuild: recipe.steps,
                        note: Some(format!("Making the {count} steps of this picture again")),
                        ..Opened::photo(Some(file.to_owned()), source, picture)
                    });
                }
                note = Some(format!("{} has changed: this picture's chain is not made again", photo.display()));
            }
            None => {
                let name = recipe.photo.file.map_or(recipe.photo.name, |file| file.display().to_string());
                note = Some(format!("This was made from {name}, which is not there: opened as a photo"));
            }
        }
    }
    // The digest is made while the pixels are.
    let (digest, picture) = std::thread::scope(|scope| {
        let digest = std::thread::Builder::new().name("coz-digest".into()).spawn_scoped(scope, || base::sha256(file));
        let picture = codec::open_watched(file, watch);
        (digest.ok().and_then(|thread| thread.join().ok()).and_then(Result::ok), picture)
    });
    let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
    let absolute = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let source = Source { name, file: Some(absolute), sha256: digest };
    Ok(Opened { note, ..Opened::photo(Some(file.to_owned()), source, picture?) })
}

/// The photo of a recipe, if it is still the same.
fn photo_of(recipe: &Recipe, file: &Path) -> Option<PathBuf> {
    let photo = session::photo_beside(&recipe.photo, file)?;
    let same = match &recipe.photo.sha256 {
        Some(expected) => base::sha256(&photo).is_ok_and(|found| found == *expected),
        None => true,
    };
    same.then_some(photo)
}
