//! The history under any order of operations: no state lost, links sound.

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
                        undone.clear();
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
