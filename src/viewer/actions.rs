//! What the user asks for: a command, or something that needs more to be said. The logic carries them out.

use std::path::PathBuf;

use egui::KeyboardShortcut;

use super::commands;
use super::commands::{Command, Row};
use super::settings::Theme;
use super::state::State;
use crate::base::{
    AlignMethod, BACKBONES, Backbone, BackboneSpec, FileSpec, MemoryPlan, PROMPT_SOURCES, PromptSourceSpec, Region,
    Remedy,
};
use crate::document::StateId;
use crate::document::export::{EXPORTERS, Exporter};
use crate::hub::ModelAsset;

/// What the left button does on the canvas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tool {
    /// Draws the box to zoom into.
    #[default]
    Zoom,
    /// Moves the picture.
    Hand,
}

/// What the state at hand is compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Against {
    /// Its region, plainly enlarged.
    #[default]
    Bicubic,
    /// The photo's own pixels behind the view.
    Photo,
    /// Another state, in its place.
    State(StateId),
}

/// How the two are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CompareMode {
    /// Not at all.
    #[default]
    Off,
    /// Side by side, with a slider.
    Split,
    /// In a lens at the pointer.
    Lens,
}

/// Something the user asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A command.
    Command(Command),
    /// Open this picture or session.
    OpenFile(PathBuf),
    /// Open a session that can be recovered.
    Restore(PathBuf),
    /// Throw away sessions that can be recovered.
    DiscardRecoverable(Vec<PathBuf>),
    /// Ask where to export to.
    Export(&'static Exporter),
    /// Export to this file or folder.
    ExportTo(&'static Exporter, PathBuf),
    /// Save the session in this file.
    SaveTo(PathBuf),
    /// Export the film to this file.
    FilmTo(PathBuf),
    /// A box was placed on a state.
    PlaceBox(StateId, Region),
    /// A box was placed on a state, to be run after what runs.
    QueueBox(StateId, Region),
    /// Look at a state.
    GoTo(StateId),
    /// Delete a state with all below it.
    DeleteState(StateId),
    /// Choose what to compare with.
    CompareWith(Against),
    /// These surroundings.
    UseTheme(Theme),
    /// Use this super-resolution model.
    UseBackbone(Backbone),
    /// List these super-resolution models from now on.
    AddModels(Vec<Backbone>),
    /// List the networks in this folder from now on.
    AddModelFolder(PathBuf),
    /// List them no more.
    RemoveModelFolder(PathBuf),
    /// Ask for the folder of a diffusion model.
    OpenBackbone(&'static BackboneSpec),
    /// Ask for the single file that holds it.
    OpenBackboneCheckpoint(&'static BackboneSpec),
    /// Use the one in this folder or file, with what else it needs.
    UseBackboneAt(&'static BackboneSpec, PathBuf),
    /// Ask for a file of this one that is in no folder: a LoRA.
    OpenBackboneFile(Backbone, &'static FileSpec),
    /// It lies there; the model it belongs to may lack others.
    UseModelFile(&'static FileSpec, PathBuf),
    /// Have prompts come from this.
    UsePromptSource(&'static PromptSourceSpec),
    /// Ask for the folder or file of its model.
    OpenPromptSource(&'static PromptSourceSpec),
    /// It is there, and used from now on.
    UsePromptSourceAt(&'static PromptSourceSpec, PathBuf),
    /// The server that writes prompts is at this address.
    UseServer(String),
    /// Find out what is there.
    TryServer,
    /// Let that be.
    StopTryingServer,
    /// Download these models.
    Download(Vec<&'static ModelAsset>),
    /// Make the steps again that the opened picture tells of.
    Rebuild,
    /// Keep so much of a model in memory.
    UseMemory(MemoryPlan),
    /// Change what something failed by, and go on with it.
    GoOnWith(Remedy),
    /// Match colours so.
    Align(AlignMethod),
    /// The next key pressed is for this action.
    Rebind(Box<Action>),
}

impl From<Command> for Action {
    fn from(command: Command) -> Self {
        Self::Command(command)
    }
}

impl PartialEq<Command> for Action {
    fn eq(&self, other: &Command) -> bool {
        matches!(self, Self::Command(command) if command == other)
    }
}

impl Action {
    /// All that need nothing said with them, in the order of the palette and the help window: the commands, and one for
    /// each exporter, prompt source and diffusion model.
    pub fn all() -> Vec<Self> {
        let mut all: Vec<Self> = Command::ALL.iter().copied().map(Self::Command).collect();
        all.extend(EXPORTERS.into_iter().map(Self::Export));
        all.extend(PROMPT_SOURCES.into_iter().map(Self::UsePromptSource));
        let with_models = PROMPT_SOURCES.into_iter().filter(|spec| !spec.files.is_empty());
        all.extend(with_models.map(Self::OpenPromptSource));
        all.extend(BACKBONES.into_iter().filter(|spec| spec.is_diffusion()).map(Self::OpenBackbone));
        all
    }

    fn row(&self) -> Option<Row> {
        match self {
            Self::Command(command) => Some(command.row()),
            _ => None,
        }
    }

    /// What it is called in the settings file; empty for what has no keys.
    pub fn id(&self) -> String {
        match self {
            Self::Command(command) => command.row().id.into(),
            Self::Export(exporter) => format!("export_{}", exporter.id),
            Self::UsePromptSource(spec) => format!("prompt_from_{}", spec.id),
            Self::OpenPromptSource(spec) => format!("open_{}", spec.id),
            Self::OpenBackbone(spec) => format!("open_{}", spec.id),
            _ => String::new(),
        }
    }

    /// What it is called in menus and tooltips.
    pub fn label(&self) -> String {
        match self {
            Self::Command(command) => command.label().into(),
            Self::OpenFile(_) => "Open".into(),
            Self::Restore(_) => "Restore".into(),
            Self::DiscardRecoverable(folders) if folders.len() == 1 => "Discard".into(),
            Self::DiscardRecoverable(folders) => format!("Discard these {}", folders.len()),
            Self::Export(exporter) | Self::ExportTo(exporter, _) => format!("Export {}…", exporter.label),
            Self::SaveTo(_) => Command::SaveAs.label().into(),
            Self::FilmTo(_) => Command::ExportFilm.label().into(),
            Self::PlaceBox(..) => "Zoom into a box".into(),
            Self::QueueBox(..) => "Queue a box".into(),
            Self::GoTo(_) => "Go there".into(),
            Self::DeleteState(_) => Command::Delete.label().into(),
            Self::CompareWith(Against::Bicubic) => Command::CompareWithBicubic.label().into(),
            Self::CompareWith(Against::Photo) => Command::CompareWithPhoto.label().into(),
            Self::CompareWith(Against::State(_)) => "Compare with this state".into(),
            Self::UseTheme(Theme::Dark) => "Dark".into(),
            Self::UseTheme(Theme::Light) => "Light".into(),
            Self::UseTheme(Theme::Contrast) => "High contrast".into(),
            Self::UseBackbone(_) => "Use this model".into(),
            Self::AddModels(_) => "Add to the models".into(),
            Self::AddModelFolder(_) => Command::AddModelFolder.label().into(),
            Self::RemoveModelFolder(_) => "Remove this folder".into(),
            Self::OpenBackbone(spec) => format!("Open {}…", spec.label),
            Self::OpenBackboneCheckpoint(spec) => format!("Open a single file of {}…", spec.label),
            Self::UseBackboneAt(spec, _) => format!("Use it as {}", spec.label),
            Self::OpenBackboneFile(_, file) | Self::UseModelFile(file, _) => format!("Open {}…", file.label),
            Self::UsePromptSource(spec) | Self::UsePromptSourceAt(spec, _) => format!("Prompt from: {}", spec.label),
            Self::OpenPromptSource(spec) => format!("Open {}…", spec.title),
            Self::UseServer(_) => "Use this server".into(),
            Self::TryServer => "Test the server".into(),
            Self::StopTryingServer => "Stop testing the server".into(),
            Self::Download(_) => "Get these models".into(),
            Self::Rebuild => "Make them again".into(),
            Self::UseMemory(plan) => format!("Memory plan: {plan}"),
            Self::GoOnWith(Remedy::Memory(plan)) => format!("Go on with the plan \"{plan}\""),
            Self::GoOnWith(Remedy::Device(_)) => "Go on without the graphics card".into(),
            Self::GoOnWith(Remedy::Backbone(spec)) => format!("Use it as {}", spec.label),
            Self::Align(_) => "Match colours".into(),
            Self::Rebind(_) => "Change the key".into(),
        }
    }

    /// Its usual keys, the first one to be shown.
    pub fn shortcuts(&self) -> Vec<KeyboardShortcut> {
        match self {
            Self::Export(exporter) => commands::export_key(exporter.id).into_iter().collect(),
            _ => self.row().map(|row| row.keys.to_vec()).unwrap_or_default(),
        }
    }

    /// Whether it makes sense now.
    pub fn is_enabled(&self, state: &State) -> bool {
        match self {
            Self::Command(command) => (command.row().is_enabled)(state),
            Self::Export(_)
            | Self::ExportTo(..)
            | Self::SaveTo(_)
            | Self::FilmTo(_)
            | Self::PlaceBox(..)
            | Self::QueueBox(..)
            | Self::GoTo(_)
            | Self::DeleteState(_)
            | Self::CompareWith(_)
            | Self::Rebuild
            | Self::GoOnWith(_) => commands::with_photo(state),
            Self::OpenFile(_)
            | Self::Restore(_)
            | Self::DiscardRecoverable(_)
            | Self::UseTheme(_)
            | Self::UseBackbone(_)
            | Self::AddModels(_)
            | Self::AddModelFolder(_)
            | Self::RemoveModelFolder(_)
            | Self::OpenBackbone(_)
            | Self::OpenBackboneCheckpoint(_)
            | Self::UseBackboneAt(..)
            | Self::OpenBackboneFile(..)
            | Self::UseModelFile(..)
            | Self::UsePromptSource(_)
            | Self::OpenPromptSource(_)
            | Self::UsePromptSourceAt(..)
            | Self::UseServer(_)
            | Self::TryServer
            | Self::StopTryingServer
            | Self::Download(_)
            | Self::UseMemory(_)
            | Self::Align(_)
            | Self::Rebind(_) => true,
        }
    }

    /// Whether it lasts as long as its key is held; such keys do nothing when pressed.
    pub fn is_held(&self) -> bool {
        matches!(self, Self::Command(command) if command.is_held())
    }

    /// Whether its keys work while a text field has the focus.
    pub fn works_while_typing(&self, shortcut: &KeyboardShortcut) -> bool {
        match self {
            Self::Command(command) => command.works_while_typing(shortcut),
            _ => shortcut.modifiers.command,
        }
    }
}
