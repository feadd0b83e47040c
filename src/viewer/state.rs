//! What is on the window, without a word on how it is painted.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Instant;

use super::actions::Tool;
use crate::canvas::{Camera, Overlay};
use crate::engine::JobId;
use crate::history::{History, ScaleState, StateId};
use crate::problem::Problem;
use crate::region::{Plan, Region, plan};
use crate::settings::Settings;
use crate::step::Stage;

/// All of it.
pub struct State {
    /// The user's choices.
    pub settings: Settings,
    /// As they are on the disk.
    pub(super) saved_settings: Settings,
    pub(super) keeps_settings: bool,
    /// The photo that is open.
    pub document: Option<Document>,
    /// The file that is being decoded.
    pub opening: Option<PathBuf>,
    /// How many CUDA devices there are, once the engine has looked.
    pub cuda_devices: Option<usize>,
    /// What the left button does.
    pub tool: Tool,
    /// Words for the next step.
    pub draft: String,
    /// The job that runs.
    pub running: Option<Running>,
    /// What went wrong or was done, the newest last.
    pub messages: Vec<Message>,
    /// The window with the keys.
    pub help: bool,
}

/// A line over the canvas.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// Something went wrong; stays until it is closed.
    Problem(Problem),
    /// Something was done.
    Done(String),
}

/// An open photo with all that was made of it.
pub struct Document {
    /// For titles and file names.
    pub name: String,
    /// Photo and states.
    pub history: History,
    /// What is looked at.
    pub camera: Camera,
    /// Width and height of the canvas in physical pixels.
    pub screen: [f64; 2],
    /// All of the state at hand is to be shown as soon as the canvas's size is known.
    pub(super) fit_pending: bool,
    pub(super) glide: Option<Glide>,
    /// States that are still fading in: since when, and over what.
    pub(super) born: HashMap<StateId, (Instant, Overlay)>,
    /// The box that waits for the words to be confirmed.
    pub placed: Option<PlacedBox>,
    /// Where a box is being drawn: the pressed point, in physical pixels of the canvas.
    pub(super) drawing_from: Option<[f64; 2]>,
    /// The words of the state at hand, as edited.
    pub edited: Edited,
}

/// The words of a state while they are being edited.
#[derive(Clone, Debug, PartialEq)]
pub struct Edited {
    /// Whose.
    pub state: StateId,
    /// The words.
    pub prompt: String,
}

/// The camera on its way.
pub(super) struct Glide {
    pub from: Camera,
    pub to: Camera,
    pub start: Instant,
}

/// A box on a state and the steps that lead there.
#[derive(Clone, Debug, PartialEq)]
pub struct PlacedBox {
    /// The state it lies on.
    pub parent: StateId,
    /// In that state's pixels.
    pub target: Region,
    /// How it is reached.
    pub plan: Plan,
}

/// A job and how far it is.
pub struct Running {
    /// Which.
    pub job: JobId,
    /// It only looks for words.
    pub proposing: bool,
    /// The user's words when it was started.
    pub asked_with: String,
    /// The state that the running step cuts from.
    pub parent: StateId,
    /// The state that was at hand when the job last moved the camera; whoever goes elsewhere meanwhile is left there.
    pub looked_from: StateId,
    /// Its regions, one a step.
    pub regions: Vec<Region>,
    /// The running step, from 0.
    pub step: usize,
    /// What it does.
    pub stage: Stage,
    /// How much of the stage is done, 0 to 1.
    pub fraction: f32,
    /// When the job was started.
    pub start: Instant,
    /// The enlarged region, shown in place until the result is there.
    pub overlay: Option<Overlay>,
}

impl State {
    pub(super) fn new(settings: Settings, keeps_settings: bool) -> Self {
        Self {
            saved_settings: settings.clone(),
            settings,
            keeps_settings,
            document: None,
            opening: None,
            cuda_devices: None,
            tool: Tool::default(),
            draft: String::new(),
            running: None,
            messages: Vec::new(),
            help: false,
        }
    }

    /// Where models run, for people.
    pub fn device_name(&self) -> String {
        self.cuda_devices.map_or_else(|| self.settings.device.to_string(), |count| self.settings.device.among(count))
    }
}

impl Document {
    pub(super) fn new(name: String, history: History) -> Self {
        let camera = Camera::fitted(history.photo(), [1.0, 1.0]);
        let edited = Edited { state: history.photo().id, prompt: String::new() };
        Self {
            name,
            history,
            camera,
            screen: [0.0; 2],
            fit_pending: true,
            glide: None,
            born: HashMap::new(),
            placed: None,
            drawing_from: None,
            edited,
        }
    }

    /// The box as it would be reached; `None` where the state is gone.
    pub fn placed_box(&self, parent: StateId, target: Region, size: u32) -> Option<PlacedBox> {
        let picture = &self.history.get(parent)?.picture;
        let plan = plan(picture.width(), picture.height(), target, size);
        Some(PlacedBox { parent, target, plan })
    }

    /// How a state is called: its magnification, or the photo.
    pub fn title(state: &ScaleState) -> String {
        match state.making {
            Some(_) => crate::export::stills::magnification_label(state.magnification),
            None => "photo".into(),
        }
    }
}
