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

/// What must not change within a training, by the names of its options.
pub type Fixed = [(&'static str, u64)];

/// Where states lie in a folder of results.
pub const FOLDER: &str = "checkpoints_state";

/// `GROUP.NAME`: the parameters, and behind it what AdamW remembers of them, by PyTorch's names.
const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

fn file_of(out: &Path, step: usize) -> PathBuf {
    out.join(FOLDER).join(format!("state_{step}.safetensors"))
}

/// All files of a step; the state comes last: where it is, all is.
pub fn files(out: &Path, step: usize) -> [PathBuf; 4] {
    let [generator, encoder, regulariser] = Model::files(out, step);
    [generator, encoder, regulariser, file_of(out, step)]
}

/// Writes `checkpoints_state/state_S.safetensors`, all of it in float32.
///
/// # Errors
/// Where it cannot be written.
pub fn save(model: &Model, position: &Position, fixed: &Fixed, out: &Path) -> Result<(), TrainError> {
    let mut tensors = model.parameters();
    let number = |value: u64| Tensor::f_from_slice(&[value.cast_signed()]);
    tensors.insert("step".into(), number(position.step as u64)?);
    tensors.insert("items".into(), number(position.items)?);
    for (name, value) in fixed {
        tensors.insert((*name).into(), number(*value)?);
    }
    for group in &model.groups {
        tensors.insert(format!("{}.step", group.name), number(group.steps)?);
        tensors.insert(format!("{}.scale", group.name), Tensor::f_from_slice(&[group.scale])?);
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
/// A file that cannot be read, is of another model or rank, or of a training with other options.
pub fn load(model: &mut Model, fixed: &Fixed, file: &Path) -> Result<Position, TrainError> {
    let weights = Weights::open(file)?;
    let tensor = |name: &str, shape: &[i64]| -> Result<Tensor, TrainError> {
        let missing = || TrainError::format(file, format!("{name} is missing: is it a training's state?"));
        let found = weights.tensor(name).transpose()?.ok_or_else(missing)?;
        match found.size() == shape {
            true => Ok(found),
            false => Err(TrainError::format(file, format!("{name} is {:?}; this model has {shape:?}", found.size()))),
        }
    };
    let number = |name: &str| -> Result<u64, TrainError> {
        Ok(tensor(name, &[1])?.f_to_kind(Kind::Int64)?.f_int64_value(&[0])?.cast_unsigned())
    };
    let position = Position { step: number("step")? as usize, items: number("items")? };
    for (name, value) in fixed {
        if number(name)? != *value {
            let found = format!("its {name} is another one; leave out --resume_from_checkpoint for a new training");
            return Err(TrainError::format(file, found));
        }
    }
    for group in &mut model.groups {
        group.steps = number(&format!("{}.step", group.name))?;
        group.scale = tensor(&format!("{}.scale", group.name), &[1])?.f_double_value(&[0])?;
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
