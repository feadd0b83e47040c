//! Reading weights: safetensors and `torch.save` files, mapped into memory, by name, with a strict report.
//!
//! A network asks a [`Loader`] for each tensor by its checkpoint key and shape. What is missing, misshapen or left
//! over is collected and reported all at once, with the file: a network is either loaded whole or not at all.

mod pickle;
mod torch_save;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use tch::{Device, Kind, TchError, Tensor};

/// Why weights could not be read.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file could not be opened or mapped.
    #[error("cannot read {}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Neither safetensors nor something `torch.save` wrote.
    #[error("{} is no model file: {found}", file.display())]
    Format {
        /// The file.
        file: PathBuf,
        /// What was found instead.
        found: String,
    },
    /// The tensors do not fit the network.
    #[error("{} does not fit {network}: {}", file.display(), shortened(problems))]
    Mismatch {
        /// The file.
        file: PathBuf,
        /// The network that was to be filled.
        network: &'static str,
        /// One line for each missing, misshapen or surplus key.
        problems: Vec<String>,
    },
    /// libtorch failed, out of memory for example.
    #[error("libtorch: {0}")]
    Torch(#[from] TchError),
}

fn shortened(problems: &[String]) -> String {
    const SHOWN: usize = 12;
    let more = problems.len().saturating_sub(SHOWN);
    let shown = problems[..problems.len() - more].join("; ");
    if more > 0 { format!("{shown}; and {more} more") } else { shown }
}

/// Where one tensor's numbers lie in its file.
#[derive(Clone, Debug)]
struct Stored {
    kind: Kind,
    shape: Vec<i64>,
    /// In elements, as torch counts them.
    strides: Vec<i64>,
    /// Of the first element, in bytes from the start of the file.
    start: usize,
}

impl Stored {
    /// Bytes from the first element to the end of the last; `None` where the numbers are absurd.
    fn span(&self) -> Option<usize> {
        let mut last = 0i64;
        for (&size, &stride) in self.shape.iter().zip(&self.strides) {
            if size < 0 || stride < 0 {
                return None;
            }
            if size == 0 {
                return Some(0);
            }
            last = last.checked_add((size - 1).checked_mul(stride)?)?;
        }
        usize::try_from(last).ok()?.checked_add(1)?.checked_mul(self.kind.elt_size_in_bytes())
    }
}

enum Source {
    /// Several files, and which of them holds a tensor.
    Sharded(Vec<Weights>, BTreeMap<String, usize>),
    Mapped(memmap2::Mmap, BTreeMap<String, Stored>),
    Embedded(&'static [u8], BTreeMap<String, Stored>),
    Memory(BTreeMap<String, Tensor>),
}

/// Named tensors of one file. Nothing is copied before a [`Loader`] asks for it.
pub struct Weights {
    file: PathBuf,
    source: Source,
}

impl Weights {
    /// Opens a safetensors or `torch.save` file; which it is, its content says. No code in it is ever run.
    pub fn open(file: &Path) -> Result<Self, WeightsError> {
        let io = |source| WeightsError::Io { file: file.to_owned(), source };
        let opened = std::fs::File::open(file).map_err(io)?;
        if opened.metadata().map_err(io)?.len() == 0 {
            return Err(WeightsError::Format { file: file.to_owned(), found: "it is empty".into() });
        }
        let mut start = [0; 40];
        let length = std::io::Read::read(&mut &opened, &mut start).map_err(io)?;
        if start[..length].starts_with(b"version https://git-lfs.github.com") {
            let found = "it is a Git LFS pointer, not the weights themselves: run `git lfs pull` in its folder";
            return Err(WeightsError::Format { file: file.to_owned(), found: found.into() });
        }
        // SAFETY: the map is read-only and private to this process. A file cut short by another program while it is
        // mapped would fault; model files are written whole and renamed into place, and this holds for every reader
        // of mapped weights.
        let map = unsafe { memmap2::Mmap::map(&opened) }.map_err(io)?;
        let tensors = index(&map).map_err(|found| WeightsError::Format { file: file.to_owned(), found })?;
        Ok(Self { file: file.to_owned(), source: Source::Mapped(map, tensors) })
    }

    /// Opens the weights of a Hugging Face folder: `{stem}.safetensors`, its `.fp16` variant, or shards with an index.
    pub fn open_folder(folder: &Path, stem: &str) -> Result<Self, WeightsError> {
        for variant in ["", ".fp16"] {
            let single = folder.join(format!("{stem}{variant}.safetensors"));
            if single.is_file() {
                return Self::open(&single);
            }
            for name in
                [format!("{stem}.safetensors.index{variant}.json"), format!("{stem}{variant}.safetensors.index.json")]
            {
                let index = folder.join(name);
                if index.is_file() {
                    return Self::open_shards(folder, &index);
                }
            }
        }
        let file = folder.join(format!("{stem}.safetensors"));
        let source = std::io::Error::new(
            std::io::ErrorKind::NotFound,
            "neither it, its .fp16 variant, nor an index of shards is there",
        );
        Err(WeightsError::Io { file, source })
    }

    fn open_shards(folder: &Path, index: &Path) -> Result<Self, WeightsError> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let text = std::fs::read(index).map_err(|source| WeightsError::Io { file: index.to_owned(), source })?;
        let wrong = |found: String| WeightsError::Format { file: index.to_owned(), found };
        let map: Index = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        let mut names: Vec<&String> = map.weight_map.values().collect();
        names.sort();
        names.dedup();
        // A name that leads out of the folder is no shard of it.
        if let Some(name) =
            names.iter().find(|name| Path::new(name).components().count() != 1 || name.starts_with(".."))
        {
            return Err(wrong(format!("it names {name:?}, which is no file of this folder")));
        }
        let shards = names.iter().map(|name| Self::open(&folder.join(name))).collect::<Result<Vec<_>, _>>()?;
        let mut places = BTreeMap::new();
        for (i, shard) in shards.iter().enumerate() {
            places.extend(shard.shapes().into_keys().map(|name| (name.to_owned(), i)));
        }
        Ok(Self { file: index.to_owned(), source: Source::Sharded(shards, places) })
    }

    /// Weights that are part of the program; `name` stands for the file in messages.
    pub fn embedded(name: &str, bytes: &'static [u8]) -> Result<Self, WeightsError> {
        let tensors = index(bytes).map_err(|found| WeightsError::Format { file: name.into(), found })?;
        Ok(Self { file: name.into(), source: Source::Embedded(bytes, tensors) })
    }

    /// Tensors that are in memory already, in training for example: networks share them, so gradients flow.
    pub fn from_tensors(tensors: BTreeMap<String, Tensor>) -> Self {
        Self { file: "memory".into(), source: Source::Memory(tensors) }
    }

    /// Named in messages as if they came from `file`: tensors that were changed on their way.
    pub fn called(self, file: &Path) -> Self {
        Self { file: file.to_owned(), ..self }
    }

    /// The file they come from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// All keys with their shapes, in alphabetical order. Nested dictionaries and lists are joined by dots.
    pub fn shapes(&self) -> BTreeMap<&str, Vec<i64>> {
        match &self.source {
            Source::Sharded(shards, _) => shards.iter().flat_map(Weights::shapes).collect(),
            Source::Mapped(_, tensors) | Source::Embedded(_, tensors) => {
                tensors.iter().map(|(name, stored)| (name.as_str(), stored.shape.clone())).collect()
            }
            Source::Memory(tensors) => tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.size())).collect(),
        }
    }

    /// The tensor called `name` in its own dtype; on the CPU where it comes from a file. `None` where there is none.
    pub(super) fn tensor(&self, name: &str) -> Option<Result<Tensor, TchError>> {
        match &self.source {
            Source::Sharded(shards, places) => places.get(name).and_then(|&shard| shards[shard].tensor(name)),
            Source::Mapped(map, tensors) => tensors.get(name).map(|stored| copied(map, stored)),
            Source::Embedded(bytes, tensors) => tensors.get(name).map(|stored| copied(bytes, stored)),
            Source::Memory(tensors) => tensors.get(name).map(|tensor| Ok(tensor.shallow_clone())),
        }
    }
}

/// `stored.span()` was checked against the file when it was indexed.
fn copied(bytes: &[u8], stored: &Stored) -> Result<Tensor, TchError> {
    let span = stored.span().unwrap_or(0);
    let elements = (span / stored.kind.elt_size_in_bytes()) as i64;
    let flat = Tensor::f_from_data_size(&bytes[stored.start..stored.start + span], &[elements], stored.kind)?;
    flat.f_as_strided(&stored.shape, &stored.strides, 0)?.f_contiguous()
}

fn index(bytes: &[u8]) -> Result<BTreeMap<String, Stored>, String> {
    let tensors = match bytes {
        [b'P', b'K', 3, 4, ..] => torch_save::index_zip(bytes)?,
        [0x80, 2..=5, ..] => torch_save::index_legacy(bytes)?,
        _ => index_safetensors(bytes)?,
    };
    for (name, stored) in &tensors {
        let end = stored.span().and_then(|span| stored.start.checked_add(span));
        if end.is_none_or(|end| end > bytes.len()) {
            return Err(format!("tensor {name} {:?} reaches beyond the end of the file (truncated?)", stored.shape));
        }
    }
    if tensors.is_empty() {
        return Err("it holds no tensors".into());
    }
    Ok(tensors)
}

fn index_safetensors(bytes: &[u8]) -> Result<BTreeMap<String, Stored>, String> {
    let neither = |error| format!("neither safetensors nor written by torch.save ({error})");
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(neither)?;
    let mut tensors = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        let kind = match info.dtype {
            Dtype::F16 => Kind::Half,
            Dtype::BF16 => Kind::BFloat16,
            Dtype::F32 => Kind::Float,
            Dtype::F64 => Kind::Double,
            Dtype::I64 => Kind::Int64,
            Dtype::I32 => Kind::Int,
            Dtype::U8 => Kind::Uint8,
            Dtype::BOOL => Kind::Bool,
            other => return Err(format!("tensor {name} has the unsupported type {other:?}")),
        };
        let shape: Vec<i64> = info.shape.iter().map(|&size| size as i64).collect();
        let strides = contiguous_strides(&shape);
        tensors.insert(name, Stored { kind, shape, strides, start: header + 8 + info.data_offsets.0 });
    }
    Ok(tensors)
}

fn contiguous_strides(shape: &[i64]) -> Vec<i64> {
    let mut strides = vec![1i64; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis].max(1));
    }
    strides
}

/// Hands out tensors by key, in one dtype on one device, and keeps account.
pub struct Loader<'a> {
    weights: &'a Weights,
    /// Put before each key.
    prefix: String,
    device: Device,
    kind: Kind,
    taken: std::collections::BTreeSet<String>,
    problems: Vec<String>,
}

impl<'a> Loader<'a> {
    /// A loader of the keys that start with `prefix` (a dictionary inside the file, say `params_ema.`; or empty).
    pub fn new(weights: &'a Weights, prefix: &str, device: Device, kind: Kind) -> Self {
        Self { weights, prefix: prefix.to_owned(), device, kind, taken: Default::default(), problems: Vec::new() }
    }

    /// The tensor `key` of exactly this shape, converted and moved. A problem is noted for [`Loader::finish`] and
    /// zeros stand in, so that one pass finds all of them.
    pub fn take(&mut self, key: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        let tensor = self.found(key, shape)?;
        Ok(tensor.f_to_device(self.device)?.f_to_kind(self.kind)?)
    }

    /// The same, changed in float32 before it is converted: where something is merged into it.
    pub fn take_changed(
        &mut self,
        key: &str,
        shape: &[i64],
        change: impl FnOnce(&Tensor) -> Result<Tensor, TchError>,
    ) -> Result<Tensor, WeightsError> {
        let tensor = self.found(key, shape)?.f_to_device(self.device)?.f_to_kind(Kind::Float)?;
        Ok(change(&tensor)?.f_to_kind(self.kind)?)
    }

    /// Whether there is a tensor `key`.
    pub fn has(&self, key: &str) -> bool {
        self.weights.shapes().contains_key(format!("{}{key}", self.prefix).as_str())
    }

    /// Leaves alone what starts with `key`: it is not wanted here, and not surplus either.
    pub fn leave(&mut self, key: &str) {
        let start = format!("{}{key}", self.prefix);
        let names = self.weights.shapes().into_keys().filter(|name| name.starts_with(&start)).map(str::to_owned);
        self.taken.extend(names);
    }

    /// Adds a problem to those that [`Loader::finish`] reports.
    pub fn note(&mut self, problem: String) {
        self.problems.push(problem);
    }

    fn found(&mut self, key: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        let name = format!("{}{key}", self.prefix);
        let found = match self.weights.tensor(&name) {
            None => {
                self.problems.push(format!("{name} {shape:?} is missing"));
                None
            }
            Some(tensor) => {
                let tensor = tensor?;
                self.taken.insert(name.clone());
                if tensor.size() == shape {
                    Some(tensor)
                } else {
                    self.problems.push(format!("{name} is {:?}, expected {shape:?}", tensor.size()));
                    None
                }
            }
        };
        match found {
            Some(tensor) => Ok(tensor),
            None => Ok(Tensor::f_zeros(shape, (self.kind, self.device))?),
        }
    }

    /// Succeeds when every asked-for tensor was there in its shape and none under the prefix is left over.
    pub fn finish(&mut self, network: &'static str) -> Result<(), WeightsError> {
        for name in self.weights.shapes().keys() {
            if name.starts_with(&self.prefix) && !self.taken.contains(*name) {
                self.problems.push(format!("{name} belongs to no layer"));
            }
        }
        if self.problems.is_empty() {
            return Ok(());
        }
        let problems = std::mem::take(&mut self.problems);
        Err(WeightsError::Mismatch { file: self.weights.file.clone(), network, problems })
    }
}
