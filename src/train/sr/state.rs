//! The files of a step, of which the state is the last: where it is, all is.

use std::path::{Path, PathBuf};

use super::model::Model;
use crate::train::TrainError;
use crate::train::files::write_safetensors;
use crate::train::state::{Fixed, Position, tensors};

/// Where states lie in a folder of results.
pub const FOLDER: &str = "checkpoints_state";

fn file_of(out: &Path, step: usize) -> PathBuf {
    out.join(FOLDER).join(format!("state_{step}.safetensors"))
}

/// All of them; the state comes last.
pub fn files(out: &Path, step: usize) -> [PathBuf; 4] {
    let [generator, encoder, regulariser] = Model::files(out, step);
    [generator, encoder, regulariser, file_of(out, step)]
}

/// Writes `checkpoints_state/state_S.safetensors`.
///
/// # Errors
/// Where it cannot be written.
pub fn save(model: &Model, position: &Position, fixed: &Fixed, out: &Path) -> Result<(), TrainError> {
    write_safetensors(&file_of(out, position.step), &tensors(&model.groups, position, fixed)?)
}

/// Steps of the states in a folder of results, in their order.
fn steps(out: &Path) -> Vec<usize> {
    let entries = std::fs::read_dir(out.join(FOLDER)).into_iter().flatten().flatten();
    let step = |name: &str| name.strip_prefix("state_")?.strip_suffix(".safetensors")?.parse().ok();
    let mut steps: Vec<usize> = entries.filter_map(|entry| step(entry.file_name().to_str()?)).collect();
    steps.sort_unstable();
    steps
}

/// The state of the most steps.
pub fn latest(out: &Path) -> Option<PathBuf> {
    steps(out).last().map(|&step| file_of(out, step))
}

/// Refuses a folder that holds states of later steps than a training begins with.
///
/// # Errors
/// Where there are such.
pub fn check_unused(out: &Path, first: usize) -> Result<(), TrainError> {
    match steps(out).last() {
        Some(&step) if step > first => Err(TrainError::InUse { folder: out.to_owned(), step }),
        _ => Ok(()),
    }
}

/// Deletes files of a step that there are.
///
/// # Errors
/// What cannot be deleted.
pub fn delete(out: &Path, step: usize) -> Result<(), TrainError> {
    for file in files(out, step).iter().rev() {
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(TrainError::unwritten(file, error));
            }
            _ => (),
        }
    }
    Ok(())
}

/// Deletes all but the `limit` newest steps with a state.
///
/// # Errors
/// What cannot be deleted.
pub fn prune(out: &Path, limit: usize) -> Result<(), TrainError> {
    let steps = steps(out);
    steps[..steps.len().saturating_sub(limit)].iter().try_for_each(|&step| delete(out, step))
}
