//! Opening a file: a picture, a session, an autosave's folder, or a picture that says how it was made. What a file says of
//! models is not believed: only models of this machine are used.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::state::Rebuild;
use crate::base::{CancelToken, Recipe, RecipeStep, Source, UserError, sha256};
use crate::document::session::{Choices, EXTENSION, Session};
use crate::document::{History, provenance, session, thumbnail};
use crate::hub;
use crate::imaging::codec::{DecodedPicture, Opening, Preview};
use crate::imaging::{Picture, codec, over_checker};

/// What was opened.
pub(super) struct Opened {
    /// As asked for; `None` where it was pasted.
    pub file: Option<PathBuf>,
    pub history: History,
    /// Of a session.
    pub choices: Option<Choices>,
    /// The `.coz` file it is kept in.
    pub session_file: Option<PathBuf>,
    /// The autosave it was restored from.
    pub restored_from: Option<PathBuf>,
    /// Steps that an exported picture tells of.
    pub rebuild: Option<Rebuild>,
    /// Worth a line.
    pub note: Option<String>,
}

impl Opened {
    pub(super) fn photo(file: Option<PathBuf>, source: Source, picture: Picture, alpha: Option<&Picture>) -> Self {
        picture.prepare_levels();
        let thumbnail = Arc::new(thumbnail(&picture));
        let shown = alpha.map(|alpha| over_checker(&picture, alpha));
        let mut history = History::new(source, Arc::new(picture), thumbnail);
        if let Some(shown) = shown {
            shown.prepare_levels();
            history.show_photo_as(Arc::new(shown));
        }
        Self { file, history, choices: None, session_file: None, restored_from: None, rebuild: None, note: None }
    }
}

/// Worth a line where a picture is not opaque.
const OVER_WHITE: &str = "Transparent parts are shown over a checker; models and exports have them over white";

/// Opens what a path names. `watch` sees large pictures come and answers whether to go on.
pub(super) fn open(
    file: &Path,
    keep_location: bool,
    watch: &mut dyn FnMut(Preview) -> bool,
    cancel: &CancelToken,
) -> Result<Opened, UserError> {
    // What is there of a damaged picture can be looked at.
    let opening = Opening { allow_truncated: true, keep_alpha: true, keep_location, ..Opening::default() };
    let is_session = file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case(EXTENSION));
    if is_session || file.is_dir() {
        return open_session(file, is_session);
    }
    let mut note = None;
    if let Some(recipe) = codec::xmp(file).and_then(|xmp| provenance::recipe(&xmp)).filter(|r| !r.steps.is_empty()) {
        match photo_of(&recipe, file) {
            Some(photo) => {
                let DecodedPicture { picture, alpha, exif, .. } = codec::open_watched(&photo, &opening, watch)?;
                if (picture.width(), picture.height()) == (recipe.width, recipe.height) {
                    let source = Source { file: Some(photo), exif, ..recipe.photo };
                    let rebuild = Some(rebuild(file, recipe.steps));
                    return Ok(Opened {
                        rebuild,
                        ..Opened::photo(Some(file.to_owned()), source, picture, alpha.as_ref())
                    });
                }
                note = Some(format!("{} has changed: this picture's chain cannot be made again", photo.display()));
            }
            None => {
                let name = recipe.photo.file.map_or(recipe.photo.name, |file| file.display().to_string());
                note = Some(format!("This was made from {name}, which is not there: opened as a photo"));
            }
        }
    }
    // The digest is made while the pixels are.
    let (digest, picture) = std::thread::scope(|scope| {
        let digest = std::thread::Builder::new().name("coz-digest".into()).spawn_scoped(scope, || sha256(file));
        let picture = codec::open_watched(file, &opening, watch);
        if cancel.is_cancelled() {
            return (None, picture);
        }
        // Where the file cannot be read, its picture says so.
        (digest.ok().and_then(|thread| thread.join().ok()).and_then(Result::ok), picture)
    });
    let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
    let absolute = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let DecodedPicture { picture, alpha, exif, mut remarks } = picture?;
    remarks.extend(alpha.is_some().then(|| OVER_WHITE.to_owned()));
    let source = Source { name, file: Some(absolute), sha256: digest, exif };
    let notes: Vec<String> = note.into_iter().chain(remarks).collect();
    let note = Some(notes.join(". ")).filter(|note| !note.is_empty());
    Ok(Opened { note, ..Opened::photo(Some(file.to_owned()), source, picture, alpha.as_ref()) })
}

fn open_session(file: &Path, is_session: bool) -> Result<Opened, UserError> {
    let Session { history, mut choices, lost_photo } = session::open(file)?;
    if let Some(photo) = history.photo().picture.in_memory() {
        photo.prepare_levels();
    }
    let mut notes = Vec::new();
    match lost_photo {
        Some(photo) => {
            notes.push(format!("Restored without {}: it is not there any more, or another one", photo.display()));
        }
        None if !is_session => notes.push("Restored".into()),
        None => {}
    }
    let of_its_states = history.with_deleted().filter_map(|state| state.record.as_ref()?.model.as_ref());
    let digest = of_its_states.filter(|model| model.backbone == choices.backbone).find_map(|it| it.sha256.as_deref());
    match hub::known(&choices.backbone, digest) {
        Some(backbone) => choices.backbone = backbone,
        None => {
            let name = choices.backbone.name();
            choices.backbone = hub::backbones(&hub::ModelPaths::of_user()).swap_remove(0);
            notes.push(format!("{name} is no model of this machine: {} is chosen instead", choices.backbone.name()));
        }
    }
    Ok(Opened {
        file: is_session.then(|| file.to_owned()),
        history,
        choices: Some(choices),
        session_file: is_session.then(|| file.to_owned()),
        restored_from: (!is_session).then(|| file.to_owned()),
        rebuild: None,
        note: Some(notes.join(". ")).filter(|note| !note.is_empty()),
    })
}

/// The steps with models of this machine.
fn rebuild(file: &Path, mut steps: Vec<RecipeStep>) -> Rebuild {
    let mut missing: Vec<String> = Vec::new();
    for model in steps.iter_mut().filter_map(|step| step.record.model.as_mut()) {
        match hub::known(&model.backbone, model.sha256.as_deref()) {
            Some(backbone) => model.backbone = backbone,
            None => missing.push(model.backbone.name()),
        }
    }
    missing.dedup();
    Rebuild { file: file.to_owned(), steps, missing }
}

/// The photo of a recipe, if it is still the same.
fn photo_of(recipe: &Recipe, file: &Path) -> Option<PathBuf> {
    let photo = session::photo_beside(&recipe.photo, file)?;
    let same = match &recipe.photo.sha256 {
        Some(expected) => sha256(&photo).is_ok_and(|found| found == *expected),
        None => true,
    };
    same.then_some(photo)
}
