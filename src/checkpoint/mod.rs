//! Model files on the disk: what tensors a safetensors, `torch.save` or ncnn file holds, and where. Nothing of it is
//! computed with here, and no code in a file is ever run.

mod convert;
mod digest;
mod kinds;
mod ncnn;
mod pickle;
pub mod sd3;
mod torch_save;
pub mod torch_writer;
mod zip_directory;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

pub use digest::weights_digest;
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

/// Why a model file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
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
    /// A small file of a model, or what it says of the others.
    #[error("{}: {found}", file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// Parts of a model are not there.
    #[error("{} lacks {}", place.display(), listed(missing))]
    Incomplete {
        /// The model.
        place: PathBuf,
        /// Its files.
        missing: Vec<PathBuf>,
    },
}

fn listed(files: &[PathBuf]) -> String {
    files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl CheckpointError {
    fn io(file: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { file: file.to_owned(), source }
    }

    /// A file that is not what it should be.
    pub fn format(file: &Path, found: impl Into<String>) -> Self {
        Self::Format { file: file.to_owned(), found: found.into() }
    }
}

/// Where one tensor's numbers lie in its file.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What they are.
    pub dtype: Dtype,
    /// As torch counts it.
    pub shape: Vec<i64>,
    /// In elements, as torch counts them.
    pub strides: Vec<i64>,
    /// Of the first element, in bytes from the start of the file.
    pub start: usize,
}

impl Stored {
    /// Bytes of one element.
    pub fn element_size(&self) -> usize {
        self.dtype.bitsize() / 8
    }

    /// Bytes from the first element to the end of the last; `None` where the numbers are absurd.
    pub fn span(&self) -> Option<usize> {
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
        usize::try_from(last).ok()?.checked_add(1)?.checked_mul(self.element_size())
    }

    /// Whether its numbers at this address can be computed with.
    pub fn is_aligned_at(&self, address: *const u8) -> bool {
        address.addr().is_multiple_of(self.element_size())
    }
}

/// Where the tensors of a file lie, by name. Nested dictionaries and lists are joined by dots.
pub type Index = BTreeMap<String, Stored>;

/// A model file, mapped into memory.
pub struct Checkpoint {
    /// The file that holds the weights.
    pub file: PathBuf,
    /// All its bytes.
    pub map: Mmap,
    /// What they hold.
    pub tensors: Index,
    /// What the network's output is to be resized by (bicubic, without antialias): 1, but for ncnn's graphs that end so.
    pub output_scale: f64,
    /// What ncnn's graphs multiply colours by before the first layer; no other file tells it.
    pub input_range: Option<f64>,
}

impl Checkpoint {
    /// Opens a safetensors or `torch.save` file, or either of ncnn's pair; which it is, its content says.
    pub fn open(file: &Path) -> Result<Self, CheckpointError> {
        Self::open_as(file, false)
    }

    /// The same, and a TorchScript archive: the tensors of its modules. Its program is not run.
    pub fn open_any(file: &Path) -> Result<Self, CheckpointError> {
        Self::open_as(file, true)
    }

    fn open_as(file: &Path, may_be_torchscript: bool) -> Result<Self, CheckpointError> {
        let mut opened = File::open(file).map_err(CheckpointError::io(file))?;
        if opened.metadata().map_err(CheckpointError::io(file))?.len() == 0 {
            return Err(CheckpointError::format(file, "it is empty"));
        }
        if ncnn::has_ending(file, "param") {
            return Self::open_ncnn(file);
        }
        let mut start = [0; 512];
        let length = opened.read(&mut start).map_err(CheckpointError::io(file))?;
        if let Some(found) = kinds::other_kind(&start[..length], file) {
            return Err(CheckpointError::format(file, found));
        }
        // Models of other kinds end in `.bin` too: `torch.save` files, and safetensors, whose header follows its length.
        let is_other = matches!(start, [b'P', b'K', ..] | [0x80, 2..=5, ..]) || start[8] == b'{';
        if !is_other && ncnn::has_ending(file, "bin") {
            return Self::open_ncnn(file);
        }
        let map = map(&opened, file)?;
        if !may_be_torchscript && torch_save::is_torchscript(&map) {
            let found = "it is a TorchScript archive, a program: save its weights with \
                         torch.save(torch.jit.load(FILE).state_dict(), ...)";
            return Err(CheckpointError::format(file, found));
        }
        let tensors = index(&map).map_err(|found| CheckpointError::format(file, found))?;
        Ok(Self { file: file.to_owned(), map, tensors, output_scale: 1.0, input_range: None })
    }

    /// Opens ncnn's pair of files by the name of either.
    fn open_ncnn(file: &Path) -> Result<Self, CheckpointError> {
        let (param, bin) = ncnn::pair(file);
        for (here, other) in [(&param, &bin), (&bin, &param)] {
            if here.is_file() && !other.is_file() {
                let found = format!("an ncnn model is a pair of files, and {} is missing", other.display());
                return Err(CheckpointError::format(here, found));
            }
        }
        let text = std::fs::read(&param).map_err(CheckpointError::io(&param))?;
        let text = String::from_utf8(text).map_err(|_| {
            let found = "it is no text; ncnn's binary .param.bin files are not read: convert it again";
            CheckpointError::format(&param, found)
        })?;
        let graph = ncnn::Graph::parse(&text).map_err(|found| CheckpointError::format(&param, found))?;
        let map = map(&File::open(&bin).map_err(CheckpointError::io(&bin))?, &bin)?;
        let tensors = graph.tensors(&map).map_err(|found| CheckpointError::format(&bin, found))?;
        let (output_scale, input_range) = (graph.output_scale, graph.input_range);
        Ok(Self { file: bin, map, tensors, output_scale, input_range })
    }
}

fn map(opened: &File, file: &Path) -> Result<Mmap, CheckpointError> {
    // SAFETY: the map is read-only and private to this process. A file cut short by another program while it is mapped
    // would fault; model files are written whole and renamed into place, and this holds for every reader of mapped weights.
    unsafe { Mmap::map(opened) }.map_err(CheckpointError::io(file))
}

/// The file that holds the weights: of ncnn's pair the `.bin`, whichever is named.
pub fn weights_file(file: &Path) -> PathBuf {
    if ncnn::has_ending(file, "param") { ncnn::pair(file).1 } else { file.to_owned() }
}

/// The weights in a Hugging Face folder: `{stem}.safetensors`, its `.fp16` variant, or the index of shards; else what `torch.save` wrote
/// in older ones.
pub fn find(folder: &Path, stem: &str) -> Option<PathBuf> {
    let endings = [
        "safetensors",
        "safetensors.index.json",
        "fp16.safetensors",
        "safetensors.index.fp16.json",
        "fp16.safetensors.index.json",
    ];
    let pickle = if stem == "model" { "pytorch_model.bin".to_owned() } else { format!("{stem}.bin") };
    let names = endings.iter().map(|ending| format!("{stem}.{ending}")).chain([pickle]);
    names.map(|name| folder.join(name)).find(|file| file.is_file())
}

/// What of them is not there: the file, or shards that an index names.
pub fn missing(folder: &Path, stem: &str) -> Vec<PathBuf> {
    match find(folder, stem) {
        None => vec![folder.join(format!("{stem}.safetensors"))],
        Some(index) if index.extension().is_some_and(|ending| ending == "json") => {
            // What is wrong with an index shows when it is opened.
            let shards = shards(&index).unwrap_or_default();
            shards.iter().map(|name| folder.join(name)).filter(|file| !file.is_file()).collect()
        }
        Some(_) => Vec::new(),
    }
}

/// The files of a CLIP tokenizer in its folder, where it is not `tokenizer.json` alone.
pub const CLIP_TOKENIZER: [&str; 2] = ["vocab.json", "merges.txt"];
/// All of a tokenizer, as its own library writes it.
pub const TOKENIZER: &str = "tokenizer.json";

/// What is not there of a CLIP tokenizer.
pub fn missing_of_clip_tokenizer(folder: &Path) -> Vec<PathBuf> {
    let [vocab, _] = CLIP_TOKENIZER;
    if !folder.join(vocab).is_file() && folder.join(TOKENIZER).is_file() {
        return Vec::new();
    }
    CLIP_TOKENIZER.iter().map(|name| folder.join(name)).filter(|file| !file.is_file()).collect()
}

/// The names of the files that an index names.
pub fn shards(index: &Path) -> Result<Vec<String>, CheckpointError> {
    #[derive(serde::Deserialize)]
    struct Shards {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read(index).map_err(CheckpointError::io(index))?;
    let map: Shards =
        serde_json::from_slice(&text).map_err(|error| CheckpointError::format(index, error.to_string()))?;
    let mut names: Vec<String> = map.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    // A name that leads out of the folder is no shard of it.
    match names.iter().find(|name| Path::new(name).components().count() != 1 || name.starts_with("..")) {
        Some(name) => {
            Err(CheckpointError::format(index, format!("it names {name:?}, which is no file of this folder")))
        }
        None => Ok(names),
    }
}

/// Where the tensors lie in the bytes of a safetensors or `torch.save` file.
pub fn index(bytes: &[u8]) -> Result<Index, String> {
    let tensors = torch_save::index(bytes).unwrap_or_else(|| index_safetensors(bytes))?;
    for (name, stored) in &tensors {
        // Strides of 0 and dimensions of 0 beside huge ones cost a file nothing, and who reads it everything.
        let has_sizes = |size: &i64| (0..=bytes.len() as i64).contains(size);
        let numbers = stored.shape.iter().try_fold(1i64, |all, size| all.checked_mul((*size).max(1)));
        if !stored.shape.iter().all(has_sizes) || numbers.is_none_or(|numbers| numbers > bytes.len() as i64) {
            return Err(format!("tensor {name} {:?} claims more numbers than the file has bytes", stored.shape));
        }
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

/// What `torch.save` has written beside the tensors of a dictionary.
#[derive(Debug, Default)]
pub struct Notes {
    /// Such as a rank.
    pub numbers: BTreeMap<String, i64>,
    /// Such as the names of layers.
    pub lists: BTreeMap<String, Vec<String>>,
}

/// Reads them; other files have none.
pub fn notes(file: &Path) -> Result<Notes, CheckpointError> {
    let map = map(&File::open(file).map_err(CheckpointError::io(file))?, file)?;
    torch_save::notes(&map).map_err(|found| CheckpointError::format(file, found))
}

/// Under which terms a safetensors file says that it may be used (the model metadata of Stability's ModelSpec).
pub fn licence(file: &Path) -> Option<String> {
    let map = map(&File::open(file).ok()?, file).ok()?;
    let (_, metadata) = SafeTensors::read_metadata(&map).ok()?;
    let entries = metadata.metadata().as_ref()?;
    let licence = ["modelspec.license", "license"].iter().find_map(|key| entries.get(*key))?;
    // It may be anything.
    Some(licence.lines().next()?.chars().take(80).collect())
}

/// The types that networks can be filled with.
fn is_known(dtype: Dtype) -> bool {
    use Dtype::{BF16, BOOL, F8_E4M3, F8_E5M2, F16, F32, F64, I8, I16, I32, I64, U8};
    matches!(dtype, F8_E4M3 | F8_E5M2 | F16 | BF16 | F32 | F64 | I64 | I32 | I16 | I8 | U8 | BOOL)
}

fn index_safetensors(bytes: &[u8]) -> Result<Index, String> {
    let neither = |error| format!("neither safetensors nor written by torch.save ({error})");
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(neither)?;
    let mut tensors = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        if !is_known(info.dtype) {
            return Err(format!("tensor {name} has the unsupported type {:?}", info.dtype));
        }
        let shape: Vec<i64> = info.shape.iter().map(|&size| size as i64).collect();
        let strides = contiguous_strides(&shape);
        tensors.insert(name, Stored { dtype: info.dtype, shape, strides, start: header + 8 + info.data_offsets.0 });
    }
    Ok(tensors)
}

/// Row by row, in elements.
pub fn contiguous_strides(shape: &[i64]) -> Vec<i64> {
    let mut strides = vec![1i64; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis].max(1));
    }
    strides
}
