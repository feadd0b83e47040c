//! What can be downloaded: what each asset is for, who published it where and under which licence, and which of a
//! repository's files are needed.

use std::path::PathBuf;

use serde::{Serialize, Serializer};

use super::hash::Hash;
use super::paths::{ModelPaths, published_names};
use super::repository::{RAM, REAL_ESRGAN, RemoteFile, Repository, TRAINED};
use super::{metric_files, paths, realesrgan};
use crate::base::{BACKBONES, Backbone, Content, FileSpec, MetricFile, PROMPT_SOURCES, PromptSource, Published, names};

/// One of the things that can be downloaded.
#[derive(Debug)]
pub struct ModelAsset {
    /// As it is called in commands.
    pub id: &'static str,
    /// As people know it.
    pub title: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// Under which terms it is published.
    pub licence: &'static str,
    /// Bytes of it, about, before the hub has answered.
    pub size: u64,
    /// Where it is published.
    pub repository: Repository,
    /// The group in which the window offers it.
    pub group: &'static str,
    /// The files of models that it is, by [`FileSpec::id`].
    files: &'static [&'static str],
}

const OWN: &str = "Chain-of-Zoom's own model";
const VLM: &str = "Prompts by Qwen2.5-VL, tuned";
const TAGS: &str = "Prompts by tags";
const METRICS: &str = "Metrics of pictures";
const IQA: Repository = Repository { id: "chaofengc/IQA-PyTorch-Weights", is_space: false };
const NOT_FOR_COMMERCE: &str = "CC BY-NC-SA 4.0, as its page says: not for commercial use";
const AS_ITS_AUTHORS_SAY: &str = "as its authors say on their page";

/// All of them, in the order in which they are of use.
pub static ASSETS: [ModelAsset; 14] = [
    ModelAsset {
        id: "realesrgan",
        title: "Real-ESRGAN",
        purpose: "sharp detail on any processor; two more networks for drawings",
        licence: "BSD-3-Clause",
        size: realesrgan::SIZE,
        repository: REAL_ESRGAN,
        group: "Real-ESRGAN: sharp detail on any processor",
        files: &[],
    },
    ModelAsset {
        id: "sd3",
        title: "Stable Diffusion 3 medium",
        purpose: "restores what was zoomed into",
        licence: "Stability AI Community License, to be accepted on its page",
        size: 15_900_000_000,
        repository: Repository { id: "stabilityai/stable-diffusion-3-medium-diffusers", is_space: false },
        group: OWN,
        files: &["sd3"],
    },
    ModelAsset {
        id: "lora",
        title: "Chain-of-Zoom LoRA",
        purpose: "teaches Stable Diffusion 3 to restore in one step",
        licence: AS_ITS_AUTHORS_SAY,
        size: 6_000_000,
        repository: TRAINED,
        group: OWN,
        files: &["lora"],
    },
    ModelAsset {
        id: "encoder",
        title: "Chain-of-Zoom VAE encoder",
        purpose: "shows it blurred pictures as it was trained to see them",
        licence: AS_ITS_AUTHORS_SAY,
        size: 72_000_000,
        repository: TRAINED,
        group: OWN,
        files: &["vae"],
    },
    ModelAsset {
        id: "vlm",
        title: "Qwen2.5-VL-3B-Instruct",
        purpose: "describes what is in the box",
        licence: "Qwen Research License: not for commercial use",
        size: 7_520_000_000,
        repository: Repository { id: "Qwen/Qwen2.5-VL-3B-Instruct", is_space: false },
        group: VLM,
        files: &["vlm"],
    },
    ModelAsset {
        id: "vlm-lora",
        title: "Chain-of-Zoom VLM LoRA",
        purpose: "has it describe what helps, without chatter",
        licence: AS_ITS_AUTHORS_SAY,
        size: 60_000_000,
        repository: TRAINED,
        group: VLM,
        files: &["adapter"],
    },
    ModelAsset {
        id: "ram",
        title: "RAM (Recognize Anything)",
        purpose: "names what is in the box",
        licence: "Apache-2.0",
        size: 5_630_000_000,
        repository: RAM,
        group: TAGS,
        files: &["ram"],
    },
    ModelAsset {
        id: "dape",
        title: "DAPE",
        purpose: "lets RAM see through blur",
        licence: "Apache-2.0",
        size: 9_000_000,
        repository: TRAINED,
        group: TAGS,
        files: &["dape"],
    },
    ModelAsset {
        id: "tags",
        title: "RAM's tag list",
        purpose: "the tags RAM knows",
        licence: "Apache-2.0",
        size: 120_000,
        repository: RAM,
        group: TAGS,
        files: &["tags", "thresholds"],
    },
    ModelAsset {
        id: "musiq",
        title: "MUSIQ",
        purpose: "judges a picture as people would",
        licence: NOT_FOR_COMMERCE,
        size: 108_610_983,
        repository: IQA,
        group: METRICS,
        files: &["musiq"],
    },
    ModelAsset {
        id: "maniqa",
        title: "MANIQA",
        purpose: "the same, trained on restored pictures",
        licence: NOT_FOR_COMMERCE,
        size: 543_000_000,
        repository: IQA,
        group: METRICS,
        files: &["maniqa"],
    },
    ModelAsset {
        id: "clip",
        title: "CLIP RN50",
        purpose: "for CLIP-IQA: rather a good image than a bad one?",
        licence: "MIT",
        size: 408_000_000,
        repository: Repository { id: "timm/resnet50_clip.openai", is_space: false },
        group: METRICS,
        files: &["clip-rn50"],
    },
    ModelAsset {
        id: "vgg16",
        title: "VGG16",
        purpose: "for DISTS and LPIPS-VGG, which compare pictures",
        licence: "BSD-3-Clause",
        size: 553_000_000,
        repository: Repository { id: "timm/vgg16.tv_in1k", is_space: false },
        group: METRICS,
        files: &["vgg16"],
    },
    ModelAsset {
        id: "lpips",
        title: "LPIPS and DISTS",
        purpose: "what VGG16 and AlexNet see, weighed; AlexNet itself comes with PyTorch",
        licence: NOT_FOR_COMMERCE,
        size: 27_000,
        repository: IQA,
        group: METRICS,
        files: &["lpips-alex", "lpips-vgg", "dists"],
    },
];

impl PartialEq for ModelAsset {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for ModelAsset {}

impl Serialize for ModelAsset {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id)
    }
}

/// What is known of an asset on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Where it is, whole or not.
    pub place: Option<PathBuf>,
    /// What of it is not there.
    pub missing: Vec<PathBuf>,
}

impl Found {
    /// Whether all of it is there.
    pub fn is_whole(&self) -> bool {
        self.place.is_some() && self.missing.is_empty()
    }
}

impl ModelAsset {
    /// The asset of this id.
    ///
    /// # Errors
    /// Which there are, in words.
    pub fn named(id: &str) -> Result<&'static Self, String> {
        ASSETS.iter().find(|asset| asset.id == id).ok_or_else(|| {
            let ids = ASSETS.each_ref().map(|asset| asset.id);
            format!("expected {}, found {id:?}", names::either(&ids))
        })
    }

    /// Real-ESRGAN's networks, which pip brings rather than the hub.
    pub fn realesrgan() -> &'static Self {
        &ASSETS[0]
    }

    /// The one that a model was published as, where it is one of these.
    pub fn of(backbone: &Backbone) -> Option<&'static Self> {
        let main = backbone.spec.files.first()?;
        match backbone.network_file() {
            Some(file) => Some(Self::realesrgan()).filter(|_| realesrgan::is_one(file)),
            None => ASSETS.iter().find(|asset| asset.files.contains(&main.id)),
        }
    }

    /// The models' files that it is, with the first file of the model each belongs to.
    fn file_specs(&self) -> impl Iterator<Item = (&'static FileSpec, &'static FileSpec)> {
        let backbones = BACKBONES.iter().map(|spec| spec.files);
        let all = backbones.chain(PROMPT_SOURCES.iter().map(|spec| spec.files));
        let find = move |id: &str| {
            all.clone().find_map(|files| files.iter().find(|file| file.id == id).map(|file| (file, &files[0])))
        };
        self.files.iter().filter_map(move |id| find(id))
    }

    /// The files of metrics that it is.
    fn metric_files(&self) -> impl Iterator<Item = &'static MetricFile> {
        self.files.iter().filter_map(|id| metric_files::named(id))
    }

    /// Whether steps with this model and this source of prompts use it.
    pub fn is_needed_by(&self, backbone: &Backbone, source: &PromptSource) -> bool {
        if self == Self::realesrgan() {
            return backbone.network_file().is_some_and(realesrgan::is_named);
        }
        let mut used = backbone.spec.files.iter().chain(source.spec.files);
        used.any(|file| self.files.contains(&file.id))
    }

    /// What of it is on this machine, and where; the user may have said where some are.
    pub fn found(&self, explicit: &ModelPaths) -> Found {
        let metrics: Vec<&MetricFile> = self.metric_files().collect();
        if !metrics.is_empty() {
            let (here, missing): (Vec<_>, Vec<_>) = metrics
                .iter()
                .map(|file| (metric_files::place(file, None), file))
                .partition(|(place, _)| place.is_some());
            let place = here.into_iter().find_map(|(place, _)| place);
            return Found { place, missing: missing.into_iter().map(|(_, file)| file.published[0].into()).collect() };
        }
        let place = match self.file_specs().next() {
            None => realesrgan::realesrgan(),
            Some((file, first)) => {
                let main = paths::find(first, explicit, None).ok().flatten();
                let beside = main.filter(|_| !std::ptr::eq(file, first));
                paths::find(file, explicit, beside.as_deref()).ok().flatten()
            }
        };
        let missing = place.as_ref().map(|place| match self.file_specs().next() {
            Some((file, _)) => paths::missing_in(file, place),
            None => Vec::new(),
        });
        Found { place, missing: missing.unwrap_or_default() }
    }

    /// Which of the repository's files it needs.
    ///
    /// # Errors
    /// What the repository does not have.
    pub(super) fn needs(&self, files: &[RemoteFile]) -> Result<Vec<RemoteFile>, String> {
        let named = |name: &str| files.iter().find(|file| file.name == name).cloned();
        if self == Self::realesrgan() {
            // Whoever mirrors it, it is the file that its authors have published.
            let (name, published) = (realesrgan::MIRRORED, Hash::Sha256(realesrgan::MIRRORED_SHA256.into()));
            let file = named(name).filter(|file| file.hash == published);
            let lacking = format!("{name} with the SHA-256 {}", realesrgan::MIRRORED_SHA256);
            return Ok(vec![file.ok_or(lacking)?]);
        }
        let mut needed = Vec::new();
        for (_, name) in self.metric_files().filter_map(|file| file.hub) {
            needed.push(named(name).ok_or(name)?);
        }
        for (spec, _) in self.file_specs() {
            if let (Published::Path(path), false) = (spec.published, spec.is_folder()) {
                let names = published_names(path);
                let file = names.iter().find_map(|name| named(name));
                needed.push(file.ok_or_else(|| names[0].clone())?);
                continue;
            }
            let folder = match spec.published {
                Published::Path(path) => format!("ckpt/{path}/"),
                Published::Repository(_) | Published::Anywhere => String::new(),
            };
            for content in spec.contents {
                match *content {
                    Content::File(name) => {
                        let name = format!("{folder}{name}");
                        needed.push(named(&name).ok_or(name)?);
                    }
                    Content::SingleFile => {}
                    Content::Optional(name) => needed.extend(named(&format!("{folder}{name}"))),
                    Content::Weights("", stem) => needed.extend(weights(files, &folder, stem)?),
                    Content::Weights(inside, stem) => {
                        needed.extend(weights(files, &format!("{folder}{inside}/"), stem)?);
                    }
                }
            }
        }
        Ok(needed)
    }
}

/// The files of a model's weights, in 16 bits where there are such, with the index of its shards.
fn weights(files: &[RemoteFile], folder: &str, stem: &str) -> Result<Vec<RemoteFile>, String> {
    let named = |accepts: &dyn Fn(&str) -> bool| -> Vec<RemoteFile> {
        let inside = |file: &&RemoteFile| file.name.strip_prefix(folder).is_some_and(accepts);
        files.iter().filter(inside).cloned().collect()
    };
    for variant in [".fp16", ""] {
        let whole = named(&|name| name == format!("{stem}{variant}.safetensors"));
        if !whole.is_empty() {
            return Ok(whole);
        }
        let shards = named(&|name| {
            name.strip_prefix(&format!("{stem}{variant}-")).is_some_and(|rest| rest.ends_with(".safetensors"))
        });
        let index = named(&|name| {
            let names = match variant {
                "" => vec![format!("{stem}.safetensors.index.json")],
                _ => vec![format!("{stem}.safetensors.index.fp16.json"), format!("{stem}.fp16.safetensors.index.json")],
            };
            names.iter().any(|index| index == name)
        });
        if !shards.is_empty() && !index.is_empty() {
            return Ok(shards.into_iter().chain(index).collect());
        }
    }
    Err(format!("{folder}{stem}.safetensors"))
}
