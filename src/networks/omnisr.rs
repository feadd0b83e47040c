//! OmniSR (arXiv 2304.10244; `ops/OSA.py`, `OSAG.py`, `esa.py`): attention between tokens and between channels, both within
//! windows and then on grids that span the picture.

use tch::{Device, Kind, TchError, Tensor};

use super::layers::restoration::SHORTEST_SIDE;
use super::layers::swin::{from_tokens, to_tokens};
use super::layers::upsample::shuffle_factor;
use super::layers::windows::{Layout, channel_attention, from_windows, reflect, window_of_table, windows};
use super::layers::{Conv2d, LayerNorm, Linear};
use super::single_image::{Context, SingleImageNetwork, loader};
use crate::runtime::weights::{Loader, Weights, WeightsError};

const NETWORK: &str = "OmniSR";
const EPSILON: f64 = 1e-5;
const CHANNEL_EPSILON: f64 = 1e-6;
const HEADS: i64 = 4;
/// Where no table of distances tells it.
const DEFAULT_WINDOW: i64 = 8;

/// A convolution that has a bias or not, as the network was trained.
fn conv(loader: &mut Loader, name: &str, channels: [i64; 2], kernel: i64) -> Result<Conv2d, WeightsError> {
    match loader.has("input.bias") {
        true => Conv2d::same(loader, name, channels, kernel),
        false => Conv2d::same_without_bias(loader, name, channels, kernel),
    }
}

/// Which tokens attend to each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pattern {
    /// Those of a window.
    Window,
    /// Those at the same place of all windows.
    Grid,
}

/// `[B, H, W, C] -> [B, H / w, W / w, w * w, C]`: every so many pixels one, so that each set spans the picture.
fn grid(x: &Tensor, w: i64) -> Result<Tensor, TchError> {
    let (batch, height, width, channels) = x.size4()?;
    let x = x.f_reshape([batch, w, height / w, w, width / w, channels])?;
    x.f_permute([0, 2, 4, 1, 3, 5])?.f_reshape([batch, height / w, width / w, w * w, channels])
}

/// The way back from [`grid`].
fn from_grid(x: &Tensor, w: i64) -> Result<Tensor, TchError> {
    let (batch, rows, columns, _, channels) = x.size5()?;
    let x = x.f_reshape([batch, rows, columns, w, w, channels])?;
    x.f_permute([0, 3, 1, 4, 2, 5])?.f_reshape([batch, w * rows, w * columns, channels])
}

/// `MBConv`: convolutions, and each channel times what its mean says.
struct Convolution {
    expand: Conv2d,
    depthwise: Conv2d,
    gate: [Linear; 2],
    project: Conv2d,
}

impl Convolution {
    fn load(loader: &mut Loader, name: &str, width: i64) -> Result<Self, WeightsError> {
        let (inner, squeezed) =
            (loader.rows(&format!("{name}.0.weight")), loader.rows(&format!("{name}.4.gate.1.weight")));
        let expand = Conv2d::same(loader, &format!("{name}.0"), [width, inner], 1)?;
        let depthwise = Conv2d::depthwise(loader, &format!("{name}.2"), inner, true)?;
        let gate = [
            Linear::load_without_bias(loader, &format!("{name}.4.gate.1"), inner, squeezed)?,
            Linear::load_without_bias(loader, &format!("{name}.4.gate.3"), squeezed, inner)?,
        ];
        Ok(Self { expand, depthwise, gate, project: Conv2d::same(loader, &format!("{name}.5"), [inner, width], 1)? })
    }

    /// `[B, C, H, W] -> [B, C, H, W]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let h = self.expand.forward(x)?.f_gelu("none")?;
        let h = self.depthwise.forward(&h)?.f_gelu("none")?;
        let mean = h.f_mean_dim([2, 3].as_slice(), false, None::<Kind>)?;
        let gate = self.gate[1].forward(&self.gate[0].forward(&mean)?.f_silu()?)?.f_sigmoid()?;
        self.project.forward(&h.f_mul(&gate.f_unsqueeze(2)?.f_unsqueeze(3)?)?)
    }
}

/// `Attention`: between tokens.
struct TokenAttention {
    norm: LayerNorm,
    qkv: Linear,
    /// `[distances, heads]`.
    table: Option<Tensor>,
    out: Linear,
    pattern: Pattern,
}

impl TokenAttention {
    fn load(loader: &mut Loader, name: &str, width: i64, window: i64, pattern: Pattern) -> Result<Self, WeightsError> {
        let key = format!("{name}.fn.rel_pos_bias.weight");
        let table = match loader.has(&key) {
            true => Some(loader.tensor(&key, &[(2 * window - 1).pow(2), HEADS])?),
            false => None,
        };
        Ok(Self {
            norm: LayerNorm::load(loader, &format!("{name}.norm"), width, EPSILON)?,
            qkv: Linear::load_without_bias(loader, &format!("{name}.fn.to_qkv"), width, 3 * width)?,
            table,
            out: Linear::load_without_bias(loader, &format!("{name}.fn.to_out.0"), width, width)?,
            pattern,
        })
    }

    /// `[B, H, W, C] -> [B, H, W, C]`.
    fn forward(&self, x: &Tensor, w: i64) -> Result<Tensor, TchError> {
        let qkv = self.qkv.forward(&self.norm.forward(x)?)?;
        let layout = Layout::new([w, w], false);
        let bias = match &self.table {
            Some(table) => layout.bias(table)?,
            None => Tensor::f_zeros([HEADS, w * w, w * w], (x.kind(), x.device()))?,
        };
        self.out.forward(&match self.pattern {
            Pattern::Window => layout.attention(&qkv, &bias)?,
            // The sets side by side, as windows.
            Pattern::Grid => {
                let side_by_side = from_windows(&grid(&qkv, w)?, [w, w])?;
                from_grid(&windows(&layout.attention(&side_by_side, &bias)?, [w, w])?, w)?
            }
        })
    }
}

/// `Channel_Attention`, `Channel_Attention_grid`.
struct ChannelAttention {
    norm: LayerNorm,
    qkv: Conv2d,
    depthwise: Conv2d,
    temperature: Tensor,
    out: Conv2d,
    pattern: Pattern,
}

impl ChannelAttention {
    fn load(loader: &mut Loader, name: &str, width: i64, pattern: Pattern) -> Result<Self, WeightsError> {
        Ok(Self {
            norm: LayerNorm::load(loader, &format!("{name}.norm"), width, CHANNEL_EPSILON)?,
            qkv: Conv2d::same_without_bias(loader, &format!("{name}.fn.qkv"), [width, 3 * width], 1)?,
            depthwise: Conv2d::depthwise(loader, &format!("{name}.fn.qkv_dwconv"), 3 * width, false)?,
            temperature: loader.tensor(&format!("{name}.fn.temperature"), &[HEADS, 1, 1])?,
            out: Conv2d::same_without_bias(loader, &format!("{name}.fn.project_out"), [width, width], 1)?,
            pattern,
        })
    }

    /// `[B, C, H, W] -> [B, C, H, W]`.
    fn forward(&self, x: &Tensor, w: i64) -> Result<Tensor, TchError> {
        let channels = x.size()[1];
        let qkv = self.depthwise.forward(&self.qkv.forward(&self.norm.forward_channels(x)?)?)?;
        let tokens = windows(&to_tokens(&qkv)?, [w, w])?;
        let (batch, rows, columns, length, _) = tokens.size5()?;
        // [B, sets, tokens, 3 * C]
        let tokens = tokens.f_reshape([batch, rows * columns, length, 3 * channels])?;
        let tokens = if self.pattern == Pattern::Grid { tokens.f_transpose(1, 2)? } else { tokens };
        let (sets, length) = (tokens.size()[1], tokens.size()[2]);
        let parts =
            tokens.f_reshape([batch, sets, length, 3, HEADS, channels / HEADS])?.f_permute([3, 0, 1, 4, 5, 2])?;
        let attended = channel_attention(&parts.f_get(0)?, &parts.f_get(1)?, &parts.f_get(2)?, &self.temperature)?;
        let attended = attended.f_permute([0, 1, 4, 2, 3])?.f_reshape([batch, sets, length, channels])?;
        let attended = if self.pattern == Pattern::Grid { attended.f_transpose(1, 2)? } else { attended };
        let attended = from_windows(&attended.f_reshape([batch, rows, columns, w * w, channels])?, [w, w])?;
        self.out.forward(&from_tokens(&attended)?)
    }
}

/// `Gated_Conv_FeedForward`.
struct FeedForward {
    norm: LayerNorm,
    project_in: Conv2d,
    depthwise: Conv2d,
    project_out: Conv2d,
}

impl FeedForward {
    fn load(loader: &mut Loader, name: &str, width: i64) -> Result<Self, WeightsError> {
        let doubled = loader.rows(&format!("{name}.fn.project_in.weight"));
        if doubled < 2 || doubled % 2 != 0 {
            loader.report(format!("{name}.fn.project_in.weight: {doubled} channels do not make two halves"));
        }
        let project_in = format!("{name}.fn.project_in");
        let project_out = format!("{name}.fn.project_out");
        Ok(Self {
            norm: LayerNorm::load(loader, &format!("{name}.norm"), width, CHANNEL_EPSILON)?,
            project_in: Conv2d::same_without_bias(loader, &project_in, [width, doubled], 1)?,
            depthwise: Conv2d::depthwise(loader, &format!("{name}.fn.dwconv"), doubled, false)?,
            project_out: Conv2d::same_without_bias(loader, &project_out, [doubled / 2, width], 1)?,
        })
    }

    /// `[B, C, H, W] -> [B, C, H, W]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let h = self.depthwise.forward(&self.project_in.forward(&self.norm.forward_channels(x)?)?)?;
        let halves = h.f_chunk(2, 1)?;
        self.project_out.forward(&halves[0].f_gelu("none")?.f_mul(&halves[1])?)
    }
}

/// Attention by one pattern: between tokens, then between channels.
struct Stage {
    tokens: TokenAttention,
    channels: ChannelAttention,
    feed_forwards: [FeedForward; 2],
}

/// `OSA_Block`.
struct Block {
    convolution: Convolution,
    stages: [Stage; 2],
}

impl Block {
    fn load(loader: &mut Loader, name: &str, width: i64, window: i64) -> Result<Self, WeightsError> {
        let layer = |i: usize| format!("{name}.layer.{i}");
        let mut stage = |[tokens, first, channels, second]: [usize; 4], pattern| -> Result<Stage, WeightsError> {
            Ok(Stage {
                tokens: TokenAttention::load(loader, &layer(tokens), width, window, pattern)?,
                channels: ChannelAttention::load(loader, &layer(channels), width, pattern)?,
                feed_forwards: [
                    FeedForward::load(loader, &layer(first), width)?,
                    FeedForward::load(loader, &layer(second), width)?,
                ],
            })
        };
        let stages = [stage([2, 4, 5, 6], Pattern::Window)?, stage([8, 10, 11, 12], Pattern::Grid)?];
        Ok(Self { convolution: Convolution::load(loader, &format!("{name}.layer.0.fn"), width)?, stages })
    }

    /// `[B, C, H, W] -> [B, C, H, W]`.
    fn forward(&self, x: &Tensor, window: i64) -> Result<Tensor, TchError> {
        let mut x = x.f_add(&self.convolution.forward(x)?)?;
        for stage in &self.stages {
            let tokens = to_tokens(&x)?;
            x = from_tokens(&tokens.f_add(&stage.tokens.forward(&tokens, window)?)?)?.f_contiguous()?;
            x = x.f_add(&stage.feed_forwards[0].forward(&x)?)?;
            x = x.f_add(&stage.channels.forward(&x, window)?)?;
            x = x.f_add(&stage.feed_forwards[1].forward(&x)?)?;
        }
        Ok(x)
    }
}

/// `ESA`: pixels weighed by what a much smaller picture of them says.
struct SpatialAttention {
    reduce: Conv2d,
    strided: Conv2d,
    inner: Conv2d,
    beside: Conv2d,
    expand: Conv2d,
}

impl SpatialAttention {
    fn load(loader: &mut Loader, name: &str, width: i64) -> Result<Self, WeightsError> {
        let inner = loader.rows(&format!("{name}.conv1.weight"));
        let strided = Conv2d::load(loader, &format!("{name}.conv2"), [inner, inner], 3, 2, 0)?;
        let mut conv = |key: &str, channels, kernel| Conv2d::same(loader, &format!("{name}.{key}"), channels, kernel);
        Ok(Self {
            reduce: conv("conv1", [width, inner], 1)?,
            strided,
            inner: conv("conv3", [inner, inner], 3)?,
            beside: conv("conv_f", [inner, inner], 1)?,
            expand: conv("conv4", [inner, width], 1)?,
        })
    }

    /// `[B, C, H, W] -> [B, C, H, W]`, at least 15 pixels high and wide.
    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (_, _, height, width) = x.size4()?;
        let reduced = self.reduce.forward(x)?;
        let small = self.strided.forward(&reduced)?.f_max_pool2d([7, 7], [3, 3], [0, 0], [1, 1], false)?;
        let small = self.inner.forward(&small)?.f_upsample_bilinear2d([height, width], false, None, None)?;
        let weight = self.expand.forward(&small.f_add(&self.beside.forward(&reduced)?)?)?.f_sigmoid()?;
        x.f_mul(&weight)
    }
}

/// `OSAG`.
struct BlockGroup {
    blocks: Vec<Block>,
    conv: Conv2d,
    attention: SpatialAttention,
}

impl BlockGroup {
    fn load(loader: &mut Loader, name: &str, width: i64, window: i64) -> Result<Self, WeightsError> {
        let inside = format!("{name}.residual_layer");
        // After the blocks stands a convolution.
        let count = loader.count_below(&inside).saturating_sub(1);
        let block = |loader: &mut Loader, i: usize| Block::load(loader, &format!("{inside}.{i}"), width, window);
        let blocks = (0..count).map(|i| block(loader, i)).collect::<Result<_, _>>()?;
        let conv = conv(loader, &format!("{inside}.{count}"), [width, width], 1)?;
        Ok(Self { blocks, conv, attention: SpatialAttention::load(loader, &format!("{name}.esa"), width)? })
    }
}

/// `[B, 3, H, W]` in [0, 1] -> `[B, 3, scale * H, scale * W]`, not clamped.
pub struct OmniSr {
    first: Conv2d,
    groups: Vec<BlockGroup>,
    last: Conv2d,
    up: Conv2d,
    window: i64,
    scale: i64,
}

impl OmniSr {
    /// Whether the keys under `prefix` look like this network.
    pub fn recognises(weights: &Weights, prefix: &str) -> bool {
        weights.shape(&format!("{prefix}residual_layer.0.residual_layer.0.layer.0.fn.0.weight")).is_some()
    }

    /// # Errors
    /// Every missing, surplus or misshapen key, all at once.
    pub fn load(weights: &Weights, prefix: &str, device: Device, kind: Kind) -> Result<Self, WeightsError> {
        let mut loader = loader(weights, prefix, device, kind);
        let loader = &mut loader;
        let width = loader.rows("input.weight");
        if width < HEADS || width % HEADS != 0 {
            loader.report(format!("input.weight: {width} channels do not make {HEADS} heads"));
        }
        let table = "residual_layer.0.residual_layer.0.layer.2.fn.rel_pos_bias.weight";
        let window = if loader.has(table) { window_of_table(loader, table, width).0 } else { DEFAULT_WINDOW };
        let scale = shuffle_factor(loader.rows("up.0.weight"), 3);
        let group =
            |loader: &mut Loader, i: usize| BlockGroup::load(loader, &format!("residual_layer.{i}"), width, window);
        let network = Self {
            first: conv(loader, "input", [3, width], 3)?,
            groups: (0..loader.count_below("residual_layer")).map(|i| group(loader, i)).collect::<Result<_, _>>()?,
            last: conv(loader, "output", [width, width], 3)?,
            up: conv(loader, "up.0", [width, 3 * scale * scale], 3)?,
            window,
            scale,
        };
        loader.finish(NETWORK)?;
        Ok(network)
    }
}

impl SingleImageNetwork for OmniSr {
    fn scale(&self) -> i64 {
        self.scale
    }

    fn context(&self) -> Context {
        Context::Global
    }

    fn forward(&self, x: &Tensor, keep_going: &mut dyn FnMut(f32) -> bool) -> Result<Option<Tensor>, TchError> {
        let (_, _, height, width) = x.size4()?;
        let x = reflect(&reflect(x, 2, SHORTEST_SIDE)?, 3, SHORTEST_SIDE)?;
        let missing = |axis: usize| (self.window - x.size()[axis] % self.window) % self.window;
        let first = self.first.forward(&x.f_constant_pad_nd([0, missing(3), 0, missing(2)])?)?;
        let all: usize = self.groups.iter().map(|group| group.blocks.len()).sum();
        let (mut h, mut done) = (first.shallow_clone(), 0);
        for group in &self.groups {
            let before = h.shallow_clone();
            for block in &group.blocks {
                if !keep_going(done as f32 / all as f32) {
                    return Ok(None);
                }
                h = block.forward(&h, self.window)?;
                done += 1;
            }
            h = group.attention.forward(&group.conv.forward(&h)?.f_add(&before)?)?;
        }
        let h = self.last.forward(&h)?.f_add(&first)?;
        let out = self.up.forward(&h)?.f_pixel_shuffle(self.scale)?;
        Ok(Some(out.f_narrow(2, 0, height * self.scale)?.f_narrow(3, 0, width * self.scale)?))
    }
}
