//! Where a training stands: everything that it needs to go on as if it had never stopped. Noise and items follow from the seed and
//! the number of items that were taken.

use std::path::{Path, PathBuf};

use tch::{Kind, Tensor};

use super::model::Model;
use crate::runtime::weights::Weights;
use crate::train::TrainError;
use crate::train::files::write_safetensors;

/// Beside the parameters and what the optimizers remember.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Steps that were made.
    pub step: usize,
    /// Items that were taken, by all processes.
    pub items: u64,
}

/// Where states lie in a folder of results.
pub const FOLDER: &str = "checkpoints_state";

/// `GROUP.NAME`: the parameters, and behind it what AdamW remembers of them, by PyTorch's names.
const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

fn file_of(out: &Path, step: usize) -> PathBuf {
    out.join(FOLDER).join(format!("state_{step}.safetensors"))
}

/// Writes `checkpoints_state/state_S.safetensors`, all of it in float32.
///
/// # Errors
/// Where it cannot be written.
pub fn save(model: &Model, position: &Position, out: &Path) -> Result<(), TrainError> {
    let mut tensors = model.parameters();
    let number = |value: u64| Tensor::f_from_slice(&[value.cast_signed()]);
    tensors.insert("step".into(), number(position.step as u64)?);
    tensors.insert("items".into(), number(position.items)?);
    for group in &model.groups {
        tensors.insert(format!("{}.step", group.name), number(group.steps)?);
        for ((name, _), moments) in group.parameters.iter().zip(&group.moments) {
            for (of, moment) in MOMENTS.iter().zip(moments) {
                tensors.insert(format!("{}.{name}.{of}", group.name), moment.shallow_clone());
            }
        }
    }
    write_safetensors(&file_of(out, position.step), &tensors)
}

/// Reads one into a model.
///
/// # Errors
/// A file that cannot be read, or is of another model or rank.
pub fn load(model: &mut Model, file: &Path) -> Result<Position, TrainError> {
    let weights = Weights::open(file)?;
    let tensor = |name: &str, shape: &[i64]| -> Result<Tensor, TrainError> {
        let found = weights.tensor(name).transpose()?;
        let found =
            found.ok_or_else(|| TrainError::format(file, format!("{name} is missing: is it a training's state?")))?;
        match found.size() == shape {
            true => Ok(found),
            false => Err(TrainError::format(file, format!("{name} is {:?}; this model has {shape:?}", found.size()))),
        }
    };
    let number = |name: &str| -> Result<u64, TrainError> {
        Ok(tensor(name, &[1])?.f_to_kind(Kind::Int64)?.f_int64_value(&[0])?.max(0).cast_unsigned())
    };
    let position = Position { step: number("step")? as usize, items: number("items")? };
    for group in &mut model.groups {
        group.steps = number(&format!("{}.step", group.name))?;
        for ((name, parameter), moments) in group.parameters.iter_mut().zip(&mut group.moments) {
            let (name, shape) = (format!("{}.{name}", group.name), parameter.size());
            let read = tensor(&name, &shape)?;
            tch::no_grad(|| parameter.f_copy_(&read))?;
            for (of, moment) in MOMENTS.iter().zip(moments) {
                moment.f_copy_(&tensor(&format!("{name}.{of}"), &shape)?)?;
            }
        }
    }
    Ok(position)
}

/// The states in a folder of results, the oldest first.
fn states(out: &Path) -> Vec<(usize, PathBuf)> {
    let entries = std::fs::read_dir(out.join(FOLDER)).into_iter().flatten().flatten();
    let mut states: Vec<(usize, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let step = name.to_str()?.strip_prefix("state_")?.strip_suffix(".safetensors")?.parse().ok()?;
            Some((step, entry.path()))
        })
        .collect();
    states.sort();
    states
}

/// The state of the most steps.
pub fn latest(out: &Path) -> Option<PathBuf> {
    states(out).pop().map(|(_, file)| file)
}

/// Deletes all but the `limit` newest states, and the files of the same steps.
///
/// # Errors
/// What cannot be deleted.
pub fn prune(out: &Path, limit: usize) -> Result<(), TrainError> {
    let states = states(out);
    for (step, state) in &states[..states.len().saturating_sub(limit)] {
        // The state goes first: where it is, all is.
        for file in std::iter::once(state.clone()).chain(Model::files(out, *step)) {
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(TrainError::unwritten(&file, error));
                }
                _ => (),
            }
        }
    }
    Ok(())
}
