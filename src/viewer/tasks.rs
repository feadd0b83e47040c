//! Work beside the window's thread: decoding, encoding, dialogs, settings. Each task is a short-lived named thread; what
//! comes of it arrives over one channel.

use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use super::actions::{Action, ExportKind};
use crate::export::{sheet, stills, strip, tree::Tree};
use crate::history::{self, ScaleState};
use crate::image::codec::{self, READABLE};
use crate::image::{Format, Picture};
use crate::problem::Problem;
use crate::step::Backbone;

/// What came of a task.
pub(super) enum Outcome {
    /// A picture is decoded.
    Opened { name: String, file: Option<PathBuf>, picture: Arc<Picture>, thumbnail: Arc<Picture> },
    /// The user chose something in a dialog.
    Chosen(Action),
    /// A picture is ready for the clipboard.
    Copied(egui::ColorImage),
    /// Something is done that is worth a line.
    Done(String),
    /// It did not work; `opening` where it was a picture that could not be opened.
    Failed { problem: Problem, opening: bool },
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
    pub stem: String,
    pub format: Format,
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

    pub fn open(&self, file: PathBuf) {
        self.spawn("open", move || {
            let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
            Some(match codec::open(&file) {
                Ok(picture) => opened(name, Some(file.canonicalize().unwrap_or(file)), picture),
                Err(error) => Outcome::Failed { problem: error.into(), opening: true },
            })
        });
    }

    pub fn open_pasted(&self, image: Arc<egui::ColorImage>) {
        self.spawn("paste", move || {
            let [width, height] = image.size.map(|side| u32::try_from(side).unwrap_or(0));
            let rgb = image.pixels.iter().flat_map(|pixel| [pixel.r(), pixel.g(), pixel.b()]).collect();
            Picture::from_rgb(width, height, rgb).map(|picture| opened("pasted".into(), None, picture))
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
        self.spawn("dialog", || match dialogs_missing() {
            Some(problem) => Some(Outcome::Failed { problem, opening: false }),
            None => ask(rfd::FileDialog::new()).map(Outcome::Chosen),
        });
    }

    pub fn ask_for_picture(&self) {
        self.dialog(|dialog| {
            let dialog = dialog.set_title("Open a picture").add_filter("Pictures", &READABLE);
            dialog.pick_file().map(Action::OpenFile)
        });
    }

    pub fn ask_for_model(&self) {
        self.dialog(|dialog| {
            let dialog = dialog
                .set_title("Open a super-resolution model of the ESRGAN family")
                .add_filter("Models", &["pth", "safetensors", "pt"]);
            dialog.pick_file().map(|file| Action::UseBackbone(Backbone::File(file)))
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

/// On Linux dialogs come from the desktop over D-Bus, or from zenity; without both, asking would just return nothing.
fn dialogs_missing() -> Option<Problem> {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let bus = set("DBUS_SESSION_BUS_ADDRESS")
        || std::env::var_os("XDG_RUNTIME_DIR").is_some_and(|folder| PathBuf::from(folder).join("bus").exists());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let zenity = std::env::split_paths(&path).any(|folder| folder.join("zenity").exists());
    (cfg!(target_os = "linux") && !bus && !zenity).then(|| {
        Problem::new(
            "There are no file dialogs here",
            "neither a desktop session (D-Bus) nor zenity was found",
            "Drop a picture on the window, name it on the command line, or install zenity.",
        )
    })
}

fn opened(name: String, file: Option<PathBuf>, picture: Picture) -> Outcome {
    let thumbnail = Arc::new(history::thumbnail(&picture));
    Outcome::Opened { name, file, picture: Arc::new(picture), thumbnail }
}

fn export(input: &ExportInput) -> Result<String, crate::image::ImageError> {
    let chain: Vec<&Picture> = input.chain.iter().map(|state| &*state.picture).collect();
    let to = input.to.display();
    match input.kind {
        ExportKind::State => {
            // The last of the chain is the state at hand.
            if let Some(picture) = chain.last() {
                codec::save(picture, &input.to)?;
            }
            Ok(format!("Saved {to}"))
        }
        ExportKind::Chain => {
            let states: Vec<_> = input.chain.iter().map(|state| (&*state.picture, state.magnification)).collect();
            let files = stills::chain(&states, &input.to, &input.stem, input.format)?;
            Ok(format!("Saved {} pictures to {to}", files.len()))
        }
        ExportKind::Strip => {
            codec::save(&strip::strip(&chain, input.size), &input.to)?;
            Ok(format!("Saved a strip of {} states: {to}", chain.len()))
        }
        ExportKind::Sheet => {
            let all: Vec<&Picture> = input.all.iter().map(|picture| &**picture).collect();
            codec::save(&sheet::sheet(&all, input.size), &input.to)?;
            Ok(format!("Saved a sheet of {} states: {to}", all.len()))
        }
        ExportKind::Folders => {
            let tree = Tree::new(&input.to, &input.stem);
            for (i, state) in input.chain.iter().enumerate() {
                tree.state(i, &state.picture, None)?;
                if let (Some(making), Some(i)) = (&state.making, i.checked_sub(1)) {
                    tree.prompt(i, &making.prompt)?;
                }
            }
            // States differ in size here: the photo keeps its own.
            tree.finish(&chain, input.size)?;
            Ok(format!("Saved {} states to {to}", chain.len()))
        }
    }
}
