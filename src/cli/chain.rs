//! A chain from the disk: a session, or a sample folder of `coz zoom`, whose pictures say how they were made.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::{Recipe, UserError};
use crate::document;
use crate::document::export::tree::state_file;
use crate::document::session::{Choices, EXTENSION, Session, SessionError};
use crate::document::{History, provenance, session};
use crate::imaging::{Picture, codec};

/// Whether a path names a session file.
pub(super) fn is_session(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case(EXTENSION))
}

/// Opens a `.coz` file or a sample folder.
pub(super) fn open(path: &Path) -> Result<Session, UserError> {
    if path.is_dir() && !path.join("chain.json").is_file() { folder(path) } else { Ok(session::open(path)?) }
}

/// How a picture that says it was made, with what its camera wrote.
pub(super) fn recipe_of(file: &Path) -> Option<Recipe> {
    let mut recipe = provenance::recipe(&codec::xmp(file)?)?;
    recipe.photo.exif = codec::exif(file);
    Some(recipe)
}

fn folder(folder: &Path) -> Result<Session, UserError> {
    let nothing = |details: String| {
        UserError::new(
            "There is no chain",
            details,
            "Name a .coz file, or a per-sample folder that `coz zoom` has written.",
        )
    };
    let files: Vec<PathBuf> = (0..).map_while(|i| state_file(folder, i)).collect();
    let Some(last) = files.len().checked_sub(1).filter(|&last| last > 0) else {
        return Err(nothing(format!("{} holds no 0.png and 1.png", folder.display())));
    };
    let Some(recipe) = recipe_of(&files[last]).filter(|recipe| (1..=last).contains(&recipe.steps.len())) else {
        return Err(nothing(format!("{} does not say how it was made", files[last].display())));
    };
    let open = |i: usize| -> Result<(Arc<Picture>, Arc<Picture>), UserError> {
        let picture = codec::open(&files[i])?;
        let thumbnail = document::thumbnail(&picture);
        Ok((Arc::new(picture), Arc::new(thumbnail)))
    };
    let (photo, thumbnail) = open(0)?;
    let mut history = History::new(recipe.photo.clone(), photo, thumbnail);
    // Of steps that all start from the first state, the last picture tells only its own.
    let first = last + 1 - recipe.steps.len();
    for (i, step) in (first..).zip(recipe.steps) {
        let (picture, thumbnail) = open(i)?;
        let parent = history.current();
        let same_size = (picture.width(), picture.height()) == (step.width, step.height);
        if !same_size || !step.record.region.fits(parent.picture.width(), parent.picture.height()) {
            let found = format!("it says {} x {} pixels, which does not fit the pictures", step.width, step.height);
            return Err(SessionError::Damaged { file: files[i].clone(), found }.into());
        }
        if let Some(id) = history.add(parent.id, step.record, picture, thumbnail) {
            history.go(id);
        }
    }
    Ok(Session { history, choices: Choices::default(), lost_photo: None })
}
