//! SwinIR (arXiv 2108.10257; `models/network_swinir.py`): groups of Swin blocks. Swin2SR, whose attention is another one, is
//! not read.

use tch::{Device, Kind};

use super::layers::restoration::{BodyConv, Residual, Restoration, Variant};
use super::layers::swin::SwinBlock;
use super::single_image::{Context, SingleImageNetwork, loader};
use crate::checkpoint::CheckpointError;
use crate::runtime::weights::{Loader, Weights, WeightsError};

/// The windows of the models against JPEG's artefacts, which alone compute in levels of 0 to 255.
const JPEG_WINDOW: i64 = 7;

/// Whether the keys under `prefix` look like this network, or like Swin2SR.
pub fn recognises(weights: &Weights, prefix: &str) -> bool {
    let has = |key: &str| weights.shape(&format!("{prefix}{key}")).is_some();
    has("layers.0.residual_group.blocks.0.attn.qkv.weight")
        && !has("layers.0.residual_group.overlap_attn.qkv.weight")
        && (has("conv_first.weight") || has("conv_first.1.weight"))
}

/// # Errors
/// Every missing, surplus or misshapen key, all at once.
pub fn load(
    weights: &Weights,
    prefix: &str,
    device: Device,
    kind: Kind,
) -> Result<impl SingleImageNetwork + use<>, WeightsError> {
    if weights.shape(&format!("{prefix}patch_embed.proj.weight")).is_some() {
        let found = "it is a Swin2SR, whose attention is another one than SwinIR's: that network is not read";
        return Err(CheckpointError::format(weights.file(), found).into());
    }
    let mut loader = loader(weights, prefix, device, kind);
    let network = Restoration::load(
        &mut loader,
        |loader, name, width, _| group(loader, name, width),
        |groups| {
            let window = groups.first().and_then(|group| group.blocks.first()).map_or(1, SwinBlock::window);
            Variant {
                context: Context::Windows(window),
                multiple: window,
                range: if window == JPEG_WINDOW { 255.0 } else { 1.0 },
                norm_before: "patch_embed.norm",
            }
        },
    )?;
    loader.finish("SwinIR")?;
    Ok(network)
}

/// `RSTB`: Swin blocks, every other one shifted, and a convolution.
fn group(loader: &mut Loader, name: &str, width: i64) -> Result<Residual<SwinBlock>, WeightsError> {
    let count = loader.count_below(&format!("{name}.residual_group.blocks"));
    let block = |i: usize| SwinBlock::load(loader, &format!("{name}.residual_group.blocks.{i}"), width, i % 2 == 1);
    let blocks = (0..count).map(block).collect::<Result<_, _>>()?;
    Ok(Residual { blocks, conv: BodyConv::load(loader, &format!("{name}.conv"), width)? })
}
