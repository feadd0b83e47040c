//! MUSIQ (arXiv 2108.05997; google-research `musiq/model`, as trained on KonIQ-10k): a transformer that looks at a picture
//! in three sizes at once, in patches of 32 x 32, and says what people would give it, about 0 to 100.

use tch::{Device, Kind, TchError, Tensor};

use super::{Files, Metric, Opened, Score, heads, judged, open_file, prefix_of};
use crate::imaging::Picture;
use crate::networks::layers::swin::Mlp;
use crate::networks::layers::{GroupNorm, LayerNorm, Linear, attention, join_heads, split_heads};
use crate::runtime::tensor::tensor_from_picture;
use crate::runtime::weights::{Loader, WeightsError};

const NETWORK: &str = "MUSIQ";
/// The longer side of the two smaller copies of a picture.
const LONGER_SIDES: [i64; 2] = [224, 384];
const PATCH: i64 = 32;
/// Patches that go through the convolutions together.
const BATCH: i64 = 128;
/// Width and height of what they make of a patch.
const REDUCED: i64 = PATCH / 4;
const GROUPS: i64 = 32;
const HEADS: i64 = 6;
const EPSILON: f64 = 1e-6;
/// Of the norms in the block of convolutions.
const BLOCK_EPSILON: f64 = 1e-4;
/// Added to the deviation of a kernel before it is divided by.
const KERNEL_EPSILON: f64 = 1e-5;

/// A convolution whose kernels have mean 0 and deviation 1, and that pads as TensorFlow's `SAME` does.
struct StdConv {
    weight: Tensor,
    stride: i64,
}

impl StdConv {
    fn load(loader: &mut Loader, name: &str, inputs: i64, stride: i64) -> Result<(Self, i64), WeightsError> {
        let key = format!("{name}.weight");
        let shape = loader.shape(&key).unwrap_or_default();
        let (outputs, kernel) = (shape.first().copied().unwrap_or(0), shape.last().copied().unwrap_or(0));
        let weight = loader.tensor(&key, &[outputs, inputs, kernel, kernel])?;
        if loader.has_problems() {
            return Ok((Self { weight, stride }, outputs));
        }
        let axes = [1, 2, 3].as_slice();
        let mean = weight.f_mean_dim(axes, true, None::<Kind>)?;
        let deviation = weight.f_std_dim(axes, true, true)?.f_add_scalar(KERNEL_EPSILON)?;
        Ok((Self { weight: weight.f_sub(&mean)?.f_div(&deviation)?, stride }, outputs))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let kernel = self.weight.size()[2];
        let x = padded(x, kernel, self.stride)?;
        x.f_conv2d(&self.weight, None::<&Tensor>, [self.stride; 2], [0, 0], [1, 1], 1)
    }
}

/// With zeros around it, evenly, the odd one below and on the right, so that windows of `side` every `stride` pixels see all
/// of it.
fn padded(x: &Tensor, side: i64, stride: i64) -> Result<Tensor, TchError> {
    let (_, _, height, width) = x.size4()?;
    let lacking = |length: i64| (((length + stride - 1) / stride - 1) * stride + side - length).max(0);
    let (down, across) = (lacking(height), lacking(width));
    if down + across == 0 {
        return Ok(x.shallow_clone());
    }
    let split = |lacking: i64| [lacking / 2, lacking - lacking / 2];
    let ([left, right], [top, bottom]) = (split(across), split(down));
    x.f_constant_pad_nd([left, right, top, bottom])
}

/// What makes a vector of a patch: a convolution, then a bottleneck of them.
struct Patches {
    root: (StdConv, GroupNorm),
    block: [(StdConv, GroupNorm); 3],
    conv_proj: (StdConv, GroupNorm),
    embedding: Linear,
}

impl Patches {
    fn load(loader: &mut Loader, width: i64) -> Result<Self, WeightsError> {
        let mut pair = |conv: &str, norm: &str, inputs: i64, stride: i64, epsilon: f64| {
            let (conv, outputs) = StdConv::load(loader, conv, inputs, stride)?;
            if outputs % GROUPS != 0 {
                loader.report(format!("{norm} has {outputs} channels, which do not make {GROUPS} groups"));
            }
            let norm = GroupNorm::load(loader, norm, outputs, GROUPS, epsilon)?;
            Ok::<_, WeightsError>(((conv, norm), outputs))
        };
        let (root, inputs) = pair("conv_root", "gn_root", 3, 2, EPSILON)?;
        let (first, inner) = pair("block1.conv1", "block1.gn1", inputs, 1, BLOCK_EPSILON)?;
        let (second, inner) = pair("block1.conv2", "block1.gn2", inner, 1, BLOCK_EPSILON)?;
        let (third, outputs) = pair("block1.conv3", "block1.gn3", inner, 1, BLOCK_EPSILON)?;
        let (conv_proj, _) = pair("block1.conv_proj", "block1.gn_proj", inputs, 1, BLOCK_EPSILON)?;
        let embedding = Linear::load(loader, "embedding", REDUCED * REDUCED * outputs, width)?;
        Ok(Self { root, block: [first, second, third], conv_proj, embedding })
    }

    /// `[N, 3, 32, 32] -> [N, width]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let through = |(conv, norm): &(StdConv, GroupNorm), x: &Tensor| norm.forward(&conv.forward(x)?);
        let x = padded(&through(&self.root, x)?.f_relu_()?, 3, 2)?;
        let x = x.f_max_pool2d([3, 3], [2, 2], [0, 0], [1, 1], false)?;
        let [first, second, third] = &self.block;
        let h = through(second, &through(first, &x)?.f_relu_()?)?.f_relu_()?;
        let x = through(third, &h)?.f_add_(&through(&self.conv_proj, &x)?)?.f_relu_()?;
        self.embedding.forward(&x.f_permute([0, 2, 3, 1])?.f_flatten(1, -1)?)
    }
}

struct Block {
    norm1: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    norm2: LayerNorm,
    mlp: Mlp,
}

impl Block {
    fn load(loader: &mut Loader, name: &str, width: i64) -> Result<Self, WeightsError> {
        let square =
            |loader: &mut Loader, key: &str| Linear::load(loader, &format!("{name}.attention.{key}"), width, width);
        Ok(Self {
            norm1: LayerNorm::load(loader, &format!("{name}.norm1"), width, EPSILON)?,
            query: square(loader, "query")?,
            key: square(loader, "key")?,
            value: square(loader, "value")?,
            out: square(loader, "out")?,
            norm2: LayerNorm::load(loader, &format!("{name}.norm2"), width, EPSILON)?,
            mlp: Mlp::load(loader, &format!("{name}.mlp"), width)?,
        })
    }

    fn forward(&self, x: &Tensor, heads: i64) -> Result<Tensor, TchError> {
        let h = self.norm1.forward(x)?;
        let head = |linear: &Linear| split_heads(&linear.forward(&h)?, heads);
        let attended = attention(&head(&self.query)?, &head(&self.key)?, &head(&self.value)?, false)?;
        let x = x.f_add(&self.out.forward(&join_heads(&attended)?)?)?;
        x.f_add(&self.mlp.forward(&self.norm2.forward(&x)?)?)
    }
}

struct Musiq {
    patches: Patches,
    cls: Tensor,
    /// Of a grid of places, which any number of patches is spread over, `[side * side, width]`.
    positions: Tensor,
    /// `[3, width]`.
    scales: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
    heads: i64,
    device: Device,
}

pub(super) fn open(files: &Files, device: Device) -> Opened {
    let weights = open_file(files, "musiq")?;
    let prefix = prefix_of(&weights, "conv_root.weight");
    let mut loader = Loader::new(&weights, &prefix, device, Kind::Float);
    let loader = &mut loader;
    let at = |name: &str| format!("transformer_encoder.{name}");
    let (position, scale) = (at("posembed_input.position_emb"), at("scaleembed_input.scale_emb"));
    let (places, width) = match loader.shape(&position).as_deref() {
        Some(&[1, places, width]) if places.isqrt().pow(2) == places => (places, width),
        _ => (100, loader.rows("embedding.weight")),
    };
    let blocks: Vec<Block> = (0..)
        .map(|i| at(&format!("transformer.encoderblock_{i}")))
        .take_while(|name| weights.has(&format!("{prefix}{name}.norm1.weight")))
        .map(|name| Block::load(loader, &name, width))
        .collect::<Result<_, _>>()?;
    let network = Musiq {
        patches: Patches::load(loader, width)?,
        cls: loader.tensor(&at("cls"), &[1, 1, width])?,
        positions: loader.tensor(&position, &[1, places, width])?.f_squeeze_dim(0)?,
        scales: loader.tensor(&scale, &[LONGER_SIDES.len() as i64 + 1, width])?,
        blocks,
        norm: LayerNorm::load(loader, &at("encoder_norm"), width, EPSILON)?,
        head: Linear::load(loader, "head", width, 1)?,
        heads: heads(width, HEADS),
        device,
    };
    if network.blocks.is_empty() {
        loader.report("transformer_encoder.transformer.encoderblock_0 is missing".into());
    }
    loader.finish(NETWORK)?;
    Ok(Box::new(network))
}

impl Musiq {
    /// Tokens `[N, width]` of a picture `[1, 3, H, W]` in one of its sizes. Those that the published code adds, up to the most
    /// that a size can have, are masked there wherever they are looked at: they are left out.
    fn tokens(&self, x: &Tensor, scale: i64) -> Result<Tensor, TchError> {
        let x = padded(x, PATCH, PATCH)?;
        let (_, _, height, width) = x.size4()?;
        let (rows, columns) = (height / PATCH, width / PATCH);
        let patches = x.f_view([3, rows, PATCH, columns, PATCH])?.f_permute([1, 3, 0, 2, 4])?;
        let patches = patches.f_reshape([rows * columns, 3, PATCH, PATCH])?;
        let embedded: Vec<Tensor> =
            patches.f_split(BATCH, 0)?.iter().map(|some| self.patches.forward(some)).collect::<Result<_, _>>()?;
        let side = self.positions.size()[0].isqrt();
        let place = |at: i64| (at / columns * side / rows) * side + at % columns * side / columns;
        let places: Vec<i64> = (0..rows * columns).map(place).collect();
        let places = Tensor::f_from_slice(&places)?.f_to_device(self.device)?;
        let positions = self.positions.f_index_select(0, &places)?;
        Tensor::f_cat(&embedded, 0)?.f_add_(&positions)?.f_add_(&self.scales.f_get(scale)?)
    }
}

impl Metric for Musiq {
    fn score(&self, picture: &Picture, _: Option<&Picture>) -> Result<Score, TchError> {
        let (height, width) = (i64::from(picture.height()), i64::from(picture.width()));
        let size = |longer: i64| {
            let ratio = longer as f64 / height.max(width) as f64;
            [height, width].map(|side| (side as f64 * ratio).round_ties_even() as i64)
        };
        let sizes = LONGER_SIDES.map(size);
        if sizes.iter().flatten().any(|&side| side < 1) {
            return Ok(Err(format!("{width} x {height} is too narrow")));
        }
        judged(|| {
            let x = tensor_from_picture(picture, self.device)?.f_mul_scalar(2.0)?.f_sub_scalar(1.0)?;
            let mut all = vec![self.cls.f_squeeze_dim(0)?];
            for (scale, size) in (0..).zip(&sizes) {
                all.push(self.tokens(&x.f_upsample_bicubic2d(size, false, None, None)?, scale)?);
            }
            all.push(self.tokens(&x, sizes.len() as i64)?);
            let mut x = Tensor::f_cat(&all, 0)?.f_unsqueeze(0)?;
            for block in &self.blocks {
                x = block.forward(&x, self.heads)?;
            }
            self.head.forward(&self.norm.forward(&x.f_narrow(1, 0, 1)?)?)?.f_double_value(&[0, 0, 0])
        })
    }
}
