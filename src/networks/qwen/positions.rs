//! Where tokens and patches are: time, row and column of each token for the language model (`get_rope_index`), the order
//! of patches by attention windows for the vision tower (`get_vision_window_index`).

use std::collections::BTreeMap;

/// Rows and columns of an image's patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Patches from top to bottom.
    pub rows: i64,
    /// And from left to right.
    pub columns: i64,
}

impl Grid {
    /// Tokens it becomes when squares of `merge` x `merge` patches are one.
    pub fn tokens(self, merge: i64) -> i64 {
        (self.rows / merge) * (self.columns / merge)
    }
}

/// Time, row and column of every token, and what is added to a later token's number to get its position.
///
/// Text counts up; an image's tokens share one time and spread over rows and columns from there; the text behind it goes on
/// after the longer side.
pub fn of_tokens(ids: &[i64], image_token: i64, images: &[Grid], merge: i64) -> Result<([Vec<i64>; 3], i64), String> {
    let mut positions: [Vec<i64>; 3] = Default::default();
    let (mut next, mut at) = (0, 0);
    let mut images = images.iter();
    while at < ids.len() {
        if ids[at] != image_token {
            positions.iter_mut().for_each(|axis| axis.push(next));
            (next, at) = (next + 1, at + 1);
            continue;
        }
        let grid = images.next().ok_or("there are more image tokens than images")?;
        let (rows, columns) = (grid.rows / merge, grid.columns / merge);
        let count = (rows * columns) as usize;
        if ids.len() < at + count || ids[at..at + count].iter().any(|&id| id != image_token) {
            return Err(format!("an image of {count} tokens has fewer places in the text"));
        }
        for row in 0..rows {
            for column in 0..columns {
                for (axis, offset) in positions.iter_mut().zip([0, row, column]) {
                    axis.push(next + offset);
                }
            }
        }
        (next, at) = (next + rows.max(columns), at + count);
    }
    if images.next().is_some() {
        return Err("there are more images than places for them".into());
    }
    let highest = positions.iter().flatten().copied().max().unwrap_or(-1);
    Ok((positions, highest + 1 - ids.len() as i64))
}

/// Row and column of each patch, squares of `merge` x `merge` patches after each other.
pub fn of_patches(grid: Grid, merge: i64) -> (Vec<i64>, Vec<i64>) {
    let mut rows = Vec::new();
    let mut columns = Vec::new();
    for block_row in 0..grid.rows / merge {
        for block_column in 0..grid.columns / merge {
            for inside in 0..merge * merge {
                rows.push(block_row * merge + inside / merge);
                columns.push(block_column * merge + inside % merge);
            }
        }
    }
    (rows, columns)
}

/// The merged squares window by window, and how many windows there are of how many squares. Those of the same size lie one
/// after the other, so that they can be one batch: the reference has them from left to right, but nothing depends on it.
/// `side`: of a window, in squares.
pub fn windows(grid: Grid, merge: i64, side: i64) -> (Vec<i64>, Vec<(i64, i64)>) {
    let (rows, columns) = (grid.rows / merge, grid.columns / merge);
    let mut by_size = BTreeMap::<i64, Vec<i64>>::new();
    for top in (0..rows).step_by(side.max(1) as usize) {
        for left in (0..columns).step_by(side.max(1) as usize) {
            let (bottom, right) = ((top + side).min(rows), (left + side).min(columns));
            let squares = by_size.entry((bottom - top) * (right - left)).or_default();
            squares.extend((top..bottom).flat_map(|row| (left..right).map(move |column| row * columns + column)));
        }
    }
    let counts = by_size.iter().map(|(&squares, all)| (all.len() as i64 / squares, squares)).collect();
    (by_size.into_values().flatten().collect(), counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_take_a_square_of_positions() {
        let grid = Grid { rows: 4, columns: 6 };
        let ids = [1, 9, 9, 9, 9, 9, 9, 2, 3];
        let ([time, rows, columns], delta) = of_tokens(&ids, 9, &[grid], 2).expect("it fits");
        assert_eq!(time, [0, 1, 1, 1, 1, 1, 1, 4, 5]);
        assert_eq!(rows, [0, 1, 1, 1, 2, 2, 2, 4, 5]);
        assert_eq!(columns, [0, 1, 2, 3, 1, 2, 3, 4, 5]);
        assert_eq!(delta, -3);
        assert!(of_tokens(&ids, 9, &[], 2).is_err() && of_tokens(&ids, 9, &[grid, grid], 2).is_err());
        assert!(of_tokens(&ids[..5], 9, &[grid], 2).is_err());
    }

    #[test]
    fn windows_hold_neighbours() {
        let (order, windows) = windows(Grid { rows: 6, columns: 10 }, 2, 2);
        assert_eq!(order, [14, 4, 9, 10, 11, 12, 13, 0, 1, 5, 6, 2, 3, 7, 8]);
        assert_eq!(windows, [(1, 1), (3, 2), (2, 4)], "a corner; an edge on the right, two below; whole ones");
    }
}
