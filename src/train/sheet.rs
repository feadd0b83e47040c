//! A sheet of what a training would see: rows of pictures, and lines of text beside them.

use std::path::{Path, PathBuf};

use tiny_skia::{Color, FillRule, Paint, Pixmap, Transform};

use super::TrainError;
use crate::imaging::lettering::Lettering;
use crate::imaging::{Filter, Picture, codec, resize};

/// Side of a picture on the sheet.
const SIDE: u32 = 256;
const MARGIN: u32 = 8;
/// Room for the lines beside the pictures, and their height.
const TEXT: u32 = 420;
const LINE: f32 = 15.0;
/// Letters that fit into a line.
const LETTERS: usize = 56;

/// Two pictures, and what is said of them.
pub(super) struct SheetRow {
    /// Named in files: `preview/NNN_NAME.png`.
    pub pictures: [(&'static str, Picture); 2],
    /// One below the other; long ones are wrapped.
    pub lines: Vec<String>,
}

/// Lines of at most so many letters, cut between words.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= LETTERS => *line += &format!(" {word}"),
            _ => lines.push(word.into()),
        }
    }
    lines
}

/// Writes the pictures as they are into `preview/`, and all rows as `preview.png`, whose place it returns.
///
/// # Errors
/// What `row` returns; files that cannot be written.
pub(super) fn write(
    out: &Path,
    count: usize,
    mut row: impl FnMut(usize) -> Result<SheetRow, TrainError>,
) -> Result<PathBuf, TrainError> {
    let (width, height) = (2 * SIDE + TEXT + 4 * MARGIN, count as u32 * (SIDE + MARGIN) + MARGIN);
    let unfit = || TrainError::format(out, "the sheet is too large to be drawn: ask for fewer items");
    let mut sheet = Picture::from_fn(width, height, |_, _| [250; 3]);
    let mut words = Pixmap::new(TEXT, height).ok_or_else(unfit)?;
    words.fill(Color::from_rgba8(250, 250, 250, 255));
    let lettering = Lettering::new(epaint_default_fonts::UBUNTU_LIGHT, LINE).ok_or_else(unfit)?;
    for number in 0..count {
        let SheetRow { pictures, lines } = row(number)?;
        let top = number as u32 * (SIDE + MARGIN) + MARGIN;
        for (column, (name, picture)) in (0..).zip(&pictures) {
            let file = out.join(format!("preview/{number:03}_{name}.png"));
            codec::save(picture, &file).map_err(|error| TrainError::unwritten(&file, error))?;
            sheet.paste(&resize(picture, SIDE, SIDE, Filter::Bicubic), MARGIN + column * (SIDE + MARGIN), top);
        }
        for (i, line) in lines.iter().flat_map(|line| wrapped(line)).enumerate() {
            let (path, _) = lettering.line(&line);
            let place = Transform::from_translate(0.0, top as f32 + (i as f32 + 1.0) * (LINE + 5.0));
            if let Some(path) = path {
                words.fill_path(&path, &Paint::default(), FillRule::Winding, place, None);
            }
        }
    }
    let rgb = words.data().chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
    let words = Picture::from_rgb(TEXT, height, rgb).ok_or_else(unfit)?;
    sheet.paste(&words, 2 * SIDE + 3 * MARGIN, 0);
    let file = out.join("preview.png");
    codec::save(&sheet, &file).map_err(|error| TrainError::unwritten(&file, error))?;
    Ok(file)
}
