//! The zoom box by keyboard: placed in the middle of the view, then moved and sized.

use crate::base::{Region, square_around};
use crate::viewer::Viewer;

/// One press moves the box, or changes its side, by this part of it.
const PART: u32 = 8;

impl Viewer {
    /// Moves the box that waits, to the right and down; where there is none, it is placed.
    pub(in crate::viewer) fn move_box(&mut self, [right, down]: [i32; 2]) {
        self.change_box(|Region { x, y, width, height }, size| {
            let moved = |at: u32, length: u32, end: u32, by: i32| {
                let by = by * (length / PART).max(1) as i32;
                at.saturating_add_signed(by).min(end - length)
            };
            let (x, y) = (moved(x, width, size[0], right), moved(y, height, size[1], down));
            Region { x, y, width, height }
        });
    }

    /// Makes the box that waits larger or smaller around its middle; where there is none, it is placed.
    pub(in crate::viewer) fn resize_box(&mut self, larger: bool) {
        self.change_box(|Region { x, y, width, height }, size| {
            let side = width.max(height);
            let by = (side / PART).max(1);
            let side = if larger { side + by } else { (side - by).max(1) };
            let middle = |at: u32, length: u32| f64::from(at) + f64::from(length) / 2.0;
            square_around(middle(x, width), middle(y, height), side.into(), size[0], size[1])
        });
    }

    fn change_box(&mut self, change: impl FnOnce(Region, [u32; 2]) -> Region) {
        let size = self.state.choices.process_size;
        let middle = self.middle_box();
        let Some(document) = &mut self.state.document else { return };
        document.placed = match document.placed.take() {
            None => middle,
            Some(placed) => document.history.get(placed.parent).and_then(|state| {
                let target = change(placed.target, [state.picture.width(), state.picture.height()]);
                document.placed_box(placed.parent, target, size)
            }),
        };
        self.state.extracted_prompt.clear();
    }
}
