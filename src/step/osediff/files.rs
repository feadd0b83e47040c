//! Which files Chain-of-Zoom's own model is made of, and in which numbers it computes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use crate::models::{Weights, accelerator};

/// In which numbers a model computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Bf16 where the weights are stored in 16 bits and the device is fast in it, else Fp32.
    #[default]
    Auto,
    /// 32 bits.
    Fp32,
    /// 16 bits, the VAE in 32: its numbers leave the range of these.
    Fp16,
    /// 16 bits with the range of 32.
    Bf16,
}

impl Precision {
    /// All, as people write and read them.
    pub const ALL: [(Self, &str); 4] =
        [(Self::Auto, "auto"), (Self::Fp32, "fp32"), (Self::Fp16, "fp16"), (Self::Bf16, "bf16")];

    /// The precision that `auto` stands for on a device.
    pub(in crate::step) fn on(self, device: Device) -> Self {
        match self {
            Self::Auto if device != Device::Cpu || accelerator::processor_has_bf16() => Self::Bf16,
            Self::Auto => Self::Fp32,
            told => told,
        }
    }

    /// Of a network whose numbers may all be of one kind: `auto` keeps 32 bits where the file has them.
    pub(crate) fn for_weights(self, weights: &Weights, device: Device) -> Kind {
        match self {
            Self::Auto if weights.is_wide() => Kind::Float,
            told => told.on(device).kinds().0,
        }
    }

    /// Of the transformer and the text encoders, and of the VAE.
    pub(super) fn kinds(self) -> (Kind, Kind) {
        match self {
            Self::Auto | Self::Fp32 => (Kind::Float, Kind::Float),
            Self::Fp16 => (Kind::Half, Kind::Float),
            Self::Bf16 => (Kind::BFloat16, Kind::BFloat16),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(precision, _)| precision == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().find(|(_, name)| *name == text);
        known
            .map(|(precision, _)| *precision)
            .ok_or_else(|| format!("expected auto, fp32, fp16 or bf16, found {text:?}"))
    }
}

/// Where the model's files are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sd3Files {
    /// A folder in the layout of `stabilityai/stable-diffusion-3-medium-diffusers`.
    pub model: PathBuf,
    /// The transformer's LoRA, `model_20001.pkl`.
    pub lora: Option<PathBuf>,
    /// The encoder with its LoRA, `vae_encoder_20001.pt`.
    pub vae: Option<PathBuf>,
    /// In which numbers it computes.
    #[serde(default)]
    pub precision: Precision,
}

impl Sd3Files {
    /// In which numbers it computes on a device: `auto` keeps 32 bits where the transformer's file has them.
    pub(in crate::step) fn precision_on(&self, device: Device) -> Precision {
        let is_wide = || {
            let folder = self.model.join("transformer");
            Weights::open_folder(&folder, "diffusion_pytorch_model").is_ok_and(|weights| weights.is_wide())
        };
        match self.precision {
            Precision::Auto if is_wide() => Precision::Fp32,
            told => told.on(device),
        }
    }

    /// A model's folder, with the files of Chain-of-Zoom's training where they lie in it or beside it.
    pub fn in_folder(model: &Path) -> Self {
        Self { model: model.to_owned(), lora: None, vae: None, precision: Precision::default() }
            .with_training_from(&[model, model.parent().unwrap_or(model)])
    }

    /// What is not told of the training's two files, looked for in these folders and their `ckpt` folders, where the
    /// reference keeps them.
    pub fn with_training_from(self, folders: &[&Path]) -> Self {
        let places = || folders.iter().flat_map(|folder| [(*folder).to_owned(), folder.join("ckpt")]);
        let find = |inside: &str, name: &str| {
            places().flat_map(|place| [place.join(name), place.join(inside).join(name)]).find(|file| file.is_file())
        };
        Self {
            lora: self.lora.or_else(|| find("SR_LoRA", "model_20001.pkl")),
            vae: self.vae.or_else(|| find("SR_VAE", "vae_encoder_20001.pt")),
            ..self
        }
    }

    /// What of it is not there, by name; nothing where it can be loaded.
    pub fn missing(&self) -> Vec<PathBuf> {
        let part = |name: &str| self.model.join(name);
        let texts = ["text_encoder", "text_encoder_2", "text_encoder_3"];
        let mut wanted: Vec<PathBuf> = ["tokenizer", "tokenizer_2"]
            .iter()
            .flat_map(|name| ["vocab.json", "merges.txt"].map(|file| part(name).join(file)))
            .collect();
        wanted.push(part("tokenizer_3").join("tokenizer.json"));
        wanted.extend(texts.iter().chain(&["transformer", "vae"]).map(|name| part(name).join("config.json")));
        wanted.extend(self.lora.iter().chain(&self.vae).cloned());
        let mut missing: Vec<PathBuf> = wanted.into_iter().filter(|file| !file.is_file()).collect();
        missing.extend(texts.iter().flat_map(|name| Weights::missing(&part(name), "model")));
        let pictures = ["transformer", "vae"];
        missing.extend(pictures.iter().flat_map(|name| Weights::missing(&part(name), "diffusion_pytorch_model")));
        missing
    }
}
