//! Everything the user can do, once: menus, buttons, tooltips, the palette and keys all read it from here, so they
//! cannot drift.

use std::path::PathBuf;

use egui::{Key, KeyboardShortcut};

use crate::history::{Direction, StateId};
use crate::hub::Part;
use crate::image::AlignMethod;
use crate::prompt::ExtractorKind;
use crate::region::Region;
use crate::settings::Theme;
use crate::step::{Backbone, MemoryPlan};

/// What the left button does on the canvas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tool {
    /// Draws the box to zoom into.
    #[default]
    Zoom,
    /// Moves the picture.
    Hand,
}

/// What is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportKind {
    /// The state at hand, one file.
    State,
    /// The chain from the photo to the state at hand, numbered files.
    Chain,
    /// The chain side by side, one file.
    Strip,
    /// All states in a grid, one file.
    Sheet,
    /// The chain in the reference's folders.
    Folders,
    /// A move from the photo into the state at hand, one file.
    Film,
    /// Everything, to go on later: one `.coz` file.
    Session,
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
    /// Ask for a picture or session file.
    Open,
    /// Open this picture or session.
    OpenFile(PathBuf),
    /// Open the photo that the program brings along.
    OpenSample,
    /// Open a session that was left behind.
    Restore(PathBuf),
    /// Throw away a session that was left behind.
    DiscardLeft(PathBuf),
    /// Save the session where it was saved before, or ask where.
    Save,
    /// Close the photo.
    Close,
    /// Ask where to export to.
    Export(ExportKind),
    /// Export to this file or folder.
    ExportTo(ExportKind, PathBuf),
    /// Stop the export that runs.
    StopExport,
    /// Show or hide the film's options.
    ToggleFilm,
    /// Play the film on the canvas.
    PlayFilm,
    /// Put the state at hand on the clipboard.
    Copy,
    /// Close the window.
    Quit,
    /// A box was placed on a state.
    PlaceBox(StateId, Region),
    /// A box was placed on a state, to be run after what runs.
    QueueBox(StateId, Region),
    /// Run the placed box; without one, the middle of the view x4.
    Run,
    /// The same, after what runs.
    Enqueue,
    /// Forget the boxes that wait.
    ClearQueue,
    /// Make the state at hand again, with its prompt as edited: a sibling.
    RunAgain,
    /// Make the state at hand again with several other seeds.
    Variants,
    /// Enlarge the whole state at hand.
    EnlargeWhole,
    /// Find other words for the placed box.
    Regenerate,
    /// Stop finding words; those that are there stay.
    StopWords,
    /// Stop: the box being drawn, the box placed, the job running, full screen; the first of these there is.
    Cancel,
    /// Look at a state.
    GoTo(StateId),
    /// Look at a neighbour.
    Go(Direction),
    /// Delete the state at hand with all below it.
    Delete,
    /// Delete a state with all below it.
    DeleteState(StateId),
    /// Undo the last deletion.
    Undo,
    /// Redo it.
    Redo,
    /// All of the state at hand.
    Fit,
    /// One screen pixel for each of the state's.
    OneToOne,
    /// Two screen pixels for each.
    TwoToOne,
    /// Larger, around the middle.
    ZoomIn,
    /// Smaller, around the middle.
    ZoomOut,
    /// Choose a tool.
    Use(Tool),
    /// Compare so, or stop comparing where it is so already.
    Compare(CompareMode),
    /// Choose what to compare with.
    CompareWith(Against),
    /// The next thing to compare with.
    NextReference,
    /// Show what is compared with instead, while the key is held.
    HoldReference,
    /// Show where the state disagrees with its region, while the key is held.
    HoldHeat,
    /// Show the photo's own pixels, while the key is held.
    HoldPhoto,
    /// The words used before, one further back.
    EarlierPrompt,
    /// The words used before, one further on.
    LaterPrompt,
    /// Show or hide the panels.
    TogglePanels,
    /// Show or hide the panel on the right.
    ToggleInfo,
    /// Whole screen or window.
    ToggleFullscreen,
    /// Show or hide the keys.
    ToggleHelp,
    /// Show or hide the list of all actions.
    TogglePalette,
    /// The next surroundings.
    NextTheme,
    /// These surroundings.
    UseTheme(Theme),
    /// Ask before a step, or run straight through.
    ToggleAskFirst,
    /// Let the camera follow, or not.
    ToggleFollow,
    /// Glide and fade, or not.
    ToggleMotion,
    /// Prepare boxes while they are being placed, or not.
    ToggleWorkAhead,
    /// Keep a link to the photo in sessions instead of the photo.
    ToggleLinkPhoto,
    /// Roll a new seed.
    RollSeed,
    /// Keep the seed, or roll one for each step.
    ToggleSeedLock,
    /// Use this super-resolution model.
    UseBackbone(Backbone),
    /// Use the best super-resolution model on this machine.
    UseBestBackbone,
    /// Ask for a model file.
    OpenModel,
    /// Ask for the folder of Stable Diffusion 3.
    OpenSd3,
    /// Have words found by this.
    UseWords(ExtractorKind),
    /// Ask for the folder or file of a model that finds words.
    OpenWords(ExtractorKind),
    /// It is there, and used from now on.
    UseWordsAt(ExtractorKind, PathBuf),
    /// Show or hide the window with the models.
    ToggleModels,
    /// Show or hide the window in which models are got.
    ToggleDownloads,
    /// Get these parts from the hub.
    Download(Vec<Part>),
    /// Stop that.
    StopDownload,
    /// Look for model files again.
    LookForModels,
    /// Keep so much of a model in memory.
    UseMemory(MemoryPlan),
    /// The same, and go on with what the memory was too small for.
    GoOnWith(MemoryPlan),
    /// Match colours so.
    Align(AlignMethod),
    /// The next key pressed is for this action.
    Rebind(Box<Action>),
    /// All actions have their own keys again.
    ResetKeys,
    /// Close the topmost message.
    Dismiss,
}

impl Action {
    /// All that need nothing said with them, in the order of the palette and the help window.
    pub fn all() -> Vec<Action> {
        use Action::*;
        let exports = [ExportKind::State, ExportKind::Chain, ExportKind::Strip, ExportKind::Sheet, ExportKind::Folders];
        let directions = [
            Direction::Parent,
            Direction::Child,
            Direction::PreviousSibling,
            Direction::NextSibling,
            Direction::Back,
            Direction::Forward,
            Direction::Photo,
            Direction::Deepest,
        ];
        let mut all = vec![Open, OpenSample, Save, Export(ExportKind::Session), Close];
        all.extend(exports.map(Export));
        all.extend([ToggleFilm, PlayFilm, StopExport, Copy, Quit]);
        all.extend([Run, EnlargeWhole, Regenerate, StopWords, Enqueue, ClearQueue, RunAgain, Variants, Cancel]);
        all.extend(directions.map(Go));
        all.extend([Delete, Undo, Redo, Fit, OneToOne, TwoToOne, ZoomIn, ZoomOut]);
        all.extend([Use(Tool::Zoom), Use(Tool::Hand)]);
        all.extend([CompareMode::Split, CompareMode::Lens].map(Compare));
        all.extend([CompareWith(Against::Bicubic), CompareWith(Against::Photo), NextReference]);
        all.extend([HoldReference, HoldHeat, HoldPhoto, EarlierPrompt, LaterPrompt]);
        all.extend([RollSeed, ToggleSeedLock, ToggleAskFirst, ToggleFollow, ToggleMotion, ToggleWorkAhead]);
        all.extend([ToggleLinkPhoto, TogglePanels, ToggleInfo, ToggleFullscreen, NextTheme]);
        let kinds = [ExtractorKind::Own, ExtractorKind::Tags, ExtractorKind::Vlm, ExtractorKind::Tuned];
        all.extend(kinds.map(UseWords));
        all.extend(kinds[1..].iter().copied().map(OpenWords));
        all.extend([
            ToggleModels,
            ToggleDownloads,
            StopDownload,
            LookForModels,
            UseBestBackbone,
            OpenModel,
            OpenSd3,
            TogglePalette,
            ToggleHelp,
            ResetKeys,
        ]);
        all
    }

    /// What it is called in menus and tooltips.
    pub fn label(&self) -> String {
        use Action::*;
        match self {
            Open => "Open…",
            OpenFile(_) => "Open",
            OpenSample => "Try the sample",
            Restore(_) => "Restore",
            DiscardLeft(_) => "Discard",
            Save => "Save the session",
            Close => "Close the photo",
            Export(kind) | ExportTo(kind, _) => match kind {
                ExportKind::State => "Export this state…",
                ExportKind::Chain => "Export the chain…",
                ExportKind::Strip => "Export a strip…",
                ExportKind::Sheet => "Export a contact sheet…",
                ExportKind::Folders => "Export the reference's folders…",
                ExportKind::Film => "Export the film…",
                ExportKind::Session => "Save the session as…",
            },
            StopExport => "Stop the export",
            ToggleFilm => "Zoom film…",
            PlayFilm => "Preview the film",
            Copy => "Copy this state",
            Quit => "Quit",
            PlaceBox(..) => "Zoom into a box",
            QueueBox(..) => "Queue a box",
            Run => "Zoom",
            Enqueue => "Queue the box",
            ClearQueue => "Clear the queue",
            RunAgain => "Run again",
            Variants => "Make variants",
            EnlargeWhole => "Enlarge the whole image x4",
            Regenerate => "Find other words",
            StopWords => "Stop finding words",
            Cancel => "Cancel",
            GoTo(_) => "Go there",
            Go(Direction::Back) => "Back",
            Go(Direction::Forward) => "Forward",
            Go(Direction::Parent) => "Up to the state before",
            Go(Direction::Child) => "Down to the next state",
            Go(Direction::PreviousSibling) => "Previous sibling",
            Go(Direction::NextSibling) => "Next sibling",
            Go(Direction::Photo) => "To the photo",
            Go(Direction::Deepest) => "To the deepest state",
            Delete | DeleteState(_) => "Delete with all below",
            Undo => "Undo delete",
            Redo => "Redo delete",
            Fit => "Fit",
            OneToOne => "Actual pixels, 1:1",
            TwoToOne => "Double, 2:1",
            ZoomIn => "Look closer",
            ZoomOut => "Look from further away",
            Use(Tool::Zoom) => "Zoom box",
            Use(Tool::Hand) => "Hand",
            Compare(CompareMode::Split) => "Compare: split",
            Compare(CompareMode::Lens) => "Compare: lens",
            Compare(CompareMode::Off) => "Compare: off",
            CompareWith(Against::Bicubic) => "Compare with plain bicubic",
            CompareWith(Against::Photo) => "Compare with the photo's own pixels",
            CompareWith(Against::State(_)) => "Compare with this state",
            NextReference => "Compare with the next reference",
            HoldReference => "Flip to the reference (hold)",
            HoldHeat => "Show where it disagrees (hold)",
            HoldPhoto => "Show the photo's own pixels (hold)",
            EarlierPrompt => "Earlier prompt",
            LaterPrompt => "Later prompt",
            TogglePanels => "Show or hide the panels",
            ToggleInfo => "Show or hide the info panel",
            ToggleFullscreen => "Full screen",
            ToggleHelp => "Keys",
            TogglePalette => "All actions…",
            NextTheme => "Dark, light or high contrast",
            UseTheme(Theme::Dark) => "Dark",
            UseTheme(Theme::Light) => "Light",
            UseTheme(Theme::Contrast) => "High contrast",
            ToggleAskFirst => "Ask first",
            ToggleFollow => "Follow new states",
            ToggleMotion => "Motion",
            ToggleWorkAhead => "Work ahead",
            ToggleLinkPhoto => "Link the photo in sessions",
            RollSeed => "Roll a new seed",
            ToggleSeedLock => "Keep the seed",
            UseBackbone(_) => "Use this model",
            UseBestBackbone => "Use the best model on this machine",
            OpenModel => "Open a model file…",
            OpenSd3 => "Open Chain-of-Zoom SD3…",
            UseWords(ExtractorKind::Own) => "Words: my own",
            UseWords(ExtractorKind::Tags) => "Words: tags",
            UseWords(ExtractorKind::Vlm) => "Words: Qwen2.5-VL",
            UseWords(ExtractorKind::Tuned) => "Words: Qwen2.5-VL, tuned",
            OpenWords(ExtractorKind::Own) | UseWordsAt(..) => "Use these words",
            OpenWords(ExtractorKind::Tags) => "Open a tagger (RAM)…",
            OpenWords(ExtractorKind::Vlm) => "Open Qwen2.5-VL…",
            OpenWords(ExtractorKind::Tuned) => "Open an adapter for Qwen2.5-VL…",
            ToggleModels => "Models and memory…",
            ToggleDownloads => "Get models…",
            Download(_) => "Get these models",
            StopDownload => "Stop getting models",
            LookForModels => "Look for models again",
            UseMemory(plan) => return format!("Memory plan: {plan}"),
            GoOnWith(plan) => return format!("Go on with the plan \"{plan}\""),
            Align(_) => "Match colours",
            Rebind(_) => "Change the key",
            ResetKeys => "Reset all keys",
            Dismiss => "Close the message",
        }
        .into()
    }

    /// What it is called in the settings file: its label in small letters.
    pub fn name(&self) -> String {
        let label = self.label().to_lowercase();
        let words: Vec<&str> =
            label.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
        words.join("_")
    }

    /// Whether it lasts as long as its key is held; such keys do nothing when pressed.
    pub fn is_held(&self) -> bool {
        matches!(self, Action::HoldReference | Action::HoldHeat | Action::HoldPhoto)
    }

    /// Whether its keys work while a text field has the focus.
    pub fn works_while_typing(&self, shortcut: &KeyboardShortcut) -> bool {
        if matches!(self, Action::EarlierPrompt | Action::LaterPrompt) {
            return true;
        }
        // Copying, undoing and word-wise moving belong to the text then.
        !matches!(self, Action::Copy | Action::Undo | Action::Redo | Action::Go(_))
            && (shortcut.modifiers.command || matches!(shortcut.logical_key, Key::Escape | Key::F1 | Key::F11))
    }

    /// Whether it makes sense only with an open photo.
    pub fn needs_photo(&self) -> bool {
        use Action::*;
        !matches!(
            self,
            Open | OpenFile(_)
                | OpenSample
                | Restore(_)
                | DiscardLeft(_)
                | Quit
                | Cancel
                | TogglePanels
                | ToggleInfo
                | ToggleFullscreen
                | ToggleHelp
                | TogglePalette
                | NextTheme
                | UseTheme(_)
                | ToggleAskFirst
                | ToggleFollow
                | ToggleMotion
                | ToggleWorkAhead
                | ToggleLinkPhoto
                | RollSeed
                | ToggleSeedLock
                | UseBackbone(_)
                | UseBestBackbone
                | OpenModel
                | OpenSd3
                | UseWords(_)
                | OpenWords(_)
                | UseWordsAt(..)
                | ToggleModels
                | ToggleDownloads
                | Download(_)
                | StopDownload
                | LookForModels
                | UseMemory(_)
                | Align(_)
                | Use(_)
                | Rebind(_)
                | ResetKeys
                | Dismiss
        )
    }
}
