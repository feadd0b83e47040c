//! A contact sheet: states in a grid on neutral grey, each fitted into a square cell.

use std::sync::Arc;

use super::Exporter;
use crate::document::CachedPicture;
use crate::imaging::{Filter, ImageError, Picture, codec, resize};

/// The exporter.
pub static EXPORTER: Exporter = Exporter {
    id: "sheet",
    label: "a contact sheet",
    is_folder: false,
    file_stem: |stem, _| format!("{stem}_sheet"),
    layout: Some(sheet),
    write: |export, to, _| {
        // Reduced one by one: not all of them need fit into memory.
        let reduced = |picture: &CachedPicture| Ok(Arc::new(fitted(&*picture.load()?, export.size)));
        let all: Vec<Arc<Picture>> = export.all.iter().map(reduced).collect::<Result<_, ImageError>>()?;
        codec::save_with(&sheet(&all, export.size), to, &export.metadata(export.chain.len()))?;
        Ok(format!("Saved a sheet of {} states: {}", all.len(), to.display()))
    },
};

const GAP: u32 = 8;
const GREY: [u8; 3] = [0x16; 3];

/// A picture at the size that it has in its cell.
fn fitted(picture: &Picture, cell: u32) -> Picture {
    let scale = f64::from(cell) / f64::from(picture.width().max(picture.height()));
    let side = |length: u32| ((f64::from(length) * scale).round() as u32).clamp(1, cell);
    resize(picture, side(picture.width()), side(picture.height()), Filter::Lanczos)
}

/// As square a grid as the number of pictures allows, with cells of `cell` x `cell` pixels.
pub fn sheet(pictures: &[Arc<Picture>], cell: u32) -> Picture {
    let count = pictures.len().max(1) as u32;
    let columns = f64::from(count).sqrt().ceil() as u32;
    let rows = count.div_ceil(columns);
    let side = |cells: u32| cells * (cell + GAP) + GAP;
    let mut whole = Picture::from_fn(side(columns), side(rows), |_, _| GREY);
    for (i, picture) in (0..).zip(pictures) {
        let fitted = fitted(picture, cell);
        let left = GAP + (i % columns) * (cell + GAP) + (cell - fitted.width()) / 2;
        let top = GAP + (i / columns) * (cell + GAP) + (cell - fitted.height()) / 2;
        whole.paste(&fitted, left, top);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_pictures_make_three_by_two() {
        let picture = Arc::new(Picture::from_fn(20, 10, |_, _| [200; 3]));
        let sheet = sheet(&vec![picture; 5], 40);
        assert_eq!((sheet.width(), sheet.height()), (3 * 48 + 8, 2 * 48 + 8));
        assert_eq!(sheet.pixel(8, 8 + 10), [200; 3]);
        assert_eq!(sheet.pixel(8, 8), GREY);
    }
}
