//! What a network takes its tensors from: by checkpoint key and shape, in one dtype on one device.

use std::collections::BTreeSet;

use tch::{Device, Kind, TchError, Tensor};

use super::{Weights, WeightsError};

/// How tensors come into memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// Into memory of their own.
    #[default]
    Copied,
    /// In the file's own memory where dtype and device are the same: nothing is read before it is computed with.
    Lent,
    /// Into memory of their own, the layers of a network ([`Layers`](crate::models::layers::Layers)) not before each
    /// is used.
    Streamed,
    /// Not at all: names and shapes are compared, and stand-ins without memory are handed out.
    Checked,
}

/// Hears how many numbers were read just now and answers whether to go on.
pub type Told<'a> = &'a mut dyn FnMut(u64) -> bool;

/// Where a loader takes tensors from, where to, and how.
#[derive(Clone)]
pub struct Origin {
    weights: Weights,
    /// Put before each key.
    prefix: String,
    /// Where tensors go.
    pub device: Device,
    kind: Kind,
    reading: Reading,
}

/// Hands out tensors by key and keeps account.
pub struct Loader<'a> {
    origin: Origin,
    told: Option<Told<'a>>,
    asked: Vec<(String, Vec<i64>)>,
    /// Not wanted, and not surplus either.
    left: BTreeSet<String>,
    problems: Vec<String>,
    /// Tensors that nobody uses any more: their memory is used again.
    spare: Vec<Tensor>,
    /// What was handed out since the last call of [`Loader::reuse`].
    handed: Vec<Tensor>,
}

impl<'a> Loader<'a> {
    /// A loader of the keys that start with `prefix` (a dictionary inside the file, say `params_ema.`; or empty).
    pub fn new(weights: &Weights, prefix: &str, device: Device, kind: Kind) -> Self {
        let reading = Reading::default();
        Self::from(Origin { weights: weights.clone(), prefix: prefix.to_owned(), device, kind, reading })
    }

    /// A loader that has handed out nothing yet.
    pub(in crate::models) fn from(origin: Origin) -> Self {
        Self {
            origin,
            told: None,
            asked: Vec::new(),
            left: BTreeSet::new(),
            problems: Vec::new(),
            spare: Vec::new(),
            handed: Vec::new(),
        }
    }

    /// The same loader, reading in another way.
    pub fn reading(mut self, reading: Reading) -> Self {
        self.origin.reading = reading;
        self
    }

    /// The same loader, telling as it reads.
    pub fn telling(self, told: Told<'a>) -> Self {
        Self { told: Some(told), ..self }
    }

    /// How it reads.
    pub(in crate::models) fn how(&self) -> Reading {
        self.origin.reading
    }

    /// Reads in another way from now on; returns how it did before.
    pub(in crate::models) fn switch(&mut self, reading: Reading) -> Reading {
        std::mem::replace(&mut self.origin.reading, reading)
    }

    /// To make another loader of the same tensors from.
    pub(in crate::models) fn origin(&self) -> Origin {
        self.origin.clone()
    }

    /// What was handed out since the last call, and the memory of `spare` for what is asked for next. Nobody may use
    /// that any more.
    pub(in crate::models) fn reuse(&mut self, spare: Vec<Tensor>) -> Vec<Tensor> {
        self.spare = spare;
        std::mem::take(&mut self.handed)
    }

    /// The tensor `key` of exactly this shape, converted and moved. A problem is noted for [`Loader::finish`] and
    /// a stand-in of zeros is returned, so that one pass finds all of them.
    pub fn take(&mut self, key: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        self.take_as(self.origin.kind, key, shape)
    }

    /// The same in a dtype of its own.
    pub fn take_as(&mut self, kind: Kind, key: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        let name = format!("{}{key}", self.origin.prefix);
        let fits = match self.origin.weights.shape(&name) {
            None => {
                self.problems.push(format!("{name} {shape:?} is missing"));
                false
            }
            Some(found) if found != shape => {
                self.problems.push(format!("{name} is {found:?}, expected {shape:?}"));
                false
            }
            Some(_) => true,
        };
        let tensor = match self.origin.reading {
            Reading::Checked => None,
            _ if !fits => None,
            Reading::Lent if self.origin.device == Device::Cpu => self
                .origin
                .weights
                .lent(&name, kind)
                .or_else(|| self.origin.weights.loaded(&name, kind, self.origin.device, None)),
            _ => {
                let is_fit = |spare: &Tensor| spare.size() == shape && spare.kind() == kind;
                let spare = self.spare.iter().position(is_fit).map(|i| self.spare.swap_remove(i));
                self.origin.weights.loaded(&name, kind, self.origin.device, spare)
            }
        };
        self.asked.push((name, shape.to_vec()));
        if let Some(told) = &mut self.told
            && !told(shape.iter().product::<i64>().unsigned_abs())
        {
            return Err(WeightsError::Cancelled);
        }
        match tensor {
            Some(tensor) => {
                let tensor = tensor?;
                if self.origin.reading == Reading::Streamed {
                    self.handed.push(tensor.shallow_clone());
                }
                Ok(tensor)
            }
            // One number, repeated: it takes no memory.
            None => Ok(Tensor::f_zeros([1], (kind, Device::Cpu))?.f_expand(shape, false)?),
        }
    }

    /// The same as [`Loader::take`], changed in float32 before it is converted: where something is merged into it.
    pub fn take_changed(
        &mut self,
        key: &str,
        shape: &[i64],
        change: impl FnOnce(&Tensor) -> Result<Tensor, TchError>,
    ) -> Result<Tensor, WeightsError> {
        let tensor = self.take_as(Kind::Float, key, shape)?;
        Ok(change(&tensor)?.f_to_kind(self.origin.kind)?)
    }

    /// Whether there is a tensor `key`.
    pub fn has(&self, key: &str) -> bool {
        self.shape(key).is_some()
    }

    /// The shape of `key`, for networks without a config; `None` where there is none.
    pub fn shape(&self, key: &str) -> Option<Vec<i64>> {
        self.origin.weights.shape(&format!("{}{key}", self.origin.prefix))
    }

    /// Leaves alone what starts with `key`: it is not wanted here, and not surplus either.
    pub fn leave(&mut self, key: &str) {
        let start = format!("{}{key}", self.origin.prefix);
        let names = self.origin.weights.shapes().into_keys().filter(|name| name.starts_with(&start)).map(str::to_owned);
        self.left.extend(names);
    }

    /// Adds a problem to those that [`Loader::finish`] reports.
    pub fn note(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// The names and shapes that were asked for, in that order.
    pub fn asked(&self) -> &[(String, Vec<i64>)] {
        &self.asked
    }

    /// Succeeds when every asked-for tensor was there in its shape and none under the prefix is left over.
    pub fn finish(&mut self, network: &'static str) -> Result<(), WeightsError> {
        let asked: BTreeSet<&str> = self.asked.iter().map(|(name, _)| name.as_str()).collect();
        for name in self.origin.weights.shapes().into_keys() {
            if name.starts_with(&self.origin.prefix) && !asked.contains(name) && !self.left.contains(name) {
                self.problems.push(format!("{name} belongs to no layer"));
            }
        }
        if self.problems.is_empty() {
            return Ok(());
        }
        let problems = std::mem::take(&mut self.problems);
        Err(WeightsError::Mismatch { file: self.origin.weights.file.clone(), network, problems })
    }
}
