//! Writing a session as one `.coz` file.

use std::io::{Seek, Write};
use std::path::Path;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::manifest::{MANIFEST, Manifest, PHOTO, picture_name};
use super::{MOST_PIXELS, Session, SessionError};
use crate::base;
use crate::document::{History, ScaleState, provenance, recipe};
use crate::imaging::{Content, Format};

/// Writes `session` to `file`, whole or not at all. The photo goes inside, or stays a link where `link_photo` and its
/// file is still there. `on_progress` is called with how much is done (0 to 1) and answers whether to go on.
pub fn save(
    session: &Session,
    file: &Path,
    link_photo: bool,
    on_progress: &mut dyn FnMut(f32) -> bool,
) -> Result<(), SessionError> {
    let history = &session.history;
    let linked = link_photo && history.source().file.as_ref().is_some_and(|photo| photo.is_file());
    let mut manifest = Manifest::of(session, !linked);
    // Who gets it need not know where its files lay, but for a photo that it needs.
    if !linked {
        manifest.photo = manifest.photo.without_place();
    }
    let choices = &mut manifest.choices.choices;
    choices.backbone = choices.backbone.without_places();
    for model in manifest.states.iter_mut().filter_map(|state| state.step.record.model.as_mut()) {
        model.backbone = model.backbone.without_places();
    }
    let pixels: u64 = manifest.states.iter().map(|it| u64::from(it.step.width) * u64::from(it.step.height)).sum();
    if pixels > MOST_PIXELS {
        let (found, most) = (pixels >> 20, MOST_PIXELS >> 20);
        let details =
            format!("its states have {found} megapixels, and at most {most} can be opened: delete some first");
        return Err(SessionError::Write { file: file.to_owned(), details });
    }
    let written = base::write_atomic(file, |out| -> Result<(), String> {
        let mut zip = ZipWriter::new(out);
        let json = serde_json::to_vec_pretty(&manifest).map_err(|error| error.to_string())?;
        entry(&mut zip, MANIFEST, &json)?;
        let all = history.outline();
        for (done, (_, state)) in all.iter().enumerate() {
            if !on_progress(done as f32 / all.len() as f32) {
                return Err("stopped".into());
            }
            let name = if state.parent.is_some() { picture_name(state.id.0) } else { PHOTO.into() };
            if state.parent.is_some() || !linked {
                entry(&mut zip, &name, &png(history, state)?)?;
            }
        }
        let current = history.chain(history.current().id);
        let about: String = provenance::packet(&recipe(history.source(), &current)).chars().take(COMMENT).collect();
        zip.set_comment(about).map_err(|error| error.to_string())?;
        zip.finish().map_err(|error| error.to_string())?;
        Ok(())
    });
    written.map_err(|error| SessionError::Write { file: file.to_owned(), details: error.to_string() })
}

/// Letters of a zip's comment: at most 64 KB of bytes, of which a letter may take four.
const COMMENT: usize = 16_000;

/// A state's picture as a PNG in memory; it says how it was made.
pub(super) fn png(history: &History, state: &ScaleState) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let metadata = provenance::metadata(&recipe(history.source(), &history.chain(state.id)));
    let picture = state.picture.load().map_err(|error| error.to_string())?;
    Format::PNG.encode(&Content::of(&picture, &metadata), &mut bytes)?;
    Ok(bytes)
}

fn entry<W: Write + Seek>(zip: &mut ZipWriter<W>, name: &str, bytes: &[u8]) -> Result<(), String> {
    // PNG is compressed already.
    let options =
        SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(bytes.len() > 1 << 30);
    zip.start_file(name, options).map_err(|error| error.to_string())?;
    zip.write_all(bytes).map_err(|error| error.to_string())
}
