//! A contact sheet: states in a grid on neutral grey, each fitted into a square cell.

use std::sync::Arc;

use super::Exporter;
use crate::document::CachedPicture;
use crate::imaging::{Filter, Picture, codec, resize};

/// The exporter.
pub static EXPORTER: Exporter = Exporter {
    id: "sheet",
    label: "a contact sheet",
    is_folder: false,
    file_stem: |stem, _| format!("{stem}_sheet"),
    layout: Some(sheet),
    write: |export, to, _| {
        let all: Vec<Arc<Picture>> = export.all.iter().map(CachedPicture::load).collect::<Result<_, _>>()?;
        codec::save_with(&sheet(&all, export.size), to, Some(&export.xmp(export.chain.len())))?;
        Ok(format!("Saved a sheet of {} states: {}", all.len(), to.display()))
    },
};

const GAP: u32 = 8;
const GREY: [u8; 3] = [0x16; 3];

/// As square a grid as the number of pictures allows, with cells of `cell` x `cell` pixels.
pub fn sheet(pictures: &[Arc<Picture>], cell: u32) -> Picture {
    let count = pictures.len().max(1) as u32;
    let columns = f64::from(count).sqrt().ceil() as u32;
    let rows = count.div_ceil(columns);
    let side = |cells: u32| cells * (cell + GAP) + GAP;
    let mut whole = Picture::from_fn(side(columns), side(rows), |_, _| GREY);
    for (i, picture) in (0..).zip(pictures) {
        let scale = f64::from(cell) / f64::from(picture.width().max(picture.height()));
        let fitted = |length: u32| ((f64::from(length) * scale).round() as u32).clamp(1, cell);
        let (width, height) = (fitted(picture.width()), fitted(picture.height()));
        let left = GAP + (i % columns) * (cell + GAP) + (cell - width) / 2;
        let top = GAP + (i / columns) * (cell + GAP) + (cell - height) / 2;
        whole.paste(&resize(picture, width, height, Filter::Lanczos), left, top);
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
