//! The history as a list: branch by branch, and of several states made of one box only the one that was picked.

use std::collections::HashMap;

use super::{History, ScaleState, StateId};
use crate::base::Region;

/// One line of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryRow {
    /// The state that it shows.
    pub id: StateId,
    /// Steps from the photo.
    pub depth: usize,
    /// How many states were made of its box, itself included.
    pub variants: usize,
}

impl History {
    /// All lines, parents before children, each branch together. Takes as long as there are states: to be kept until
    /// [`Self::version`] changes.
    pub fn rows(&self) -> Vec<HistoryRow> {
        let mut rows = Vec::new();
        let mut waiting = vec![HistoryRow { id: self.photo().id, depth: 0, variants: 1 }];
        while let Some(row) = waiting.pop() {
            rows.push(row);
            let first = waiting.len();
            waiting.extend(self.picked(row.id).map(|(id, variants)| HistoryRow { id, depth: row.depth + 1, variants }));
            waiting[first..].reverse();
        }
        rows
    }

    /// Of the children made of one box the one looked at last, else the newest; with their number, oldest box first.
    fn picked(&self, parent: StateId) -> impl Iterator<Item = (StateId, usize)> {
        let region = |state: &ScaleState| state.record.as_ref().map(|record| record.region);
        let last = self.last_child(parent);
        let mut boxes: HashMap<Option<Region>, (StateId, usize)> = HashMap::new();
        for child in self.children(parent) {
            let (picked, variants) = boxes.entry(region(child)).or_insert((child.id, 0));
            *variants += 1;
            if Some(*picked) != last {
                *picked = child.id;
            }
        }
        self.children(parent).filter_map(move |child| {
            let picked = boxes.get(&region(child)).copied();
            picked.filter(|(id, _)| *id == child.id)
        })
    }
}
