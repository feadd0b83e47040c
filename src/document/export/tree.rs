//! The reference's output folders (`inference_coz.py`):
//!
//! ```text
//! per-sample/<stem>/{0..N}.png, {1..N}_input.png, txt/{0..N-1}.txt, <stem>.png
//! per-scale/scale{0..N}/<stem>.png
//! recursive/<stem>.png
//! ```

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::strip::strip;
use super::{Exporter, stem_and_magnification};
use crate::base;
use crate::base::StepRecord;
use crate::imaging::{ImageError, Picture, Xmp, codec};

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
            tree.state(i, &*state.picture.load()?, None, Some(&export.xmp(i + 1)))?;
            if let (Some(record), Some(i)) = (&state.record, i.checked_sub(1)) {
                tree.prompts(i, record)?;
            }
        }
        // States differ in size here: the photo keeps its own.
        tree.finish(&export.pictures()?, export.size, &export.xmp(export.chain.len()))?;
        Ok(format!("Saved {} states to {}", export.chain.len(), to.display()))
    },
};

/// Writes one photo's chain, state by state as they arrive.
pub struct Tree {
    out: PathBuf,
    stem: String,
}

impl Tree {
    /// For the photo called `stem`, below `out`.
    pub fn new(out: &Path, stem: &str) -> Self {
        Self { out: out.to_owned(), stem: stem.to_owned() }
    }

    /// The folder of this photo.
    pub fn sample_folder(&self) -> PathBuf {
        self.out.join("per-sample").join(&self.stem)
    }

    /// The file of state `i`.
    pub fn state_file(&self, i: usize) -> PathBuf {
        self.sample_folder().join(format!("{i}.png"))
    }

    /// Writes state `i` with what it says of itself, and the enlarged crop it was made from.
    pub fn state(
        &self,
        i: usize,
        picture: &Picture,
        input: Option<&Picture>,
        xmp: Option<&Xmp>,
    ) -> Result<(), ImageError> {
        if let Some(input) = input {
            codec::save(input, &self.sample_folder().join(format!("{i}_input.png")))?;
        }
        codec::save_with(picture, &self.state_file(i), xmp)?;
        let scale = self.out.join("per-scale").join(format!("scale{i}"));
        codec::save_with(picture, &scale.join(format!("{}.png", self.stem)), xmp)
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
        let whole = self.out.join("recursive").join(format!("{}.png", self.stem));
        whole.is_file() && self.state_file(last).is_file()
    }

    /// Writes all states side by side at `height`, with what they say of themselves.
    pub fn finish(&self, states: &[Arc<Picture>], height: u32, xmp: &Xmp) -> Result<(), ImageError> {
        let strip = strip(states, height);
        let name = format!("{}.png", self.stem);
        let beside = self.sample_folder().join(&name);
        // A photo called 1.png: its states come first, and the strip is below `recursive` too.
        if (0..states.len()).all(|i| self.state_file(i) != beside) {
            codec::save_with(&strip, &beside, Some(xmp))?;
        }
        codec::save_with(&strip, &self.out.join("recursive").join(&name), Some(xmp))
    }
}
