//! HAT (arXiv 2205.04437; `hat/archs/hat_arch.py`): SwinIR's blocks with channel attention beside them, and at the end of each
//! group attention of windows to a wider surrounding.

use tch::{Device, Kind, TchError, Tensor};

use super::layers::restoration::{Block, BodyConv, Residual, Restoration, Variant};
use super::layers::swin::{Mlp, SwinBlock, from_tokens, to_tokens};
use super::layers::windows::{from_windows, relative_bias, windows};
use super::layers::{Conv2d, LayerNorm, Linear};
use super::single_image::{Context, SingleImageNetwork, loader};
use crate::runtime::weights::{Loader, Weights, WeightsError};

const EPSILON: f64 = 1e-5;
/// Weight of the channel attention (`conv_scale`), which is in no file.
const CHANNEL_WEIGHT: f64 = 0.01;

/// `CAB`: two convolutions, and each channel times what its mean over the picture says.
struct ChannelAttention {
    convs: [Conv2d; 2],
    gate: [Conv2d; 2],
}

impl ChannelAttention {
    fn load(loader: &mut Loader, name: &str, width: i64) -> Result<Self, WeightsError> {
        let (inner, squeezed) =
            (loader.rows(&format!("{name}.0.weight")), loader.rows(&format!("{name}.3.attention.1.weight")));
        let mut conv = |key: &str, channels, kernel| Conv2d::same(loader, &format!("{name}.{key}"), channels, kernel);
        Ok(Self {
            convs: [conv("0", [width, inner], 3)?, conv("2", [inner, width], 3)?],
            gate: [conv("3.attention.1", [width, squeezed], 1)?, conv("3.attention.3", [squeezed, width], 1)?],
        })
    }

    /// `[B, H, W, C] -> [B, H, W, C]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let h = self.convs[1].forward(&self.convs[0].forward(&from_tokens(x)?)?.f_gelu("none")?)?;
        let mean = h.f_mean_dim([2, 3].as_slice(), true, None::<Kind>)?;
        let gate = self.gate[1].forward(&self.gate[0].forward(&mean)?.f_relu()?)?.f_sigmoid()?;
        to_tokens(&h.f_mul(&gate)?)
    }
}

/// `OCAB`: windows attend to a wider surrounding of theirs, zeros beyond the picture's edge.
struct OverlappingAttention {
    norm1: LayerNorm,
    qkv: Linear,
    table: Tensor,
    proj: Linear,
    norm2: LayerNorm,
    mlp: Mlp,
    window: i64,
    /// Side of the surrounding.
    around: i64,
}

impl OverlappingAttention {
    fn load(loader: &mut Loader, name: &str, width: i64, window: i64) -> Result<Self, WeightsError> {
        let key = format!("{name}.relative_position_bias_table");
        let (places, heads) = match loader.shape(&key).as_deref() {
            Some(&[places, heads]) => (places, heads),
            _ => (0, 1),
        };
        let span = (places as f64).sqrt() as i64;
        let mut around = span - window + 1;
        let is_known = span * span == places && (window..=2 * window).contains(&around) && (around - window) % 2 == 0;
        if !is_known || heads < 1 || width % heads != 0 {
            loader.report(format!(
                "{key} is [{places}, {heads}], which suits no surrounding of windows of {window} x {window} with {width} channels"
            ));
            around = window;
        }
        let table = loader.tensor(&key, &[places, heads])?;
        let has_bias = loader.has(&format!("{name}.qkv.bias"));
        Ok(Self {
            norm1: LayerNorm::load(loader, &format!("{name}.norm1"), width, EPSILON)?,
            qkv: Linear::load_merged(loader, &format!("{name}.qkv"), [width, 3 * width], has_bias, None)?,
            table,
            proj: Linear::load(loader, &format!("{name}.proj"), width, width)?,
            norm2: LayerNorm::load(loader, &format!("{name}.norm2"), width, EPSILON)?,
            mlp: Mlp::load(loader, &format!("{name}.mlp"), width)?,
            window,
            around,
        })
    }

    /// `[B, H, W, C] -> [B, H, W, C]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (batch, height, width, channels) = x.size4()?;
        let (w, around, heads) = (self.window, self.around, self.table.size()[1]);
        let qkv = self.qkv.forward(&self.norm1.forward(x)?)?;
        let split = |x: &Tensor, length: i64| x.f_reshape([-1, length, heads, channels / heads])?.f_transpose(1, 2);
        let q = split(&windows(&qkv.f_narrow(3, 0, channels)?, [w, w])?, w * w)?;
        let border = (around - w) / 2;
        let wide = |from: i64| -> Result<Tensor, TchError> {
            let x = qkv.f_narrow(3, from, channels)?.f_constant_pad_nd([0, 0, border, border, border, border])?;
            // [B, rows, columns, C, W, W]
            let x = x.f_unfold(1, around, w)?.f_unfold(2, around, w)?;
            split(&x.f_permute([0, 1, 2, 4, 5, 3])?, around * around)
        };
        let (k, v) = (wide(channels)?, wide(2 * channels)?);
        let positions = overlapping_positions(w, around)?.f_to_device(x.device())?;
        let bias = relative_bias(&self.table, &positions, w * w)?.f_unsqueeze(0)?;
        let attended = Tensor::f_scaled_dot_product_attention(&q, &k, &v, Some(&bias), 0.0, false, None, false)?;
        let attended = attended.f_transpose(1, 2)?.f_reshape([batch, height / w, width / w, w * w, channels])?;
        let x = x.f_add(&self.proj.forward(&from_windows(&attended, [w, w])?)?)?;
        x.f_add(&self.mlp.forward(&self.norm2.forward(&x)?)?)
    }
}

/// Where in the table the distance between a token and one of its surrounding stands. Some places are negative and count
/// from the table's end (`calculate_rpi_oca`): not what was meant, but what was trained.
fn overlapping_positions(w: i64, around: i64) -> Result<Tensor, TchError> {
    let span = w + around - 1;
    let offset = w - around + 1;
    let place = |to: i64, from: i64| {
        let (down, right) = (from / around - to / w + offset, from % around - to % w + offset);
        (down * span + right).rem_euclid(span * span)
    };
    let places: Vec<i64> = (0..w * w).flat_map(|to| (0..around * around).map(move |from| place(to, from))).collect();
    Tensor::f_from_slice(&places)
}

/// What a group of it is made of.
enum HatBlock {
    /// `HAB`.
    Hybrid(Box<(SwinBlock, ChannelAttention)>),
    /// `OCAB`.
    Overlapping(Box<OverlappingAttention>),
}

impl Block for HatBlock {
    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        match self {
            Self::Hybrid(hybrid) => hybrid.0.forward_with(x, |attended, normalised| {
                attended.f_add(&hybrid.1.forward(normalised)?.f_mul_scalar(CHANNEL_WEIGHT)?)
            }),
            Self::Overlapping(attention) => attention.forward(x),
        }
    }
}

/// `RHAG`.
fn group(loader: &mut Loader, name: &str, width: i64) -> Result<Residual<HatBlock>, WeightsError> {
    let count = loader.count_below(&format!("{name}.residual_group.blocks"));
    let mut window = 1;
    let mut blocks = Vec::new();
    for i in 0..count {
        let name = format!("{name}.residual_group.blocks.{i}");
        let block = SwinBlock::load(loader, &name, width, i % 2 == 1)?;
        window = block.window();
        let channels = ChannelAttention::load(loader, &format!("{name}.conv_block.cab"), width)?;
        blocks.push(HatBlock::Hybrid(Box::new((block, channels))));
    }
    let overlapping = format!("{name}.residual_group.overlap_attn");
    blocks.push(HatBlock::Overlapping(Box::new(OverlappingAttention::load(loader, &overlapping, width, window)?)));
    Ok(Residual { blocks, conv: BodyConv::load(loader, &format!("{name}.conv"), width)? })
}

/// Whether the keys under `prefix` look like this network.
pub fn recognises(weights: &Weights, prefix: &str) -> bool {
    weights.shape(&format!("{prefix}layers.0.residual_group.overlap_attn.qkv.weight")).is_some()
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
    let network = Restoration::load(
        &mut loader,
        |loader, name, width, _| group(loader, name, width),
        |groups| {
            let window = groups.first().and_then(|group| match group.blocks.last() {
                Some(HatBlock::Overlapping(attention)) => Some(attention.window),
                _ => None,
            });
            let multiple = window.unwrap_or(1);
            Variant { context: Context::Global, multiple, range: 1.0, norm_before: "patch_embed.norm" }
        },
    )?;
    loader.finish("HAT")?;
    Ok(network)
}
