//! One scale step: a region and words in, a restored picture out.

mod device;
mod memory;
mod network;
mod osediff;
mod progress;
mod whole;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tch::TchError;

pub use crate::models::accelerator::{CudaSupport, cuda_support, give_back};
pub use crate::models::heap::use_large_pages;
pub use crate::models::weights::weights_file;
pub use device::{DeviceChoice, cpu_threads, cuda_devices, libtorch_version};
pub(crate) use memory::Part;
pub use memory::{MemoryPlan, free_memory_of_machine, memory_of_process, peak_memory_of, peak_memory_of_process};
pub use network::Network;
pub use osediff::{Osediff, Precision, Sd3Files};
pub use progress::{Progress, Stage};
pub use whole::{Seen, Tiling, Whole, WholeInput};

use crate::image::{AlignMethod, Filter, Picture, resize};
use crate::models::WeightsError;
use crate::region::Region;

/// Why a step did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Someone asked to stop; not a fault.
    #[error("cancelled")]
    Cancelled,
    /// The model could not be loaded.
    #[error(transparent)]
    Weights(WeightsError),
    /// No network we know has these keys.
    #[error("{} holds tensors, but of no network we know (SRVGGNetCompact or RRDBNet); its first key is {first_key}", file.display())]
    UnknownNetwork {
        /// The file.
        file: PathBuf,
        /// To recognise it by.
        first_key: String,
    },
    /// The model makes no numbers.
    #[error("{model} made pixels that are no numbers (NaN): its weights are damaged")]
    NotFinite {
        /// Which model.
        model: String,
    },
    /// A device that is not there was asked for.
    #[error("no device {device}: this machine has {}", match available { 0 => "no CUDA device".to_owned(), n => format!("{n} CUDA devices, cuda:0 to cuda:{}", n - 1) })]
    NoDevice {
        /// As asked for.
        device: String,
        /// How many CUDA devices there are.
        available: usize,
    },
    /// The region does not lie in the picture it is to be cut from.
    #[error("the box {},{},{},{} does not lie inside the {width} x {height} picture", region.x, region.y, region.width, region.height)]
    Outside {
        /// The box.
        region: Region,
        /// Of the picture.
        width: u32,
        /// Of the picture.
        height: u32,
    },
    /// A model's folder is not as it should be.
    #[error("{}: {found}", file.display())]
    Folder {
        /// The file or folder.
        file: PathBuf,
        /// What was found.
        found: String,
    },
    /// The picture's sides do not suit the model.
    #[error("{model} takes sides that are multiples of {multiple} pixels, found {width} x {height}")]
    Sides {
        /// Which model.
        model: String,
        /// Of the sides.
        multiple: u32,
        /// Found.
        width: u32,
        /// Found.
        height: u32,
    },
    /// A whole picture would become too large.
    #[error("the result would have {width} x {height} pixels; sides of {most} are the most")]
    TooLarge {
        /// Of the result.
        width: u32,
        /// Of the result.
        height: u32,
        /// Of either.
        most: u32,
    },
    /// The tagger's lists do not suit it.
    #[error("{}: {found}", file.display())]
    TagList {
        /// The file.
        file: PathBuf,
        /// What was found.
        found: String,
    },
    /// A picture that the vision-language model cannot look at.
    #[error("{0}")]
    Narrow(String),
    /// Numbers left the range of half precision.
    #[error("{model} made numbers beyond the range of half precision (fp16)")]
    Overflow {
        /// Which model.
        model: String,
    },
    /// The memory ran out; what was taken is free again.
    #[error("{details} (memory plan: {plan})")]
    OutOfMemory {
        /// What libtorch said.
        details: String,
        /// The plan that was too large.
        plan: MemoryPlan,
    },
    /// libtorch failed.
    #[error("libtorch: {}", first_line(.0))]
    Torch(#[from] TchError),
    /// A bug of ours; the engine survives it.
    #[error("internal error: {0}")]
    Internal(String),
}

impl From<WeightsError> for StepError {
    fn from(error: WeightsError) -> Self {
        match error {
            WeightsError::Cancelled => Self::Cancelled,
            error => Self::Weights(error),
        }
    }
}

impl StepError {
    /// The same, with the memory plan in it where the memory ran out.
    pub(crate) fn with_plan(self, plan: MemoryPlan) -> Self {
        match self.is_out_of_memory() {
            true => Self::OutOfMemory { details: self.to_string(), plan },
            false => self,
        }
    }

    /// Whether there was not enough memory, on a device or in the machine.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::OutOfMemory { .. } => true,
            Self::Torch(error) | Self::Weights(WeightsError::Torch(error)) => {
                let text = error.to_string();
                ["out of memory", "can't allocate memory", "not enough memory"].iter().any(|words| text.contains(words))
            }
            _ => false,
        }
    }
}

/// libtorch's messages carry a C++ stack trace behind the first line.
fn first_line(error: &TchError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// What a super-resolution model is given.
#[derive(Clone, Debug)]
pub struct StepInput {
    /// The region's own pixels: what an upscaling network takes.
    pub cut: Arc<Picture>,
    /// The region enlarged by bicubic to the size of the result: what a restoring model takes.
    pub enlarged: Arc<Picture>,
    /// Words for the region; models that take none ignore them.
    pub prompt: String,
    /// For models that draw noise.
    pub seed: u64,
}

impl StepInput {
    /// Cuts `region` out of `source` and enlarges (or reduces) it to `width` x `height`, as the reference does.
    pub fn cut(source: &Picture, region: Region, width: u32, height: u32) -> Result<(Picture, Picture), StepError> {
        if !region.fits(source.width(), source.height()) {
            return Err(StepError::Outside { region, width: source.width(), height: source.height() });
        }
        let cut = source.crop(region.x.into(), region.y.into(), region.width, region.height);
        let enlarged = resize(&cut, width, height, Filter::Bicubic);
        Ok((cut, enlarged))
    }
}

/// Restores a region. Lives on the engine's thread.
pub trait SuperResolver: Send {
    /// The picture for `input`, of the size of `input.enlarged`. Asks `progress` often whether to go on.
    fn restore(&mut self, input: &StepInput, progress: &mut Progress) -> Result<Picture, StepError>;

    /// Does ahead what needs no words; a later [`SuperResolver::restore`] of the same picture need not do it again.
    fn prepare(&mut self, _enlarged: &Arc<Picture>, _progress: &mut Progress) -> Result<(), StepError> {
        Ok(())
    }

    /// The pictures of the tiles by which a whole picture is restored, each to be asked about; none for models that hear
    /// no words.
    fn tiles(&mut self, _input: &WholeInput, _progress: &mut Progress) -> Result<Vec<Arc<Picture>>, StepError> {
        Ok(Vec::new())
    }

    /// Restores a whole picture: the result has the size of `input.enlarged`. One prompt for each tile, or one for all.
    fn restore_whole(
        &mut self,
        input: &WholeInput,
        _prompts: &[String],
        progress: &mut Progress,
    ) -> Result<Picture, StepError> {
        let WholeInput { source, enlarged, seed, .. } = input.clone();
        self.restore(&StepInput { cut: source, enlarged, prompt: String::new(), seed }, progress)
    }

    /// Seconds that a cut of this size will take; `None` for models that cannot tell quickly.
    fn estimate_secs(&mut self, _width: u32, _height: u32) -> Result<Option<f64>, StepError> {
        Ok(None)
    }

    /// Makes room for another model, unless its plan is to stay.
    fn rest(&mut self) {}

    /// Which of its weights stay in memory, for models that can choose.
    fn plan(&self) -> Option<MemoryPlan> {
        None
    }
}

/// Plain interpolation, the baseline: no model.
pub struct Interpolation(pub Filter);

impl SuperResolver for Interpolation {
    fn restore(&mut self, input: &StepInput, _: &mut Progress) -> Result<Picture, StepError> {
        Ok(resize(&input.cut, input.enlarged.width(), input.enlarged.height(), self.0))
    }
}

/// The model that made a picture, as it is remembered: enough to use it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelUsed {
    /// Which.
    pub backbone: Backbone,
    /// How colours were matched afterwards.
    pub align: AlignMethod,
    /// SHA-256 of its file, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

impl ModelUsed {
    /// For people.
    pub fn name(&self) -> String {
        self.backbone.name()
    }

    /// Whether it heard the prompt.
    pub fn takes_text(&self) -> bool {
        self.backbone.takes_text()
    }
}

/// Which super-resolution model to use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backbone {
    /// Nearest neighbour.
    Nearest,
    /// Pillow's bicubic.
    Bicubic,
    /// The small network inside the program.
    #[default]
    BuiltIn,
    /// A network of the ESRGAN family from a file.
    File(PathBuf),
    /// Chain-of-Zoom's own: OSEDiff on Stable Diffusion 3.
    Sd3(Sd3Files),
}

impl Backbone {
    /// For people: panels, messages, metadata.
    pub fn name(&self) -> String {
        match self {
            Backbone::Nearest => "Nearest neighbour".into(),
            Backbone::Bicubic => "Bicubic".into(),
            Backbone::BuiltIn => "Built-in x4".into(),
            Backbone::File(file) => file.file_stem().unwrap_or(file.as_os_str()).to_string_lossy().into_owned(),
            Backbone::Sd3(_) => "Chain-of-Zoom SD3".into(),
        }
    }

    /// The network of a file, or the built-in one; `None` for models of other kinds.
    pub fn network(&self, device: DeviceChoice) -> Result<Option<Network>, StepError> {
        Ok(match self {
            Backbone::BuiltIn => Some(Network::built_in(device.resolve()?.picture)?),
            Backbone::File(file) => Some(Network::open(file, device.resolve()?.picture)?),
            Backbone::Nearest | Backbone::Bicubic | Backbone::Sd3(_) => None,
        })
    }

    /// Whether its results depend on the prompt.
    pub fn takes_text(&self) -> bool {
        match self {
            Backbone::Nearest | Backbone::Bicubic | Backbone::BuiltIn | Backbone::File(_) => false,
            Backbone::Sd3(_) => true,
        }
    }

    /// As it will be on this device, with what is left to the device decided: what a result is remembered by.
    pub fn settled(&self, device: DeviceChoice) -> Self {
        match self {
            Backbone::Sd3(files) => {
                let picture = device.resolve().map_or(tch::Device::Cpu, |devices| devices.picture);
                Backbone::Sd3(Sd3Files { precision: files.precision_on(picture), ..files.clone() })
            }
            other => other.clone(),
        }
    }

    /// In which numbers it computes, where there is a choice.
    pub fn precision(&self) -> Option<Precision> {
        match self {
            Backbone::Sd3(files) => Some(files.precision),
            _ => None,
        }
    }

    /// Loads it, where another model needs `beside` bytes of the same memory. Slow: on the engine's thread only.
    pub fn load(
        &self,
        device: DeviceChoice,
        memory: MemoryPlan,
        beside: u64,
    ) -> Result<Box<dyn SuperResolver>, StepError> {
        Ok(match self {
            Backbone::Nearest => Box::new(Interpolation(Filter::Nearest)),
            Backbone::Bicubic => Box::new(Interpolation(Filter::Bicubic)),
            Backbone::BuiltIn => Box::new(Network::built_in(device.resolve()?.picture)?),
            Backbone::File(file) => Box::new(Network::open(Path::new(file), device.resolve()?.picture)?),
            Backbone::Sd3(files) => Box::new(Osediff::open(files, device.resolve()?, memory, beside)?),
        })
    }
}

/// While this lives, this thread computes without keeping what training would need.
pub fn without_gradients() -> impl Drop {
    tch::no_grad_guard()
}
