//! Model files written again as safetensors, in the dtypes they are stored in.

use std::collections::BTreeMap;

use safetensors::tensor::{TensorView, serialize};

use super::{Checkpoint, contiguous_strides};

impl Checkpoint {
    /// All tensors as the bytes of a safetensors file.
    ///
    /// # Errors
    /// In words: layouts that safetensors does not have.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, String> {
        let mut views = BTreeMap::new();
        for (name, stored) in &self.tensors {
            let (shape, span) = (&stored.shape, stored.span().unwrap_or(0));
            let data = self.map.get(stored.start..stored.start.saturating_add(span));
            let data = data.filter(|_| stored.strides == contiguous_strides(shape));
            let data = data.ok_or_else(|| format!("tensor {name} does not lie in one piece"))?;
            let shape = shape.iter().map(|&size| size as usize).collect();
            views.insert(name, TensorView::new(stored.dtype, shape, data).map_err(|error| error.to_string())?);
        }
        serialize(views, None).map_err(|error| error.to_string())
    }
}
