//! What a network takes its tensors from: by checkpoint key and shape, in one dtype on one device.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::fp8::is_scale;
use super::{LoraDelta, LoraMap, LoraSet, Weights, WeightsError};

/// How tensors come into memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadMode {
    /// Into memory of their own.
    #[default]
    Copy,
    /// In the file's own memory where dtype and device are the same: nothing is read before it is computed with. That
    /// memory is read-only: what is to be trained must be a copy, such as [`LoraDelta::trainable`] makes.
    Mmap,
    /// Into memory of their own, the layers of a network ([`Layers`](crate::runtime::Layers)) not before each
    /// is used.
    Stream,
    /// Not at all: names and shapes are compared, and stand-ins without memory are handed out.
    ShapesOnly,
}

/// Called with how many numbers were read just now; answers whether to go on.
pub type OnRead<'a> = &'a mut dyn FnMut(u64) -> bool;

/// Where a loader takes tensors from, where to, and how.
#[derive(Clone)]
pub struct Origin {
    weights: Weights,
    /// Put before each key.
    prefix: String,
    /// Where tensors go.
    pub device: Device,
    kind: Kind,
    mode: LoadMode,
    /// What is merged into the weights.
    loras: Option<Arc<LoraSet>>,
}

/// Hands out tensors by key and keeps account.
pub struct Loader<'a> {
    origin: Origin,
    on_read: Option<OnRead<'a>>,
    requested: Vec<(String, Vec<i64>)>,
    /// Not wanted, and not surplus either.
    ignored: BTreeSet<String>,
    /// What some tensors are called in the file, by the names they are asked for by.
    renamed: BTreeMap<String, String>,
    problems: Vec<String>,
    /// Of the layers of these names, which have not asked for theirs yet.
    unmerged: LoraMap,
    /// Tensors that nobody uses any more: their memory is used again.
    spare: Vec<Tensor>,
    /// What was handed out since the last call of [`Loader::reuse`].
    handed: Vec<Tensor>,
}

impl<'a> Loader<'a> {
    /// A loader of the keys that start with `prefix` (a dictionary inside the file, say `params_ema.`; or empty).
    pub fn new(weights: &Weights, prefix: &str, device: Device, kind: Kind) -> Self {
        let mode = LoadMode::default();
        Self::from(Origin { weights: weights.clone(), prefix: prefix.to_owned(), device, kind, mode, loras: None })
    }

    /// A loader that has handed out nothing yet.
    pub(in crate::runtime) fn from(origin: Origin) -> Self {
        Self {
            origin,
            on_read: None,
            requested: Vec::new(),
            ignored: BTreeSet::new(),
            renamed: BTreeMap::new(),
            problems: Vec::new(),
            unmerged: LoraMap::new(),
            spare: Vec::new(),
            handed: Vec::new(),
        }
    }

    /// The same loader, reading in another way.
    pub fn mode(mut self, mode: LoadMode) -> Self {
        self.origin.mode = mode;
        self
    }

    /// The same loader, with something that is called as it reads.
    pub fn on_read(self, on_read: OnRead<'a>) -> Self {
        Self { on_read: Some(on_read), ..self }
    }

    /// The same loader, handing out weights with these LoRAs merged into them, and what replaces weights.
    pub fn merging(mut self, loras: Arc<LoraSet>) -> Self {
        self.origin.loras = Some(loras);
        self
    }

    /// The same loader, for training: the layers of these names keep their pairs beside their weights, and share them with
    /// whoever optimises them.
    pub fn unmerged(self, loras: LoraMap) -> Self {
        Self { unmerged: loras, ..self }
    }

    /// Whether there are pairs that no layer has taken yet.
    pub(in crate::runtime) fn has_unmerged(&self) -> bool {
        !self.unmerged.is_empty()
    }

    /// The pair that the layer `name` is to keep beside its weight of this shape. One that does not fit is noted.
    pub fn unmerged_lora(&mut self, name: &str, shape: &[i64]) -> Option<LoraDelta> {
        let lora = self.unmerged.remove(name)?;
        let (up, down) = (lora.up.size(), lora.down.size());
        if !LoraDelta::fits(&up, &down, shape) {
            self.problems.push(format!("the LoRA of {name} is {up:?} and {down:?}; its weight is {shape:?}"));
            return None;
        }
        Some(lora)
    }

    /// How it reads.
    pub fn load_mode(&self) -> LoadMode {
        self.origin.mode
    }

    /// Reads in another way from now on; returns how it did before.
    pub(in crate::runtime) fn set_mode(&mut self, mode: LoadMode) -> LoadMode {
        std::mem::replace(&mut self.origin.mode, mode)
    }

    /// To make another loader of the same tensors from.
    pub(in crate::runtime) fn origin(&self) -> Origin {
        self.origin.clone()
    }

    /// What was handed out since the last call, and the memory of `spare` for what is asked for next. Nobody may use
    /// that any more.
    pub(in crate::runtime) fn reuse(&mut self, spare: Vec<Tensor>) -> Vec<Tensor> {
        self.spare = spare;
        std::mem::take(&mut self.handed)
    }

    /// The tensor `key` of exactly this shape, converted and moved. A problem is noted for [`Loader::finish`] and
    /// a stand-in of zeros is returned, so that one pass finds all of them.
    pub fn tensor(&mut self, key: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        self.tensor_as(self.origin.kind, key, shape)
    }

    /// The same in a dtype of its own.
    pub fn tensor_as(&mut self, kind: Kind, key: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        let lora = match self.origin.loras.clone() {
            Some(loras) => loras.delta(self, key, shape)?,
            None => None,
        };
        match lora {
            Some(lora) => Ok(lora.merge(&self.read(Kind::Float, key, shape)?)?.f_to_kind(kind)?),
            None => self.read(kind, key, shape),
        }
    }

    /// What a tensor is called in the file.
    fn stored_name(&self, key: &str) -> String {
        format!("{}{}", self.origin.prefix, self.renamed.get(key).map_or(key, String::as_str))
    }

    /// The same as it is stored, without a LoRA.
    fn read(&mut self, kind: Kind, key: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        let name = self.stored_name(key);
        let replacement = self.origin.loras.as_ref().and_then(|loras| loras.replacement(key));
        let (weights, stored) = match replacement {
            Some((weights, stored)) => (weights.clone(), stored.to_owned()),
            None => (self.origin.weights.clone(), name.clone()),
        };
        let fits = match weights.shape(&stored) {
            None => {
                self.problems.push(format!("{stored} {shape:?} is missing"));
                false
            }
            Some(found) if found != shape => {
                self.problems.push(format!("{stored} is {found:?}, expected {shape:?}"));
                false
            }
            Some(_) => true,
        };
        let device = self.origin.device;
        let tensor = match self.origin.mode {
            LoadMode::ShapesOnly => None,
            _ if !fits => None,
            LoadMode::Mmap if device == Device::Cpu => {
                weights.lent(&stored, kind).or_else(|| weights.loaded(&stored, kind, device, None))
            }
            _ => {
                let is_fit = |spare: &Tensor| spare.size() == shape && spare.kind() == kind;
                let spare = self.spare.iter().position(is_fit).map(|i| self.spare.swap_remove(i));
                weights.loaded(&stored, kind, device, spare)
            }
        };
        self.requested.push((name, shape.to_vec()));
        if let Some(on_read) = &mut self.on_read
            && !on_read(shape.iter().product::<i64>().unsigned_abs())
        {
            return Err(WeightsError::Cancelled);
        }
        match tensor {
            Some(tensor) => {
                let tensor = tensor?;
                if self.origin.mode == LoadMode::Stream {
                    self.handed.push(tensor.shallow_clone());
                }
                Ok(tensor)
            }
            // One number, repeated: it takes no memory.
            None => Ok(Tensor::f_zeros([1], (kind, Device::Cpu))?.f_expand(shape, false)?),
        }
    }

    /// The same as [`Loader::tensor`], with `lora` merged into it in float32 before it is converted.
    pub fn tensor_merged(
        &mut self,
        key: &str,
        shape: &[i64],
        lora: Option<&LoraDelta>,
    ) -> Result<Tensor, WeightsError> {
        let Some(lora) = lora else { return self.tensor(key, shape) };
        let tensor = self.tensor_as(Kind::Float, key, shape)?;
        Ok(lora.merge(&tensor)?.f_to_kind(self.origin.kind)?)
    }

    /// Whether there is a tensor `key`.
    pub fn has(&self, key: &str) -> bool {
        self.shape(key).is_some()
    }

    /// The first number of the shape of `key`, such as a layer's outputs; 0 where there is none.
    pub fn rows(&self, key: &str) -> i64 {
        self.shape(key).and_then(|shape| shape.first().copied()).unwrap_or(0)
    }

    /// Whether there is a tensor below `name`, such as `{name}.weight`.
    pub fn has_below(&self, name: &str) -> bool {
        let start = format!("{}{name}.", self.origin.prefix);
        self.origin.weights.keys_from(&start).next().is_some_and(|key| key.starts_with(&start))
    }

    /// The highest number below `name`, as of `{name}.5.weight`, and one more: how many layers of a row there are, or would
    /// be if none were missing. At most as many as there are tensors below it.
    pub fn count_below(&self, name: &str) -> usize {
        let start = format!("{}{name}.", self.origin.prefix);
        let names = self.origin.weights.keys_from(&start).map_while(|key| key.strip_prefix(start.as_str()));
        let numbers: Vec<usize> = names.filter_map(|rest| rest.split('.').next()?.parse().ok()).collect();
        numbers.iter().max().map_or(0, |highest| highest.saturating_add(1).min(numbers.len()))
    }

    /// What is asked for below `name` from now on is called `stored` in the file, where there is such a thing.
    pub fn rename(&mut self, stored: &str, name: &str) {
        for part in ["weight", "bias"] {
            let stored = format!("{stored}.{part}");
            if self.has(&stored) {
                self.renamed.insert(format!("{name}.{part}"), stored);
            }
        }
    }

    /// Ignores all keys in which one of `parts` occurs.
    pub fn ignore_containing(&mut self, parts: &[&str]) {
        let names = self.origin.weights.shapes().into_keys();
        let names = names.filter(|name| parts.iter().any(|part| name.contains(part))).map(str::to_owned);
        self.ignored.extend(names);
    }

    /// The shape of `key`, for networks without a config; `None` where there is none.
    pub fn shape(&self, key: &str) -> Option<Vec<i64>> {
        self.origin.weights.shape(&format!("{}{key}", self.origin.prefix))
    }

    /// Ignores what starts with `key`: it is not wanted here, and not surplus either.
    pub fn ignore_prefix(&mut self, key: &str) {
        let start = format!("{}{key}", self.origin.prefix);
        let names = self.origin.weights.shapes().into_keys().filter(|name| name.starts_with(&start)).map(str::to_owned);
        self.ignored.extend(names);
    }

    /// Ignores all that is not wanted, LoRAs too.
    pub fn ignore_all(&mut self) {
        self.ignore_prefix("");
        self.origin.loras = None;
    }

    /// The dtype and the device of what it hands out.
    pub fn target(&self) -> (Kind, Device) {
        (self.origin.kind, self.origin.device)
    }

    /// Whether [`Loader::finish`] has something to report already.
    pub fn has_problems(&self) -> bool {
        !self.problems.is_empty()
    }

    /// Adds a problem to those that [`Loader::finish`] reports.
    pub fn report(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// The names and shapes that were requested, in that order.
    pub fn requested(&self) -> &[(String, Vec<i64>)] {
        &self.requested
    }

    /// Succeeds when every asked-for tensor was there in its shape and none under the prefix is left over.
    pub fn finish(&mut self, network: &'static str) -> Result<(), WeightsError> {
        let requested: BTreeSet<&str> = self.requested.iter().map(|(name, _)| name.as_str()).collect();
        let has_fp8 = self.origin.weights.has_fp8();
        for name in self.origin.weights.shapes().into_keys() {
            let is_known = requested.contains(name) || self.ignored.contains(name) || (has_fp8 && is_scale(name));
            if name.starts_with(&self.origin.prefix) && !is_known {
                self.problems.push(format!("{name} belongs to no layer"));
            }
        }
        if let Some(loras) = self.origin.loras.clone() {
            let strangers = loras.strangers(|key| requested.contains(self.stored_name(key).as_str()));
            self.problems.extend(strangers);
        }
        let strangers = std::mem::take(&mut self.unmerged);
        self.problems.extend(strangers.into_keys().map(|name| format!("the LoRA of {name} belongs to no layer")));
        if self.problems.is_empty() {
            return Ok(());
        }
        let problems = std::mem::take(&mut self.problems);
        Err(WeightsError::Mismatch { file: self.origin.weights.file.clone(), network, problems })
    }
}
