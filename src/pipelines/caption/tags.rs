//! Tags of a picture, by RAM with DAPE (`ram/models/ram_lora.py`): the labels whose probability is above their own
//! thresholds, joined by commas.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::{CaptionInput, Captioner, required};
use crate::base::{MemoryPlan, Progress, PromptSource, Stage};
use crate::imaging::Picture;
use crate::networks::ram::Ram;
use crate::networks::ram::lora::RamLora;
use crate::pipelines::PipelineError;
use crate::runtime::memory::{ACTIVATIONS, has_room};
use crate::runtime::tensor::tensor_from_picture;
use crate::runtime::weights::{Loader, Weights};
use crate::runtime::{LazyModel, accelerator, precision};

/// Of the pictures the tower was trained on: ImageNet's.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// The tagger.
pub struct Tagger {
    network: LazyModel<Ram>,
    tags: Vec<String>,
    /// Of each tag's probability, float32 `[tags]`.
    thresholds: Tensor,
    device: Device,
    kind: Kind,
    plan: MemoryPlan,
}

fn lines(file: &Path, what: &str) -> Result<Vec<String>, PipelineError> {
    let text = std::fs::read_to_string(file).map_err(|error| PipelineError::TagList {
        file: file.to_owned(),
        found: format!("the list of {what} cannot be read: {error}"),
    })?;
    Ok(text.lines().map(str::to_owned).collect())
}

impl Tagger {
    /// Opens all files and compares every name and shape; weights are read with the first picture.
    pub fn open(source: &PromptSource, device: Device) -> Result<Self, PipelineError> {
        let [ram, tag_list, threshold_list] = ["ram", "tags", "thresholds"].map(|role| required(source, role));
        let (ram, tag_list, threshold_list) = (ram?, tag_list?, threshold_list?);
        let tags = lines(tag_list, "tags")?;
        let wrong = |found: String| PipelineError::TagList { file: threshold_list.to_owned(), found };
        let numbers: Result<Vec<f32>, _> = lines(threshold_list, "thresholds")?
            .iter()
            .enumerate()
            .map(|(i, line)| line.trim().parse().map_err(|_| wrong(format!("line {} is {line:?}, no number", i + 1))))
            .collect();
        let numbers = numbers?;
        if numbers.len() != tags.len() {
            return Err(wrong(format!("it holds {} thresholds for {} tags", numbers.len(), tags.len())));
        }
        let weights = Weights::open(ram)?;
        let labels = weights.shapes().into_iter().find(|(key, _)| key.ends_with("label_embed")).map(|(_, shape)| shape);
        if let Some(shape) = labels.filter(|shape| shape.first() != Some(&(tags.len() as i64))) {
            let found = format!("it holds {} tags; {} has labels {shape:?}", tags.len(), ram.display());
            return Err(PipelineError::TagList { file: tag_list.to_owned(), found });
        }
        let prefix = if weights.shapes().contains_key("model.label_embed") { "model." } else { "" };
        let lora = source.files.get("dape").map(Weights::open).transpose()?.map(RamLora::new).transpose()?;
        let lora = lora.unwrap_or_default();
        let kind = precision::for_weights(source.precision, &weights, device);
        let network = LazyModel::new(vec![weights.clone()], move |mode, on_read| {
            let mut loader = Loader::new(&weights, prefix, device, kind).mode(mode).on_read(on_read);
            Ram::load(&mut loader, &lora)
        })?;
        let thresholds = Tensor::f_from_slice(&numbers)?;
        Ok(Self { network, tags, thresholds, device, kind, plan: MemoryPlan::Resident })
    }

    /// What the tagger says of each label, float32 `[labels]`, before any threshold.
    pub fn logits(&mut self, picture: &Picture, progress: &mut Progress) -> Result<Tensor, PipelineError> {
        let network = self.network.get(progress)?;
        let pixels = tensor_from_picture(picture, self.device)?;
        let pixels = pixels.f_internal_upsample_bilinear2d_aa([network.side(); 2], false, None, None)?;
        let channels =
            |numbers: &[f32; 3]| Tensor::f_from_slice(numbers)?.f_view([1, 3, 1, 1])?.f_to_device(self.device);
        let pixels = pixels.f_sub(&channels(&MEAN)?)?.f_div(&channels(&DEVIATION)?)?;
        let mut on_progress = |fraction: f32| progress.at(Stage::Prompting, fraction).map_err(PipelineError::from);
        let logits = network.forward::<PipelineError>(&pixels, &mut on_progress)?;
        Ok(logits.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?)
    }

    fn tags(&mut self, picture: &Picture, progress: &mut Progress) -> Result<String, PipelineError> {
        let is_on = self.logits(picture, progress)?.f_sigmoid()?.f_gt_tensor(&self.thresholds)?;
        let is_on = Vec::<bool>::try_from(is_on)?;
        let on = self.tags.iter().zip(is_on).filter(|(_, is_on)| *is_on).map(|(tag, _)| tag.as_str());
        Ok(on.collect::<Vec<_>>().join(", "))
    }
}

impl Captioner for Tagger {
    fn caption(
        &mut self,
        input: &CaptionInput,
        progress: &mut Progress,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<String, PipelineError> {
        progress.at(Stage::Prompting, 0.0)?;
        let tags = self.tags(&input.enlarged, progress);
        let waited = accelerator::wait(self.device).map_err(PipelineError::from);
        self.network.unload_unless_kept();
        let tags = tags.and_then(|tags| waited.map(|()| tags)).map_err(|error| error.with_plan(self.plan))?;
        on_text(&tags);
        Ok(tags)
    }

    fn bytes(&self) -> u64 {
        self.network.bytes(self.kind.elt_size_in_bytes())
    }

    fn set_plan(&mut self, plan: MemoryPlan) {
        // Too small to be read in pieces.
        self.plan = plan;
    }

    fn bytes_loaded(&self) -> u64 {
        if self.network.is_open() { self.bytes() } else { 0 }
    }

    fn bytes_to_load(&self) -> u64 {
        self.bytes() - self.bytes_loaded() + ACTIVATIONS
    }

    fn offload(&mut self, needed: u64) {
        if self.plan != MemoryPlan::Resident && !has_room(self.device, needed) {
            self.network.unload_and_trim();
        }
    }
}
