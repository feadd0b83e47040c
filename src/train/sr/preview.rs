//! What a training would see: crops, their captions where there is a tagger, what the degradation leaves of them, and how.

use std::path::{Path, PathBuf};

use tiny_skia::{Color, FillRule, Paint, Pixmap, Transform};

use super::data::Dataset;
use super::prompts::caption;
use crate::imaging::lettering::Lettering;
use crate::imaging::{Filter, Picture, codec, resize};
use crate::pipelines::caption::tags::Tagger;
use crate::runtime::tensor::picture_from_tensor;
use crate::train::TrainError;

/// Side of a picture on the sheet.
const SIDE: u32 = 256;
const MARGIN: u32 = 8;
/// Room for the lines beside a pair, and their height.
const TEXT: u32 = 420;
const LINE: f32 = 15.0;
/// Letters that fit into a line of a caption.
const LETTERS: usize = 56;

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

/// Writes the first items of an epoch: `preview/NNN_gt.png` and `NNN_lq.png`, and `preview.png`, a sheet of them all with the
/// parameters that were drawn. Returns the sheet's place.
///
/// # Errors
/// Photos that cannot be read, files that cannot be written.
pub fn preview(
    dataset: &Dataset,
    seed: u64,
    count: usize,
    tagger: &mut Option<Tagger>,
    out: &Path,
) -> Result<PathBuf, TrainError> {
    let order = dataset.order(seed, 0);
    let count = count.min(order.len());
    let (width, height) = (2 * SIDE + TEXT + 4 * MARGIN, count as u32 * (SIDE + MARGIN) + MARGIN);
    let unfit = || TrainError::format(out, "the sheet is too large to be drawn: ask for fewer items");
    let mut sheet = Picture::from_fn(width, height, |_, _| [250; 3]);
    let mut words = Pixmap::new(TEXT, height).ok_or_else(unfit)?;
    words.fill(Color::from_rgba8(250, 250, 250, 255));
    let lettering = Lettering::new(epaint_default_fonts::UBUNTU_LIGHT, LINE).ok_or_else(unfit)?;
    for (row, &index) in order[..count].iter().enumerate() {
        let sample = dataset.sample(seed, 0, index)?;
        let lq = picture_from_tensor(&sample.lq.f_mul_scalar(0.5)?.f_add_scalar(0.5)?)?;
        for (name, picture) in [("gt", &sample.picture), ("lq", &lq)] {
            let file = out.join(format!("preview/{row:03}_{name}.png"));
            codec::save(picture, &file).map_err(|error| TrainError::unwritten(&file, error))?;
        }
        let top = row as u32 * (SIDE + MARGIN) + MARGIN;
        for (column, picture) in (0..).zip([&sample.picture, &lq]) {
            sheet.paste(&resize(picture, SIDE, SIDE, Filter::Bicubic), MARGIN + column * (SIDE + MARGIN), top);
        }
        let name = sample.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let lines = std::iter::once(name).chain(wrapped(&caption(tagger, &sample.picture)?));
        for (i, line) in lines.chain(sample.ops.iter().map(ToString::to_string)).enumerate() {
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
