//! CLIP-IQA (arXiv 2207.12396) on OpenAI's CLIP RN50 (arXiv 2103.00020; `clip/model.py`): whether a picture is closer to
//! "Good image" than to "bad image", and to four such pairs more, 0 to 1.

use tch::{Device, Kind, TchError, Tensor};

use super::{Files, Metric, Opened, Score, judged, normalised, open_file, prefix_of};
use crate::imaging::Picture;
use crate::networks::layers::{LayerNorm, Linear, attention, join_heads, split_heads};
use crate::runtime::tensor::tensor_from_picture;
use crate::runtime::weights::{Loader, WeightsError};

const NETWORK: &str = "CLIP RN50";
/// Mean and deviation of the colours it was trained on.
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const DEVIATION: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];
/// A picture with a shorter side has no pixel left in the end.
const SHORTEST_SIDE: u32 = 31;
const EPSILON: f64 = 1e-5;
/// Width of a head of attention.
const HEAD: i64 = 64;
const START: i64 = 49406;
const END: i64 = 49407;
/// Good image, bad image; Sharp image, blurry image; sharp edges, blurry edges; High resolution image, low resolution image;
/// Noise-free image, noisy image: in CLIP's tokens.
const PROMPTS: [&[i64]; 10] = [
    &[886, 2867],
    &[2103, 2867],
    &[8157, 2867],
    &[21977, 2867],
    &[8157, 20938],
    &[21977, 20938],
    &[1400, 9977, 2867],
    &[1042, 9977, 2867],
    &[9307, 268, 1139, 2867],
    &[33495, 2867],
];

/// A convolution with the batch norm after it, as one.
struct ConvNorm {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
}

impl ConvNorm {
    /// From `{conv}.weight` and `{norm}.*`; returns its outputs too.
    fn load(
        loader: &mut Loader,
        [conv, norm]: [&str; 2],
        inputs: i64,
        stride: i64,
    ) -> Result<(Self, i64), WeightsError> {
        let key = format!("{conv}.weight");
        let shape = loader.shape(&key).unwrap_or_default();
        let (outputs, kernel) = (shape.first().copied().unwrap_or(0), shape.last().copied().unwrap_or(0));
        let weight = loader.tensor_as(Kind::Double, &key, &[outputs, inputs, kernel, kernel])?;
        let mut number = |name: &str| loader.tensor_as(Kind::Double, &format!("{norm}.{name}"), &[outputs]);
        let (scale, shift) = (number("weight")?, number("bias")?);
        let (mean, variance) = (number("running_mean")?, number("running_var")?);
        // Of what does not fit there is nothing to compute; it is reported in the end.
        if loader.has_problems() {
            return Ok((Self { weight, bias: shift, stride }, outputs));
        }
        let scale = scale.f_div(&variance.f_add_scalar(EPSILON)?.f_sqrt()?)?;
        let weight = weight.f_mul(&scale.f_view([-1, 1, 1, 1])?)?.f_to_kind(Kind::Float)?;
        let bias = shift.f_sub(&mean.f_mul(&scale)?)?.f_to_kind(Kind::Float)?;
        Ok((Self { weight, bias, stride }, outputs))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let padding = self.weight.size()[2] / 2;
        x.f_conv2d(&self.weight, Some(&self.bias), [self.stride; 2], [padding; 2], [1, 1], 1)
    }
}

fn halved(x: &Tensor) -> Result<Tensor, TchError> {
    x.f_avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None)
}

/// `Bottleneck`: where the original strides, this one averages.
struct Bottleneck {
    convolutions: [ConvNorm; 3],
    downsample: Option<ConvNorm>,
    is_halving: bool,
}

impl Bottleneck {
    fn load(loader: &mut Loader, name: &str, inputs: i64, is_halving: bool) -> Result<(Self, i64), WeightsError> {
        let at = |key: &str| format!("{name}.{key}");
        let mut conv = |i: usize, inputs: i64| {
            ConvNorm::load(loader, [&at(&format!("conv{i}")), &at(&format!("bn{i}"))], inputs, 1)
        };
        let (first, inner) = conv(1, inputs)?;
        let (second, inner) = conv(2, inner)?;
        let (third, outputs) = conv(3, inner)?;
        let downsample = loader
            .has_below(&at("downsample"))
            .then(|| ConvNorm::load(loader, [&at("downsample.0"), &at("downsample.1")], inputs, 1))
            .transpose()?;
        Ok((
            Self { convolutions: [first, second, third], downsample: downsample.map(|(conv, _)| conv), is_halving },
            outputs,
        ))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let pool = |x: Tensor| if self.is_halving { halved(&x) } else { Ok(x) };
        let [first, second, third] = &self.convolutions;
        let h = pool(second.forward(&first.forward(x)?.f_relu_()?)?.f_relu_()?)?;
        let shortcut = match &self.downsample {
            Some(conv) => conv.forward(&pool(x.shallow_clone())?)?,
            None => x.shallow_clone(),
        };
        third.forward(&h)?.f_add_(&shortcut)?.f_relu_()
    }
}

/// `ModifiedResNet` with `AttentionPool2d`, whose position embedding is left out so that pictures may be of any size.
struct ImageEncoder {
    stem: [ConvNorm; 3],
    layers: Vec<Bottleneck>,
    /// Queries, keys, values, output.
    pool: [Linear; 4],
    heads: i64,
}

impl ImageEncoder {
    fn load(loader: &mut Loader, outputs: i64) -> Result<Self, WeightsError> {
        let mut conv = |i: usize, inputs: i64, stride: i64| {
            ConvNorm::load(loader, [&format!("visual.conv{i}"), &format!("visual.bn{i}")], inputs, stride)
        };
        let (first, inner) = conv(1, 3, 2)?;
        let (second, inner) = conv(2, inner, 1)?;
        let (third, width) = conv(3, inner, 1)?;
        let (mut layers, mut inputs) = (Vec::new(), width);
        for stage in 1..=4 {
            let name = format!("visual.layer{stage}");
            for i in 0..loader.count_below(&name) {
                let is_halving = stage > 1 && i == 0;
                let (layer, outputs) = Bottleneck::load(loader, &format!("{name}.{i}"), inputs, is_halving)?;
                layers.push(layer);
                inputs = outputs;
            }
        }
        loader.ignore_prefix("visual.attnpool.positional_embedding");
        let mut linear =
            |key: &str, outputs: i64| Linear::load(loader, &format!("visual.attnpool.{key}_proj"), inputs, outputs);
        let pool = [linear("q", inputs)?, linear("k", inputs)?, linear("v", inputs)?, linear("c", outputs)?];
        Ok(Self { stem: [first, second, third], layers, pool, heads: (width / 2).max(1) })
    }

    /// `[1, 3, H, W] -> [1, outputs]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let mut x = x.shallow_clone();
        for conv in &self.stem {
            x = conv.forward(&x)?.f_relu_()?;
        }
        x = halved(&x)?;
        for layer in &self.layers {
            x = layer.forward(&x)?;
        }
        let tokens = x.f_flatten(2, 3)?.f_transpose(1, 2)?;
        let mean = tokens.f_mean_dim([1].as_slice(), true, None::<Kind>)?;
        let tokens = Tensor::f_cat(&[&mean, &tokens], 1)?;
        let [q, k, v, out] = &self.pool;
        let head = |linear: &Linear, x: &Tensor| split_heads(&linear.forward(x)?, self.heads);
        let attended = attention(&head(q, &mean)?, &head(k, &tokens)?, &head(v, &tokens)?, false)?;
        out.forward(&join_heads(&attended)?.f_squeeze_dim(1)?)
    }
}

/// A block of the text encoder (`ResidualAttentionBlock`).
struct TextBlock {
    norm1: LayerNorm,
    /// `in_proj_weight`, `in_proj_bias`.
    qkv: [Tensor; 2],
    out: Linear,
    norm2: LayerNorm,
    mlp: [Linear; 2],
}

impl TextBlock {
    fn load(loader: &mut Loader, name: &str, width: i64) -> Result<Self, WeightsError> {
        let at = |key: &str| format!("{name}.{key}");
        let inner = loader.rows(&at("mlp.c_fc.weight"));
        Ok(Self {
            norm1: LayerNorm::load(loader, &at("ln_1"), width, EPSILON)?,
            qkv: [
                loader.tensor(&at("attn.in_proj_weight"), &[3 * width, width])?,
                loader.tensor(&at("attn.in_proj_bias"), &[3 * width])?,
            ],
            out: Linear::load(loader, &at("attn.out_proj"), width, width)?,
            norm2: LayerNorm::load(loader, &at("ln_2"), width, EPSILON)?,
            mlp: [
                Linear::load(loader, &at("mlp.c_fc"), width, inner)?,
                Linear::load(loader, &at("mlp.c_proj"), inner, width)?,
            ],
        })
    }

    fn forward(&self, x: &Tensor, heads: i64) -> Result<Tensor, TchError> {
        let qkv = self.norm1.forward(x)?.f_linear(&self.qkv[0], Some(&self.qkv[1]))?.f_chunk(3, -1)?;
        let part = |i: usize| split_heads(&qkv[i], heads);
        let attended = attention(&part(0)?, &part(1)?, &part(2)?, true)?;
        let x = x.f_add(&self.out.forward(&join_heads(&attended)?)?)?;
        let h = self.mlp[0].forward(&self.norm2.forward(&x)?)?;
        let h = h.f_mul(&h.f_mul_scalar(1.702)?.f_sigmoid()?)?;
        x.f_add(&self.mlp[1].forward(&h)?)
    }
}

/// What the text encoder makes of [`PROMPTS`], each of length 1, `[10, outputs]`; the encoder is not needed afterwards.
fn prompts(loader: &mut Loader, outputs: i64) -> Result<Tensor, WeightsError> {
    let (_, device) = loader.target();
    let width = loader.shape("ln_final.weight").and_then(|shape| shape.first().copied()).unwrap_or(0);
    let [vocabulary, length] = ["token_embedding.weight", "positional_embedding"].map(|key| loader.rows(key));
    let tokens = loader.tensor("token_embedding.weight", &[vocabulary, width])?;
    let positions = loader.tensor("positional_embedding", &[length, width])?;
    let blocks: Vec<TextBlock> = (0..loader.count_below("transformer.resblocks"))
        .map(|i| TextBlock::load(loader, &format!("transformer.resblocks.{i}"), width))
        .collect::<Result<_, _>>()?;
    let norm = LayerNorm::load(loader, "ln_final", width, EPSILON)?;
    let projection = loader.tensor("text_projection", &[width, outputs])?;
    if vocabulary <= END {
        loader.report(format!("token_embedding.weight has {vocabulary} rows, fewer than CLIP has tokens"));
    }
    if loader.has_problems() {
        return Ok(projection);
    }
    let mut features = Vec::new();
    for prompt in PROMPTS {
        // What is padded comes after the end, where nobody looks.
        let ids: Vec<i64> = [START].iter().chain(prompt).chain(&[END]).copied().collect();
        let ids = Tensor::f_from_slice(&ids)?.f_unsqueeze(0)?.f_to_device(device)?;
        let count = ids.size()[1];
        let mut x = Tensor::f_embedding(&tokens, &ids, -1, false, false)?.f_add(&positions.f_narrow(0, 0, count)?)?;
        for block in &blocks {
            x = block.forward(&x, (width / HEAD).max(1))?;
        }
        features.push(norm.forward(&x.f_select(1, count - 1)?)?.f_matmul(&projection)?);
    }
    Ok(unit(&Tensor::f_cat(&features, 0)?)?)
}

fn unit(x: &Tensor) -> Result<Tensor, TchError> {
    x.f_div(&x.f_norm_scalaropt_dim(2, [-1], true)?)
}

struct ClipIqa {
    image: ImageEncoder,
    /// Times how much closeness counts, `[outputs, 10]`.
    prompts: Tensor,
    device: Device,
}

pub(super) fn open(files: &Files, device: Device) -> Opened {
    let weights = open_file(files, "clip-rn50")?;
    let prefix = prefix_of(&weights, "visual.conv1.weight");
    let mut loader = Loader::new(&weights, &prefix, device, Kind::Float);
    let loader = &mut loader;
    loader.ignore_containing(&["num_batches_tracked", "attn_mask"]);
    ["input_resolution", "context_length", "vocab_size"].iter().for_each(|name| loader.ignore_prefix(name));
    let outputs = loader.rows("visual.attnpool.c_proj.weight");
    let image = ImageEncoder::load(loader, outputs)?;
    let prompts = prompts(loader, outputs)?;
    let scale = loader.tensor("logit_scale", &[])?;
    loader.finish(NETWORK)?;
    let prompts = prompts.f_transpose(0, 1)?.f_mul(&scale.f_exp()?)?;
    Ok(Box::new(ClipIqa { image, prompts, device }))
}

impl Metric for ClipIqa {
    fn bytes_per_pixel(&self) -> u64 {
        500
    }

    fn score(&self, picture: &Picture, _: Option<&Picture>) -> Result<Score, TchError> {
        if picture.width().min(picture.height()) < SHORTEST_SIDE {
            return Ok(Err(super::too_small(picture, SHORTEST_SIDE)));
        }
        judged(|| {
            let x = normalised(&tensor_from_picture(picture, self.device)?, MEAN, DEVIATION)?;
            let logits = unit(&self.image.forward(&x)?)?.f_matmul(&self.prompts)?;
            let pairs = logits.f_view([-1, 2])?.f_softmax(-1, None::<Kind>)?;
            pairs.f_select(1, 0)?.f_mean(None::<Kind>)?.f_double_value(&[])
        })
    }
}
