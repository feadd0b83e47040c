//! DRCT (arXiv 2404.00722; `drct/archs/DRCT_arch.py`): groups of five Swin blocks, each of which sees what all before it in
//! its group found.

use tch::{Device, Kind, TchError, Tensor};

use super::layers::Conv2d;
use super::layers::restoration::{Block, Group, Restoration, Variant};
use super::layers::swin::{SwinBlock, from_tokens, to_tokens};
use super::layers::upsample::leaky_relu;
use super::single_image::{Context, SingleImageNetwork, loader};
use crate::runtime::weights::{Loader, Weights, WeightsError};

const BLOCKS: usize = 5;
const SLOPE: f64 = 0.2;
/// Weight of what a group adds to its input.
const RESIDUAL: f64 = 0.2;

/// `RDG`.
struct DenseGroup(Vec<(SwinBlock, Conv2d)>);

impl DenseGroup {
    fn load(loader: &mut Loader, name: &str, width: i64) -> Result<Self, WeightsError> {
        let growth =
            loader.shape(&format!("{name}.adjust1.weight")).and_then(|shape| shape.first().copied()).unwrap_or(0);
        // Trained on patches of one window there was nothing to shift; then there is no mask.
        let has_shifts = loader.has(&format!("{name}.swin2.attn_mask"));
        let block = |i: usize| {
            let inputs = width + growth * i as i64;
            let outputs = if i + 1 == BLOCKS { width } else { growth };
            let block = SwinBlock::load(loader, &format!("{name}.swin{}", i + 1), inputs, has_shifts && i % 2 == 1)?;
            Ok((block, Conv2d::same(loader, &format!("{name}.adjust{}", i + 1), [inputs, outputs], 1)?))
        };
        Ok(Self((0..BLOCKS).map(block).collect::<Result<_, WeightsError>>()?))
    }
}

impl Group for DenseGroup {
    fn blocks(&self) -> usize {
        BLOCKS
    }

    fn forward(&self, x: &Tensor, keep_going: &mut dyn FnMut() -> bool) -> Result<Option<Tensor>, TchError> {
        let mut seen = vec![x.shallow_clone()];
        for (i, (block, adjust)) in self.0.iter().enumerate() {
            if !keep_going() {
                return Ok(None);
            }
            let h = block.forward(&Tensor::f_cat(&seen, 3)?)?;
            let h = to_tokens(&adjust.forward(&from_tokens(&h)?)?)?;
            seen.push(if i + 1 == BLOCKS { h } else { leaky_relu(&h, SLOPE)? });
        }
        x.f_add(&seen[BLOCKS].f_mul_scalar(RESIDUAL)?).map(Some)
    }
}

/// Whether the keys under `prefix` look like this network.
pub fn recognises(weights: &Weights, prefix: &str) -> bool {
    weights.shape(&format!("{prefix}layers.0.swin1.attn.qkv.weight")).is_some()
}

/// # Errors
/// Every missing, surplus or misshapen key, all at once.
pub fn load(
    weights: &Weights,
    prefix: &str,
    device: Device,
    kind: Kind,
) -> Result<impl SingleImageNetwork + use<>, WeightsError> {
    let mut loader = loader(weights, prefix, device, kind);
    let load_group = |loader: &mut Loader, name: &str, width, _| DenseGroup::load(loader, name, width);
    let network = Restoration::load(&mut loader, load_group, |groups| {
        let window = groups.first().map_or(1, |group| group.0[0].0.window());
        Variant { context: Context::Windows(window), multiple: window, range: 1.0, norm_before: "patch_embed.norm" }
    })?;
    loader.finish("DRCT")?;
    Ok(network)
}
