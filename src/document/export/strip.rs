//! A strip: the states of a chain side by side, as the reference concatenates them.

use std::sync::Arc;

use super::Exporter;
use crate::imaging::{Filter, Picture, codec, resize};

/// The exporter.
pub static EXPORTER: Exporter = Exporter {
    id: "strip",
    label: "a strip",
    is_folder: false,
    file_stem: |stem, _| format!("{stem}_strip"),
    layout: Some(strip),
    write: |export, to, _| {
        let count = export.chain.len();
        codec::save_with(&strip(&export.pictures()?, export.size), to, &export.metadata(count))?;
        Ok(format!("Saved a strip of {count} states: {}", to.display()))
    },
};

/// All pictures beside each other at `height`; those of that height already stay as they are.
pub fn strip(pictures: &[Arc<Picture>], height: u32) -> Picture {
    let scaled: Vec<Picture> = pictures
        .iter()
        .map(|picture| {
            let width = f64::from(picture.width()) * f64::from(height) / f64::from(picture.height());
            resize(picture, (width.round() as u32).max(1), height, Filter::Lanczos)
        })
        .collect();
    let width = scaled.iter().map(Picture::width).sum();
    let mut whole = Picture::from_fn(width, height, |_, _| [0; 3]);
    let mut left = 0;
    for picture in &scaled {
        whole.paste(picture, left, 0);
        left += picture.width();
    }
    whole
}
