//! Why a pipeline fails, and what the user reads then.

use std::any::Any;
use std::path::PathBuf;

use tch::{Kind, TchError};

use crate::base::{
    BACKBONES, BackboneSpec, Cancelled, DeviceChoice, FileSpec, MemoryPlan, Region, Remedy, UserError, bytes_label,
    names,
};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::sd3::STABLE_DIFFUSION_3;
use crate::imaging::ImageError;
use crate::networks::single_image::ARCHITECTURES;
use crate::runtime::device;
use crate::runtime::device::NoDevice;
use crate::runtime::weights::WeightsError;

/// What libtorch and NVIDIA's libraries say where memory is missing.
const OUT_OF_MEMORY: [&str; 8] = [
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "valid cuDNN algorithm",
];

/// Why a pipeline did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// Someone asked to stop; not a fault.
    #[error("cancelled")]
    Cancelled,
    /// The model could not be loaded.
    #[error(transparent)]
    Weights(WeightsError),
    /// No network we know has these keys.
    #[error("{} holds tensors, but of no network we know ({}); its first key is {first_key}", file.display(), names::either(&ARCHITECTURES.each_ref().map(|known| known.name)))]
    UnknownNetwork {
        /// The file.
        file: PathBuf,
        /// To recognise it by.
        first_key: String,
    },
    /// A whole diffusion model where a single network is expected.
    #[error("{} is a checkpoint of {model}, no single network", file.display())]
    DiffusionModel {
        /// The file.
        file: PathBuf,
        /// Which model.
        model: &'static str,
    },
    /// The model makes no numbers.
    #[error("{model} made values that are not numbers (NaN): its weights are damaged")]
    NotFinite {
        /// Which model.
        model: String,
    },
    /// A device that is not there was asked for.
    #[error(transparent)]
    NoDevice(#[from] NoDevice),
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
    /// A full image would become too large.
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
    /// A step was not begun: it would not have fitted into the memory that is free.
    #[error("{model} needs about {} for a result of {width} x {height}, and {} are free", bytes_label(*needed), bytes_label(*free))]
    WillNotFit {
        /// Which model.
        model: String,
        /// Bytes.
        needed: u64,
        /// Bytes.
        free: u64,
        /// Of the result.
        width: u32,
        /// Of the result.
        height: u32,
        /// A memory plan with which it would fit.
        plan: Option<MemoryPlan>,
        /// A side of the result with which it would.
        side: Option<u32>,
    },
    /// All tiles of the autoencoder would have to wait in memory at once.
    #[error("the tiles of a result of {width} x {height} take about {} while they wait for each other, and {} are free", bytes_label(*needed), bytes_label(*free))]
    TilesWillNotFit {
        /// Bytes.
        needed: u64,
        /// Bytes.
        free: u64,
        /// Of the result.
        width: u32,
        /// Of the result.
        height: u32,
    },
    /// A server of models does not answer as it should.
    #[error("{address}: {details}")]
    Server {
        /// Its address.
        address: String,
        /// What it, or the network, said.
        details: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// The picture to start from had left memory, and could not be reread.
    #[error(transparent)]
    Source(#[from] ImageError),
    /// libtorch failed.
    #[error("libtorch: {}", first_line(.0))]
    Torch(#[from] TchError),
    /// A bug of ours; the engine survives it.
    #[error("internal error: {0}")]
    Internal(String),
}

impl From<Cancelled> for PipelineError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

impl From<CheckpointError> for PipelineError {
    fn from(error: CheckpointError) -> Self {
        Self::Weights(error.into())
    }
}

impl From<WeightsError> for PipelineError {
    fn from(error: WeightsError) -> Self {
        match error {
            WeightsError::Cancelled => Self::Cancelled,
            error => Self::Weights(error),
        }
    }
}

impl PipelineError {
    /// A model of this dtype made values that are not numbers.
    pub(crate) fn not_finite(model: &str, kind: Kind) -> Self {
        let model = model.to_owned();
        if kind == Kind::Half { Self::Overflow { model } } else { Self::NotFinite { model } }
    }

    /// What a panic said.
    pub(crate) fn of_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
        Self::Internal(text.lines().next().unwrap_or_default().to_owned())
    }

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
                OUT_OF_MEMORY.iter().any(|words| text.contains(words))
            }
            _ => false,
        }
    }

    /// Whether a device may compute nothing any more for this process, so that all else fails there too.
    pub fn is_device_lost(&self) -> bool {
        let is_of_libtorch = matches!(self, Self::Torch(_) | Self::Weights(WeightsError::Torch(_)) | Self::Internal(_));
        is_of_libtorch && device::is_lost(&self.to_string())
    }

    /// In words, where a step was not begun and something smaller would fit.
    fn what_fits(&self) -> Option<String> {
        let Self::WillNotFit { plan, side, .. } = self else { return None };
        let plan = plan.map(|plan| format!("the memory plan \"{plan}\" (--memory {plan})"));
        let side = side.map(|side| format!("a size of {side} (--process-size {side})"));
        let fits: Vec<String> = plan.into_iter().chain(side).collect();
        (!fits.is_empty()).then(|| format!("What would fit: {}. Or close other programs.", fits.join("; ")))
    }
}

/// libtorch's messages carry a C++ stack trace behind the first line.
fn first_line(error: &TchError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

const SMALLER: &str = "Close other programs, or use a smaller size, a smaller model, or --device cpu.";

impl From<PipelineError> for UserError {
    fn from(error: PipelineError) -> Self {
        let (out_of_memory, is_lost) = (error.is_out_of_memory(), error.is_device_lost());
        let (title, hint) = match &error {
            PipelineError::Cancelled | PipelineError::Weights(WeightsError::Cancelled) => ("Cancelled", ""),
            PipelineError::OutOfMemory { plan: MemoryPlan::Auto | MemoryPlan::Resident, .. } => {
                ("Out of memory", "Choose the memory plan \"staged\" (--memory staged) and try again.")
            }
            PipelineError::OutOfMemory { plan: MemoryPlan::Staged, .. } => {
                ("Out of memory", "Choose the memory plan \"streamed\" (--memory streamed) and try again.")
            }
            _ if is_lost => (
                "The graphics card has stopped",
                "The device \"auto\" goes on without it (--device auto). To use the card, start the program again.",
            ),
            PipelineError::Torch(_) | PipelineError::Weights(WeightsError::Torch(_)) if out_of_memory => {
                ("Out of memory", SMALLER)
            }
            PipelineError::OutOfMemory { plan: MemoryPlan::Streamed, .. } => ("Out of memory", SMALLER),
            PipelineError::Overflow { .. } => {
                ("Half precision is not enough", "Use --mixed-precision bf16, which has the range of 32 bits.")
            }
            PipelineError::Weights(WeightsError::Checkpoint(CheckpointError::Io { .. })) => {
                ("The model file cannot be opened", "Check the path and the file's permissions.")
            }
            PipelineError::Weights(WeightsError::Checkpoint(CheckpointError::Format { .. })) => (
                "This is no model file",
                "Choose a .safetensors or .pth file, or ncnn's .param with its .bin; download it again if it is cut short.",
            ),
            PipelineError::Weights(WeightsError::Mismatch { .. }) => (
                "The model file does not fit",
                "It may be of another model, or of another size of it: choose the one it belongs to.",
            ),
            PipelineError::UnknownNetwork { .. } => {
                ("The model file does not fit", "Choose a file of one of these networks, or the built-in one.")
            }
            PipelineError::DiffusionModel { model: STABLE_DIFFUSION_3, .. } => (
                "This is a diffusion model",
                "Open it as Chain-of-Zoom SD3: --backbone sd3 --pretrained-model-name-or-path FILE.",
            ),
            PipelineError::DiffusionModel { .. } => {
                ("This is a diffusion model", "Of those in a single file only Stable Diffusion 3 is used here.")
            }
            PipelineError::NotFinite { .. } => {
                ("The model is damaged", "Download the file again, or choose another model.")
            }
            PipelineError::Weights(WeightsError::Checkpoint(CheckpointError::Incomplete { .. })) => {
                ("The model is not whole", "Put what is missing there; `coz models download sd3` brings all of it.")
            }
            PipelineError::Folder { .. }
            | PipelineError::Weights(WeightsError::Checkpoint(CheckpointError::Config { .. })) => (
                "The model's folder is not as it should be",
                "It needs all small files of the published model too; download it again.",
            ),
            PipelineError::TagList { .. } => (
                "The tagger's lists do not fit",
                "Put ram_tag_list.txt and ram_tag_list_threshold.txt of the reference's ram/data beside the checkpoint.",
            ),
            PipelineError::TooLarge { .. } => {
                ("The picture would become too large", "Enlarge it less, or zoom into a part of it.")
            }
            PipelineError::Narrow(_) => ("The picture is too narrow", "Choose a box that is less of a stripe."),
            PipelineError::Sides { .. } => {
                ("The state's size does not suit the model", "Use 512, or another multiple.")
            }
            PipelineError::NoDevice(_) => {
                ("The device is not there", "Use --device auto, or another number; `coz doctor` lists them.")
            }
            PipelineError::Outside { .. } => {
                ("The box is outside the picture", "Give X,Y,W,H inside the picture it is cut from.")
            }
            PipelineError::Torch(_) | PipelineError::Weights(WeightsError::Torch(_)) => {
                ("The model failed", "Try again; `coz doctor` shows what a bug report needs.")
            }
            PipelineError::WillNotFit { .. } => ("The step will not fit into memory", SMALLER),
            PipelineError::TilesWillNotFit { .. } => (
                "The picture will not fit into memory",
                "Encode and decode it exactly (--vae_mode exact; in the window under Models and memory), or enlarge less.",
            ),
            PipelineError::Source(_) => (
                "The picture could not be reread",
                "Its file in the data folder is gone or damaged: go on from another state.",
            ),
            PipelineError::Server { hint, .. } => ("The server does not answer as it should", *hint),
            PipelineError::Internal(_) => {
                ("Something broke inside", "Nothing is lost. Please report it with `coz doctor`.")
            }
        };
        let remedy = match &error {
            PipelineError::OutOfMemory { plan, .. } => plan.smaller().map(Remedy::Memory),
            PipelineError::WillNotFit { plan, .. } => plan.map(Remedy::Memory),
            // Which leaves out what has stopped.
            PipelineError::DiffusionModel { model: STABLE_DIFFUSION_3, .. } => {
                let takes_it = |spec: &&&BackboneSpec| spec.files.iter().any(FileSpec::takes_single_file);
                BACKBONES.iter().find(takes_it).copied().map(Remedy::Backbone)
            }
            PipelineError::NoDevice(_) => Some(Remedy::Device(DeviceChoice::Auto)),
            _ if is_lost => Some(Remedy::Device(DeviceChoice::Auto)),
            _ => None,
        };
        let hint = error.what_fits().unwrap_or_else(|| hint.to_owned());
        Self { remedy, ..Self::new(title, error.to_string(), &hint) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libraries_say_is_told_in_words() {
        for (said, title) in [
            ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "Out of memory"),
            ("Unable to find a valid cuDNN algorithm to run convolution", "Out of memory"),
            ("CUDA error: an illegal memory access was encountered", "The graphics card has stopped"),
            ("CUDA error: unspecified launch failure", "The graphics card has stopped"),
            ("CUDA error: invalid argument", "The model failed"),
        ] {
            let error = UserError::from(PipelineError::from(TchError::Torch(said.into())));
            assert_eq!(error.title, title, "{said}");
            let goes_on = Remedy::Device(DeviceChoice::Auto);
            assert_eq!(error.remedy, title.contains("card").then_some(goes_on), "{said}");
        }
    }
}
