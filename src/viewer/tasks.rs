//! Work beside the window's thread: decoding, encoding, dialogs, settings. Each task is a short-lived named thread; what
//! comes of it arrives over one channel.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, Sender};

use super::actions::{Action, ExportKind};
use super::state::{Examined, Exporting, FoundSd3};
use super::{dialogs, sample};
use crate::digest;
use crate::export::{provenance, sheet, stills, strip, tree::Tree};
use crate::film;
use crate::history::agreement::examine;
use crate::history::recipe::{Recipe, Step};
use crate::history::{self, History, ScaleState, Source, StateId};
use crate::hub::{self, Found, HubError, Part, Patience, Transfer};
use crate::image::codec::{self, Preview, READABLE};
use crate::image::{Filter, Format, Picture, resize};
use crate::problem::Problem;
use crate::prompt::{Extractor, ExtractorKind, Places};
use crate::session::autosave::{self, Left};
use crate::session::{self, Choices, EXTENSION, Session};
use crate::step::{Backbone, Precision, Sd3Files};

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
    /// Sessions were left behind.
    Left(Vec<Left>),
    /// The session is on the disk, with states up to this revision.
    Saved { document: u64, file: PathBuf, revision: u64 },
    /// Something is done that is worth a line.
    Done(String),
    /// What there is of Chain-of-Zoom's own model.
    Sd3(FoundSd3),
    /// The super-resolution models on this machine, the best first.
    Backbones(Vec<Backbone>),
    /// What could find words.
    WordModels(Vec<(ExtractorKind, Result<PathBuf, Problem>)>),
    /// What can be got from the hub, and what of it is there.
    Parts(Vec<(Part, Found)>),
    /// It is there now, or why not.
    Downloaded(Result<(), HubError>),
    /// What finds words from now on.
    Words(Extractor),
    /// An export is over, however it ended.
    Exported,
    /// It did not work; `opening` where it was a picture that could not be opened.
    Failed { problem: Problem, opening: bool },
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
    pub rebuild: Vec<Step>,
    /// Worth a line.
    pub note: Option<String>,
}

impl Opened {
    fn photo(file: Option<PathBuf>, source: Source, picture: Picture) -> Self {
        prepare_levels(&picture);
        let thumbnail = Arc::new(history::thumbnail(&picture));
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

/// What an export is made of.
pub(super) struct ExportInput {
    pub kind: ExportKind,
    pub to: PathBuf,
    pub format: Format,
    pub source: Source,
    /// The chain from the photo to the state at hand.
    pub chain: Vec<ScaleState>,
    /// All states.
    pub all: Vec<Arc<Picture>>,
    pub size: u32,
}

impl Tasks {
    pub fn new(context: egui::Context) -> Self {
        let (sender, outcomes) = crossbeam_channel::unbounded();
        Self { outcomes, sender, context }
    }

    pub fn outcomes(&self) -> &Receiver<Outcome> {
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
            let problem = Problem::new("The system is out of threads", error.to_string(), "Close other programs.");
            _ = self.sender.send(Outcome::Failed { problem, opening: false });
        }
    }

    /// For threads of their own.
    pub fn sender(&self) -> Sender<Outcome> {
        self.sender.clone()
    }

    pub fn open(&self, file: PathBuf) {
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
    pub fn open_sample(&self, folder: PathBuf) {
        self.spawn("sample", move || {
            Some(match sample::put_into(&folder) {
                Ok(file) => Outcome::Chosen(Action::OpenFile(file)),
                Err(error) => Outcome::Failed { problem: error.into(), opening: false },
            })
        });
    }

    pub fn open_pasted(&self, image: Arc<egui::ColorImage>) {
        self.spawn("paste", move || {
            let [width, height] = image.size.map(|side| u32::try_from(side).unwrap_or(0));
            let rgb = image.pixels.iter().flat_map(|pixel| [pixel.r(), pixel.g(), pixel.b()]).collect();
            let source = Source { name: "pasted".into(), ..Source::default() };
            let picture = Picture::from_rgb(width, height, rgb)?;
            Some(Outcome::Opened(Box::new(Opened::photo(None, source, picture))))
        });
    }

    /// Looks for sessions that were left behind.
    pub fn look_for_left(&self, folder: PathBuf) {
        self.spawn("left", move || Some(Outcome::Left(autosave::left(&folder))));
    }

    /// Throws one of them away, then looks again.
    pub fn discard_left(&self, left: PathBuf, folder: PathBuf) {
        self.spawn("left", move || {
            autosave::discard(&left);
            Some(Outcome::Left(autosave::left(&folder)))
        });
    }

    /// Finds out how far the last state of a chain agrees with what was there.
    pub fn examine(&self, document: u64, chain: Vec<ScaleState>) {
        self.spawn("examine", move || {
            let chain: Vec<&ScaleState> = chain.iter().collect();
            let [.., parent, state] = chain.as_slice() else { return None };
            let region = state.making.as_ref()?.region;
            let cut = parent.picture.crop(region.x.into(), region.y.into(), region.width, region.height);
            let bicubic = resize(&cut, state.picture.width(), state.picture.height(), Filter::Bicubic);
            let agreement = examine(&chain);
            let examined = Examined { agreement, bicubic: Arc::new(bicubic) };
            Some(Outcome::Examined { document, id: state.id, examined })
        });
    }

    /// Saves a session; `number` and `revision` name what was saved.
    pub fn save_session(&self, session: Session, number: u64, file: PathBuf, link_photo: bool, exporting: Exporting) {
        self.spawn("save", move || {
            let mut told = |fraction: f32| {
                exporting.done.0.store((fraction * 1000.0) as u32, Ordering::Relaxed);
                exporting.done.1.store(1000, Ordering::Relaxed);
                !exporting.stop.load(Ordering::Relaxed)
            };
            let revision = session.history.revision();
            Some(match session::save(&session, &file, link_photo, &mut told) {
                Ok(()) => Outcome::Saved { document: number, file, revision },
                Err(_) if exporting.stop.load(Ordering::Relaxed) => Outcome::Exported,
                Err(error) => Outcome::Failed { problem: error.into(), opening: false },
            })
        });
    }

    /// Makes a film of a branch.
    pub fn film(&self, branch: History, options: film::Options, file: PathBuf, exporting: Exporting) {
        self.spawn("film", move || {
            let mut told = |done: u32, all: u32| {
                exporting.done.0.store(done, Ordering::Relaxed);
                exporting.done.1.store(all, Ordering::Relaxed);
                !exporting.stop.load(Ordering::Relaxed)
            };
            Some(match film::make(&branch, &options, &file, &mut told) {
                Ok(made) => Outcome::Done(format!("{:.1} s of film: {}", made.seconds, file.display())),
                Err(film::FilmError::Cancelled) => Outcome::Exported,
                Err(error) => Outcome::Failed { problem: error.into(), opening: false },
            })
        });
    }

    pub fn copy(&self, picture: Arc<Picture>) {
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

    pub fn ask_for_picture(&self) {
        self.dialog(|dialog| {
            let all: Vec<&str> = READABLE.iter().copied().chain([EXTENSION]).collect();
            let dialog = dialog.set_title("Open a picture or a session").add_filter("Pictures and sessions", &all);
            dialog.pick_file().map(Action::OpenFile)
        });
    }

    pub fn ask_for_model(&self) {
        self.dialog(|dialog| {
            let dialog = dialog
                .set_title("Open a super-resolution model of the ESRGAN family")
                .add_filter("Models", &["pth", "safetensors", "pt", "param", "bin"]);
            dialog.pick_file().map(|file| Action::UseBackbone(Backbone::File(file)))
        });
    }

    pub fn ask_for_sd3(&self) {
        self.dialog(|dialog| {
            let dialog = dialog.set_title("Open a folder of stable-diffusion-3-medium-diffusers");
            let folder = dialog.pick_folder()?;
            Some(Action::UseBackbone(Backbone::Sd3(hub::with_training(Sd3Files::in_folder(&folder)))))
        });
    }

    /// Looks for the files of Chain-of-Zoom's own model: those that are chosen, or wherever they may be.
    pub fn look_for_sd3(&self, chosen: Option<Sd3Files>) {
        self.spawn("models", move || {
            let files = match chosen {
                Some(files) => Ok(files),
                None => hub::sd3(None).map(hub::with_training),
            };
            Some(Outcome::Sd3(match files {
                Err(problem) => FoundSd3::Nothing(problem),
                Ok(files) => match files.missing() {
                    missing if missing.is_empty() => FoundSd3::Whole(files),
                    missing => FoundSd3::Incomplete(files, missing),
                },
            }))
        });
    }

    /// Looks for super-resolution models.
    pub fn look_for_backbones(&self) {
        self.spawn("models", || Some(Outcome::Backbones(hub::backbones())));
    }

    /// Looks for all that could find words.
    pub fn look_for_word_models(&self, places: Places) {
        self.spawn("words", move || {
            let kinds = [ExtractorKind::Tags, ExtractorKind::Vlm, ExtractorKind::Tuned];
            let found = kinds.map(|kind| {
                let extractor = hub::extractor(kind, &places, Precision::Auto);
                (kind, extractor.map(|extractor| extractor.main_file().map(Path::to_owned).unwrap_or_default()))
            });
            Some(Outcome::WordModels(found.into()))
        });
    }

    /// Looks for all that can be got from the hub.
    pub fn look_for_parts(&self, places: Places) {
        self.spawn("parts", move || Some(Outcome::Parts(Part::ALL.map(|part| (part, part.found(&places))).into())));
    }

    /// Gets parts from the hub.
    pub fn download(&self, parts: Vec<Part>, transfer: Arc<Transfer>) {
        self.spawn("download", move || {
            Some(Outcome::Downloaded(hub::download(&parts, &transfer, Patience::default())))
        });
    }

    /// Asks for the folder or file of a model that finds words.
    pub fn ask_for_words(&self, kind: ExtractorKind) {
        self.dialog(move |dialog| {
            let label = Action::OpenWords(kind).label();
            let dialog = dialog.set_title(label.trim_end_matches('…'));
            let place = match kind {
                ExtractorKind::Tags => dialog.add_filter("RAM", &["pth", "safetensors"]).pick_file()?,
                _ => dialog.pick_folder()?,
            };
            Some(Action::UseWordsAt(kind, place))
        });
    }

    /// Looks for the files of what is to find words.
    pub fn look_for_words(&self, kind: ExtractorKind, places: Places) {
        self.spawn("words", move || match hub::extractor(kind, &places, Precision::Auto) {
            Ok(extractor) => Some(Outcome::Words(extractor)),
            Err(problem) => {
                let hint =
                    format!("Download it, or choose {:?} in \"Models and memory\".", Action::OpenWords(kind).label());
                let problem = Problem { hint, ..problem };
                Some(Outcome::Failed { problem, opening: false })
            }
        });
    }

    pub fn ask_where_to_export(&self, kind: ExportKind, name: String) {
        self.dialog(move |dialog| {
            let dialog = dialog.set_title(Action::Export(kind).label().trim_end_matches('…'));
            let place = match kind {
                ExportKind::Chain | ExportKind::Folders => dialog.pick_folder(),
                ExportKind::State | ExportKind::Strip | ExportKind::Sheet => {
                    dialog.add_filter("Pictures", &Format::ALL.map(Format::extension)).set_file_name(name).save_file()
                }
                ExportKind::Film => dialog.add_filter("Films", &["mp4", "gif"]).set_file_name(name).save_file(),
                ExportKind::Session => dialog.add_filter("Sessions", &[EXTENSION]).set_file_name(name).save_file(),
            };
            place.map(|place| Action::ExportTo(kind, place))
        });
    }

    pub fn export(&self, input: ExportInput) {
        self.spawn("export", move || {
            Some(match export(&input) {
                Ok(line) => Outcome::Done(line),
                Err(error) => Outcome::Failed { problem: error.into(), opening: false },
            })
        });
    }

    pub fn save_settings(&self, settings: crate::settings::Settings) {
        self.spawn("settings", move || {
            let details = settings.save().err()?;
            let problem = Problem::new("The settings were not saved", details, "They hold until you quit.");
            Some(Outcome::Failed { problem, opening: false })
        });
    }
}

/// Opens what a path names: an autosave's folder, a session, a picture that says how it was made, or a picture.
fn open(file: &Path, watch: &mut dyn FnMut(Preview)) -> Result<Opened, Problem> {
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
        let digest = std::thread::Builder::new().name("coz-digest".into()).spawn_scoped(scope, || digest::sha256(file));
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
        Some(expected) => digest::sha256(&photo).is_ok_and(|found| found == *expected),
        None => true,
    };
    same.then_some(photo)
}

fn export(input: &ExportInput) -> Result<String, crate::image::ImageError> {
    let chain: Vec<&ScaleState> = input.chain.iter().collect();
    let pictures: Vec<&Picture> = chain.iter().map(|state| &*state.picture).collect();
    let to = input.to.display();
    match input.kind {
        ExportKind::State => {
            stills::state(&input.source, &chain, &input.to)?;
            Ok(format!("Saved {to}"))
        }
        ExportKind::Chain => {
            let files = stills::chain(&input.source, &chain, &input.to, input.format)?;
            Ok(format!("Saved {} pictures to {to}", files.len()))
        }
        ExportKind::Strip => {
            codec::save_with(&strip::strip(&pictures, input.size), &input.to, Some(&xmp(input, &chain)))?;
            Ok(format!("Saved a strip of {} states: {to}", chain.len()))
        }
        ExportKind::Sheet => {
            let all: Vec<&Picture> = input.all.iter().map(|picture| &**picture).collect();
            codec::save_with(&sheet::sheet(&all, input.size), &input.to, Some(&xmp(input, &chain)))?;
            Ok(format!("Saved a sheet of {} states: {to}", all.len()))
        }
        ExportKind::Folders => {
            let tree = Tree::new(&input.to, &input.source.stem());
            for (i, state) in chain.iter().enumerate() {
                tree.state(i, &state.picture, None, Some(&xmp(input, &chain[..=i])))?;
                if let (Some(making), Some(i)) = (&state.making, i.checked_sub(1)) {
                    tree.prompts(i, making)?;
                }
            }
            // States differ in size here: the photo keeps its own.
            tree.finish(&pictures, input.size)?;
            Ok(format!("Saved {} states to {to}", chain.len()))
        }
        // These have tasks of their own.
        ExportKind::Film | ExportKind::Session => Ok(String::new()),
    }
}

fn xmp(input: &ExportInput, chain: &[&ScaleState]) -> String {
    provenance::packet(&Recipe::of(&input.source, chain))
}
