//! Random numbers in half precision, fast enough for billions of them, of a size that keeps a network's values sane.

use std::borrow::Cow;
use std::cell::RefCell;
use std::path::Path;

use safetensors::tensor::{Dtype, View};
use tch::{Device, Kind, Tensor};

/// Drawn once for each distribution, then picked from.
const DRAWN: usize = 1 << 16;

/// A source of random tensors.
pub(super) struct Numbers {
    dice: fastrand::Rng,
    /// From the standard normal distribution.
    normal: Vec<f32>,
    /// Of the numbers in the files: one of 16 bits.
    kind: Kind,
}

impl Numbers {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = fastrand::Rng::with_seed(seed);
        // Box and Muller's two from two.
        let normal = std::iter::repeat_with(|| {
            let (radius, angle) = ((-2.0 * (1.0 - dice.f64()).ln()).sqrt(), std::f64::consts::TAU * dice.f64());
            [(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]
        });
        let normal = normal.take(DRAWN / 2).flatten().collect();
        Self { dice, normal, kind: Kind::Half }
    }

    /// The same, writing bfloat16.
    pub(super) fn in_bfloat16(self) -> Self {
        Self { kind: Kind::BFloat16, ..self }
    }

    /// A tensor as 16-bit numbers in little-endian bytes; its name tells what it is for, and so how large its numbers are.
    pub(super) fn half(&mut self, name: &str, shape: &[i64]) -> Vec<u8> {
        let (mean, deviation) = distribution(name, shape);
        let drawn = Tensor::from_slice(&self.normal) * f64::from(deviation) + f64::from(mean);
        let drawn = drawn.to_device(Device::Cpu).to_kind(self.kind);
        let mut table = vec![0u8; DRAWN * 2];
        drawn.copy_data_u8(&mut table, DRAWN);
        let table: Vec<[u8; 2]> = table.as_chunks::<2>().0.to_vec();
        let count = usize::try_from(shape.iter().product::<i64>()).unwrap_or(0);
        let mut bytes = Vec::with_capacity(count * 2 + 6);
        while bytes.len() < count * 2 {
            let four = self.dice.u64(..);
            for i in 0..4 {
                bytes.extend_from_slice(&table[(four >> (16 * i)) as usize % DRAWN]);
            }
        }
        bytes.truncate(count * 2);
        bytes
    }

    /// Writes tensors in half precision; only one of them is in memory at a time.
    pub(super) fn safetensors(&mut self, tensors: &[(String, Vec<i64>)], file: &Path) -> std::io::Result<()> {
        drop(super::create(file)?);
        let numbers = RefCell::new(self);
        let views = tensors.iter().map(|(name, shape)| {
            let sizes = shape.iter().map(|&size| size as usize).collect();
            (name.as_str(), Drawn { numbers: &numbers, name, shape, sizes })
        });
        safetensors::serialize_to_file(views, None, file).map_err(std::io::Error::other)
    }
}

struct Drawn<'a, 'b> {
    numbers: &'a RefCell<&'b mut Numbers>,
    name: &'a str,
    shape: &'a [i64],
    sizes: Vec<usize>,
}

impl View for Drawn<'_, '_> {
    fn dtype(&self) -> Dtype {
        if self.numbers.borrow().kind == Kind::BFloat16 { Dtype::BF16 } else { Dtype::F16 }
    }

    fn shape(&self) -> &[usize] {
        &self.sizes
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.numbers.borrow_mut().half(self.name, self.shape).into()
    }

    fn data_len(&self) -> usize {
        self.sizes.iter().product::<usize>() * 2
    }
}

/// Mean and deviation: what goes through a layer keeps about the size it had.
fn distribution(name: &str, shape: &[i64]) -> (f32, f32) {
    let inputs = shape.iter().skip(1).product::<i64>().max(1) as f32;
    match (name, shape.len()) {
        (name, 1) if name.ends_with("weight") => (1.0, 0.02),
        (_, 1) => (0.0, 0.02),
        (name, _) if name.contains("lora") => (0.0, 0.1 / inputs.sqrt()),
        (name, _) if name.ends_with("label_embed") => (0.0, 1.0),
        // Else a model whose output layer it is says the last word again and again.
        (name, _) if name.ends_with("embed_tokens.weight") => (0.0, 0.02),
        (name, _) if name.contains("embed") && !name.contains("proj") && !name.contains("linear") => (0.0, 0.2),
        ("shared.weight", _) => (0.0, 1.0),
        (name, _) if name.contains("relative_attention_bias") => (0.0, 0.5),
        // T5 does not divide by the root of a head's width.
        (name, _) if name.ends_with("SelfAttention.q.weight") => (0.0, 0.125 / inputs.sqrt()),
        _ => (0.0, 1.0 / inputs.sqrt()),
    }
}
