//! `chain.json`: what a session's pictures are and how they were made.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{Choices, Session};
use crate::base::{PROGRAM, RecipeStep, Source};
use crate::document::StateId;

/// The format written, and the newest read.
pub const FORMAT: u32 = 1;
/// The name of the manifest among the session's files.
pub(super) const MANIFEST: &str = "chain.json";
/// Of the photo, where it is inside.
pub(super) const PHOTO: &str = "photo.png";
/// A manifest is text about pictures; more than this is something else.
pub(super) const LARGEST_MANIFEST: u64 = 64 << 20;

/// The whole description.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Grows when an older program could not read it any more.
    pub format: u32,
    /// Who wrote it.
    pub program: String,
    /// Where the photo came from.
    pub photo: Source,
    /// Its width.
    pub width: u32,
    /// Its height.
    pub height: u32,
    /// Whether the photo is inside; else [`Source::file`] is a link.
    pub photo_inside: bool,
    /// States, each after the one it was cut from; the photo is number 0, the first of these number 1.
    pub states: Vec<Entry>,
    /// The number of the state at hand.
    pub current: usize,
    /// What was chosen for the next step.
    #[serde(default)]
    pub choices: SavedChoices,
}

/// Choices, and prompts that are added to every one below a state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedChoices {
    /// For the next step.
    #[serde(flatten)]
    pub choices: Choices,
    /// A state's number, its prompt.
    #[serde(default)]
    pub pinned: Vec<(usize, String)>,
}

/// One state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The number of the state it was cut from.
    pub parent: usize,
    /// Its picture, among the session's files.
    pub picture: usize,
    /// How it was made.
    #[serde(flatten)]
    pub step: RecipeStep,
}

/// The file of a state's picture.
pub(super) fn picture_name(number: usize) -> String {
    format!("states/{number}.png")
}

impl Manifest {
    /// Describes a session. Deleted states are left out. `picture` numbers the picture files: by the states' ids.
    pub(super) fn of(session: &Session, photo_inside: bool) -> Self {
        let history = &session.history;
        let order: Vec<StateId> = history.outline().iter().map(|(_, state)| state.id).collect();
        let numbers: HashMap<StateId, usize> = order.iter().enumerate().map(|(number, id)| (*id, number)).collect();
        let number = |id: StateId| numbers.get(&id).copied().unwrap_or(0);
        let states = history.outline().into_iter().filter_map(|(_, state)| {
            let (width, height) = (state.picture.width(), state.picture.height());
            let step = RecipeStep { record: state.record.clone()?, width, height };
            Some(Entry { parent: number(state.parent?), picture: state.id.0, step })
        });
        let photo = &history.photo().picture;
        let pinned = history.all_pinned().map(|(id, prompt)| (number(id), prompt.to_owned())).collect();
        Self {
            format: FORMAT,
            program: PROGRAM.into(),
            photo: history.source().clone(),
            width: photo.width(),
            height: photo.height(),
            photo_inside,
            states: states.collect(),
            current: number(history.current().id),
            choices: SavedChoices { choices: session.choices.clone(), pinned },
        }
    }
}
