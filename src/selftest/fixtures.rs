//! Tiny models and the reference's own numbers for them: those of `tests/parity`, which `build.rs` packs into the program.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use tch::{Device, Tensor};
use tempfile::TempDir;
use zip::ZipArchive;
use zip::result::ZipError;

use crate::base::{Backbone, BackboneSpec, Precision, PromptSource, PromptSourceSpec};
use crate::imaging::Picture;
use crate::pipelines::PipelineError;
use crate::runtime::weights::Weights;

static ARCHIVE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/selftest.zip"));

/// The fixtures, unpacked into a folder that goes with this.
pub(super) struct Fixtures(TempDir);

impl Fixtures {
    pub(super) fn unpack() -> Result<Self, ZipError> {
        let folder = tempfile::tempdir()?;
        ZipArchive::new(Cursor::new(ARCHIVE))?.extract(folder.path())?;
        Ok(Self(folder))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(super) fn config<C: DeserializeOwned>(&self, name: &str) -> Result<C, PipelineError> {
        serde_json::from_slice(&self.bytes(name)?).map_err(|error| PipelineError::Internal(format!("{name}: {error}")))
    }

    pub(super) fn bytes(&self, name: &str) -> Result<Vec<u8>, PipelineError> {
        std::fs::read(self.path(name)).map_err(|error| PipelineError::Internal(format!("{name}: {error}")))
    }

    pub(super) fn weights(&self, name: &str) -> Result<Weights, PipelineError> {
        Ok(Weights::open(&self.path(name))?)
    }

    /// What the reference makes of these models.
    pub(super) fn cases(&self, model: &str) -> Result<Cases, PipelineError> {
        let tensors = Tensor::read_safetensors(self.path(&format!("{model}/cases.safetensors")))?;
        Ok(Cases(tensors.into_iter().collect()))
    }

    /// Chain-of-Zoom's own model, LoRAs included.
    pub(super) fn sd3(&self, precision: Precision) -> Result<Backbone, PipelineError> {
        let unknown = || PipelineError::Internal("there is no backbone sd3".into());
        let backbone = Backbone::from(BackboneSpec::named("sd3").ok_or_else(unknown)?)
            .with("model", self.path("sd3"))
            .with("lora", self.path("sd3/model_20001.pkl"))
            .with("vae", self.path("sd3/vae_encoder_20001.pt"));
        Ok(Backbone { precision, ..backbone })
    }

    /// OSEDiff on Stable Diffusion 2.1.
    pub(super) fn sd21(&self) -> Result<Backbone, PipelineError> {
        let unknown = || PipelineError::Internal("there is no backbone osediff-sd21".into());
        let backbone = Backbone::from(BackboneSpec::named("osediff-sd21").ok_or_else(unknown)?)
            .with("model", self.path("sd21"))
            .with("osediff", self.path("sd21/osediff.pkl"));
        Ok(Backbone { precision: Precision::Fp32, ..backbone })
    }

    /// RAM with DAPE.
    pub(super) fn dape(&self) -> Result<PromptSource, PipelineError> {
        let unknown = || PipelineError::Internal("there is no prompt source dape".into());
        Ok(PromptSource::from(PromptSourceSpec::named("dape").ok_or_else(unknown)?)
            .with("ram", self.path("ram/small/ram_swin_large_14m.pth"))
            .with("tags", self.path("ram/small/data/ram_tag_list.txt"))
            .with("thresholds", self.path("ram/small/data/ram_tag_list_threshold.txt"))
            .with("dape", self.path("ram/small/DAPE.pth")))
    }
}

/// Inputs and outputs by name.
pub(super) struct Cases(BTreeMap<String, Tensor>);

impl Cases {
    pub(super) fn tensor(&self, name: &str) -> Result<&Tensor, PipelineError> {
        self.0.get(name).ok_or_else(|| PipelineError::Internal(format!("there is no case {name}")))
    }

    pub(super) fn on(&self, device: Device, name: &str) -> Result<Tensor, PipelineError> {
        Ok(self.tensor(name)?.f_to_device(device)?)
    }

    pub(super) fn numbers(&self, name: &str) -> Result<Vec<i64>, PipelineError> {
        Ok(Vec::try_from(self.tensor(name)?.f_reshape([-1])?)?)
    }

    /// Of `[H, W, 3]` bytes.
    pub(super) fn picture(&self, name: &str) -> Result<Picture, PipelineError> {
        let (height, width, _) = self.tensor(name)?.size3()?;
        let bytes = Vec::<u8>::try_from(self.tensor(name)?.f_reshape([-1])?)?;
        let picture = Picture::from_rgb(width as u32, height as u32, bytes);
        picture.ok_or_else(|| PipelineError::Internal(format!("{name} is no picture")))
    }
}

#[cfg(test)]
mod tests {
    use super::ARCHIVE;

    #[test]
    fn the_program_stays_small() {
        assert!((1_000_000..6_000_000).contains(&ARCHIVE.len()), "{}", ARCHIVE.len());
    }
}
