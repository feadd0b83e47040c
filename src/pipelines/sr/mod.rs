//! Super-resolution models behind one trait: interpolation, single-image networks, diffusion. A new one is a folder here,
//! a line in `REGISTRY` and a row of [`BACKBONES`](crate::base::BACKBONES).

mod interpolation;
mod osediff;
mod upscaler;

use std::sync::Arc;

use tch::Device;

pub use interpolation::Interpolation;
pub use osediff::TextEncoder;
pub use osediff::sd3::prompts::{Embeds, PromptEncoder};
pub use upscaler::Upscaler;

use super::{FullImageInput, PartialResult, PipelineError};
use crate::base::{BUILT_IN, Backbone, DeviceChoice, MemoryPlan, Progress, Region, StepEstimate};
use crate::checkpoint;
use crate::imaging::{Filter, Picture, resize};
use crate::runtime::device;
use crate::runtime::device::Devices;

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
    pub fn cut(source: &Picture, region: Region, width: u32, height: u32) -> Result<(Picture, Picture), PipelineError> {
        if !region.fits(source.width(), source.height()) {
            return Err(PipelineError::Outside { region, width: source.width(), height: source.height() });
        }
        let cut = source.crop(region.x.into(), region.y.into(), region.width, region.height);
        let enlarged = resize(&cut, width, height, Filter::Bicubic);
        Ok((cut, enlarged))
    }
}

/// Restores a region. Lives on the engine's thread.
pub trait SuperResolver: Send {
    /// The picture for `input`, of the size of `input.enlarged`. Asks `progress` often whether to go on.
    fn restore(&mut self, input: &StepInput, progress: &mut Progress) -> Result<Picture, PipelineError>;

    /// Does ahead what needs no prompt; a later [`SuperResolver::restore`] of the same picture need not do it again.
    fn prepare(&mut self, _enlarged: &Arc<Picture>, _progress: &mut Progress) -> Result<(), PipelineError> {
        Ok(())
    }

    /// The pictures of the tiles by which a full image is restored, each to be captioned; none for models that take no
    /// prompt.
    fn tiles(&mut self, _input: &FullImageInput, _progress: &mut Progress) -> Result<Vec<Arc<Picture>>, PipelineError> {
        Ok(Vec::new())
    }

    /// Restores a full image: the result has the size of `input.enlarged`. One prompt for each tile, or one for all.
    fn restore_full_image(
        &mut self,
        input: &FullImageInput,
        prompts: &[String],
        progress: &mut Progress,
        on_partial: &mut dyn FnMut(PartialResult),
    ) -> Result<Picture, PipelineError>;

    /// What a step from a cut to a result of these sizes will take, told in a moment; `None` where it is nothing to speak of.
    fn estimate(&mut self, _cut: (u32, u32), _result: (u32, u32)) -> Result<Option<StepEstimate>, PipelineError> {
        Ok(None)
    }

    /// The same of a full image.
    fn estimate_full_image(
        &mut self,
        source: (u32, u32),
        result: (u32, u32),
    ) -> Result<Option<StepEstimate>, PipelineError> {
        self.estimate(source, result)
    }

    /// Bytes that a step to a result of this size will take where prompts are written, beside what is in memory: weights, and
    /// what they compute with.
    fn bytes_to_load(&self, _result: (u32, u32)) -> u64 {
        0
    }

    /// Makes room for so many bytes of another model, unless its plan is to stay or they fit beside it.
    fn offload(&mut self, _needed: u64) {}

    /// Which of its weights stay in memory, for models that can choose.
    fn plan(&self) -> Option<MemoryPlan> {
        None
    }

    /// Follows this plan from now on, where it can choose.
    fn set_plan(&mut self, _plan: MemoryPlan) {}
}

type Open = fn(&Backbone, Devices, MemoryPlan, u64) -> Result<Box<dyn SuperResolver>, PipelineError>;

/// What opens each of [`BACKBONES`](crate::base::BACKBONES), by id.
const REGISTRY: [(&str, Open); 6] = [
    ("nearest", |_, _, _, _| Ok(Box::new(Interpolation(Filter::Nearest)))),
    ("bicubic", |_, _, _, _| Ok(Box::new(Interpolation(Filter::Bicubic)))),
    ("builtin", |backbone, devices, _, _| Ok(Box::new(Upscaler::of(backbone, devices.picture)?))),
    ("file", |backbone, devices, _, _| Ok(Box::new(Upscaler::of(backbone, devices.picture)?))),
    ("sd3", osediff::sd3::open),
    ("osediff-sd21", osediff::sd21::open),
];

/// Opens a model, where another model needs `other_model_bytes` of the same memory. Slow: on the engine's thread only.
pub fn open(
    backbone: &Backbone,
    device: DeviceChoice,
    memory: MemoryPlan,
    other_model_bytes: u64,
) -> Result<Box<dyn SuperResolver>, PipelineError> {
    let devices = device::resolve(device)?;
    let open = REGISTRY.iter().find(|(id, _)| *id == backbone.spec.id).map(|(_, open)| open);
    let unknown = || PipelineError::Internal(format!("nothing opens a model of the kind {}", backbone.spec.id));
    open.ok_or_else(unknown)?(backbone, devices, memory, other_model_bytes)
}

/// A model as it will be on this device, with what is left to the device decided: what a result is remembered by.
pub fn resolved(backbone: &Backbone, device: DeviceChoice) -> Backbone {
    if !backbone.is_diffusion() {
        return backbone.clone();
    }
    let device = device::resolve(device).map_or(Device::Cpu, |devices| devices.picture);
    Backbone { precision: osediff::precision_on(backbone, device), ..backbone.clone() }
}

/// SHA-256 of all weights of a model, in hexadecimal; `None` for those without. Slow for large ones, the first time.
pub fn weights_digest(backbone: &Backbone) -> Result<Option<String>, PipelineError> {
    if backbone.is(&BUILT_IN) {
        return Ok(Some(upscaler::built_in_digest()));
    }
    if backbone.spec.files.is_empty() {
        return Ok(None);
    }
    Ok(Some(checkpoint::weights_digest(backbone)?))
}

#[cfg(test)]
mod tests {
    use super::REGISTRY;
    use crate::base::BACKBONES;

    #[test]
    fn every_backbone_is_opened_by_something() {
        let (mut known, mut opened) = (BACKBONES.map(|spec| spec.id), REGISTRY.map(|(id, _)| id));
        known.sort_unstable();
        opened.sort_unstable();
        assert_eq!(known, opened);
    }
}
