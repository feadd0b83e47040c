//! The vision tower (`Qwen2_5_VisionTransformerPretrainedModel`): patches to features, most blocks within windows.

use tch::{Device, Kind, TchError, Tensor};

use super::config::Vision;
use super::positions::{Grid, of_patches, windows};
use super::{GatedMlp, VISION, prefix, rotated};
use crate::networks::layers::{Linear, RmsNorm, attention, join_heads, residual_kind};
use crate::runtime::Layers;
use crate::runtime::weights::{Loader, WeightsError};

/// Of all its norms.
const EPSILON: f64 = 1e-6;
/// The base of the positions' wave lengths.
const THETA: f64 = 10_000.0;

struct Block {
    norm1: RmsNorm,
    qkv: Linear,
    out: Linear,
    norm2: RmsNorm,
    mlp: GatedMlp,
}

/// Cosines and sines of the patches' rows and columns, `[N, 1, head_dim]` each.
struct Turns {
    cos: Tensor,
    sin: Tensor,
}

impl Block {
    fn load(loader: &mut Loader, name: &str, config: &Vision) -> Result<Self, WeightsError> {
        let width = config.hidden_size;
        Ok(Self {
            norm1: RmsNorm::load(loader, &format!("{name}.norm1"), width, EPSILON)?,
            qkv: Linear::load(loader, &format!("{name}.attn.qkv"), width, 3 * width)?,
            out: Linear::load(loader, &format!("{name}.attn.proj"), width, width)?,
            norm2: RmsNorm::load(loader, &format!("{name}.norm2"), width, EPSILON)?,
            mlp: GatedMlp::load([width, config.intermediate_size], |part, [inputs, outputs]| {
                Linear::load(loader, &format!("{name}.{part}"), inputs, outputs)
            })?,
        })
    }

    /// `[N, D] -> [N, D]`; patches attend within windows, which lie one after the other: so many of so many patches, and again.
    fn forward(&self, x: &Tensor, turns: &Turns, windows: &[(i64, i64)], heads: i64) -> Result<Tensor, TchError> {
        let (count, width) = x.size2()?;
        let qkv = self.qkv.forward(&self.norm1.forward_narrowed(x)?)?.f_view([count, 3, heads, width / heads])?;
        let part = |i: i64| qkv.f_select(1, i);
        // Turned in float32, as the reference does.
        let turned = |i: i64| -> Result<Tensor, TchError> {
            rotated(&part(i)?.f_to_kind(Kind::Float)?, &turns.cos, &turns.sin)?.f_to_kind(qkv.kind())
        };
        let (q, k, v) = (turned(0)?, turned(1)?, part(2)?); // [N, heads, head_dim]
        let mut at = 0;
        let mut attended = Vec::with_capacity(windows.len());
        for &(equal, length) in windows {
            let batch = |x: &Tensor| -> Result<Tensor, TchError> {
                x.f_narrow(0, at, equal * length)?.f_view([equal, length, heads, width / heads])?.f_transpose(1, 2)
            };
            attended.push(join_heads(&attention(&batch(&q)?, &batch(&k)?, &batch(&v)?, false)?)?.f_view([-1, width])?);
            at += equal * length;
        }
        let x = x.f_add(&self.out.forward(&Tensor::f_cat(&attended, 0)?)?)?;
        x.f_add(&self.mlp.forward(&self.norm2.forward_narrowed(&x)?, x.kind())?)
    }
}

/// The whole tower.
pub struct VisionTower {
    /// `[D, C * T * P * P]`: a convolution whose kernel is as large as its stride.
    patches: Tensor,
    blocks: Layers<Block>,
    norm: RmsNorm,
    merge: [Linear; 2],
    config: Vision,
}

impl VisionTower {
    /// Reads the tower from a file that also holds the language model; that is left alone.
    pub fn load(loader: &mut Loader, config: &Vision) -> Result<Self, WeightsError> {
        let start = prefix(loader, VISION, "patch_embed.proj.weight");
        let width = config.hidden_size;
        let patch = [config.in_channels, config.temporal_patch_size, config.patch_size, config.patch_size];
        let shape: Vec<i64> = std::iter::once(width).chain(patch).collect();
        let patches = loader.tensor(&format!("{start}patch_embed.proj.weight"), &shape)?.f_reshape([width, -1])?;
        let of_blocks = config.clone();
        let blocks = Layers::load(loader, config.depth, move |loader, i| {
            Block::load(loader, &format!("{start}blocks.{i}"), &of_blocks)
        })?;
        let merged = width * config.spatial_merge_size.pow(2);
        let norm = RmsNorm::load(loader, &format!("{start}merger.ln_q"), width, EPSILON)?;
        let merge = [
            Linear::load(loader, &format!("{start}merger.mlp.0"), merged, merged)?,
            Linear::load(loader, &format!("{start}merger.mlp.2"), merged, config.out_hidden_size)?,
        ];
        Ok(Self { patches, blocks, norm, merge, config: config.clone() })
    }

    /// The patches of one image, `[rows * columns, C * T * P * P]` in the order of [`of_patches`] -> its features,
    /// `[tokens, out_hidden_size]`.
    pub fn forward<E: From<TchError> + From<WeightsError>>(
        &self,
        patches: &Tensor,
        grid: Grid,
        on_progress: &mut dyn FnMut(f32) -> Result<(), E>,
    ) -> Result<Tensor, E> {
        let config = &self.config;
        let merge = config.spatial_merge_size;
        let square = merge * merge;
        let (order, windows) = windows(grid, merge, config.window_size / merge / config.patch_size);
        let order = Tensor::f_from_slice(&order)?.f_to_device(self.patches.device())?;
        // Squares of patches that will be one token stay together.
        let by_window = |x: &Tensor| -> Result<Tensor, TchError> {
            let (count, width) = x.size2()?;
            x.f_view([count / square, square, width])?.f_index_select(0, &order)?.f_reshape([count, width])
        };
        let windows: Vec<(i64, i64)> = windows.iter().map(|(equal, squares)| (*equal, squares * square)).collect();
        let all = [(1, grid.rows * grid.columns)];
        let embedded = patches.f_to_kind(self.patches.kind())?.f_linear(&self.patches, None::<&Tensor>)?;
        let mut x = by_window(&embedded.f_to_kind(residual_kind(embedded.kind()))?)?;
        let angles = self.angles(grid)?;
        let turned = |x: Tensor| by_window(&x.f_to_device(self.patches.device())?)?.f_unsqueeze(1);
        let turns = Turns { cos: turned(angles.f_cos()?)?, sin: turned(angles.f_sin()?)? };
        self.blocks.each(|i, block| {
            on_progress(i as f32 / config.depth as f32)?;
            let windows = if config.fullatt_block_indexes.contains(&i) { &all[..] } else { &windows };
            x = block.forward(&x, &turns, windows, config.num_heads)?;
            Ok::<(), E>(())
        })?;
        let merged = self.norm.forward_narrowed(&x)?.f_view([-1, square * config.hidden_size])?;
        let features = self.merge[1].forward(&self.merge[0].forward(&merged)?.f_gelu("none")?)?;
        Ok(features.f_index_select(0, &order.f_argsort(0, false)?)?)
    }

    /// By how much each pair of channels turns: rows, columns, and both again: `[N, head_dim]`, float32 on the CPU, where it
    /// comes out the same whatever the device.
    fn angles(&self, grid: Grid) -> Result<Tensor, TchError> {
        let half = self.config.hidden_size / self.config.num_heads / 2;
        let steps = Tensor::f_arange_start_step(0, half, 2, (Kind::Float, Device::Cpu))?.f_div_scalar(half)?;
        let frequencies = Tensor::f_pow_scalar(THETA, &steps)?.f_reciprocal()?;
        let (rows, columns) = of_patches(grid, self.config.spatial_merge_size);
        let along = |positions: &[i64]| -> Result<Tensor, TchError> {
            let positions = Tensor::f_from_slice(positions)?.f_to_kind(Kind::Float)?;
            positions.f_unsqueeze(1)?.f_mul(&frequencies)
        };
        let both = Tensor::f_cat(&[along(&rows)?, along(&columns)?], 1)?;
        Tensor::f_cat(&[&both, &both], 1)
    }
}
