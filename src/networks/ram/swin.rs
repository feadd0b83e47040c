//! RAM's image tower, a Swin transformer (arXiv 2103.14030; `ram/models/swin_transformer.py`): patches attend within windows,
//! which shift by half in every other block; between stages four neighbours become one.

use tch::{Kind, TchError, Tensor};

use super::lora::RamLora;
use crate::networks::layers::swin::{Mlp, to_tokens};
use crate::networks::layers::windows::Layout;
use crate::networks::layers::{LayerNorm, Linear};
use crate::runtime::weights::{Loader, WeightsError};

const EPSILON: f64 = 1e-5;

struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    /// `[heads, w * w, w * w]`.
    bias: Tensor,
    layout: Layout,
    out: Linear,
    norm2: LayerNorm,
    mlp: Mlp,
}

/// Four neighbours into one of twice the width.
struct Merging {
    norm: LayerNorm,
    reduction: Linear,
}

struct Stage {
    blocks: Vec<Block>,
    merging: Option<Merging>,
}

pub(super) struct Swin {
    patches: (Tensor, Tensor),
    patch_norm: Option<LayerNorm>,
    stages: Vec<Stage>,
    norm: LayerNorm,
    width: i64,
    side: i64,
}

impl Block {
    fn load(
        loader: &mut Loader,
        name: &str,
        (width, side): (i64, i64),
        is_shifted: bool,
        changes: &RamLora,
    ) -> Result<Self, WeightsError> {
        let table_key = format!("{name}.attn.relative_position_bias_table");
        let (places, heads) = match loader.shape(&table_key).as_deref() {
            Some(&[places, heads]) => (places, heads),
            _ => (1, 1),
        };
        let table = loader.tensor(&table_key, &[places, heads])?;
        let window = ((places as f64).sqrt() as i64 + 1) / 2;
        if window < 1 || (2 * window - 1).pow(2) != places || heads < 1 || width % heads != 0 || side % window != 0 {
            loader.report(format!(
                "{name}: {heads} heads and a table of {places} do not suit {side} x {side} tokens of width {width}"
            ));
            // Nothing of the tower has a size from here on.
            loader.finish("RAM")?;
        }
        // One window takes all: there is nothing to shift.
        let layout = Layout::new([window; 2], is_shifted && side > window);
        Ok(Self {
            norm1: LayerNorm::load(loader, &format!("{name}.norm1"), width, EPSILON)?,
            qkv: changes.qkv(loader, &format!("{name}.attn.qkv"), width)?,
            bias: layout.bias(&table)?,
            layout,
            out: Linear::load(loader, &format!("{name}.attn.proj"), width, width)?,
            norm2: LayerNorm::load(loader, &format!("{name}.norm2"), width, EPSILON)?,
            mlp: Mlp::load(loader, &format!("{name}.mlp"), width)?,
        })
    }

    /// `[1, H, W, C] -> [1, H, W, C]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let qkv = self.qkv.forward(&self.norm1.forward(x)?)?;
        let x = x.f_add(&self.out.forward(&self.layout.attention(&qkv, &self.bias)?)?)?;
        x.f_add(&self.mlp.forward(&self.norm2.forward(&x)?)?)
    }
}

impl Swin {
    /// `side`: of pictures, where the file does not tell.
    pub(super) fn load(loader: &mut Loader, name: &str, side: i64, changes: &RamLora) -> Result<Self, WeightsError> {
        let key = format!("{name}.patch_embed.proj.weight");
        let shape = loader.shape(&key).filter(|shape| shape.len() == 4 && shape[2] > 0).unwrap_or(vec![1; 4]);
        let (mut width, patch) = (shape[0], shape[2]);
        let patches =
            (loader.tensor(&key, &shape)?, loader.tensor(&format!("{name}.patch_embed.proj.bias"), &[width])?);
        let patch_norm = format!("{name}.patch_embed.norm");
        let has_norm = loader.has(&format!("{patch_norm}.weight"));
        let patch_norm = has_norm.then(|| LayerNorm::load(loader, &patch_norm, width, EPSILON)).transpose()?;
        // A mask for each window: so many windows of so many tokens fill the picture.
        let masks = loader.shape(&format!("{name}.layers.0.blocks.1.attn_mask"));
        let across = masks.filter(|shape| shape.len() == 3).map(|shape| ((shape[0] * shape[1]) as f64).sqrt() as i64);
        let side = across.map_or(side, |tokens| tokens * patch);
        let mut tokens = side / patch;
        let mut stages = Vec::new();
        while loader.has(&format!("{name}.layers.{}.blocks.0.norm1.weight", stages.len())) {
            let stage = format!("{name}.layers.{}", stages.len());
            let mut blocks = Vec::new();
            while loader.has(&format!("{stage}.blocks.{}.norm1.weight", blocks.len())) {
                let is_shifted = blocks.len() % 2 == 1;
                let block = format!("{stage}.blocks.{}", blocks.len());
                blocks.push(Block::load(loader, &block, (width, tokens), is_shifted, changes)?);
            }
            let merging = match loader.has(&format!("{stage}.downsample.reduction.weight")) {
                true => {
                    let norm = LayerNorm::load(loader, &format!("{stage}.downsample.norm"), 4 * width, EPSILON)?;
                    let name = format!("{stage}.downsample.reduction");
                    let reduction = Linear::load_without_bias(loader, &name, 4 * width, 2 * width)?;
                    (width, tokens) = (2 * width, tokens / 2);
                    Some(Merging { norm, reduction })
                }
                false => None,
            };
            stages.push(Stage { blocks, merging });
        }
        let norm = LayerNorm::load(loader, &format!("{name}.norm"), width, EPSILON)?;
        Ok(Self { patches, patch_norm, stages, norm, width, side })
    }

    /// Of the tokens that come out.
    pub(super) fn width(&self) -> i64 {
        self.width
    }

    /// Of the pictures it takes.
    pub(super) fn side(&self) -> i64 {
        self.side
    }

    /// `[1, 3, side, side] -> [1, 1 + tokens, D]`: their mean before them.
    pub(super) fn forward<E: From<TchError>>(
        &self,
        pixels: &Tensor,
        on_progress: &mut dyn FnMut(f32) -> Result<(), E>,
    ) -> Result<Tensor, E> {
        let (weight, bias) = &self.patches;
        let patch = weight.size()[2];
        let x = pixels.f_to_kind(weight.kind())?.f_conv2d(weight, Some(bias), [patch; 2], [0; 2], [1; 2], 1)?;
        let mut x = to_tokens(&x)?;
        if let Some(norm) = &self.patch_norm {
            x = norm.forward(&x)?;
        }
        let count: usize = self.stages.iter().map(|stage| stage.blocks.len()).sum();
        let mut done = 0;
        for stage in &self.stages {
            for block in &stage.blocks {
                on_progress(done as f32 / count as f32)?;
                x = block.forward(&x)?;
                done += 1;
            }
            if let Some(merging) = &stage.merging {
                let part = |row: i64, column: i64| x.f_slice(1, row, None, 2)?.f_slice(2, column, None, 2);
                let four = Tensor::f_cat(&[part(0, 0)?, part(1, 0)?, part(0, 1)?, part(1, 1)?], 3)?;
                x = merging.reduction.forward(&merging.norm.forward(&four)?)?;
            }
        }
        let tokens = self.norm.forward(&x)?.f_view([1, -1, self.width])?;
        let mean = tokens.f_mean_dim([1].as_slice(), true, None::<Kind>)?;
        Ok(Tensor::f_cat(&[mean, tokens], 1)?)
    }
}
