//! Weights as tensors, by name, with a strict report.
//!
//! A network asks a [`Loader`] for each tensor by its checkpoint key and shape. What is missing, misshapen or left
//! over is collected and reported all at once, with the file: a network is either loaded whole or not at all.

mod fp8;
mod loader;
pub mod lora;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use safetensors::Dtype;
use tch::{Device, Kind, TchError, Tensor};

pub use loader::{LoadMode, Loader, OnRead, Origin};
pub use lora::{LoraDelta, LoraFile, LoraMap, LoraSet};

use crate::base::Cancelled;
use crate::checkpoint;
use crate::checkpoint::sd3::{Original, Part};
use crate::checkpoint::{Checkpoint, CheckpointError, Index, Stored};

/// Why weights could not be read.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file could not be read, or is none of the known kinds.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
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
    /// Someone asked to stop; not a fault.
    #[error("cancelled")]
    Cancelled,
    /// libtorch failed, out of memory for example.
    #[error("libtorch: {}", .0.to_string().lines().next().unwrap_or_default())]
    Torch(#[from] TchError),
}

impl From<Cancelled> for WeightsError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

fn shortened(problems: &[String]) -> String {
    const SHOWN: usize = 12;
    let more = problems.len().saturating_sub(SHOWN);
    let shown = problems[..problems.len() - more].join("; ");
    if more > 0 { format!("{shown}; and {more} more") } else { shown }
}

/// libtorch's name of a type that a model file may hold.
fn kind(stored: &Stored) -> Kind {
    match stored.dtype {
        Dtype::F8_E4M3 => Kind::Float8e4m3fn,
        Dtype::F8_E5M2 => Kind::Float8e5m2,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::F64 => Kind::Double,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::I16 => Kind::Int16,
        Dtype::I8 => Kind::Int8,
        Dtype::U8 => Kind::Uint8,
        Dtype::BOOL => Kind::Bool,
        // What is neither is refused where files are opened.
        _ => Kind::Float,
    }
}

enum Source {
    /// Several files, and which of them holds a tensor.
    Sharded(Vec<Weights>, BTreeMap<String, usize>),
    Mapped(Checkpoint),
    Embedded(&'static [u8], Index),
    Memory(BTreeMap<String, Tensor>),
}

// SAFETY: nothing in a source is ever written. Tensors in it are only cloned shallowly and read, which libtorch allows
// from several threads; all else is shareable by itself.
unsafe impl Sync for Source {}

/// Named tensors of one file. Nothing is copied before a [`Loader`] asks for it. A clone is the same file.
#[derive(Clone)]
pub struct Weights {
    file: PathBuf,
    source: Arc<Source>,
}

/// Files that tensors share memory with; they stay mapped until the program ends. Only addresses are taken up thereby:
/// the system takes the memory back whenever it wants.
static LENT: Mutex<Vec<Arc<Source>>> = Mutex::new(Vec::new());

impl Weights {
    /// Opens a safetensors or `torch.save` file, or either of ncnn's pair; which it is, its content says.
    pub fn open(file: &Path) -> Result<Self, CheckpointError> {
        let checkpoint = Checkpoint::open(file)?;
        let file = checkpoint.file.clone();
        Ok(Self::from_source(&file, Source::Mapped(checkpoint)))
    }

    /// The same, and a TorchScript archive, whose program is not run.
    pub fn open_any(file: &Path) -> Result<Self, CheckpointError> {
        Ok(Self::from_source(file, Source::Mapped(Checkpoint::open_any(file)?)))
    }

    fn from_source(file: &Path, source: Source) -> Self {
        Self { file: file.to_owned(), source: Arc::new(source) }
    }

    /// What the network's output is to be resized by (bicubic, without antialias): 1, but for ncnn's graphs that end so.
    pub fn output_scale(&self) -> f64 {
        match &*self.source {
            Source::Mapped(checkpoint) => checkpoint.output_scale,
            _ => 1.0,
        }
    }

    /// What colours are multiplied by before the first layer, where the file tells: ncnn's graphs do.
    pub fn input_range(&self) -> Option<f64> {
        match &*self.source {
            Source::Mapped(checkpoint) => checkpoint.input_range,
            _ => None,
        }
    }

    /// Opens what [`checkpoint::find`] finds in a Hugging Face folder.
    pub fn open_folder(folder: &Path, stem: &str) -> Result<Self, CheckpointError> {
        let Some(file) = checkpoint::find(folder, stem) else {
            let file = folder.join(format!("{stem}.safetensors"));
            let found = "neither it, its .fp16 variant, nor an index of shards is there";
            return Err(CheckpointError::Io { file, source: std::io::Error::new(std::io::ErrorKind::NotFound, found) });
        };
        if file.extension().is_some_and(|ending| ending == "json") {
            return Self::open_shards(folder, &file);
        }
        Self::open(&file)
    }

    /// Opens a part of Stable Diffusion 3, wherever it is. Of a file with the original's names nothing is copied but what stands
    /// the other way round there.
    pub fn open_part(part: &Part) -> Result<Self, WeightsError> {
        if let Some((folder, stem)) = part.in_folder() {
            return Ok(Self::open_folder(folder, stem)?);
        }
        let Original { checkpoint, swapped, identity } = part.original()?;
        let file = checkpoint.file.clone();
        let mapped = Self::from_source(&file, Source::Mapped(checkpoint));
        let mut copies = BTreeMap::new();
        for name in swapped {
            if let Some(tensor) = mapped.tensor(&name).transpose()? {
                let halves = tensor.f_chunk(2, 0)?;
                copies.insert(name, Tensor::f_cat(&halves.iter().rev().collect::<Vec<_>>(), 0)?);
            }
        }
        if let Some((name, side)) = identity {
            copies.insert(name.to_owned(), Tensor::f_eye(side, (Kind::Float, Device::Cpu))?);
        }
        if copies.is_empty() {
            return Ok(mapped);
        }
        let sources = [mapped, Self::from_tensors(copies)];
        let mut places = BTreeMap::new();
        for (i, source) in sources.iter().enumerate() {
            places.extend(source.shapes().into_keys().map(|name| (name.to_owned(), i)));
        }
        Ok(Self::from_source(&file, Source::Sharded(sources.into(), places)))
    }

    fn open_shards(folder: &Path, index: &Path) -> Result<Self, CheckpointError> {
        let names = checkpoint::shards(index)?;
        let shards = names.iter().map(|name| Self::open(&folder.join(name))).collect::<Result<Vec<_>, _>>()?;
        let mut places = BTreeMap::new();
        for (i, shard) in shards.iter().enumerate() {
            places.extend(shard.shapes().into_keys().map(|name| (name.to_owned(), i)));
        }
        Ok(Self::from_source(index, Source::Sharded(shards, places)))
    }

    /// Weights that are part of the program; `name` stands for the file in messages.
    pub fn embedded(name: &str, bytes: &'static [u8]) -> Result<Self, CheckpointError> {
        let tensors = checkpoint::index(bytes).map_err(|found| CheckpointError::format(Path::new(name), found))?;
        Ok(Self::from_source(Path::new(name), Source::Embedded(bytes, tensors)))
    }

    /// Tensors that are in memory already, in training for example: networks share them, so gradients flow.
    pub fn from_tensors(tensors: BTreeMap<String, Tensor>) -> Self {
        Self::from_source(Path::new("memory"), Source::Memory(tensors))
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
        match &*self.source {
            Source::Sharded(shards, _) => shards.iter().flat_map(Weights::shapes).collect(),
            Source::Mapped(Checkpoint { tensors, .. }) | Source::Embedded(_, tensors) => {
                tensors.iter().map(|(name, stored)| (name.as_str(), stored.shape.clone())).collect()
            }
            Source::Memory(tensors) => tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.size())).collect(),
        }
    }

    /// The keys from `start` on, in alphabetical order.
    pub fn keys_from<'a>(&'a self, start: &'a str) -> Box<dyn Iterator<Item = &'a str> + 'a> {
        let from = (Bound::Included(start), Bound::Unbounded);
        match &*self.source {
            Source::Sharded(_, places) => Box::new(places.range::<str, _>(from).map(|(name, _)| name.as_str())),
            Source::Mapped(Checkpoint { tensors, .. }) | Source::Embedded(_, tensors) => {
                Box::new(tensors.range::<str, _>(from).map(|(name, _)| name.as_str()))
            }
            Source::Memory(tensors) => Box::new(tensors.range::<str, _>(from).map(|(name, _)| name.as_str())),
        }
    }

    /// Whether most of its numbers are stored in 32 bits.
    pub fn is_fp32(&self) -> bool {
        let (mut fp32, mut all) = (0, 0);
        self.kinds(&mut |kind, count| {
            fp32 += if kind.elt_size_in_bytes() >= 4 { count } else { 0 };
            all += count;
        });
        2 * fp32 > all
    }

    /// A tensor below `prefix` that is stored in integers, with their type; counters without dimensions apart, and those in
    /// whose names one of `ignored` occurs.
    pub fn integer_below(&self, prefix: &str, ignored: &[&str]) -> Option<(String, Kind)> {
        let is_one = |name: &str, kind: Kind, dimensions: usize| {
            let is_integer =
                !matches!(kind, Kind::Float | Kind::Half | Kind::BFloat16 | Kind::Double) && !fp8::is_fp8(kind);
            let is_ignored = ignored.iter().any(|part| name.contains(part));
            (name.starts_with(prefix) && is_integer && dimensions > 0 && !is_ignored).then(|| (name.to_owned(), kind))
        };
        match &*self.source {
            Source::Sharded(shards, _) => shards.iter().find_map(|shard| shard.integer_below(prefix, ignored)),
            Source::Mapped(Checkpoint { tensors, .. }) | Source::Embedded(_, tensors) => {
                tensors.iter().find_map(|(name, stored)| is_one(name, kind(stored), stored.shape.len()))
            }
            Source::Memory(tensors) => {
                tensors.iter().find_map(|(name, tensor)| is_one(name, tensor.kind(), tensor.dim()))
            }
        }
    }

    fn kinds(&self, count: &mut dyn FnMut(Kind, i64)) {
        match &*self.source {
            Source::Sharded(shards, _) => shards.iter().for_each(|shard| shard.kinds(count)),
            Source::Mapped(Checkpoint { tensors, .. }) | Source::Embedded(_, tensors) => {
                tensors.values().for_each(|stored| count(kind(stored), stored.shape.iter().product()));
            }
            Source::Memory(tensors) => {
                tensors.values().for_each(|tensor| count(tensor.kind(), tensor.numel() as i64));
            }
        }
    }

    /// The tensor called `name` in its own dtype, one in 8 bits in float32. `None` where there is none. Of a file it is a copy on the
    /// CPU, which may be written to and trained; of [`Weights::from_tensors`] it is the tensor itself.
    pub fn tensor(&self, name: &str) -> Option<Result<Tensor, TchError>> {
        match &*self.source {
            Source::Sharded(shards, places) => shards[*places.get(name)?].tensor(name),
            Source::Mapped(Checkpoint { tensors, .. }) | Source::Embedded(_, tensors) => {
                let own = kind(tensors.get(name)?);
                self.loaded(name, if fp8::is_fp8(own) { Kind::Float } else { own }, Device::Cpu, None)
            }
            Source::Memory(tensors) => Some(Ok(tensors.get(name)?.shallow_clone())),
        }
    }

    /// The same, converted and moved, into `spare` where there is one; tensors that are in memory already are shared
    /// where nothing changes.
    fn loaded(
        &self,
        name: &str,
        kind: Kind,
        device: Device,
        spare: Option<Tensor>,
    ) -> Option<Result<Tensor, TchError>> {
        if let Source::Sharded(shards, places) = &*self.source {
            return shards[*places.get(name)?].loaded(name, kind, device, spare);
        }
        let scale = self.scale(name).transpose();
        // In one go, straight from the map.
        let copied = |bytes: &[u8], stored: &Stored| {
            // SAFETY: the view ends with this call, before the bytes do.
            let view = unsafe { viewed(bytes, stored) }?;
            let is_fp8 = fp8::is_fp8(self::kind(stored));
            let view = match is_fp8 {
                true => fp8::dequantised(&view.f_to_device(device)?, scale?.as_ref(), kind)?,
                false => view,
            };
            match spare {
                Some(mut spare) => {
                    spare.f_copy_(&view.f_to_device(device)?)?;
                    Ok(spare)
                }
                // What was in 8 bits has memory of its own by now.
                None if is_fp8 => view.f_contiguous(),
                None if device == Device::Cpu => view.f_to_device_(device, kind, false, true)?.f_contiguous(),
                // Moved as it is: the device converts it faster.
                None => view.f_to_device(device)?.f_to_kind(kind)?.f_contiguous(),
            }
        };
        match &*self.source {
            Source::Sharded(..) => None,
            Source::Mapped(Checkpoint { map, tensors, .. }) => {
                let stored = tensors.get(name)?;
                prefault(map, stored);
                let tensor = copied(map, stored);
                drop_pages(map, stored);
                Some(tensor)
            }
            Source::Embedded(bytes, tensors) => Some(copied(bytes, tensors.get(name)?)),
            Source::Memory(tensors) => {
                let tensor = tensors.get(name)?;
                Some(tensor.f_to_device(device).and_then(|tensor| tensor.f_to_kind(kind)))
            }
        }
    }

    /// Whether it holds weights in 8 bits; its scales belong to those then.
    fn has_fp8(&self) -> bool {
        let mut found = false;
        self.kinds(&mut |kind, _| found |= fp8::is_fp8(kind));
        found
    }

    /// By what a weight in 8 bits is multiplied, where that is beside it.
    fn scale(&self, name: &str) -> Option<Result<Tensor, TchError>> {
        let is_fp8 = match &*self.source {
            Source::Mapped(Checkpoint { tensors, .. }) | Source::Embedded(_, tensors) => {
                tensors.get(name).is_some_and(|stored| fp8::is_fp8(kind(stored)))
            }
            Source::Sharded(..) | Source::Memory(_) => false,
        };
        is_fp8.then(|| fp8::scales_of(name).find_map(|scale| self.tensor(&scale)))?
    }

    /// Whether there is a tensor called `name`.
    pub fn has(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }

    /// The shape of a tensor, where there is one of that name.
    pub fn shape(&self, name: &str) -> Option<Vec<i64>> {
        match &*self.source {
            Source::Sharded(shards, places) => shards[*places.get(name)?].shape(name),
            Source::Mapped(Checkpoint { tensors, .. }) | Source::Embedded(_, tensors) => {
                Some(tensors.get(name)?.shape.clone())
            }
            Source::Memory(tensors) => Some(tensors.get(name)?.size()),
        }
    }

    /// The tensor called `name` in the file's own memory, where it is of this kind there.
    fn lent(&self, name: &str, kind: Kind) -> Option<Result<Tensor, TchError>> {
        match &*self.source {
            Source::Sharded(shards, places) => shards[*places.get(name)?].lent(name, kind),
            Source::Mapped(Checkpoint { map, tensors, .. }) => {
                let stored = tensors.get(name).filter(|stored| {
                    self::kind(stored) == kind && stored.is_aligned_at(map[stored.start..].as_ptr())
                })?;
                let mut lent = LENT.lock().unwrap_or_else(PoisonError::into_inner);
                if !lent.iter().any(|known| Arc::ptr_eq(known, &self.source)) {
                    lent.push(self.source.clone());
                }
                // SAFETY: from now on the map is never given up.
                Some(unsafe { viewed(map, stored) })
            }
            Source::Embedded(..) | Source::Memory(_) => None,
        }
    }

    /// Tells the system that it may take back what was read of the file; what is needed again is read again.
    pub fn release(&self) {
        match &*self.source {
            Source::Sharded(shards, _) => shards.iter().for_each(Weights::release),
            Source::Mapped(Checkpoint { map, tensors, .. }) => {
                tensors.values().for_each(|stored| drop_pages(map, stored))
            }
            Source::Embedded(..) | Source::Memory(_) => {}
        }
    }
}

/// The tensor in the file's own memory where it can be used there, else a copy.
///
/// # Safety
/// `bytes` must outlive the tensor. (`stored.span()` was checked against the file when it was indexed.)
unsafe fn viewed(bytes: &[u8], stored: &Stored) -> Result<Tensor, TchError> {
    let span = stored.span().unwrap_or(0);
    let bytes = &bytes[stored.start..stored.start + span];
    if span > 0 && stored.is_aligned_at(bytes.as_ptr()) {
        // SAFETY: the span lies within `bytes`, which the caller keeps; nobody writes into weights.
        return unsafe {
            Tensor::f_from_blob(bytes.as_ptr(), &stored.shape, &stored.strides, kind(stored), Device::Cpu)
        };
    }
    let elements = (span / stored.element_size()) as i64;
    let flat = Tensor::f_from_data_size(bytes, &[elements], kind(stored))?;
    flat.f_as_strided(&stored.shape, &stored.strides, 0)
}

/// Takes all of a tensor's pages into the process at once, which is far cheaper than one by one as they are read.
fn prefault(map: &memmap2::Mmap, stored: &Stored) {
    #[cfg(target_os = "linux")]
    {
        // Advice only, and not known to every system.
        _ = map.advise_range(memmap2::Advice::PopulateRead, stored.start, stored.span().unwrap_or(0));
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (map, stored);
}

/// Takes a tensor's pages out of the process; they stay in the system's cache while there is room.
fn drop_pages(map: &memmap2::Mmap, stored: &Stored) {
    #[cfg(unix)]
    {
        // SAFETY: a read-only map of a file reads the same again.
        let done = unsafe {
            map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, stored.start, stored.span().unwrap_or(0))
        };
        // Advice only: where it is not taken, nothing is lost.
        _ = done;
    }
    #[cfg(not(unix))]
    let _ = (map, stored);
}
