//! The parts that Chain-of-Zoom is made of: what each is for, who published it where and under which licence, and which
//! of a repository's files are needed.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use hf_hub::{Repo, RepoType};
use serde::Serialize;

use super::remote::RemoteFile;
use super::store::Hash;
use super::{SD3, VLM, extractor, folder, realesrgan, sd3, with_training};
use crate::models::Weights;
use crate::prompt::{Extractor, ExtractorKind, Places};
use crate::step::{Backbone, Precision};

/// Where the files of Chain-of-Zoom's own training are published with its demonstration.
pub(super) const TRAINED: Repository = Repository { id: "alexnasa/Chain-of-Zoom", is_space: true };
/// Where Real-ESRGAN's network is mirrored, for machines without pip.
const REAL_ESRGAN: Repository = Repository { id: "lllyasviel/Annotators", is_space: false };
/// Where RAM is published.
pub(super) const RAM: Repository = Repository { id: "xinyu1205/recognize-anything", is_space: true };

/// A repository on the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repository {
    /// `owner/name`.
    pub id: &'static str,
    /// A demonstration rather than a model.
    pub is_space: bool,
}

impl Repository {
    /// As the hub's library knows it; at a commit, or as it is now.
    pub(super) fn at(self, commit: Option<&str>) -> Repo {
        let kind = if self.is_space { RepoType::Space } else { RepoType::Model };
        Repo::with_revision(self.id.to_owned(), kind, commit.unwrap_or("main").to_owned())
    }

    /// The page where a person reads about it.
    pub fn page(self) -> String {
        format!("https://huggingface.co/{}", self.at(None).url())
    }
}

/// One of the things that can be downloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Real-ESRGAN's networks.
    #[serde(rename = "realesrgan")]
    RealEsrgan,
    /// Stable Diffusion 3 medium.
    Sd3,
    /// The LoRA of its transformer.
    Lora,
    /// The encoder of its autoencoder, trained again.
    Encoder,
    /// Qwen2.5-VL-3B.
    Vlm,
    /// Its adapter.
    VlmLora,
    /// Recognize Anything.
    Ram,
    /// Its changes for degraded pictures.
    Dape,
    /// Its tags and their thresholds.
    Tags,
}

/// What is known of a part on this machine.
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

impl Part {
    /// All of them, in the order in which they are of use.
    pub const ALL: [Self; 9] = [
        Self::RealEsrgan,
        Self::Sd3,
        Self::Lora,
        Self::Encoder,
        Self::Vlm,
        Self::VlmLora,
        Self::Ram,
        Self::Dape,
        Self::Tags,
    ];

    /// As it is called in commands.
    pub fn name(self) -> &'static str {
        match self {
            Self::RealEsrgan => "realesrgan",
            Self::Sd3 => "sd3",
            Self::Lora => "lora",
            Self::Encoder => "encoder",
            Self::Vlm => "vlm",
            Self::VlmLora => "vlm-lora",
            Self::Ram => "ram",
            Self::Dape => "dape",
            Self::Tags => "tags",
        }
    }

    /// As people know it.
    pub fn title(self) -> &'static str {
        match self {
            Self::RealEsrgan => "Real-ESRGAN",
            Self::Sd3 => "Stable Diffusion 3 medium",
            Self::Lora => "Chain-of-Zoom LoRA",
            Self::Encoder => "Chain-of-Zoom VAE encoder",
            Self::Vlm => "Qwen2.5-VL-3B-Instruct",
            Self::VlmLora => "Chain-of-Zoom VLM LoRA",
            Self::Ram => "RAM (Recognize Anything)",
            Self::Dape => "DAPE",
            Self::Tags => "RAM's tag list",
        }
    }

    /// What it is for.
    pub fn purpose(self) -> &'static str {
        match self {
            Self::RealEsrgan => "sharp detail on any processor; two more networks for drawings",
            Self::Sd3 => "restores what was zoomed into",
            Self::Lora => "teaches Stable Diffusion 3 to restore in one step",
            Self::Encoder => "shows it blurred pictures as it was trained to see them",
            Self::Vlm => "describes what is in the box",
            Self::VlmLora => "has it describe what helps, without chatter",
            Self::Ram => "names what is in the box",
            Self::Dape => "lets RAM see through blur",
            Self::Tags => "the words RAM knows",
        }
    }

    /// Under which terms it is published.
    pub fn licence(self) -> &'static str {
        match self {
            Self::RealEsrgan => "BSD-3-Clause",
            Self::Sd3 => "Stability AI Community License, to be accepted on its page",
            Self::Vlm => "Qwen Research License: not for commercial use",
            Self::Ram | Self::Dape | Self::Tags => "Apache-2.0",
            Self::Lora | Self::Encoder | Self::VlmLora => "as its authors say on their page",
        }
    }

    /// Bytes of it, about, before the hub has told.
    pub fn size(self) -> u64 {
        match self {
            Self::RealEsrgan => realesrgan::SIZE,
            Self::Sd3 => 15_900_000_000,
            Self::Lora => 6_000_000,
            Self::Encoder => 72_000_000,
            Self::Vlm => 7_520_000_000,
            Self::VlmLora => 60_000_000,
            Self::Ram => 5_630_000_000,
            Self::Dape => 9_000_000,
            Self::Tags => 120_000,
        }
    }

    /// Where it is published.
    pub fn repository(self) -> Repository {
        match self {
            Self::RealEsrgan => REAL_ESRGAN,
            Self::Sd3 => Repository { id: SD3, is_space: false },
            Self::Vlm => Repository { id: VLM, is_space: false },
            Self::Ram | Self::Tags => RAM,
            Self::Lora | Self::Encoder | Self::VlmLora | Self::Dape => TRAINED,
        }
    }

    /// Whether steps with this model and these words use it.
    pub fn is_needed_by(self, backbone: &Backbone, words: ExtractorKind) -> bool {
        match self {
            Self::RealEsrgan => matches!(backbone, Backbone::File(file) if realesrgan::is_named(file)),
            Self::Sd3 | Self::Lora | Self::Encoder => matches!(backbone, Backbone::Sd3(_)),
            Self::Vlm => matches!(words, ExtractorKind::Vlm | ExtractorKind::Tuned),
            Self::VlmLora => words == ExtractorKind::Tuned,
            Self::Ram | Self::Dape | Self::Tags => words == ExtractorKind::Tags,
        }
    }

    /// What of it is on this machine, and where; the user may have said where some are.
    pub fn found(self, places: &Places) -> Found {
        let nothing = Found { place: None, missing: Vec::new() };
        let file = |file: Option<PathBuf>| match file.filter(|file| file.is_file()) {
            Some(file) => Found { place: Some(file), missing: Vec::new() },
            None => nothing.clone(),
        };
        let trained = || with_training(crate::step::Sd3Files::in_folder(&PathBuf::new()));
        let tagger = || match extractor(ExtractorKind::Tags, places, Precision::Auto) {
            Ok(Extractor::Tags(files)) => Some(files),
            _ => None,
        };
        match self {
            Self::RealEsrgan => file(realesrgan::realesrgan()),
            Self::Sd3 => match sd3(None) {
                Ok(files) => {
                    let missing = crate::step::Sd3Files { lora: None, vae: None, ..files.clone() }.missing();
                    Found { place: Some(files.model), missing }
                }
                Err(_) => nothing,
            },
            Self::Lora => file(sd3(None).ok().and_then(|files| files.lora).or_else(|| trained().lora)),
            Self::Encoder => file(sd3(None).ok().and_then(|files| files.vae).or_else(|| trained().vae)),
            Self::Vlm => match folder(places.vlm.as_deref().unwrap_or(VLM.as_ref()), "") {
                Ok(folder) => {
                    let small =
                        ["config.json", "tokenizer.json", "preprocessor_config.json"].map(|name| folder.join(name));
                    let mut missing: Vec<PathBuf> = small.into_iter().filter(|file| !file.is_file()).collect();
                    missing.extend(Weights::missing(&folder, "model"));
                    Found { place: Some(folder), missing }
                }
                Err(_) => nothing,
            },
            Self::VlmLora => match super::adapter(places) {
                Ok(folder) => Found { place: Some(folder), missing: Vec::new() },
                Err(_) => nothing,
            },
            Self::Ram => file(tagger().map(|files| files.ram)),
            Self::Dape => file(tagger().and_then(|files| files.dape).or_else(|| super::dape(places).ok())),
            Self::Tags => file(tagger().map(|files| files.tags).or_else(super::tag_list)),
        }
    }

    /// Which of the repository's files it needs.
    ///
    /// # Errors
    /// What the repository does not have.
    pub(super) fn needs(self, files: &[RemoteFile]) -> Result<Vec<RemoteFile>, String> {
        let mut needed = Vec::new();
        let named = |name: &str| files.iter().find(|file| file.name == name).cloned();
        let must = |name: String| named(&name).ok_or(name);
        match self {
            Self::Sd3 => {
                for name in ["tokenizer", "tokenizer_2"] {
                    for file in ["vocab.json", "merges.txt"] {
                        needed.push(must(format!("{name}/{file}"))?);
                    }
                }
                needed.push(must("tokenizer_3/tokenizer.json".into())?);
                for name in ["tokenizer", "tokenizer_2", "tokenizer_3"] {
                    let small = ["tokenizer_config.json", "special_tokens_map.json"];
                    needed.extend(small.iter().filter_map(|file| named(&format!("{name}/{file}"))));
                }
                for (name, stem) in [
                    ("text_encoder", "model"),
                    ("text_encoder_2", "model"),
                    ("text_encoder_3", "model"),
                    ("transformer", "diffusion_pytorch_model"),
                    ("vae", "diffusion_pytorch_model"),
                ] {
                    needed.push(must(format!("{name}/config.json"))?);
                    needed.extend(weights(files, &format!("{name}/"), stem)?);
                }
            }
            Self::Vlm => {
                for name in ["config.json", "tokenizer.json", "preprocessor_config.json"] {
                    needed.push(must(name.into())?);
                }
                let others = ["generation_config.json", "tokenizer_config.json", "processor_config.json"];
                let templates = ["chat_template.json", "chat_template.jinja"];
                needed.extend(others.iter().chain(&templates).filter_map(|name| named(name)));
                needed.extend(weights(files, "", "model")?);
            }
            Self::RealEsrgan => {
                // Whoever mirrors it, it is the file that its authors have published.
                let (name, published) = (realesrgan::MIRRORED, Hash::Sha256(realesrgan::MIRRORED_SHA256.into()));
                let file = named(name).filter(|file| file.hash == published);
                let lacking = format!("{name} with the SHA-256 {}", realesrgan::MIRRORED_SHA256);
                needed.push(file.ok_or(lacking)?);
            }
            Self::Lora => needed.push(must("ckpt/SR_LoRA/model_20001.pkl".into())?),
            Self::Encoder => needed.push(must("ckpt/SR_VAE/vae_encoder_20001.pt".into())?),
            Self::VlmLora => {
                for name in ["adapter_config.json", "adapter_model.safetensors"] {
                    needed.push(must(format!("ckpt/VLM_LoRA/checkpoint-10000/{name}"))?);
                }
            }
            Self::Dape => needed.push(must("ckpt/DAPE/DAPE.pth".into())?),
            Self::Ram => needed.push(must("ram_swin_large_14m.pth".into())?),
            Self::Tags => {
                for name in ["ram_tag_list.txt", "ram_tag_list_threshold.txt"] {
                    needed.push(must(format!("ram/data/{name}"))?);
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

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|part| part.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|part| part.name()).collect();
            format!("expected one of {}, found {text:?}", names.join(", "))
        })
    }
}
