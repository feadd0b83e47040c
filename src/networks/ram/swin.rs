//! RAM's image tower, a Swin transformer (arXiv 2103.14030; `ram/models/swin_transformer.py`): patches attend within windows,
//! which shift by half in every other block; between stages four neighbours become one.

use tch::{Kind, TchError, Tensor};

use super::lora::RamLora;
use crate::networks::layers::{LayerNorm, Linear};
use crate::runtime::weights::{Loader, WeightsError};

const EPSILON: f64 = 1e-5;

struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    /// `[heads, w * w, w * w]`: added to what tokens of a window say to each other.
    bias: Tensor,
    /// `[windows, 1, w * w, w * w]`: where shifting has brought strangers into one window, they do not see each other.
    mask: Option<Tensor>,
    out: Linear,
    norm2: LayerNorm,
    mlp: [Linear; 2],
    window: i64,
    heads: i64,
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

/// `[H, W, C] -> [windows, w * w, C]`.
fn windows(x: &Tensor, w: i64) -> Result<Tensor, TchError> {
    let (height, width, channels) = x.size3()?;
    let x = x.f_view([height / w, w, width / w, w, channels])?;
    x.f_transpose(1, 2)?.f_reshape([-1, w * w, channels])
}

/// The way back from [`windows`].
fn whole(x: &Tensor, w: i64, side: i64) -> Result<Tensor, TchError> {
    let channels = x.size()[2];
    let x = x.f_view([side / w, side / w, w, w, channels])?;
    x.f_transpose(1, 2)?.f_reshape([side, side, channels])
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
        let inner = loader.shape(&format!("{name}.mlp.fc1.weight")).and_then(|shape| shape.first().copied());
        let inner = inner.unwrap_or(0);
        // One window takes all: there is nothing to shift.
        let is_shifted = is_shifted && side > window;
        Ok(Self {
            norm1: LayerNorm::load(loader, &format!("{name}.norm1"), width, EPSILON)?,
            qkv: changes.qkv(loader, &format!("{name}.attn.qkv"), width)?,
            bias: relative(&table, window)?,
            mask: is_shifted.then(|| mask(side, window, &table)).transpose()?,
            out: Linear::load(loader, &format!("{name}.attn.proj"), width, width)?,
            norm2: LayerNorm::load(loader, &format!("{name}.norm2"), width, EPSILON)?,
            mlp: [
                Linear::load(loader, &format!("{name}.mlp.fc1"), width, inner)?,
                Linear::load(loader, &format!("{name}.mlp.fc2"), inner, width)?,
            ],
            window,
            heads,
        })
    }

    /// `[H, W, C] -> [H, W, C]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (side, _, width) = x.size3()?;
        let shift = if self.mask.is_some() { self.window / 2 } else { 0 };
        let h = self.norm1.forward(x)?.f_roll([-shift, -shift], [0, 1])?;
        let h = windows(&h, self.window)?;
        let (count, length, _) = h.size3()?;
        let qkv = self.qkv.forward(&h)?.f_view([count, length, 3, self.heads, width / self.heads])?;
        let part = |i: i64| qkv.f_select(2, i)?.f_transpose(1, 2); // [windows, heads, w * w, head_dim]
        let bias = match &self.mask {
            Some(mask) => self.bias.f_unsqueeze(0)?.f_add(mask)?,
            None => self.bias.f_unsqueeze(0)?,
        };
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let attended = Tensor::f_scaled_dot_product_attention(&q, &k, &v, Some(bias), 0.0, false, None, false)?;
        let attended = attended.f_transpose(1, 2)?.f_reshape([count, length, width])?;
        let attended = whole(&self.out.forward(&attended)?, self.window, side)?.f_roll([shift, shift], [0, 1])?;
        let x = x.f_add(&attended)?;
        let inner = self.mlp[0].forward(&self.norm2.forward(&x)?)?.f_gelu("none")?;
        x.f_add(&self.mlp[1].forward(&inner)?)
    }
}

/// The table `[(2w - 1)^2, heads]` spread over all pairs of a window's tokens: `[heads, w * w, w * w]`.
fn relative(table: &Tensor, w: i64) -> Result<Tensor, TchError> {
    let span = 2 * w - 1;
    let places: Vec<i64> = (0..w * w)
        .flat_map(|to| (0..w * w).map(move |from| (to / w - from / w + w - 1) * span + to % w - from % w + w - 1))
        .collect();
    let places = Tensor::f_from_slice(&places)?.f_to_device(table.device())?;
    table.f_index_select(0, &places)?.f_view([w * w, w * w, -1])?.f_permute([2, 0, 1])?.f_contiguous()
}

/// 0 for tokens that were neighbours before the shift, -100 for others; of the dtype and on the device of `like`.
fn mask(side: i64, w: i64, like: &Tensor) -> Result<Tensor, TchError> {
    let zone = |at: i64| i64::from(at >= side - w) + i64::from(at >= side - w / 2);
    let zones: Vec<i64> = (0..side * side).map(|at| 3 * zone(at / side) + zone(at % side)).collect();
    let zones = windows(&Tensor::f_from_slice(&zones)?.f_view([side, side, 1])?, w)?.f_squeeze_dim(2)?;
    let are_strangers = zones.f_unsqueeze(1)?.f_ne_tensor(&zones.f_unsqueeze(2)?)?;
    are_strangers.f_to_device(like.device())?.f_to_kind(like.kind())?.f_mul_scalar(-100.0)?.f_unsqueeze(1)
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
        let mut x = x.f_squeeze_dim(0)?.f_permute([1, 2, 0])?.f_contiguous()?;
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
                let part = |row: i64, column: i64| x.f_slice(0, row, None, 2)?.f_slice(1, column, None, 2);
                let four = Tensor::f_cat(&[part(0, 0)?, part(1, 0)?, part(0, 1)?, part(1, 1)?], 2)?;
                x = merging.reduction.forward(&merging.norm.forward(&four)?)?;
            }
        }
        let tokens = self.norm.forward(&x)?.f_view([1, -1, self.width])?;
        let mean = tokens.f_mean_dim([1].as_slice(), true, None::<Kind>)?;
        Ok(Tensor::f_cat(&[mean, tokens], 1)?)
    }
}
