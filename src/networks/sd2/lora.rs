//! `osediff.pkl`, what OSEDiff's training wrote (`save_model` of its `osediff.py`): LoRAs of the UNet and of the VAE's encoder as PEFT names
//! them, and a first convolution that replaces the UNet's.

use std::path::Path;
use std::sync::Arc;

use crate::checkpoint;
use crate::runtime::weights::{LoraSet, Weights, WeightsError};

/// PEFT's default; the file does not say it.
const ALPHA: f64 = 8.0;

/// What the file changes.
pub struct OsediffLora {
    /// Of the UNet.
    pub unet: Arc<LoraSet>,
    /// Of the VAE.
    pub vae: Arc<LoraSet>,
}

impl OsediffLora {
    /// Opens the file.
    ///
    /// # Errors
    /// Where it cannot be read, holds something else, or pairs of another rank than it says.
    pub fn open(file: &Path) -> Result<Self, WeightsError> {
        let weights = Weights::open(file)?;
        let numbers = checkpoint::numbers(file)?;
        let of = |prefix: &str, adapters: &[&str]| LoraSet::new(&weights, prefix, adapters, ALPHA);
        let unet = of("state_dict_unet.", &["default_encoder", "default_decoder", "default_others"]);
        let vae = of("state_dict_vae.", &["default_encoder"]);
        let mut problems = Vec::new();
        for (part, loras) in [("unet", &unet), ("vae", &vae)] {
            let (ranks, name) = (loras.ranks(), format!("rank_{part}"));
            match numbers.get(&name) {
                _ if ranks.is_empty() => problems.push(format!("state_dict_{part} with LoRAs is missing")),
                Some(rank) if ranks.iter().any(|found| found != rank) => {
                    problems.push(format!("{name} is {rank}, and the ranks of its LoRAs are {ranks:?}"));
                }
                None if ranks.len() > 1 => problems.push(format!("the ranks of state_dict_{part} are {ranks:?}")),
                _ => {}
            }
        }
        match problems.is_empty() {
            true => Ok(Self { unet: Arc::new(unet), vae: Arc::new(vae) }),
            false => Err(WeightsError::Mismatch { file: file.to_owned(), network: "OSEDiff's LoRAs", problems }),
        }
    }
}
