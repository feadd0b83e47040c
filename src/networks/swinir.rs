//! SwinIR (arXiv 2108.10257; `models/network_swinir.py`): groups of Swin blocks. Swin2SR, whose attention is another one, is
//! not read.

use tch::{Device, Kind, TchError, Tensor};

use super::layers::restoration::{BodyConv, Group, Layout, Restoration};
use super::layers::swin::SwinBlock;
use super::single_image::{Context, SingleImageNetwork, loader};
use crate::checkpoint::CheckpointError;
use crate::runtime::weights::{Loader, Weights, WeightsError};

const NETWORK: &str = "SwinIR";
/// The windows of the models against JPEG's artefacts, which alone compute in levels of 0 to 255.
const JPEG_WINDOW: i64 = 7;

/// `RSTB`: Swin blocks, every other one shifted, and a convolution.
struct SwinGroup {
    blocks: Vec<SwinBlock>,
    conv: BodyConv,
}

impl SwinGroup {
    fn load(loader: &mut Loader, name: &str, width: i64) -> Result<Self, WeightsError> {
        let count = loader.count_below(&format!("{name}.residual_group.blocks"));
        let block = |i: usize| SwinBlock::load(loader, &format!("{name}.residual_group.blocks.{i}"), width, i % 2 == 1);
        let blocks = (0..count).map(block).collect::<Result<_, _>>()?;
        Ok(Self { blocks, conv: BodyConv::load(loader, &format!("{name}.conv"), width)? })
    }
}

impl Group for SwinGroup {
    fn blocks(&self) -> usize {
        self.blocks.len()
    }

    fn forward(&self, x: &Tensor, keep_going: &mut dyn FnMut() -> bool) -> Result<Option<Tensor>, TchError> {
        let mut h = x.shallow_clone();
        for block in &self.blocks {
            if !keep_going() {
                return Ok(None);
            }
            h = block.forward(&h)?;
        }
        self.conv.forward_tokens(&h)?.f_add(x).map(Some)
    }
}

/// `[B, 3, H, W]` in [0, 1] -> `[B, 3, scale * H, scale * W]`, not clamped.
pub struct SwinIr {
    network: Restoration<SwinGroup>,
    window: i64,
}

impl SwinIr {
    /// Whether the keys under `prefix` look like this network, or like Swin2SR.
    pub fn recognises(weights: &Weights, prefix: &str) -> bool {
        let has = |key: &str| weights.shape(&format!("{prefix}{key}")).is_some();
        has("layers.0.residual_group.blocks.0.attn.qkv.weight")
            && !has("layers.0.residual_group.overlap_attn.qkv.weight")
            && (has("conv_first.weight") || has("conv_first.1.weight"))
    }

    /// # Errors
    /// Every missing, surplus or misshapen key, all at once.
    pub fn load(weights: &Weights, prefix: &str, device: Device, kind: Kind) -> Result<Self, WeightsError> {
        if weights.shape(&format!("{prefix}patch_embed.proj.weight")).is_some() {
            let found = "it is a Swin2SR, whose attention is another one than SwinIR's: that network is not read";
            return Err(CheckpointError::format(weights.file(), found).into());
        }
        let mut loader = loader(weights, prefix, device, kind);
        let window =
            |groups: &[SwinGroup]| groups.first().and_then(|group| group.blocks.first()).map_or(1, SwinBlock::window);
        let layout = |groups: &[SwinGroup]| Layout {
            multiple: window(groups),
            range: if window(groups) == JPEG_WINDOW { 255.0 } else { 1.0 },
            norm_before: "patch_embed.norm",
        };
        let network =
            Restoration::load(&mut loader, |loader, name, width, _| SwinGroup::load(loader, name, width), layout)?;
        loader.finish(NETWORK)?;
        let window = window(network.groups());
        Ok(Self { network, window })
    }
}

impl SingleImageNetwork for SwinIr {
    fn scale(&self) -> i64 {
        self.network.scale()
    }

    fn context(&self) -> Context {
        Context::Windows(self.window)
    }

    fn forward(&self, x: &Tensor, keep_going: &mut dyn FnMut(f32) -> bool) -> Result<Option<Tensor>, TchError> {
        self.network.forward(x, keep_going)
    }
}
