//! Weights written again as safetensors, in the dtypes they are stored in.

use std::collections::BTreeMap;

use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize};
use tch::Kind;

use super::{Source, Weights, contiguous_strides};

impl Weights {
    /// All tensors as the bytes of a safetensors file.
    ///
    /// # Errors
    /// In words: weights that are not of one file on the disk, and dtypes or layouts that safetensors does not have.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, String> {
        let Source::Mapped(bytes, tensors) = &*self.source else {
            return Err(format!("{} is not one file", self.file.display()));
        };
        let mut views = BTreeMap::new();
        for (name, stored) in tensors {
            let dtype = match stored.kind {
                Kind::Half => Dtype::F16,
                Kind::BFloat16 => Dtype::BF16,
                Kind::Float => Dtype::F32,
                other => return Err(format!("tensor {name} has the unsupported type {other:?}")),
            };
            let (shape, span) = (&stored.shape, stored.span().unwrap_or(0));
            let data = bytes.get(stored.start..stored.start.saturating_add(span));
            let data = data.filter(|_| stored.strides == contiguous_strides(shape));
            let data = data.ok_or_else(|| format!("tensor {name} does not lie in one piece"))?;
            let shape = shape.iter().map(|&size| size as usize).collect();
            views.insert(name, TensorView::new(dtype, shape, data).map_err(|error| error.to_string())?);
        }
        serialize(views, None).map_err(|error| error.to_string())
    }
}
