//! Stable Diffusion 2.1-base, and OSEDiff's LoRAs for it.

use std::path::Path;

use super::numbers::Numbers;
use super::{RandomError, Size, Tensors, configs, pair, part, requested, tokenizers, torch_save, vae};
use crate::networks::sd2::unet::Unet;
use crate::networks::text::clip::ClipText;

/// Layers of the UNet that have no LoRA: those of the time.
const WITHOUT_LORA: [&str; 3] = ["norm", "time_emb_proj", "time_embedding"];

/// Writes the model's folder, and OSEDiff's file.
pub(super) fn write(
    folder: &Path,
    osediff: &Path,
    size: Size,
    on_file: &mut dyn FnMut(&str),
) -> Result<(), RandomError> {
    let configs = configs::sd21(size);
    let mut numbers = Numbers::new(43);
    let unet = requested(&configs.unet, |loader, config| Unet::load(loader, &config).map(drop))?;
    let (vae, _) = vae(&configs.vae)?;
    let text = requested(&configs.text, |loader, config| ClipText::load(loader, &config).map(drop))?;
    for (name, stem, config, tensors) in [
        ("unet", "diffusion_pytorch_model", &configs.unet, &unet),
        ("vae", "diffusion_pytorch_model", &configs.vae, &vae),
        ("text_encoder", "model", &configs.text, &text),
    ] {
        part(&folder.join(name), stem, config, tensors, &mut numbers, on_file)?;
    }
    tokenizers::clip(&folder.join("tokenizer"), configs.text["vocab_size"].as_u64().unwrap_or_default(), "!")?;
    on_file("the LoRAs of OSEDiff");
    torch_save::dictionary(osediff, None, &loras(&unet, &vae), &mut numbers)
}

/// Pairs as OSEDiff's training has them, and the UNet's first convolution.
fn loras(unet: &Tensors, vae: &Tensors) -> Tensors {
    let mut named = Tensors::new();
    for (name, shape) in unet {
        let Some(layer) = name.strip_suffix(".weight") else { continue };
        if layer == "conv_in" {
            let base =
                |part: &str, shape: &[i64]| (format!("state_dict_unet.{layer}.base_layer.{part}"), shape.to_vec());
            named.extend([base("weight", shape), base("bias", &shape[..1])]);
        }
        let adapter = match layer.split('.').next() {
            Some("up_blocks" | "conv_out") => "default_decoder",
            Some("mid_block") => "default_others",
            _ => "default_encoder",
        };
        if !WITHOUT_LORA.iter().any(|part| layer.contains(part)) {
            named.extend(pair(&format!("state_dict_unet.{layer}"), adapter, shape));
        }
    }
    let of_vae = vae.iter().filter(|(name, _)| name.starts_with("encoder.") || name.starts_with("quant_conv."));
    for (name, shape) in of_vae.filter(|(name, _)| !name.contains("norm")) {
        if let Some(layer) = name.strip_suffix(".weight") {
            named.extend(pair(&format!("state_dict_vae.{layer}"), "default_encoder", shape));
        }
    }
    named
}
