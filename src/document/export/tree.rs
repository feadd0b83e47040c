//! The reference's output folders (`inference_coz.py`):
//!
//! ```text
//! per-sample/<stem>/{0..N}.png, {1..N}_input.png, txt/{0..N-1}.txt, <stem>.png
//! per-scale/scale{0..N}/<stem>.png
//! recursive/<stem>.png
//! ```
//!
//! or the same in another format.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::strip::strip;
use super::{Exporter, stem_and_magnification};
use crate::base;
use crate::base::StepRecord;
use crate::imaging::formats::QUALITY;
use crate::imaging::{Content, Format, ImageError, Metadata, Picture, codec};

/// The exporter.
pub static EXPORTER: Exporter = Exporter {
    id: "folders",
    label: "the reference's folders",
    is_folder: true,
    file_stem: stem_and_magnification,
    layout: None,
    write: |export, to, on_progress| {
        let tree = Tree::new(to, &export.source.stem());
        for (i, state) in export.chain.iter().enumerate() {
            if !on_progress(i, export.chain.len()) {
                return Err(ImageError::Cancelled);
            }
            tree.state(i, &*state.picture.load()?, None, None, &export.metadata(i + 1))?;
            if let (Some(record), Some(i)) = (&state.record, i.checked_sub(1)) {
                tree.prompts(i, record)?;
            }
        }
        // States differ in size here: the photo keeps its own.
        tree.finish(&export.pictures()?, export.size, &export.metadata(export.chain.len()))?;
        Ok(format!("Saved {} states to {}", export.chain.len(), to.display()))
    },
};

/// Writes one photo's chain, state by state as they arrive.
pub struct Tree {
    out: PathBuf,
    stem: String,
    format: Format,
    quality: u8,
}

/// The file of state `i` in a folder of states, whatever its format.
pub fn state_file(folder: &Path, i: usize) -> Option<PathBuf> {
    let files = Format::all().map(|format| folder.join(format!("{i}.{}", format.extension())));
    files.into_iter().find(|file| file.is_file())
}

impl Tree {
    /// For the photo called `stem`, below `out`.
    pub fn new(out: &Path, stem: &str) -> Self {
        Self { out: out.to_owned(), stem: stem.to_owned(), format: Format::PNG, quality: QUALITY }
    }

    /// The same in another format, of this quality where it loses some.
    pub fn in_format(self, format: Format, quality: u8) -> Self {
        Self { format, quality, ..self }
    }

    /// The folder of this photo.
    pub fn sample_folder(&self) -> PathBuf {
        self.out.join("per-sample").join(&self.stem)
    }

    /// The file of state `i`.
    pub fn state_file(&self, i: usize) -> PathBuf {
        self.sample_folder().join(self.named(&i.to_string()))
    }

    fn scale_file(&self, i: usize) -> PathBuf {
        self.out.join("per-scale").join(format!("scale{i}")).join(self.named(&self.stem))
    }

    fn strip_file(&self) -> PathBuf {
        self.out.join("recursive").join(self.named(&self.stem))
    }

    fn named(&self, stem: &str) -> String {
        format!("{stem}.{}", self.format.extension())
    }

    /// Writes state `i` with what it says of itself, and the enlarged crop it was made from; `alpha` is its opacity.
    pub fn state(
        &self,
        i: usize,
        picture: &Picture,
        alpha: Option<&Picture>,
        input: Option<&Picture>,
        metadata: &Metadata,
    ) -> Result<(), ImageError> {
        if let Some(input) = input {
            self.write(
                input,
                None,
                &Metadata::default(),
                &self.sample_folder().join(self.named(&format!("{i}_input"))),
            )?;
        }
        self.write(picture, alpha, metadata, &self.state_file(i))?;
        self.write(picture, alpha, metadata, &self.scale_file(i))
    }

    fn write(
        &self,
        picture: &Picture,
        alpha: Option<&Picture>,
        metadata: &Metadata,
        file: &Path,
    ) -> Result<(), ImageError> {
        codec::write(&Content { picture, alpha, metadata, quality: self.quality }, file)
    }

    /// Writes the prompt of step `i`, counted from 0; those of a full image's tile `n` as `i_n.txt`.
    pub fn prompts(&self, i: usize, record: &StepRecord) -> Result<(), ImageError> {
        let write = |name: String, prompt: &str| -> Result<(), ImageError> {
            let file = self.sample_folder().join("txt").join(name);
            Ok(base::write_atomic(&file, |out| out.write_all(prompt.as_bytes()))?)
        };
        let tiles = record.full_image.as_ref().map(|full_image| full_image.prompts.as_slice()).unwrap_or_default();
        for (tile, prompt) in tiles.iter().enumerate() {
            write(format!("{i}_{tile}.txt"), prompt)?;
        }
        if tiles.is_empty() { write(format!("{i}.txt"), &record.prompt) } else { Ok(()) }
    }

    /// Whether all of it is there: what is written last, and state `last`.
    pub fn is_finished(&self, last: usize) -> bool {
        self.strip_file().is_file() && self.state_file(last).is_file()
    }

    /// Removes what an earlier run has left of this photo, so that nothing of it stands beside what is made now: files that
    /// bear our names, and no others; what tells that it is finished first.
    ///
    /// # Errors
    /// Where one of them cannot be removed.
    pub fn clear(&self) -> Result<(), ImageError> {
        let gone = |file: PathBuf| match std::fs::remove_file(&file) {
            Err(error) if file.symlink_metadata().is_ok() => {
                let details = format!("what was there cannot be removed: {error}");
                Err(ImageError::Write(base::WriteError { file, details }))
            }
            _ => Ok(()),
        };
        self.own_files().into_iter().try_for_each(gone)
    }

    /// Whether a file is one of those that [`Tree::clear`] removes.
    pub fn would_remove(&self, file: &Path) -> bool {
        // Most lie elsewhere.
        let (Ok(file), Ok(out)) = (file.canonicalize(), self.out.canonicalize()) else { return false };
        file.starts_with(out) && self.own_files().iter().any(|own| own.canonicalize().is_ok_and(|own| own == file))
    }

    fn own_files(&self) -> Vec<PathBuf> {
        let (mut files, folder) = (Vec::new(), self.sample_folder());
        for format in Format::all() {
            let tree = Self { format, out: self.out.clone(), stem: self.stem.clone(), quality: self.quality };
            files.extend([tree.strip_file(), folder.join(tree.named(&tree.stem))]);
            for i in 0..=MOST_STATES {
                let input = folder.join(tree.named(&format!("{i}_input")));
                files.extend([tree.state_file(i), tree.scale_file(i), input]);
            }
        }
        let texts = std::fs::read_dir(folder.join("txt")).into_iter().flatten().flatten().map(|entry| entry.path());
        files.extend(texts.filter(|file| is_prompt(file)));
        files
    }

    /// Writes all states side by side at `height`, with what they say of themselves.
    pub fn finish(&self, states: &[Arc<Picture>], height: u32, metadata: &Metadata) -> Result<(), ImageError> {
        let strip = strip(states, height);
        let beside = self.sample_folder().join(self.named(&self.stem));
        // A photo called 1.png: its states come first, and the strip is below `recursive` too.
        if (0..states.len()).all(|i| self.state_file(i) != beside) {
            self.write(&strip, None, metadata, &beside)?;
        }
        self.write(&strip, None, metadata, &self.strip_file())
    }
}

/// More are never made.
const MOST_STATES: usize = 32;

/// `3.txt` or `3_14.txt`.
fn is_prompt(file: &Path) -> bool {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    file.extension().is_some_and(|ending| ending == "txt") && stem.splitn(2, '_').all(is_number)
}
