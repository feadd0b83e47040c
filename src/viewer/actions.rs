//! Everything the user can do, once: menus, buttons, tooltips and keys all read it from here, so they cannot drift.

use std::path::PathBuf;

use egui::{Key, KeyboardShortcut, Modifiers};

use crate::history::{Direction, StateId};
use crate::image::AlignMethod;
use crate::region::Region;
use crate::step::Backbone;

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
}

/// Something the user asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Ask for a picture file.
    Open,
    /// Open this picture.
    OpenFile(PathBuf),
    /// Ask where to export to.
    Export(ExportKind),
    /// Export to this file or folder.
    ExportTo(ExportKind, PathBuf),
    /// Put the state at hand on the clipboard.
    Copy,
    /// Close the window.
    Quit,
    /// A box was placed on a state.
    PlaceBox(StateId, Region),
    /// Run the placed box; without one, the middle of the view x4.
    Run,
    /// Make the state at hand again, with its prompt as edited: a sibling.
    RunAgain,
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
    /// Show or hide the panels.
    TogglePanels,
    /// Whole screen or window.
    ToggleFullscreen,
    /// Show or hide the keys.
    ToggleHelp,
    /// Light or dark.
    ToggleTheme,
    /// Ask before a step, or run straight through.
    ToggleAskFirst,
    /// Let the camera follow, or not.
    ToggleFollow,
    /// Roll a new seed.
    RollSeed,
    /// Keep the seed, or roll one for each step.
    ToggleSeedLock,
    /// Use this super-resolution model.
    UseBackbone(Backbone),
    /// Ask for a model file.
    OpenModel,
    /// Match colours so.
    Align(AlignMethod),
    /// Close the topmost message.
    Dismiss,
}

impl Action {
    /// Those that have a key, in the order of the help window.
    pub fn with_keys() -> Vec<Action> {
        use Action::*;
        vec![
            Open,
            Export(ExportKind::State),
            Export(ExportKind::Chain),
            Copy,
            Quit,
            Run,
            RunAgain,
            Cancel,
            Go(Direction::Parent),
            Go(Direction::Child),
            Go(Direction::PreviousSibling),
            Go(Direction::NextSibling),
            Go(Direction::Back),
            Go(Direction::Forward),
            Go(Direction::Photo),
            Go(Direction::Deepest),
            Delete,
            Undo,
            Redo,
            Fit,
            OneToOne,
            TwoToOne,
            ZoomIn,
            ZoomOut,
            Use(Tool::Zoom),
            Use(Tool::Hand),
            RollSeed,
            ToggleSeedLock,
            ToggleAskFirst,
            TogglePanels,
            ToggleFullscreen,
            ToggleHelp,
        ]
    }

    /// What it is called in menus and tooltips.
    pub fn label(&self) -> String {
        use Action::*;
        match self {
            Open => "Open…",
            OpenFile(_) => "Open",
            Export(ExportKind::State) | ExportTo(ExportKind::State, _) => "Save this state…",
            Export(ExportKind::Chain) | ExportTo(ExportKind::Chain, _) => "Export the chain…",
            Export(ExportKind::Strip) | ExportTo(ExportKind::Strip, _) => "Export a strip…",
            Export(ExportKind::Sheet) | ExportTo(ExportKind::Sheet, _) => "Export a contact sheet…",
            Export(ExportKind::Folders) | ExportTo(ExportKind::Folders, _) => "Export the reference's folders…",
            Copy => "Copy this state",
            Quit => "Quit",
            PlaceBox(..) => "Zoom into a box",
            Run => "Zoom",
            RunAgain => "Run again",
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
            TogglePanels => "Show or hide the panels",
            ToggleFullscreen => "Full screen",
            ToggleHelp => "Keys",
            ToggleTheme => "Light or dark",
            ToggleAskFirst => "Ask first",
            ToggleFollow => "Follow new states",
            RollSeed => "Roll a new seed",
            ToggleSeedLock => "Keep the seed",
            UseBackbone(_) => "Use this model",
            OpenModel => "Open a model file…",
            Align(_) => "Match colours",
            Dismiss => "Close the message",
        }
        .into()
    }

    /// Its keys, the first one to be shown.
    pub fn shortcuts(&self) -> Vec<KeyboardShortcut> {
        use Action::*;
        let key = |key| KeyboardShortcut::new(Modifiers::NONE, key);
        let command = |key| KeyboardShortcut::new(Modifiers::COMMAND, key);
        let shifted = |key| KeyboardShortcut::new(Modifiers::COMMAND | Modifiers::SHIFT, key);
        let alt = |key| KeyboardShortcut::new(Modifiers::ALT, key);
        match self {
            Open => vec![command(Key::O)],
            Export(ExportKind::State) => vec![command(Key::S)],
            Export(ExportKind::Chain) => vec![shifted(Key::S)],
            Copy => vec![command(Key::C)],
            Quit => vec![command(Key::Q), command(Key::W)],
            Run => vec![key(Key::Enter), command(Key::Enter)],
            RunAgain => vec![command(Key::R)],
            Cancel => vec![key(Key::Escape)],
            Go(Direction::Parent) => vec![key(Key::ArrowLeft)],
            Go(Direction::Child) => vec![key(Key::ArrowRight)],
            Go(Direction::PreviousSibling) => vec![key(Key::ArrowUp)],
            Go(Direction::NextSibling) => vec![key(Key::ArrowDown)],
            Go(Direction::Back) => vec![alt(Key::ArrowLeft)],
            Go(Direction::Forward) => vec![alt(Key::ArrowRight)],
            Go(Direction::Photo) => vec![key(Key::Home)],
            Go(Direction::Deepest) => vec![key(Key::End)],
            Delete => vec![key(Key::Delete)],
            Undo => vec![command(Key::Z)],
            Redo => vec![shifted(Key::Z), command(Key::Y)],
            Fit => vec![key(Key::Num0), command(Key::Num0)],
            OneToOne => vec![key(Key::Num1)],
            TwoToOne => vec![key(Key::Num2)],
            ZoomIn => vec![key(Key::Plus), key(Key::Equals)],
            ZoomOut => vec![key(Key::Minus)],
            Use(Tool::Zoom) => vec![key(Key::Z)],
            Use(Tool::Hand) => vec![key(Key::H)],
            RollSeed => vec![key(Key::D)],
            ToggleSeedLock => vec![key(Key::L)],
            ToggleAskFirst => vec![key(Key::A)],
            TogglePanels => vec![key(Key::Tab)],
            ToggleFullscreen => vec![key(Key::F11)],
            ToggleHelp => vec![key(Key::F1), key(Key::Questionmark)],
            _ => vec![],
        }
    }

    /// Whether its keys work while a text field has the focus.
    pub fn works_while_typing(&self, shortcut: &KeyboardShortcut) -> bool {
        // Copying, undoing and word-wise moving belong to the text then.
        !matches!(self, Action::Copy | Action::Undo | Action::Redo | Action::Go(_))
            && (shortcut.modifiers.command || matches!(shortcut.logical_key, Key::Escape | Key::F1 | Key::F11))
    }

    /// Its name with its first key, for tooltips.
    pub fn tooltip(&self, context: &egui::Context) -> String {
        match self.shortcuts().first() {
            Some(shortcut) => format!("{}  ({})", self.label(), context.format_shortcut(shortcut)),
            None => self.label(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_means_two_things() {
        let mut seen = std::collections::HashMap::new();
        for action in Action::with_keys() {
            assert!(!action.shortcuts().is_empty(), "{action:?} is listed but has no key");
            for shortcut in action.shortcuts() {
                let other = seen.insert(format!("{shortcut:?}"), action.clone());
                assert_eq!(other, None, "{shortcut:?} is also {action:?}");
            }
        }
    }
}
