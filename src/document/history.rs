//! Memory: the scale states of one photo as a tree. Going back and zooming elsewhere branches; nothing is lost.

use std::sync::Arc;

use crate::base::{PROGRAM, Recipe, RecipeStep, Source, StepRecord};
use crate::imaging::{Filter, Picture, resize};

/// Longest side of a state's thumbnail.
const THUMBNAIL: u32 = 160;

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
    pub picture: Arc<Picture>,
    /// The same, small.
    pub thumbnail: Arc<Picture>,
    /// Against the photo's own pixels: 1 for the photo.
    pub magnification: f64,
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
    revision: u64,
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
    pub fn new(source: Source, photo: Arc<Picture>, photo_thumbnail: Arc<Picture>) -> Self {
        let root = ScaleState {
            id: StateId(0),
            parent: None,
            record: None,
            picture: photo,
            thumbnail: photo_thumbnail,
            magnification: 1.0,
            last_child: None,
            deleted: false,
        };
        let current = root.id;
        let (states, visited) = (vec![root], vec![current]);
        Self { source, states, current, visited, visit: 0, undo: vec![], redo: vec![], revision: 0 }
    }

    /// Where the photo came from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Grows with every state that comes or goes.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The chain to `id` alone, as a history of its own: what a film shows.
    pub fn branch(&self, id: StateId) -> Self {
        let mut branch = Self::new(self.source.clone(), self.photo().picture.clone(), self.photo().thumbnail.clone());
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

    /// The states made of the same box as `id`, itself included, oldest first.
    pub fn variants(&self, id: StateId) -> Vec<&ScaleState> {
        let region = |state: &ScaleState| state.record.as_ref().map(|record| record.region);
        let Some((state, parent)) = self.get(id).and_then(|state| Some((state, state.parent?))) else { return vec![] };
        self.children(parent).filter(|sibling| region(sibling) == region(state)).collect()
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
        self.states.iter().filter(move |state| state.parent == Some(id) && !state.deleted)
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

    /// Adds what a step made of a region of `parent`. `None` where the parent is gone.
    pub fn add(
        &mut self,
        parent: StateId,
        record: StepRecord,
        picture: Arc<Picture>,
        thumbnail: Arc<Picture>,
    ) -> Option<StateId> {
        let id = StateId(self.states.len());
        let enlargement = f64::from(picture.width()) / f64::from(record.region.width);
        let magnification = self.get(parent)?.magnification * enlargement;
        self.revision += 1;
        self.states.push(ScaleState {
            id,
            parent: Some(parent),
            record: Some(record),
            picture,
            thumbnail,
            magnification,
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
        if self.get(id).is_some() {
            self.arrive(id);
        }
    }

    fn arrive(&mut self, id: StateId) {
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
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::base::Region;

    fn picture() -> Arc<Picture> {
        Arc::new(Picture::from_fn(64, 64, |_, _| [0; 3]))
    }

    fn record(side: u32) -> StepRecord {
        StepRecord {
            region: Region::square(0, 0, side),
            prompt: String::new(),
            model: None,
            seed: 0,
            consistency: None,
            full_image: None,
            elapsed: Duration::ZERO,
        }
    }

    fn grown(history: &mut History, parent: StateId, side: u32) -> StateId {
        let id = history.add(parent, record(side), picture(), picture()).expect("the parent is there");
        history.go(id);
        id
    }

    /// What can happen to a history; states by number, counted round where there are fewer.
    #[derive(Clone, Copy, Debug)]
    enum Change {
        Add(usize, u32),
        Delete(usize),
        Undo,
        Redo,
        Go(usize),
        Look(usize),
        Step(Direction),
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        use Direction::{Back, Child, Deepest, Forward, NextSibling, Parent, Photo, PreviousSibling};
        let directions = vec![Back, Forward, Parent, Child, PreviousSibling, NextSibling, Photo, Deepest];
        let change = prop_oneof![
            4 => (any::<usize>(), 1u32..=64).prop_map(|(parent, side)| Change::Add(parent, side)),
            2 => any::<usize>().prop_map(Change::Delete),
            1 => Just(Change::Undo),
            1 => Just(Change::Redo),
            2 => any::<usize>().prop_map(Change::Go),
            1 => any::<usize>().prop_map(Change::Look),
            2 => prop::sample::select(directions).prop_map(Change::Step),
        ];
        prop::collection::vec(change, 0..60)
    }

    /// The states that are there, worked out plainly: all whose way to the photo has no deletion on it.
    fn reachable(parents: &[Option<usize>], deleted: &[usize]) -> Vec<usize> {
        let is_there = |id: usize| std::iter::successors(Some(id), |&id| parents[id]).all(|id| !deleted.contains(&id));
        (0..parents.len()).filter(|&id| is_there(id)).collect()
    }

    fn is_sound(history: &History, there: &[usize]) -> Result<(), TestCaseError> {
        let outline = history.outline();
        let mut ids: Vec<usize> = outline.iter().map(|(_, state)| state.id.0).collect();
        for (i, (depth, state)) in outline.iter().enumerate() {
            let chain = history.chain(state.id);
            prop_assert_eq!(chain.len(), depth + 1);
            prop_assert_eq!((chain[0].id, chain[*depth].id), (StateId(0), state.id));
            prop_assert!(chain.windows(2).all(|pair| pair[1].parent == Some(pair[0].id)));
            prop_assert!(state.parent.is_none_or(|parent| ids[..i].contains(&parent.0)), "parents come first");
            let factors = chain[1..].iter().filter_map(|state| state.record.as_ref());
            let magnification = factors.fold(1.0, |all, record| all * (64.0 / f64::from(record.region.width)));
            prop_assert_eq!(state.magnification, magnification);
            let last = history.last_child(state.id);
            prop_assert_eq!(last.is_some(), history.children(state.id).next().is_some());
            prop_assert!(last.is_none_or(|last| history.children(state.id).any(|child| child.id == last)));
            prop_assert_eq!(history.branch(state.id).outline().len(), chain.len());
        }
        ids.sort_unstable();
        prop_assert_eq!(&ids, there, "the outline is what can be reached");
        prop_assert!(ids.contains(&history.current().id.0));
        for id in 0..history.states.len() {
            prop_assert_eq!(history.get(StateId(id)).is_some(), there.contains(&id));
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn whatever_is_done_no_state_is_lost(changes in changes()) {
            let pixels = picture();
            let mut history = History::new(Source::default(), pixels.clone(), pixels.clone());
            let (mut parents, mut deleted, mut undone) = (vec![None], Vec::new(), Vec::new());
            for change in changes {
                let before = (history.revision(), history.outline().len());
                let id = |number: usize| number % parents.len();
                let there = reachable(&parents, &deleted);
                match change {
                    Change::Add(parent, side) => {
                        let parent = id(parent);
                        let added = history.add(StateId(parent), record(side), pixels.clone(), pixels.clone());
                        prop_assert_eq!(added.is_some(), there.contains(&parent), "nothing grows on what is gone");
                        if let Some(added) = added {
                            prop_assert_eq!(added.0, parents.len());
                            parents.push(Some(parent));
                        }
                    }
                    Change::Delete(state) => {
                        let state = id(state);
                        history.delete(StateId(state));
                        if state > 0 && there.contains(&state) {
                            deleted.push(state);
                            undone.clear();
                        }
                    }
                    Change::Undo => {
                        prop_assert_eq!(history.undo(), !deleted.is_empty());
                        undone.extend(deleted.pop());
                    }
                    Change::Redo => {
                        prop_assert_eq!(history.redo(), !undone.is_empty());
                        deleted.extend(undone.pop());
                    }
                    Change::Go(state) => {
                        let state = id(state);
                        history.go(StateId(state));
                        prop_assert_eq!(history.current().id.0 == state, there.contains(&state));
                    }
                    Change::Look(state) => {
                        let state = id(state);
                        history.look(StateId(state));
                        prop_assert_eq!(history.current().id.0 == state, there.contains(&state));
                    }
                    Change::Step(direction) => {
                        let target = history.target(direction);
                        prop_assert_eq!(history.step(direction), target);
                        prop_assert!(target.is_none_or(|target| history.current().id == target));
                    }
                }
                is_sound(&history, &reachable(&parents, &deleted))?;
                let has_grown = history.revision() > before.0;
                prop_assert!(has_grown || history.outline().len() == before.1, "a change is to be saved");
            }
            while history.undo() {}
            is_sound(&history, &(0..parents.len()).collect::<Vec<_>>())?;
        }
    }

    #[test]
    fn branches_and_ways() {
        let mut history = History::new(Source::default(), picture(), picture());
        let root = history.photo().id;
        let a = grown(&mut history, root, 16);
        let b = grown(&mut history, a, 16);
        assert_eq!(history.current().magnification, 16.0);
        assert_eq!(history.step(Direction::Back), Some(a));
        let c = grown(&mut history, a, 32);
        assert_eq!(history.children(a).map(|s| s.id).collect::<Vec<_>>(), [b, c]);
        assert_eq!(history.step(Direction::PreviousSibling), Some(b));
        assert_eq!(history.step(Direction::PreviousSibling), None);
        assert_eq!(history.step(Direction::Photo), Some(root));
        assert_eq!(history.target(Direction::Deepest), Some(b), "the branch looked at last");
        assert_eq!(history.step(Direction::Child), Some(a));
        assert_eq!(history.chain(c).iter().map(|s| s.id).collect::<Vec<_>>(), [root, a, c]);
        assert_eq!(
            history.outline().iter().map(|(d, s)| (*d, s.id)).collect::<Vec<_>>(),
            [(0, root), (1, a), (2, b), (2, c)]
        );
    }

    #[test]
    fn a_branch_is_the_chain_alone() {
        let mut history = History::new(Source::default(), picture(), picture());
        let root = history.photo().id;
        let a = grown(&mut history, root, 16);
        let twin = grown(&mut history, root, 16);
        let b = grown(&mut history, a, 32);
        let branch = history.branch(b);
        assert_eq!(branch.outline().len(), 3);
        assert_eq!(branch.current().magnification, 8.0);
        assert_eq!(history.variants(a).iter().map(|state| state.id).collect::<Vec<_>>(), [a, twin]);
        assert_eq!(history.variants(b).len(), 1);
    }

    #[test]
    fn deletion_is_undone_and_redone() {
        let mut history = History::new(Source::default(), picture(), picture());
        let root = history.photo().id;
        let a = grown(&mut history, root, 16);
        let b = grown(&mut history, a, 16);
        history.delete(a);
        assert_eq!(history.current().id, root);
        assert_eq!(history.outline().len(), 1);
        assert!(history.undo());
        assert_eq!(history.current().id, b);
        assert!(history.redo());
        assert_eq!(history.current().id, root);
        assert!(!history.redo());
        history.delete(root);
        assert_eq!(history.outline().len(), 1, "the photo cannot be deleted");
    }

    #[test]
    fn back_and_forward_retrace_the_way() {
        let mut history = History::new(Source::default(), picture(), picture());
        let root = history.photo().id;
        let a = grown(&mut history, root, 16);
        let b = grown(&mut history, root, 20);
        assert_eq!(history.step(Direction::Back), Some(a));
        assert_eq!(history.step(Direction::Back), Some(root));
        assert_eq!(history.step(Direction::Back), None);
        assert_eq!(history.step(Direction::Forward), Some(a));
        assert_eq!(history.step(Direction::Forward), Some(b));
    }
}
