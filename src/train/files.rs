//! Tensors into files that appear whole or not at all: safetensors, and what `torch.load` reads. Photos from files.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tch::{Device, Kind, TchError, Tensor};

use super::TrainError;
use crate::base::write_atomic;
use crate::checkpoint::torch_writer::{Container, Entry, write};
use crate::imaging::Picture;
use crate::imaging::codec::{Alpha, Opening, open_watched};
use crate::runtime::weights::Weights;

/// A tensor's numbers as they lie in files.
fn bytes(tensor: &Tensor) -> Result<(Dtype, Vec<usize>, Vec<u8>), TchError> {
    let dtype = match tensor.kind() {
        Kind::Half => Dtype::F16,
        Kind::BFloat16 => Dtype::BF16,
        Kind::Double => Dtype::F64,
        Kind::Int64 => Dtype::I64,
        Kind::Uint8 => Dtype::U8,
        _ => Dtype::F32,
    };
    let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok((dtype, tensor.size().iter().map(|&size| size as usize).collect(), bytes))
}

/// A safetensors file.
///
/// # Errors
/// Where it cannot be written.
pub(super) fn write_safetensors(file: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<(), TrainError> {
    let mut all = Vec::new();
    for (name, tensor) in tensors {
        all.push((name, bytes(tensor)?));
    }
    let views =
        all.iter().map(|(name, (dtype, shape, bytes))| Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?)));
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
    let packed = views.and_then(|views| safetensors::serialize(views, None));
    let packed = packed.map_err(|error| TrainError::format(file, error))?;
    Ok(write_atomic(file, |out| std::io::Write::write_all(out, &packed))?)
}

/// A list of tensors, as `torch.save([...])` writes it.
///
/// # Errors
/// Where it cannot be written.
pub(super) fn write_torch_list(file: &Path, tensors: &[Tensor]) -> Result<(), TrainError> {
    let named = tensors.iter().enumerate().map(|(i, tensor)| (i.to_string(), tensor));
    write_torch(file, Container::List, named)
}

/// A dictionary of tensors, as `torch.save({...})` writes it.
///
/// # Errors
/// Where it cannot be written.
pub(super) fn write_torch_dictionary(file: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<(), TrainError> {
    write_torch(file, Container::Dictionary(None), tensors.iter().map(|(name, tensor)| (name.clone(), tensor)))
}

fn write_torch<'a>(
    file: &Path,
    container: Container,
    tensors: impl Iterator<Item = (String, &'a Tensor)>,
) -> Result<(), TrainError> {
    let (mut entries, mut numbers) = (Vec::new(), Vec::new());
    for (name, tensor) in tensors {
        let (dtype, _, bytes) = bytes(tensor)?;
        entries.push(Entry { name, dtype, shape: tensor.size() });
        numbers.push(bytes);
    }
    Ok(write_atomic(file, |out| write(out, container, &entries, &mut |i| std::mem::take(&mut numbers[i])))?)
}

/// A photo without its transparency.
///
/// # Errors
/// Where it cannot be read, or is damaged.
pub(super) fn open_picture(file: &Path) -> Result<Picture, TrainError> {
    let opening = Opening { alpha: Alpha::Drop, ..Opening::default() };
    match open_watched(file, &opening, &mut |_| true) {
        Ok(decoded) => Ok(decoded.picture),
        Err(error) => Err(TrainError::format(file, error)),
    }
}

/// Weights in one dtype, read once: networks that are loaded from them share their memory.
///
/// # Errors
/// What cannot be read.
pub(super) fn shared(
    weights: &Weights,
    prefix: &str,
    device: Device,
    kind: Kind,
) -> Result<BTreeMap<String, Tensor>, TrainError> {
    let mut tensors = BTreeMap::new();
    for name in weights.shapes().into_keys().filter(|name| name.starts_with(prefix)) {
        if let Some(tensor) = weights.tensor(name).transpose()? {
            let tensor = tensor.f_to_device(device)?.f_to_kind(kind)?;
            tensors.insert(name[prefix.len()..].to_owned(), tensor);
        }
    }
    Ok(tensors)
}
