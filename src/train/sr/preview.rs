//! What a training would see: crops, their captions where there is a tagger, what the degradation leaves of them, and how.

use std::path::{Path, PathBuf};

use super::data::Dataset;
use super::prompts::caption;
use crate::pipelines::caption::tags::Tagger;
use crate::runtime::tensor::picture_from_tensor;
use crate::train::TrainError;
use crate::train::sheet::{self, SheetRow};

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
    sheet::write(out, count.min(order.len()), |row| {
        let sample = dataset.sample(seed, 0, order[row])?;
        let lq = picture_from_tensor(&sample.lq.f_mul_scalar(0.5)?.f_add_scalar(0.5)?)?;
        let name = sample.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let caption = caption(tagger, &sample.picture)?;
        let lines = [name, caption].into_iter().chain(sample.ops.iter().map(ToString::to_string)).collect();
        Ok(SheetRow { pictures: [("gt", sample.picture), ("lq", lq)], lines })
    })
}
