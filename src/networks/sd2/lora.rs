//! `osediff.pkl`, what OSEDiff's training wrote (`save_model` of its `osediff.py`): LoRAs of the UNet and of the VAE's encoder as PEFT names
//! them, and a first convolution that replaces the UNet's.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::checkpoint;
use crate::runtime::weights::{LoraSet, Weights, WeightsError};

/// PEFT's default; the file does not say it.
const ALPHA: f64 = 8.0;
/// What is changed, the adapters of it, and under which name the file lists the layers of each.
const PARTS: [(&str, &[(&str, &str)]); 2] = [
    (
        "unet",
        &[
            ("default_encoder", "unet_lora_encoder_modules"),
            ("default_decoder", "unet_lora_decoder_modules"),
            ("default_others", "unet_lora_others_modules"),
        ],
    ),
    ("vae", &[("default_encoder", "vae_lora_encoder_modules")]),
];
/// The layer that is replaced where it is listed.
const REPLACED: &str = "conv_in";

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
    /// Where it cannot be read, holds something else, lacks what it lists, or has pairs of another rank than it says.
    pub fn open(file: &Path) -> Result<Self, WeightsError> {
        let weights = Weights::open(file)?;
        let notes = checkpoint::notes(file)?;
        let mut problems = Vec::new();
        let [unet, vae] = PARTS.map(|(part, adapters)| {
            let names: Vec<&str> = adapters.iter().map(|(adapter, _)| *adapter).collect();
            let loras = LoraSet::new(&weights, &format!("state_dict_{part}."), &names, ALPHA);
            let (ranks, name) = (loras.ranks(), format!("rank_{part}"));
            match notes.numbers.get(&name) {
                _ if ranks.is_empty() => problems.push(format!("state_dict_{part} with LoRAs is missing")),
                Some(rank) if ranks.iter().any(|found| found != rank) => {
                    problems.push(format!("{name} is {rank}, and the ranks of its LoRAs are {ranks:?}"));
                }
                None if ranks.len() > 1 => problems.push(format!("the ranks of state_dict_{part} are {ranks:?}")),
                _ => {}
            }
            for (i, (adapter, list)) in adapters.iter().enumerate() {
                let layers: BTreeSet<&String> = notes.lists.get(*list).into_iter().flatten().collect();
                let lacking = layers.iter().filter(|layer| !loras.has_pair(i, layer));
                problems.extend(lacking.map(|layer| format!("the pair of {layer} for {adapter} is missing")));
                let is_replaced = part == "vae" || loras.replaces(&format!("{REPLACED}.weight"));
                if layers.iter().any(|layer| *layer == REPLACED) && !is_replaced {
                    problems.push(format!("{REPLACED} itself is missing"));
                }
            }
            Arc::new(loras)
        });
        match problems.is_empty() {
            true => Ok(Self { unet, vae }),
            false => Err(WeightsError::Mismatch { file: file.to_owned(), network: "OSEDiff's LoRAs", problems }),
        }
    }
}
