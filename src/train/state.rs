//! Where a training stands: everything that it needs to go on as if it had never stopped. What is drawn follows from the seed and
//! the number of items that were taken.

use std::collections::BTreeMap;
use std::path::Path;

use tch::{Kind, Tensor};

use super::TrainError;
use super::adamw::Group;
use crate::runtime::weights::Weights;

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

/// `GROUP.NAME`: the parameters, and behind it what AdamW remembers of them, by PyTorch's names.
const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

/// All of it as tensors, for a safetensors file.
pub(super) fn tensors(
    groups: &[Group],
    position: &Position,
    fixed: &Fixed,
) -> Result<BTreeMap<String, Tensor>, TrainError> {
    let number = |value: u64| Tensor::f_from_slice(&[value.cast_signed()]);
    let mut tensors = BTreeMap::new();
    tensors.insert("step".into(), number(position.step as u64)?);
    tensors.insert("items".into(), number(position.items)?);
    for (name, value) in fixed {
        tensors.insert((*name).into(), number(*value)?);
    }
    for group in groups {
        tensors.insert(format!("{}.step", group.name), number(group.steps)?);
        tensors.insert(format!("{}.scale", group.name), Tensor::f_from_slice(&[group.scale])?);
        for ((name, parameter), moments) in group.parameters.iter().zip(&group.moments) {
            tensors.insert(format!("{}.{name}", group.name), parameter.f_detach()?);
            for (of, moment) in MOMENTS.iter().zip(moments) {
                tensors.insert(format!("{}.{name}.{of}", group.name), moment.shallow_clone());
            }
        }
    }
    Ok(tensors)
}

/// Reads such a file into groups.
///
/// # Errors
/// A file that cannot be read, is of another model or rank, or of a training with other options.
pub(super) fn load(groups: &mut [Group], fixed: &Fixed, file: &Path) -> Result<Position, TrainError> {
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
    for group in groups {
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
