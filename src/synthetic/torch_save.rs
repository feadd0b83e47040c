//! Random tensors in files as `torch.save` writes them.

use std::path::Path;

use safetensors::Dtype;

use super::numbers::Numbers;
use super::{RandomError, Tensors};
use crate::checkpoint::torch_writer::{Container, Entry, write};

/// A list of tensors; their names only choose the size of their numbers.
pub(super) fn list(file: &Path, tensors: &Tensors, numbers: &mut Numbers) -> Result<(), RandomError> {
    save(file, Container::List, tensors, numbers)
}

/// A dictionary of tensors by name; where `under` is given, as the one entry of that name in another.
pub(super) fn dictionary(
    file: &Path,
    under: Option<&str>,
    tensors: &Tensors,
    numbers: &mut Numbers,
) -> Result<(), RandomError> {
    save(file, Container::Dictionary(under), tensors, numbers)
}

fn save(file: &Path, container: Container, tensors: &Tensors, numbers: &mut Numbers) -> Result<(), RandomError> {
    let entry =
        |(name, shape): &(String, Vec<i64>)| Entry { name: name.clone(), dtype: Dtype::F16, shape: shape.clone() };
    let entries: Vec<Entry> = tensors.iter().map(entry).collect();
    let mut half = |i: usize| numbers.half(&entries[i].name, &entries[i].shape);
    let written = super::create(file).and_then(|out| write(out, container, &entries, &mut half));
    written.map_err(|source| RandomError::Write { file: file.to_owned(), source })
}
