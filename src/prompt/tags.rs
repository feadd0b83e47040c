//! Tags of a picture, by RAM with DAPE (`ram/models/ram_lora.py`): the labels whose probability is above their own
//! thresholds, joined by commas.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::{PromptInput, Prompter};
use crate::image::Picture;
use crate::image::tensor::tensor_from_picture;
use crate::models::ram::Ram;
use crate::models::ram::lora::Changes;
use crate::models::{Loader, Weights, accelerator};
use crate::step::{MemoryPlan, Part, Precision, Progress, Stage, StepError};

/// Of the pictures the tower was trained on: ImageNet's.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// Where the tagger's files are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagFiles {
    /// `ram_swin_large_14m.pth`.
    pub ram: PathBuf,
    /// DAPE's changes to it, `DAPE.pth`.
    pub dape: Option<PathBuf>,
    /// `ram_tag_list.txt`: a tag in each line.
    pub tags: PathBuf,
    /// `ram_tag_list_threshold.txt`: a number for each of them.
    pub thresholds: PathBuf,
    /// In which numbers it computes.
    #[serde(default)]
    pub precision: Precision,
}

impl TagFiles {
    /// The lists are looked for beside the checkpoint and in `data` there, and in `ram/data`, where the reference has them.
    pub fn beside(ram: &Path) -> Self {
        let folder = ram.parent().unwrap_or(Path::new("."));
        let places = [folder.to_owned(), folder.join("data"), folder.join("ram").join("data"), "ram/data".into()];
        let find = |name: &str| {
            let found = places.iter().map(|place| place.join(name)).find(|file| file.is_file());
            found.unwrap_or_else(|| folder.join(name))
        };
        Self {
            ram: ram.to_owned(),
            dape: None,
            tags: find("ram_tag_list.txt"),
            thresholds: find("ram_tag_list_threshold.txt"),
            precision: Precision::default(),
        }
    }
}

/// The tagger.
pub struct Tagger {
    network: Part<Ram>,
    tags: Vec<String>,
    /// Of each tag's probability, float32 `[tags]`.
    thresholds: Tensor,
    device: Device,
    kind: Kind,
    plan: MemoryPlan,
}

fn lines(file: &Path, what: &str) -> Result<Vec<String>, StepError> {
    let text = std::fs::read_to_string(file).map_err(|error| StepError::TagList {
        file: file.to_owned(),
        found: format!("the list of {what} cannot be read: {error}"),
    })?;
    Ok(text.lines().map(str::to_owned).collect())
}

impl Tagger {
    /// Opens all files and compares every name and shape; weights are read with the first picture.
    pub fn open(files: &TagFiles, device: Device) -> Result<Self, StepError> {
        let tags = lines(&files.tags, "tags")?;
        let wrong = |found: String| StepError::TagList { file: files.thresholds.clone(), found };
        let numbers: Result<Vec<f32>, _> = lines(&files.thresholds, "thresholds")?
            .iter()
            .enumerate()
            .map(|(i, line)| line.trim().parse().map_err(|_| wrong(format!("line {} is {line:?}, no number", i + 1))))
            .collect();
        let numbers = numbers?;
        if numbers.len() != tags.len() {
            return Err(wrong(format!("it holds {} thresholds for {} tags", numbers.len(), tags.len())));
        }
        let weights = Weights::open(&files.ram)?;
        let labels = weights.shapes().into_iter().find(|(key, _)| key.ends_with("label_embed")).map(|(_, shape)| shape);
        if let Some(shape) = labels.filter(|shape| shape.first() != Some(&(tags.len() as i64))) {
            let found = format!("it holds {} tags; {} has labels {shape:?}", tags.len(), files.ram.display());
            return Err(StepError::TagList { file: files.tags.clone(), found });
        }
        let prefix = if weights.shapes().contains_key("model.label_embed") { "model." } else { "" };
        let changes = files.dape.as_deref().map(Weights::open).transpose()?.map(Changes::new).transpose()?;
        let changes = changes.unwrap_or_default();
        let kind = files.precision.for_weights(&weights, device);
        let network = Part::new(vec![weights.clone()], move |reading, told| {
            let mut loader = Loader::new(&weights, prefix, device, kind).reading(reading).telling(told);
            Ok(Ram::load(&mut loader, &changes)?)
        })?;
        let thresholds = Tensor::f_from_slice(&numbers)?;
        Ok(Self { network, tags, thresholds, device, kind, plan: MemoryPlan::Resident })
    }

    /// What the tagger says of each label, float32 `[labels]`, before any threshold.
    pub fn logits(&mut self, picture: &Picture, progress: &mut Progress) -> Result<Tensor, StepError> {
        let network = self.network.read(progress)?;
        let pixels = tensor_from_picture(picture, self.device)?;
        let pixels = pixels.f_internal_upsample_bilinear2d_aa([network.side(); 2], false, None, None)?;
        let channels =
            |numbers: &[f32; 3]| Tensor::f_from_slice(numbers)?.f_view([1, 3, 1, 1])?.f_to_device(self.device);
        let pixels = pixels.f_sub(&channels(&MEAN)?)?.f_div(&channels(&DEVIATION)?)?;
        let mut between = |fraction: f32| progress.at(Stage::Prompting, fraction);
        let logits = network.forward::<StepError>(&pixels, &mut between)?;
        Ok(logits.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?)
    }

    fn tags(&mut self, picture: &Picture, progress: &mut Progress) -> Result<String, StepError> {
        let is_on = self.logits(picture, progress)?.f_sigmoid()?.f_gt_tensor(&self.thresholds)?;
        let is_on = Vec::<bool>::try_from(is_on)?;
        let on = self.tags.iter().zip(is_on).filter(|(_, is_on)| *is_on).map(|(tag, _)| tag.as_str());
        Ok(on.collect::<Vec<_>>().join(", "))
    }
}

impl Prompter for Tagger {
    fn propose(
        &mut self,
        input: &PromptInput,
        progress: &mut Progress,
        told: &mut dyn FnMut(&str),
    ) -> Result<String, StepError> {
        progress.at(Stage::Prompting, 0.0)?;
        let tags = self.tags(&input.enlarged, progress);
        accelerator::wait(self.device);
        self.network.done();
        let tags = tags.map_err(|error| error.with_plan(self.plan))?;
        told(&tags);
        Ok(tags)
    }

    fn bytes(&self) -> u64 {
        self.network.bytes(self.kind.elt_size_in_bytes())
    }

    fn follow(&mut self, plan: MemoryPlan) {
        // Too small to be read in pieces.
        self.plan = plan;
    }

    fn rest(&mut self) {
        if self.plan != MemoryPlan::Resident {
            self.network.make_room();
        }
    }
}
