//! MANIQA (arXiv 2204.08958; `models/maniqa.py`, as trained on PIPAL): a ViT looks at twenty crops of a picture, attention
//! between channels and windowed attention weigh what it sees, about 0 to 1.

use tch::{Device, Kind, TchError, Tensor};

use super::{Files, Metric, Opened, Score, heads, judged, normalised, open_file, prefix_of};
use crate::imaging::Picture;
use crate::networks::layers::restoration::Block as _;
use crate::networks::layers::swin::{Mlp, SwinBlock, from_tokens, to_tokens};
use crate::networks::layers::{Conv2d, LayerNorm, Linear, attention, join_heads, split_heads};
use crate::runtime::tensor::tensor_from_picture;
use crate::runtime::weights::{Loader, WeightsError};

const NETWORK: &str = "MANIQA";
const HEADS: i64 = 12;
const EPSILON: f64 = 1e-6;
/// Blocks of the ViT whose outputs are used, from 0.
const TAPS: std::ops::Range<usize> = 6..10;
/// What a group of windowed attention adds counts.
const SCALE: f64 = 0.13;
/// Rows, and columns, of places for crops.
const GRID: i64 = 5;
/// How many of these places are used, row by row.
const CROPS: i64 = 20;
/// A small picture that is so many times as long as it is wide is not enlarged.
const LONGEST: u32 = 200;
/// Crops that are looked at together.
const BATCH: i64 = 4;

/// timm's `Block`.
struct VitBlock {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    mlp: Mlp,
}

impl VitBlock {
    fn load(loader: &mut Loader, name: &str, width: i64) -> Result<Self, WeightsError> {
        Ok(Self {
            norm1: LayerNorm::load(loader, &format!("{name}.norm1"), width, EPSILON)?,
            qkv: Linear::load(loader, &format!("{name}.attn.qkv"), width, 3 * width)?,
            proj: Linear::load(loader, &format!("{name}.attn.proj"), width, width)?,
            norm2: LayerNorm::load(loader, &format!("{name}.norm2"), width, EPSILON)?,
            mlp: Mlp::load(loader, &format!("{name}.mlp"), width)?,
        })
    }

    fn forward(&self, x: &Tensor, heads: i64) -> Result<Tensor, TchError> {
        let qkv = self.qkv.forward(&self.norm1.forward(x)?)?.f_chunk(3, -1)?;
        let part = |i: usize| split_heads(&qkv[i], heads);
        let attended = attention(&part(0)?, &part(1)?, &part(2)?, false)?;
        let x = x.f_add(&self.proj.forward(&join_heads(&attended)?)?)?;
        x.f_add(&self.mlp.forward(&self.norm2.forward(&x)?)?)
    }
}

/// timm's `VisionTransformer`, up to the last block that is used.
struct Vit {
    patch: Conv2d,
    cls: Tensor,
    positions: Tensor,
    blocks: Vec<VitBlock>,
    heads: i64,
}

impl Vit {
    fn load(loader: &mut Loader, width: i64, patch: i64, tokens: i64) -> Result<Self, WeightsError> {
        let block = |i: usize| VitBlock::load(loader, &format!("vit.blocks.{i}"), width);
        let blocks = (0..TAPS.end).map(block).collect::<Result<_, _>>()?;
        let (patch, cls) = (
            Conv2d::load(loader, "vit.patch_embed.proj", [3, width], patch, patch, 0)?,
            loader.tensor("vit.cls_token", &[1, 1, width])?,
        );
        let positions = loader.tensor("vit.pos_embed", &[1, tokens + 1, width])?;
        // Later blocks, and what classifies.
        loader.ignore_prefix("vit.");
        Ok(Self { patch, cls, positions, blocks, heads: heads(width, HEADS) })
    }

    /// `[B, 3, side, side] -> [B, 4 * width, N]`: outputs of four blocks, without the class token.
    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let tokens = self.patch.forward(x)?.f_flatten(2, 3)?.f_transpose(1, 2)?;
        let cls = self.cls.f_expand([x.size()[0], -1, -1], false)?;
        let mut x = Tensor::f_cat(&[cls, tokens], 1)?.f_add(&self.positions)?;
        let mut outputs = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, self.heads)?;
            if TAPS.contains(&i) {
                outputs.push(x.f_narrow(1, 1, x.size()[1] - 1)?);
            }
        }
        Tensor::f_cat(&outputs, 2)?.f_transpose(1, 2)?.f_contiguous()
    }
}

/// `TABlock`: attention between channels.
struct ChannelAttention {
    q: Linear,
    k: Linear,
    v: Linear,
}

impl ChannelAttention {
    fn load(loader: &mut Loader, name: &str, tokens: i64) -> Result<Self, WeightsError> {
        let square = |loader: &mut Loader, key: &str| Linear::load(loader, &format!("{name}.c_{key}"), tokens, tokens);
        Ok(Self { q: square(loader, "q")?, k: square(loader, "k")?, v: square(loader, "v")? })
    }

    /// `[B, C, N] -> [B, C, N]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let part = |linear: &Linear| linear.forward(x)?.f_unsqueeze(1);
        let attended = attention(&part(&self.q)?, &part(&self.k)?, &part(&self.v)?, false)?.f_squeeze_dim(1)?;
        // As published: what was turned is read as if it were not.
        x.f_add(&attended.f_transpose(1, 2)?.f_reshape(x.size())?)
    }
}

/// `BasicLayer`: two blocks of windowed attention and a convolution.
struct Group {
    blocks: Vec<SwinBlock>,
    conv: Conv2d,
}

impl Group {
    fn load(loader: &mut Loader, name: &str, width: i64) -> Result<Self, WeightsError> {
        let count = loader.count_below(&format!("{name}.blocks"));
        let block = |i: usize| SwinBlock::load(loader, &format!("{name}.blocks.{i}"), width, i % 2 == 1);
        let blocks = (0..count).map(block).collect::<Result<_, _>>()?;
        Ok(Self { blocks, conv: Conv2d::same(loader, &format!("{name}.conv"), [width, width], 3)? })
    }

    /// `[B, C, H, W] -> [B, C, H, W]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let mut tokens = to_tokens(x)?;
        for block in &self.blocks {
            tokens = block.forward(&tokens)?;
        }
        let mut out = self.conv.forward(&from_tokens(&tokens)?)?.f_relu_()?;
        out.f_mul_scalar_(SCALE)?.f_add_(x)
    }
}

/// Attention between channels, fewer channels, windowed attention.
struct Stage {
    channels: Vec<ChannelAttention>,
    conv: Conv2d,
    groups: Vec<Group>,
    width: i64,
}

impl Stage {
    fn load(loader: &mut Loader, number: usize, inputs: i64, tokens: i64) -> Result<Self, WeightsError> {
        let (blocks, groups) = (format!("tablock{number}"), format!("swintransformer{number}.layers"));
        let width = loader.rows(&format!("conv{number}.weight"));
        let channels = (0..loader.count_below(&blocks))
            .map(|i| ChannelAttention::load(loader, &format!("{blocks}.{i}"), tokens))
            .collect::<Result<_, _>>()?;
        let conv = Conv2d::same(loader, &format!("conv{number}"), [inputs, width], 1)?;
        let groups = (0..loader.count_below(&groups))
            .map(|i| Group::load(loader, &format!("{groups}.{i}"), width))
            .collect::<Result<_, _>>()?;
        Ok(Self { channels, conv, groups, width })
    }

    /// `[B, C, N] -> [B, width, N]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let mut x = x.shallow_clone();
        for block in &self.channels {
            x = block.forward(&x)?;
        }
        let (batch, channels, tokens) = x.size3()?;
        let side = tokens.isqrt();
        let mut x = self.conv.forward(&x.f_view([batch, channels, side, side])?)?;
        for group in &self.groups {
            x = group.forward(&x)?;
        }
        x.f_contiguous()?.f_view([batch, self.width, tokens])
    }
}

/// Two linear layers for each token: a number.
struct Head([Linear; 2]);

impl Head {
    fn load(loader: &mut Loader, name: &str, width: i64) -> Result<Self, WeightsError> {
        let inner = loader.rows(&format!("{name}.0.weight"));
        let first = Linear::load(loader, &format!("{name}.0"), width, inner)?;
        Ok(Self([first, Linear::load(loader, &format!("{name}.3"), inner, 1)?]))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        self.0[1].forward(&self.0[0].forward(x)?.f_relu_()?)
    }
}

struct Maniqa {
    vit: Vit,
    stages: [Stage; 2],
    score: Head,
    weight: Head,
    /// Of a crop.
    side: i64,
    device: Device,
}

pub(super) fn open(files: &Files, device: Device) -> Opened {
    let weights = open_file(files, "maniqa")?;
    let prefix = prefix_of(&weights, "vit.patch_embed.proj.weight");
    let mut loader = Loader::new(&weights, &prefix, device, Kind::Float);
    let loader = &mut loader;
    loader.ignore_containing(&["relative_position_index", "attn_mask"]);
    loader.ignore_prefix("downsample.");
    let shape = loader.shape("vit.patch_embed.proj.weight").unwrap_or_default();
    let (width, patch) = (shape.first().copied().unwrap_or(0), shape.last().copied().unwrap_or(0));
    let tokens = loader.rows("tablock1.0.c_q.weight");
    if tokens < 1 || tokens.isqrt().pow(2) != tokens {
        loader.report(format!("tablock1.0.c_q.weight is of {tokens} tokens: expected a square number"));
    }
    let vit = Vit::load(loader, width, patch, tokens)?;
    let first = Stage::load(loader, 1, TAPS.len() as i64 * width, tokens)?;
    let second = Stage::load(loader, 2, first.width, tokens)?;
    let last = second.width;
    let network = Maniqa {
        vit,
        stages: [first, second],
        score: Head::load(loader, "fc_score", last)?,
        weight: Head::load(loader, "fc_weight", last)?,
        side: tokens.isqrt() * patch,
        device,
    };
    loader.finish(NETWORK)?;
    Ok(Box::new(network))
}

impl Maniqa {
    /// A picture `[1, 3, H, W]` large enough for crops, by one pixel where it was not.
    fn enlarged(&self, x: Tensor) -> Result<Tensor, TchError> {
        let (_, _, height, width) = x.size4()?;
        if height.min(width) > self.side {
            return Ok(x);
        }
        let factor = (self.side + 1) as f64 / height.min(width) as f64;
        let size = [height, width].map(|length| (length as f64 * factor).floor() as i64);
        x.f_upsample_bilinear2d(size, false, factor, factor)
    }

    /// Crops `[B, 3, side, side]` -> sum of weighted scores, sum of weights.
    fn judge(&self, crops: &Tensor) -> Result<[f64; 2], TchError> {
        let mut x = self.vit.forward(crops)?;
        for stage in &self.stages {
            x = stage.forward(&x)?;
        }
        let tokens = x.f_transpose(1, 2)?;
        let score = self.score.forward(&tokens)?.f_relu_()?;
        let weight = self.weight.forward(&tokens)?.f_sigmoid_()?;
        let sum = |x: &Tensor| x.f_sum(Kind::Double)?.f_double_value(&[]);
        Ok([sum(&weight.f_mul(&score)?)?, sum(&weight)?])
    }
}

impl Metric for Maniqa {
    fn score(&self, picture: &Picture, _: Option<&Picture>) -> Result<Score, TchError> {
        let (short, long) = (picture.short_side(), picture.width().max(picture.height()));
        if i64::from(short) <= self.side && long / short > LONGEST {
            let (width, height) = (picture.width(), picture.height());
            return Ok(Err(format!("{width} x {height} is too narrow: it would be enlarged beyond measure")));
        }
        judged(|| {
            let x = normalised(&tensor_from_picture(picture, self.device)?, [0.5; 3], [0.5; 3])?;
            let x = self.enlarged(x)?;
            let (_, _, height, width) = x.size4()?;
            let [down, across] = [height, width].map(|length| (length - self.side) / (GRID - 1));
            let crop = |i: i64| {
                let (top, left) = (i / GRID * down, i % GRID * across);
                x.f_narrow(2, top, self.side)?.f_narrow(3, left, self.side)
            };
            let mut sums = [0.0; 2];
            for first in (0..CROPS).step_by(BATCH as usize) {
                let crops: Vec<Tensor> = (first..first + BATCH).map(crop).collect::<Result<_, _>>()?;
                let found = self.judge(&Tensor::f_cat(&crops, 0)?)?;
                sums = [sums[0] + found[0], sums[1] + found[1]];
            }
            Ok(sums[0] / (sums[1] + 1e-8))
        })
    }
}
