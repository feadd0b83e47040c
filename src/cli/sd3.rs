//! The options that say where Chain-of-Zoom's own model is and how it is kept in memory, with the reference's names.

use std::path::PathBuf;

use clap::Args;

use crate::hub;
use crate::problem::Problem;
use crate::step::{Backbone, MemoryPlan, Precision, Sd3Files};

#[derive(Args)]
#[command(next_help_heading = "With --backbone sd3")]
pub struct Sd3Arguments {
    /// Folder in the layout of stabilityai/stable-diffusion-3-medium-diffusers, or such a name, which is looked for in
    /// the data folder and in the Hugging Face cache
    #[arg(long, alias = "pretrained_model_name_or_path", value_name = "FOLDER OR NAME")]
    pretrained_model_name_or_path: Option<PathBuf>,
    /// The transformer's LoRA, model_20001.pkl [default: ckpt/SR_LoRA/model_20001.pkl or in the data folder, if there]
    #[arg(long, alias = "lora_path", value_name = "FILE")]
    lora_path: Option<PathBuf>,
    /// The VAE encoder with its LoRA [default: ckpt/SR_VAE/vae_encoder_20001.pt or in the data folder, if there]
    #[arg(long, alias = "vae_path", value_name = "FILE")]
    vae_path: Option<PathBuf>,
    /// Numbers models compute in: auto (bf16 where the files hold 16 bits and the device is fast in it, else fp32), fp32,
    /// fp16 or bf16
    #[arg(long, alias = "mixed_precision", default_value_t = Precision::Auto)]
    mixed_precision: Precision,
    /// Which weights stay in memory: auto, resident (all), staged (not those for text) or streamed (none)
    #[arg(long, default_value_t = MemoryPlan::Auto)]
    memory: MemoryPlan,
    /// The same as --memory staged
    #[arg(long, alias = "efficient_memory", conflicts_with = "memory")]
    efficient_memory: bool,
}

impl Sd3Arguments {
    /// Whether any of its files is told, so that it is the model that is meant.
    fn is_told(&self) -> bool {
        self.pretrained_model_name_or_path.is_some() || self.lora_path.is_some() || self.vae_path.is_some()
    }

    /// The model asked for by name or file; without one, Chain-of-Zoom's own where one of its files is given, else the
    /// command's default.
    pub fn model(&self, backbone: Option<&str>, default: &str) -> Result<Backbone, Problem> {
        let name = backbone.unwrap_or(if self.is_told() { "sd3" } else { default });
        let model = match name {
            "sd3" => return self.files().map(Backbone::Sd3),
            other => super::backbone(other)
                .map_err(|details| Problem::new("The model is not clear", details, "See `coz zoom --help`."))?,
        };
        match model {
            Backbone::Sd3(_) => self.files().map(Backbone::Sd3),
            other => Ok(other),
        }
    }

    /// The files, found where they are not told.
    pub fn files(&self) -> Result<Sd3Files, Problem> {
        let files = hub::sd3(self.pretrained_model_name_or_path.as_deref())?;
        Ok(hub::with_training(Sd3Files {
            lora: self.lora_path.clone().or(files.lora),
            vae: self.vae_path.clone().or(files.vae),
            precision: self.mixed_precision,
            ..files
        }))
    }

    /// In which numbers models compute.
    pub fn precision(&self) -> Precision {
        self.mixed_precision
    }

    /// Which weights stay in memory.
    pub fn memory(&self) -> MemoryPlan {
        if self.efficient_memory { MemoryPlan::Staged } else { self.memory }
    }
}
