//! Memory: the scale states of one photo as a tree. Going back and zooming elsewhere branches; nothing is lost.

mod rows;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use rows::HistoryRow;

use super::CachedPicture;
use crate::base::{PROGRAM, Recipe, RecipeStep, Source, StepRecord};
use crate::imaging::{Filter, ImageError, Picture, resize};

/// Longest side of a state's thumbnail.
pub const THUMBNAIL: u32 = 160;

/// Names a state within its history; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateId(pub usize);

/// One picture of the chain (x_i of the paper).
#[derive(Clone, Debug)]
pub struct ScaleState {
    /// Its name.
    pub id: StateId,
    /// The state it was cut from; `None` for the photo.
    pub parent: Option<StateId>,
    /// How it was made; `None` for the photo.
    pub record: Option<StepRecord>,
    /// Its pixels.
    pub picture: CachedPicture,
    /// The same as windows show it, where that is not the same: a photo that is not opaque, over a checker.
    pub shown: Option<Arc<Picture>>,
    /// The same, small.
    pub thumbnail: Arc<Picture>,
    /// Against the photo's own pixels: 1 for the photo.
    pub magnification: f64,
    /// Those cut from it, deleted ones too, oldest first.
    children: Vec<StateId>,
    /// The child that was looked at last.
    last_child: Option<StateId>,
    deleted: bool,
}

/// Reduces a picture for panels; slow for large ones.
pub fn thumbnail(picture: &Picture) -> Picture {
    let scale = (f64::from(THUMBNAIL) / f64::from(picture.width().max(picture.height()))).min(1.0);
    let side = |length: u32| ((f64::from(length) * scale).round() as u32).max(1);
    resize(picture, side(picture.width()), side(picture.height()), Filter::Bilinear)
}

/// The recipe of a chain that begins with the photo.
pub fn recipe(photo: &Source, chain: &[&ScaleState]) -> Recipe {
    let step = |state: &&ScaleState| {
        let (width, height) = (state.picture.width(), state.picture.height());
        state.record.clone().map(|record| RecipeStep { record, width, height })
    };
    Recipe {
        program: PROGRAM.into(),
        photo: photo.clone(),
        width: chain.first().map_or(0, |state| state.picture.width()),
        height: chain.first().map_or(0, |state| state.picture.height()),
        steps: chain.iter().filter_map(step).collect(),
    }
}

/// A change that can be undone.
#[derive(Clone, Copy, Debug)]
struct Deletion {
    deleted: StateId,
    current_before: StateId,
}

/// The tree, the state at hand, and the way there.
#[derive(Clone, Debug)]
pub struct History {
    source: Source,
    states: Vec<ScaleState>,
    current: StateId,
    visited: Vec<StateId>,
    /// Index of `current` in `visited`.
    visit: usize,
    undo: Vec<Deletion>,
    redo: Vec<Deletion>,
    /// Prompts that are added to every one below a state.
    pinned: BTreeMap<StateId, String>,
    revision: u64,
    arrivals: u64,
}

/// Steps through the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the state before, in the order they were looked at.
    Back,
    /// And forward again.
    Forward,
    /// To the state this one was cut from.
    Parent,
    /// To the child looked at last.
    Child,
    /// To the sibling made before.
    PreviousSibling,
    /// To the sibling made after.
    NextSibling,
    /// To the photo.
    Photo,
    /// To the deepest state along the last-looked-at children.
    Deepest,
}

impl History {
    /// A history that holds only the photo.
    pub fn new(source: Source, photo: impl Into<CachedPicture>, photo_thumbnail: Arc<Picture>) -> Self {
        let root = ScaleState {
            id: StateId(0),
            parent: None,
            record: None,
            picture: photo.into(),
            shown: None,
            thumbnail: photo_thumbnail,
            magnification: 1.0,
            children: vec![],
            last_child: None,
            deleted: false,
        };
        let current = root.id;
        Self {
            source,
            states: vec![root],
            current,
            visited: vec![current],
            visit: 0,
            undo: vec![],
            redo: vec![],
            pinned: BTreeMap::new(),
            revision: 0,
            arrivals: 0,
        }
    }

    /// Where the photo came from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Grows with all that is to be saved: states that come or go, prompts that are pinned.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Differs where the outline, or what was looked at in it, may differ.
    pub fn version(&self) -> (u64, u64) {
        (self.revision, self.arrivals)
    }

    /// Whether there is anything but the photo.
    pub fn is_empty(&self) -> bool {
        self.pinned.is_empty() && self.children(self.photo().id).next().is_none()
    }

    /// All states in the order they were made, deleted ones too.
    pub fn with_deleted(&self) -> impl Iterator<Item = &ScaleState> {
        self.states.iter()
    }

    /// Lets the pictures that were used longest ago leave memory, until the states together take at most `budget` bytes.
    /// Only what is kept in a file goes, and never the photo, nor what is `in_view`. Returns whether that was enough.
    pub fn evict(&self, budget: u64, in_view: &[CachedPicture]) -> bool {
        let states = &self.states[1..];
        let mut bytes: u64 = states.iter().map(|state| state.picture.bytes()).sum();
        if bytes > budget {
            let mut kept: Vec<&CachedPicture> = states.iter().map(|state| &state.picture).collect();
            kept.retain(|picture| picture.bytes() > 0 && picture.is_kept() && !in_view.iter().any(|it| it.is(picture)));
            kept.sort_by_key(|picture| picture.last_use());
            for picture in kept {
                if bytes <= budget {
                    break;
                }
                bytes -= picture.bytes();
                picture.evict();
            }
        }
        bytes <= budget
    }

    /// The prompt that is added to every one below a state.
    pub fn pinned(&self, id: StateId) -> Option<&str> {
        self.pinned.get(&id).map(String::as_str)
    }

    /// All of those, of states that are there.
    pub fn all_pinned(&self) -> impl Iterator<Item = (StateId, &str)> {
        let there = self.pinned.iter().filter(|(id, _)| self.get(**id).is_some());
        there.map(|(id, prompt)| (*id, prompt.as_str()))
    }

    /// Pins a prompt to a state; an empty one unpins.
    pub fn pin(&mut self, id: StateId, prompt: String) {
        let before = match prompt.is_empty() {
            true => self.pinned.remove(&id),
            false => self.pinned.insert(id, prompt),
        };
        if before.as_deref() != self.pinned(id) {
            self.revision += 1;
        }
    }

    /// The chain to `id` alone, as a history of its own: what a film shows.
    pub fn branch(&self, id: StateId) -> Self {
        let photo = self.photo();
        let mut branch = Self::new(self.source.clone(), photo.picture.clone(), photo.thumbnail.clone());
        for state in self.chain(id) {
            if let Some(record) = state.record.clone() {
                let parent = branch.current;
                if let Some(child) = branch.add(parent, record, state.picture.clone(), state.thumbnail.clone()) {
                    branch.look(child);
                }
            }
        }
        branch
    }

    /// The same with all pictures in memory, where they stay as long as it lives.
    ///
    /// # Errors
    /// Where a picture cannot be reread.
    pub fn in_memory(&self) -> Result<Self, ImageError> {
        let mut history = self.clone();
        for state in history.states.iter_mut().filter(|state| !state.deleted) {
            state.picture = state.picture.load()?.into();
        }
        Ok(history)
    }

    /// The states made of the same box as `id`, itself included, oldest first.
    pub fn variants(&self, id: StateId) -> Vec<&ScaleState> {
        let region = |state: &ScaleState| state.record.as_ref().map(|record| record.region);
        let Some((state, parent)) = self.get(id).and_then(|state| Some((state, state.parent?))) else { return vec![] };
        self.children(parent).filter(|sibling| region(sibling) == region(state)).collect()
    }

    /// Has windows show the photo so.
    pub fn show_photo_as(&mut self, shown: Arc<Picture>) {
        self.states[0].shown = Some(shown);
    }

    /// The photo.
    pub fn photo(&self) -> &ScaleState {
        &self.states[0]
    }

    /// The state at hand.
    pub fn current(&self) -> &ScaleState {
        &self.states[self.current.0]
    }

    /// The state called `id`, unless it or a state above it was deleted.
    pub fn get(&self, id: StateId) -> Option<&ScaleState> {
        let state = self.states.get(id.0).filter(|state| !state.deleted)?;
        state.parent.is_none_or(|parent| self.get(parent).is_some()).then_some(state)
    }

    /// Width and height of the part of the photo that a state shows, in the photo's own pixels: what it rests on.
    pub fn source_pixels(&self, state: &ScaleState) -> [f64; 2] {
        [state.picture.width(), state.picture.height()].map(|side| f64::from(side) / state.magnification)
    }

    /// The children of a state, oldest first.
    pub fn children(&self, id: StateId) -> impl Iterator<Item = &ScaleState> {
        let children = self.states.get(id.0).map(|state| state.children.as_slice()).unwrap_or_default();
        children.iter().map(|child| &self.states[child.0]).filter(|state| !state.deleted)
    }

    /// The child of `id` that was looked at last.
    pub fn last_child(&self, id: StateId) -> Option<StateId> {
        let looked_at = self.get(id)?.last_child.filter(|&child| self.get(child).is_some());
        looked_at.or_else(|| self.children(id).last().map(|child| child.id))
    }

    /// From the photo to `id`, both included.
    pub fn chain(&self, id: StateId) -> Vec<&ScaleState> {
        let mut chain: Vec<_> = std::iter::successors(self.get(id), |state| self.get(state.parent?)).collect();
        chain.reverse();
        chain
    }

    /// All states, parents before children, each branch together; with the depth of each.
    pub fn outline(&self) -> Vec<(usize, &ScaleState)> {
        let mut outline = Vec::new();
        let mut waiting = vec![(0, self.photo())];
        while let Some((depth, state)) = waiting.pop() {
            outline.push((depth, state));
            let children: Vec<_> = self.children(state.id).collect();
            waiting.extend(children.into_iter().rev().map(|child| (depth + 1, child)));
        }
        outline
    }

    /// Adds what a step made of a region of `parent`; what was undone before cannot be done again then, or it would take
    /// the new state along. `None` where the parent is gone.
    pub fn add(
        &mut self,
        parent: StateId,
        record: StepRecord,
        picture: impl Into<CachedPicture>,
        thumbnail: Arc<Picture>,
    ) -> Option<StateId> {
        let (id, picture) = (StateId(self.states.len()), picture.into());
        let enlargement = f64::from(picture.width()) / f64::from(record.region.width);
        let magnification = self.get(parent)?.magnification * enlargement;
        self.revision += 1;
        self.redo.clear();
        self.states[parent.0].children.push(id);
        self.states.push(ScaleState {
            id,
            parent: Some(parent),
            record: Some(record),
            picture,
            shown: None,
            thumbnail,
            magnification,
            children: vec![],
            last_child: None,
            deleted: false,
        });
        Some(id)
    }

    /// Makes `id` the state at hand. Nothing happens where it is gone.
    pub fn go(&mut self, id: StateId) {
        if self.get(id).is_none() || id == self.current {
            return;
        }
        self.visited.truncate(self.visit + 1);
        self.visited.push(id);
        self.visit = self.visited.len() - 1;
        self.arrive(id);
    }

    /// Makes `id` the state at hand without remembering the visit: for a camera that passes by.
    pub fn look(&mut self, id: StateId) {
        if id != self.current && self.get(id).is_some() {
            self.arrive(id);
        }
    }

    fn arrive(&mut self, id: StateId) {
        self.arrivals += 1;
        self.current = id;
        let mut child = id;
        while let Some(parent) = self.states[child.0].parent {
            self.states[parent.0].last_child = Some(child);
            child = parent;
        }
    }

    /// Where a step in this direction leads; `None` where it leads nowhere.
    pub fn target(&self, direction: Direction) -> Option<StateId> {
        let current = self.current();
        let alive = |id: &&StateId| self.get(**id).is_some() && **id != self.current;
        let sibling = |by: isize| {
            let siblings: Vec<_> = self.children(current.parent?).map(|state| state.id).collect();
            let at = siblings.iter().position(|&id| id == current.id)?;
            siblings.get(at.checked_add_signed(by)?).copied()
        };
        let found = match direction {
            Direction::Back => self.visited[..self.visit].iter().rev().find(alive).copied(),
            Direction::Forward => self.visited[self.visit + 1..].iter().find(alive).copied(),
            Direction::Parent => current.parent,
            Direction::Child => self.last_child(current.id),
            Direction::PreviousSibling => sibling(-1),
            Direction::NextSibling => sibling(1),
            Direction::Photo => Some(self.photo().id),
            Direction::Deepest => std::iter::successors(Some(current.id), |&id| self.last_child(id)).last(),
        };
        found.filter(|&id| id != self.current)
    }

    /// Takes a step in this direction; the state arrived at, if any.
    pub fn step(&mut self, direction: Direction) -> Option<StateId> {
        let target = self.target(direction)?;
        let visits = match direction {
            Direction::Back => self.visited[..self.visit].iter().rposition(|&id| id == target),
            Direction::Forward => {
                self.visited[self.visit + 1..].iter().position(|&id| id == target).map(|i| self.visit + 1 + i)
            }
            _ => None,
        };
        match visits {
            Some(visit) => {
                self.visit = visit;
                self.arrive(target);
            }
            None => self.go(target),
        }
        Some(target)
    }

    /// Hides a state with all below it; the photo stays. Can be undone.
    pub fn delete(&mut self, id: StateId) {
        let Some(parent) = self.get(id).and_then(|state| state.parent) else { return };
        self.redo.clear();
        self.undo.push(Deletion { deleted: id, current_before: self.current });
        let inside = self.chain(self.current).iter().any(|state| state.id == id);
        self.states[id.0].deleted = true;
        self.revision += 1;
        if inside {
            self.go(parent);
        }
    }

    /// Brings the last deleted states back; the state at hand is what it was.
    pub fn undo(&mut self) -> bool {
        let Some(deletion) = self.undo.pop() else { return false };
        self.states[deletion.deleted.0].deleted = false;
        self.revision += 1;
        self.go(deletion.current_before);
        self.redo.push(deletion);
        true
    }

    /// Deletes again what was brought back.
    pub fn redo(&mut self) -> bool {
        let Some(deletion) = self.redo.pop() else { return false };
        let waiting = std::mem::take(&mut self.redo);
        self.delete(deletion.deleted);
        self.redo = waiting;
        true
    }
}

#[cfg(test)]
mod tests;
