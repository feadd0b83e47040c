//! DAT (arXiv 2308.03364; `basicsr/archs/dat_arch.py`): blocks that attend in turns within windows and between channels, each
//! with a convolution beside it, and the two weigh each other.

use tch::{Device, Kind, TchError, Tensor};

use super::layers::restoration::{Block, BodyConv, Residual, Restoration, Variant};
use super::layers::swin::{from_tokens, to_tokens};
use super::layers::windows::{self, LARGEST_WINDOW, channel_attention};
use super::layers::{Conv2d, LayerNorm, Linear};
use super::single_image::{Context, SingleImageNetwork, loader};
use crate::runtime::weights::{Loader, Weights, WeightsError};

const EPSILON: f64 = 1e-5;
const OFFSETS: &str = "layers.0.blocks.0.attn.attns.0.rpe_biases";

/// `nn.BatchNorm2d` by the numbers of its training.
struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
}

impl BatchNorm {
    fn load(loader: &mut Loader, name: &str, channels: i64) -> Result<Self, WeightsError> {
        let mut tensor = |key: &str| loader.tensor(&format!("{name}.{key}"), &[channels]);
        let (weight, bias) = (tensor("weight")?, tensor("bias")?);
        Ok(Self { weight, bias, mean: tensor("running_mean")?, variance: tensor("running_var")? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (weight, bias) = (Some(&self.weight), Some(&self.bias));
        x.f_batch_norm(weight, bias, Some(&self.mean), Some(&self.variance), false, 0.0, EPSILON, true)
    }
}

/// Two convolutions of 1 x 1 with a norm between them, at the end of which a sigmoid weighs channels or pixels.
struct Gate {
    squeeze: Conv2d,
    norm: BatchNorm,
    expand: Conv2d,
}

impl Gate {
    /// From `{name}.{first}`, the one after it, and the third after it.
    fn load(loader: &mut Loader, name: &str, first: usize, channels: [i64; 2]) -> Result<Self, WeightsError> {
        let inner = loader.rows(&format!("{name}.{first}.weight"));
        Ok(Self {
            squeeze: Conv2d::same(loader, &format!("{name}.{first}"), [channels[0], inner], 1)?,
            norm: BatchNorm::load(loader, &format!("{name}.{}", first + 1), inner)?,
            expand: Conv2d::same(loader, &format!("{name}.{}", first + 3), [inner, channels[1]], 1)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let h = self.norm.forward(&self.squeeze.forward(x)?)?.f_gelu("none")?;
        self.expand.forward(&h)?.f_sigmoid()
    }
}

/// What both kinds of attention have beside it (`AIM`): a convolution for each channel, and gates.
struct Interaction {
    depthwise: Conv2d,
    norm: BatchNorm,
    channels: Gate,
    pixels: Gate,
}

impl Interaction {
    fn load(loader: &mut Loader, name: &str, width: i64) -> Result<Self, WeightsError> {
        Ok(Self {
            depthwise: Conv2d::depthwise(loader, &format!("{name}.dwconv.0"), width, true)?,
            norm: BatchNorm::load(loader, &format!("{name}.dwconv.1"), width)?,
            channels: Gate::load(loader, &format!("{name}.channel_interaction"), 1, [width, width])?,
            pixels: Gate::load(loader, &format!("{name}.spatial_interaction"), 0, [width, 1])?,
        })
    }

    /// `[B, C, H, W] -> [B, C, H, W]`.
    fn convolve(&self, x: &Tensor) -> Result<Tensor, TchError> {
        self.norm.forward(&self.depthwise.forward(x)?)?.f_gelu("none")
    }

    /// `[B, C, H, W] -> [B, C, 1, 1]`.
    fn of_channels(&self, x: &Tensor) -> Result<Tensor, TchError> {
        self.channels.forward(&x.f_mean_dim([2, 3].as_slice(), true, None::<Kind>)?)
    }

    /// `[B, C, H, W] -> [B, 1, H, W]`.
    fn of_pixels(&self, x: &Tensor) -> Result<Tensor, TchError> {
        self.pixels.forward(x)
    }
}

/// The bias of a window's tokens, by a small network of their offsets (`DynamicPosBias`).
struct PositionBias {
    /// `[(2h - 1)(2w - 1), heads]`.
    table: Tensor,
    layout: windows::Layout,
}

impl PositionBias {
    fn load(
        loader: &mut Loader,
        name: &str,
        size: [i64; 2],
        heads: i64,
        is_shifted: bool,
    ) -> Result<Self, WeightsError> {
        let [h, w] = size;
        let width = loader.rows(&format!("{name}.pos_proj.weight"));
        let first = Linear::load(loader, &format!("{name}.pos_proj"), 2, width)?;
        let mut layer = |key: &str, outputs: i64| -> Result<(LayerNorm, Linear), WeightsError> {
            let norm = LayerNorm::load(loader, &format!("{name}.{key}.0"), width, EPSILON)?;
            Ok((norm, Linear::load(loader, &format!("{name}.{key}.2"), width, outputs)?))
        };
        let layers = [layer("pos1", width)?, layer("pos2", width)?, layer("pos3", heads)?];
        let offsets: Vec<f32> =
            (1 - h..h).flat_map(|dy| (1 - w..w).flat_map(move |dx| [dy as f32, dx as f32])).collect();
        let (kind, device) = loader.target();
        let offsets = Tensor::f_from_slice(&offsets)?.f_view([-1, 2])?.f_to_device(device)?.f_to_kind(kind)?;
        // Of what does not fit there is nothing to compute; it is reported in the end.
        let table = match loader.has_problems() {
            true => Tensor::f_zeros([1], (kind, device))?.f_expand([(2 * h - 1) * (2 * w - 1), heads], false)?,
            false => tch::no_grad(|| {
                layers.iter().try_fold(first.forward(&offsets)?, |x, (norm, linear)| {
                    linear.forward(&norm.forward(&x)?.f_relu()?)
                })
            })?,
        };
        Ok(Self { table, layout: windows::Layout::new(size, is_shifted) })
    }

    /// `[B, H, W, 3 * C] -> [B, H, W, C]`.
    fn attention(&self, qkv: &Tensor) -> Result<Tensor, TchError> {
        self.layout.attention(qkv, &self.layout.bias(&self.table)?)
    }
}

enum Attention {
    /// `Adaptive_Spatial_Attention`: half of the channels in windows `h` high and `w` wide, the other half in `w` and `h`.
    Windows { halves: [PositionBias; 2], longest: i64 },
    /// `Adaptive_Channel_Attention`: between channels, over all pixels.
    Channels { temperature: Tensor },
}

struct DatBlock {
    norm1: LayerNorm,
    qkv: Linear,
    attention: Attention,
    interaction: Interaction,
    proj: Linear,
    norm2: LayerNorm,
    feed_forward: FeedForward,
}

impl DatBlock {
    /// The numbers are those of the group, and of the block in it.
    fn load(
        loader: &mut Loader,
        name: &str,
        width: i64,
        (group, i): (usize, usize),
        window: [i64; 2],
        heads: i64,
    ) -> Result<Self, WeightsError> {
        let attn = format!("{name}.attn");
        let attention = if i % 2 == 0 {
            let is_shifted = if group % 2 == 0 { i % 4 == 2 } else { i % 4 == 0 };
            let [h, w] = window;
            let mut half = |number: usize, size: [i64; 2]| {
                PositionBias::load(loader, &format!("{attn}.attns.{number}.pos"), size, heads / 2, is_shifted)
            };
            Attention::Windows { halves: [half(0, [h, w])?, half(1, [w, h])?], longest: h.max(w) }
        } else {
            Attention::Channels { temperature: loader.tensor(&format!("{attn}.temperature"), &[heads, 1, 1])? }
        };
        let has_bias = loader.has(&format!("{attn}.qkv.bias"));
        Ok(Self {
            norm1: LayerNorm::load(loader, &format!("{name}.norm1"), width, EPSILON)?,
            qkv: Linear::load_merged(loader, &format!("{attn}.qkv"), [width, 3 * width], has_bias, None)?,
            attention,
            interaction: Interaction::load(loader, &attn, width)?,
            proj: Linear::load(loader, &format!("{attn}.proj"), width, width)?,
            norm2: LayerNorm::load(loader, &format!("{name}.norm2"), width, EPSILON)?,
            feed_forward: FeedForward::load(loader, &format!("{name}.ffn"), width)?,
        })
    }

    fn attend(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (batch, height, width, channels) = x.size4()?;
        let qkv = self.qkv.forward(x)?;
        let convolved = self.interaction.convolve(&from_tokens(&qkv.f_narrow(3, 2 * channels, channels)?)?)?;
        let sum = match &self.attention {
            Attention::Windows { halves, longest } => {
                let missing = |length: i64| (longest - length % longest) % longest;
                let qkv = qkv.f_constant_pad_nd([0, 0, 0, missing(width), 0, missing(height)])?;
                let (padded_height, padded_width) = (qkv.size()[1], qkv.size()[2]);
                let qkv = qkv.f_view([batch, padded_height, padded_width, 3, channels])?;
                let half = |number: i64| {
                    let part = qkv.f_narrow(4, number * channels / 2, channels / 2)?;
                    let part = part.f_reshape([batch, padded_height, padded_width, 3 * channels / 2])?;
                    halves[number as usize].attention(&part)?.f_narrow(1, 0, height)?.f_narrow(2, 0, width)
                };
                let attended = from_tokens(&Tensor::f_cat(&[half(0)?, half(1)?], 3)?)?;
                let by_channels = attended.f_mul(&self.interaction.of_channels(&convolved)?)?;
                by_channels.f_add(&convolved.f_mul(&self.interaction.of_pixels(&attended)?)?)?
            }
            Attention::Channels { temperature } => {
                let heads = temperature.size()[0];
                let qkv =
                    qkv.f_view([batch, height * width, 3, heads, channels / heads])?.f_permute([2, 0, 3, 4, 1])?;
                let attended = channel_attention(&qkv.f_get(0)?, &qkv.f_get(1)?, &qkv.f_get(2)?, temperature)?;
                let attended = attended.f_reshape([batch, channels, height, width])?;
                let by_pixels = attended.f_mul(&self.interaction.of_pixels(&convolved)?)?;
                by_pixels.f_add(&convolved.f_mul(&self.interaction.of_channels(&attended)?)?)?
            }
        };
        self.proj.forward(&to_tokens(&sum)?)
    }
}

impl Block for DatBlock {
    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let x = x.f_add(&self.attend(&self.norm1.forward(x)?)?)?;
        x.f_add(&self.feed_forward.forward(&self.norm2.forward(&x)?)?)
    }
}

/// `SGFN`: half of the channels times a convolution of the other half.
struct FeedForward {
    first: Linear,
    norm: LayerNorm,
    conv: Conv2d,
    last: Linear,
}

impl FeedForward {
    fn load(loader: &mut Loader, name: &str, width: i64) -> Result<Self, WeightsError> {
        let inner = loader.rows(&format!("{name}.fc1.weight"));
        if inner < 2 || inner % 2 != 0 {
            loader.report(format!("{name}.fc1.weight: {inner} channels do not make two halves"));
        }
        Ok(Self {
            first: Linear::load(loader, &format!("{name}.fc1"), width, inner)?,
            norm: LayerNorm::load(loader, &format!("{name}.sg.norm"), inner / 2, EPSILON)?,
            conv: Conv2d::depthwise(loader, &format!("{name}.sg.conv"), inner / 2, true)?,
            last: Linear::load(loader, &format!("{name}.fc2"), inner / 2, width)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let h = self.first.forward(x)?.f_gelu("none")?;
        let halves = h.f_chunk(2, 3)?;
        let gate = self.conv.forward(&from_tokens(&self.norm.forward(&halves[1])?)?)?;
        self.last.forward(&halves[0].f_mul(&to_tokens(&gate)?)?)
    }
}

/// `ResidualGroup`.
fn group(
    loader: &mut Loader,
    name: &str,
    width: i64,
    number: usize,
    window: [i64; 2],
) -> Result<Residual<DatBlock>, WeightsError> {
    let mut heads = match loader.shape(&format!("{name}.blocks.1.attn.temperature")) {
        Some(shape) => shape.first().copied().unwrap_or(0),
        None => 2 * loader.rows(&format!("{name}.blocks.0.attn.attns.0.pos.pos3.2.weight")),
    };
    if heads < 2 || heads % 2 != 0 || width % heads != 0 {
        loader.report(format!(
            "{name}: {width} channels do not make {heads} heads, half of them for each kind of window"
        ));
        heads = 2;
    }
    let count = loader.count_below(&format!("{name}.blocks"));
    let block = |loader: &mut Loader, i: usize| {
        DatBlock::load(loader, &format!("{name}.blocks.{i}"), width, (number, i), window, heads)
    };
    let blocks = (0..count).map(|i| block(loader, i)).collect::<Result<_, _>>()?;
    Ok(Residual { blocks, conv: BodyConv::load(loader, &format!("{name}.conv"), width)? })
}

/// Whether the keys under `prefix` look like this network.
pub fn recognises(weights: &Weights, prefix: &str) -> bool {
    let has = |key: &str| weights.shape(&format!("{prefix}{key}.weight")).is_some();
    has("layers.0.blocks.0.attn.channel_interaction.1") && has("before_RG.1")
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
    let window = window(&mut loader)?;
    let load_group = |loader: &mut Loader, name: &str, width, number| group(loader, name, width, number, window);
    let variant = |_: &[_]| Variant { context: Context::Global, multiple: 1, range: 1.0, norm_before: "before_RG.1" };
    let network = Restoration::load(&mut loader, load_group, variant)?;
    loader.finish("DAT")?;
    Ok(network)
}

/// Height and width of the windows, which the largest offset within them tells.
fn window(loader: &mut Loader) -> Result<[i64; 2], WeightsError> {
    let count = loader.rows(OFFSETS);
    let offsets = loader.tensor_as(Kind::Double, OFFSETS, &[count, 2])?;
    if count > 0 {
        let last = offsets.f_get(count - 1)?;
        // Those of no window saturate, and are out of range.
        let sides =
            [last.f_double_value(&[0])?, last.f_double_value(&[1])?].map(|offset| (offset as i64).saturating_add(1));
        if sides.iter().all(|side| (1..=LARGEST_WINDOW).contains(side))
            && sides.iter().map(|side| 2 * side - 1).product::<i64>() == count
        {
            return Ok(sides);
        }
        loader.report(format!("{OFFSETS}: {count} offsets that end at {sides:?} are those of no window"));
    }
    Ok([1, 1])
}
