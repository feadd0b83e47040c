//! Reading weights: safetensors, `torch.save` and ncnn files, mapped into memory, by name, with a strict report.
//!
//! A network asks a [`Loader`] for each tensor by its checkpoint key and shape. What is missing, misshapen or left
//! over is collected and reported all at once, with the file: a network is either loaded whole or not at all.

mod convert;
mod loader;
mod ncnn;
mod pickle;
mod torch_save;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use safetensors::{Dtype, SafeTensors};
use tch::{Device, Kind, TchError, Tensor};

pub use loader::{Loader, Origin, Reading, Told};

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
    /// Neither safetensors, nor something `torch.save` wrote, nor a pair of ncnn's.
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
    /// Whoever was told of the progress did not want to go on; not a fault.
    #[error("cancelled")]
    Cancelled,
    /// libtorch failed, out of memory for example.
    #[error("libtorch: {}", .0.to_string().lines().next().unwrap_or_default())]
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

    /// Whether numbers at this address can be computed with.
    fn is_aligned_at(&self, address: *const u8) -> bool {
        address.addr().is_multiple_of(self.kind.elt_size_in_bytes())
    }
}

enum Source {
    /// Several files, and which of them holds a tensor.
    Sharded(Vec<Weights>, BTreeMap<String, usize>),
    Mapped(memmap2::Mmap, BTreeMap<String, Stored>),
    Embedded(&'static [u8], BTreeMap<String, Stored>),
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
    output_scale: f64,
}

/// Files that tensors share memory with; they stay mapped until the program ends. Only addresses are taken up thereby:
/// the system takes the memory back whenever it wants.
static LENT: Mutex<Vec<Arc<Source>>> = Mutex::new(Vec::new());

/// The names of the files that an index names.
fn shards(index: &Path) -> Result<Vec<String>, WeightsError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read(index).map_err(|source| WeightsError::Io { file: index.to_owned(), source })?;
    let wrong = |found: String| WeightsError::Format { file: index.to_owned(), found };
    let map: Index = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    let mut names: Vec<String> = map.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    // A name that leads out of the folder is no shard of it.
    match names.iter().find(|name| Path::new(name).components().count() != 1 || name.starts_with("..")) {
        Some(name) => Err(wrong(format!("it names {name:?}, which is no file of this folder"))),
        None => Ok(names),
    }
}

/// The file that holds the weights: of ncnn's pair the `.bin`, whichever is named.
pub fn weights_file(file: &Path) -> PathBuf {
    if ncnn::has_ending(file, "param") { ncnn::pair(file).1 } else { file.to_owned() }
}

impl Weights {
    /// Opens a safetensors or `torch.save` file, or either of ncnn's pair; which it is, its content says. No code in it is
    /// ever run.
    pub fn open(file: &Path) -> Result<Self, WeightsError> {
        let io = |source| WeightsError::Io { file: file.to_owned(), source };
        let opened = std::fs::File::open(file).map_err(io)?;
        if opened.metadata().map_err(io)?.len() == 0 {
            return Err(WeightsError::Format { file: file.to_owned(), found: "it is empty".into() });
        }
        if ncnn::has_ending(file, "param") {
            return Self::open_ncnn(file);
        }
        let mut start = [0; 40];
        let length = std::io::Read::read(&mut &opened, &mut start).map_err(io)?;
        if start[..length].starts_with(b"version https://git-lfs.github.com") {
            let found = "it is a Git LFS pointer, not the weights themselves: run `git lfs pull` in its folder";
            return Err(WeightsError::Format { file: file.to_owned(), found: found.into() });
        }
        // Models of other kinds end in `.bin` too: `torch.save` files, and safetensors, whose header follows its length.
        let is_other = matches!(start, [b'P', b'K', ..] | [0x80, 2..=5, ..]) || start[8] == b'{';
        if !is_other && ncnn::has_ending(file, "bin") {
            return Self::open_ncnn(file);
        }
        // SAFETY: the map is read-only and private to this process. A file cut short by another program while it is
        // mapped would fault; model files are written whole and renamed into place, and this holds for every reader
        // of mapped weights.
        let map = unsafe { memmap2::Mmap::map(&opened) }.map_err(io)?;
        let tensors = index(&map).map_err(|found| WeightsError::Format { file: file.to_owned(), found })?;
        Ok(Self::from_source(file, Source::Mapped(map, tensors)))
    }

    /// Opens ncnn's pair of files by the name of either.
    fn open_ncnn(file: &Path) -> Result<Self, WeightsError> {
        let (param, bin) = ncnn::pair(file);
        let io = |file: &Path| {
            let file = file.to_owned();
            move |source| WeightsError::Io { file, source }
        };
        for (here, other) in [(&param, &bin), (&bin, &param)] {
            if here.is_file() && !other.is_file() {
                let found = format!("an ncnn model is a pair of files, and {} is missing", other.display());
                return Err(WeightsError::Format { file: here.clone(), found });
            }
        }
        let text = std::fs::read(&param).map_err(io(&param))?;
        let wrong = |file: &Path, found: String| WeightsError::Format { file: file.to_owned(), found };
        let text = String::from_utf8(text).map_err(|_| {
            wrong(&param, "it is no text; ncnn's binary .param.bin files are not read: convert it again".into())
        })?;
        let graph = ncnn::Graph::parse(&text).map_err(|found| wrong(&param, found))?;
        let opened = std::fs::File::open(&bin).map_err(io(&bin))?;
        // SAFETY: as in `open`.
        let map = unsafe { memmap2::Mmap::map(&opened) }.map_err(io(&bin))?;
        let tensors = graph.tensors(&map).map_err(|found| wrong(&bin, found))?;
        Ok(Self { output_scale: graph.output_scale, ..Self::from_source(&bin, Source::Mapped(map, tensors)) })
    }

    fn from_source(file: &Path, source: Source) -> Self {
        Self { file: file.to_owned(), source: Arc::new(source), output_scale: 1.0 }
    }

    /// What the network's output is to be resized by (bicubic, without antialias): 1, but for ncnn's graphs that end so.
    pub fn output_scale(&self) -> f64 {
        self.output_scale
    }

    /// The weights in a Hugging Face folder: `{stem}.safetensors`, its `.fp16` variant, or the index of shards.
    pub fn find(folder: &Path, stem: &str) -> Option<PathBuf> {
        let endings = [
            "safetensors",
            "safetensors.index.json",
            "fp16.safetensors",
            "safetensors.index.fp16.json",
            "fp16.safetensors.index.json",
        ];
        endings.iter().map(|ending| folder.join(format!("{stem}.{ending}"))).find(|file| file.is_file())
    }

    /// What of them is not there: the file, or shards that an index names.
    pub fn missing(folder: &Path, stem: &str) -> Vec<PathBuf> {
        match Self::find(folder, stem) {
            None => vec![folder.join(format!("{stem}.safetensors"))],
            Some(index) if index.extension().is_some_and(|ending| ending == "json") => {
                // What is wrong with an index shows when it is opened.
                let shards = shards(&index).unwrap_or_default();
                shards.iter().map(|name| folder.join(name)).filter(|file| !file.is_file()).collect()
            }
            Some(_) => Vec::new(),
        }
    }

    /// Opens what [`Weights::find`] finds.
    pub fn open_folder(folder: &Path, stem: &str) -> Result<Self, WeightsError> {
        let Some(file) = Self::find(folder, stem) else {
            let file = folder.join(format!("{stem}.safetensors"));
            let found = "neither it, its .fp16 variant, nor an index of shards is there";
            return Err(WeightsError::Io { file, source: std::io::Error::new(std::io::ErrorKind::NotFound, found) });
        };
        if file.extension().is_some_and(|ending| ending == "json") {
            return Self::open_shards(folder, &file);
        }
        Self::open(&file)
    }

    fn open_shards(folder: &Path, index: &Path) -> Result<Self, WeightsError> {
        let names = shards(index)?;
        let shards = names.iter().map(|name| Self::open(&folder.join(name))).collect::<Result<Vec<_>, _>>()?;
        let mut places = BTreeMap::new();
        for (i, shard) in shards.iter().enumerate() {
            places.extend(shard.shapes().into_keys().map(|name| (name.to_owned(), i)));
        }
        Ok(Self::from_source(index, Source::Sharded(shards, places)))
    }

    /// Weights that are part of the program; `name` stands for the file in messages.
    pub fn embedded(name: &str, bytes: &'static [u8]) -> Result<Self, WeightsError> {
        let tensors = index(bytes).map_err(|found| WeightsError::Format { file: name.into(), found })?;
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
            Source::Mapped(_, tensors) | Source::Embedded(_, tensors) => {
                tensors.iter().map(|(name, stored)| (name.as_str(), stored.shape.clone())).collect()
            }
            Source::Memory(tensors) => tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.size())).collect(),
        }
    }

    /// Whether most of its numbers are stored in 32 bits.
    pub fn is_wide(&self) -> bool {
        let (mut wide, mut all) = (0, 0);
        self.kinds(&mut |kind, count| {
            wide += if kind.elt_size_in_bytes() >= 4 { count } else { 0 };
            all += count;
        });
        2 * wide > all
    }

    fn kinds(&self, told: &mut dyn FnMut(Kind, i64)) {
        match &*self.source {
            Source::Sharded(shards, _) => shards.iter().for_each(|shard| shard.kinds(told)),
            Source::Mapped(_, tensors) | Source::Embedded(_, tensors) => {
                tensors.values().for_each(|stored| told(stored.kind, stored.shape.iter().product()));
            }
            Source::Memory(tensors) => {
                tensors.values().for_each(|tensor| told(tensor.kind(), tensor.numel() as i64));
            }
        }
    }

    /// The tensor called `name` in its own dtype; on the CPU where it comes from a file. `None` where there is none.
    pub(super) fn tensor(&self, name: &str) -> Option<Result<Tensor, TchError>> {
        match &*self.source {
            Source::Sharded(shards, places) => shards[*places.get(name)?].tensor(name),
            Source::Mapped(_, tensors) | Source::Embedded(_, tensors) => {
                self.loaded(name, tensors.get(name)?.kind, Device::Cpu, None)
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
        // In one go, straight from the map.
        let copied = |bytes: &[u8], stored: &Stored| {
            // SAFETY: the view ends with this call, before the bytes do.
            let view = unsafe { viewed(bytes, stored) }?;
            match spare {
                Some(mut spare) => {
                    spare.f_copy_(&view)?;
                    Ok(spare)
                }
                None => view.f_to_device_(device, kind, false, true)?.f_contiguous(),
            }
        };
        match &*self.source {
            Source::Sharded(..) => None,
            Source::Mapped(map, tensors) => {
                let stored = tensors.get(name)?;
                expect(map, stored);
                let tensor = copied(map, stored);
                forget(map, stored);
                Some(tensor)
            }
            Source::Embedded(bytes, tensors) => Some(copied(bytes, tensors.get(name)?)),
            Source::Memory(tensors) => {
                let tensor = tensors.get(name)?;
                Some(tensor.f_to_device(device).and_then(|tensor| tensor.f_to_kind(kind)))
            }
        }
    }

    /// Its shape. `None` where there is none of that name.
    fn shape(&self, name: &str) -> Option<Vec<i64>> {
        match &*self.source {
            Source::Sharded(shards, places) => shards[*places.get(name)?].shape(name),
            Source::Mapped(_, tensors) | Source::Embedded(_, tensors) => Some(tensors.get(name)?.shape.clone()),
            Source::Memory(tensors) => Some(tensors.get(name)?.size()),
        }
    }

    /// The tensor called `name` in the file's own memory, where it is of this kind there.
    fn lent(&self, name: &str, kind: Kind) -> Option<Result<Tensor, TchError>> {
        match &*self.source {
            Source::Sharded(shards, places) => shards[*places.get(name)?].lent(name, kind),
            Source::Mapped(map, tensors) => {
                let stored = tensors
                    .get(name)
                    .filter(|stored| stored.kind == kind && stored.is_aligned_at(map[stored.start..].as_ptr()))?;
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
            Source::Mapped(map, tensors) => tensors.values().for_each(|stored| forget(map, stored)),
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
            Tensor::f_from_blob(bytes.as_ptr(), &stored.shape, &stored.strides, stored.kind, Device::Cpu)
        };
    }
    let elements = (span / stored.kind.elt_size_in_bytes()) as i64;
    let flat = Tensor::f_from_data_size(bytes, &[elements], stored.kind)?;
    flat.f_as_strided(&stored.shape, &stored.strides, 0)
}

/// Takes all of a tensor's pages into the process at once, which is far cheaper than one by one as they are read.
fn expect(map: &memmap2::Mmap, stored: &Stored) {
    #[cfg(target_os = "linux")]
    {
        // Advice only, and not known to every system.
        _ = map.advise_range(memmap2::Advice::PopulateRead, stored.start, stored.span().unwrap_or(0));
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (map, stored);
}

/// Takes a tensor's pages out of the process; they stay in the system's cache while there is room.
fn forget(map: &memmap2::Mmap, stored: &Stored) {
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
