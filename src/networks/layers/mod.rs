//! Layers that several networks share. Each takes its tensors from a [`Loader`] under the checkpoint's own keys.

pub mod restoration;
pub mod swin;
pub mod timestep;
pub mod upsample;
pub mod windows;
pub mod winograd;

use tch::{Kind, TchError, Tensor};

use crate::runtime::weights::{Loader, LoraDelta, WeightsError};

/// `[.., in] -> [.., out]`.
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    /// What is not merged into the weight.
    lora: Option<Box<LoraDelta>>,
}

impl Linear {
    /// From `{name}.weight` and `{name}.bias`.
    pub fn load(loader: &mut Loader, name: &str, inputs: i64, outputs: i64) -> Result<Self, WeightsError> {
        Self::load_merged(loader, name, [inputs, outputs], true, None)
    }

    /// From `{name}.weight` alone.
    pub fn load_without_bias(loader: &mut Loader, name: &str, inputs: i64, outputs: i64) -> Result<Self, WeightsError> {
        Self::load_merged(loader, name, [inputs, outputs], false, None)
    }

    /// With `lora` merged into the weight.
    pub fn load_merged(
        loader: &mut Loader,
        name: &str,
        [inputs, outputs]: [i64; 2],
        has_bias: bool,
        lora: Option<&LoraDelta>,
    ) -> Result<Self, WeightsError> {
        let shape = [outputs, inputs];
        let weight = loader.tensor_merged(&format!("{name}.weight"), &shape, lora)?;
        let bias = has_bias.then(|| loader.tensor(&format!("{name}.bias"), &[outputs])).transpose()?;
        Ok(Self { weight, bias, lora: loader.unmerged_lora(name, &shape).map(Box::new) })
    }

    /// Merges the LoRA that was kept beside the weight, if there is one, into a weight of its own.
    pub fn merge(&mut self) -> Result<(), TchError> {
        merge(&mut self.weight, &mut self.lora)
    }

    /// `[.., in] -> [.., out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        self.adapted(x, x.f_linear(&self.weight, self.bias.as_ref())?)
    }

    /// The same computed in another dtype; the wider weights are gone afterwards.
    pub fn forward_as(&self, x: &Tensor, kind: Kind) -> Result<Tensor, TchError> {
        let bias = self.bias.as_ref().map(|bias| bias.f_to_kind(kind)).transpose()?;
        self.adapted(x, x.f_to_kind(kind)?.f_linear(&self.weight.f_to_kind(kind)?, bias.as_ref())?)
    }

    fn adapted(&self, x: &Tensor, y: Tensor) -> Result<Tensor, TchError> {
        let by = |x: &Tensor, half: &Tensor| x.f_linear(half, None::<&Tensor>);
        match &self.lora {
            Some(lora) => lora.add_to(&y, x, by, by),
            None => Ok(y),
        }
    }
}

/// A 2D convolution.
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: i64,
    padding: i64,
    groups: i64,
    /// What is not merged into the weight.
    lora: Option<Box<LoraDelta>>,
}

impl Conv2d {
    /// From `{name}.weight` and `{name}.bias`, a square kernel of side `kernel`.
    pub fn load(
        loader: &mut Loader,
        name: &str,
        [inputs, outputs]: [i64; 2],
        kernel: i64,
        stride: i64,
        padding: i64,
    ) -> Result<Self, WeightsError> {
        let shape = [outputs, inputs, kernel, kernel];
        let weight = loader.tensor(&format!("{name}.weight"), &shape)?;
        let bias = Some(loader.tensor(&format!("{name}.bias"), &[outputs])?);
        Ok(Self { weight, bias, stride, padding, groups: 1, lora: loader.unmerged_lora(name, &shape).map(Box::new) })
    }

    /// One that keeps height and width.
    pub fn same(loader: &mut Loader, name: &str, channels: [i64; 2], kernel: i64) -> Result<Self, WeightsError> {
        Self::load(loader, name, channels, kernel, 1, kernel / 2)
    }

    /// One that keeps height and width, from `{name}.weight` alone.
    pub fn same_without_bias(
        loader: &mut Loader,
        name: &str,
        [inputs, outputs]: [i64; 2],
        kernel: i64,
    ) -> Result<Self, WeightsError> {
        let weight = loader.tensor(&format!("{name}.weight"), &[outputs, inputs, kernel, kernel])?;
        Ok(Self { weight, bias: None, stride: 1, padding: kernel / 2, groups: 1, lora: None })
    }

    /// One of 3 x 3 for each channel by itself.
    pub fn depthwise(loader: &mut Loader, name: &str, channels: i64, has_bias: bool) -> Result<Self, WeightsError> {
        let weight = loader.tensor(&format!("{name}.weight"), &[channels, 1, 3, 3])?;
        let bias = has_bias.then(|| loader.tensor(&format!("{name}.bias"), &[channels])).transpose()?;
        Ok(Self { weight, bias, stride: 1, padding: 1, groups: channels, lora: None })
    }

    /// One of 3 x 3 that computes in float32, whatever the rest of its network computes in.
    pub fn load_fp32(loader: &mut Loader, name: &str, [inputs, outputs]: [i64; 2]) -> Result<Self, WeightsError> {
        let shape = [outputs, inputs, 3, 3];
        let weight = loader.tensor_as(Kind::Float, &format!("{name}.weight"), &shape)?;
        let bias = Some(loader.tensor_as(Kind::Float, &format!("{name}.bias"), &[outputs])?);
        Ok(Self {
            weight,
            bias,
            stride: 1,
            padding: 1,
            groups: 1,
            lora: loader.unmerged_lora(name, &shape).map(Box::new),
        })
    }

    /// Merges the LoRA that was kept beside the weight, if there is one, into a weight of its own.
    pub fn merge(&mut self) -> Result<(), TchError> {
        merge(&mut self.weight, &mut self.lora)
    }

    /// Rows and columns of nothing that it sees beyond each edge.
    pub fn padding(&self) -> i64 {
        self.padding
    }

    /// `[B, in, H, W] -> [B, out, H', W']`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        let y = x.f_conv2d(&self.weight, self.bias.as_ref(), stride, padding, [1, 1], self.groups)?;
        let Some(lora) = &self.lora else { return Ok(y) };
        let down = |x: &Tensor, half: &Tensor| x.f_conv2d(half, None::<&Tensor>, stride, padding, [1, 1], 1);
        let up = |x: &Tensor, half: &Tensor| x.f_conv2d(half, None::<&Tensor>, [1, 1], [0, 0], [1, 1], 1);
        lora.add_to(&y, x, down, up)
    }
}

fn merge(weight: &mut Tensor, lora: &mut Option<Box<LoraDelta>>) -> Result<(), TchError> {
    if let Some(delta) = lora {
        *weight = tch::no_grad(|| delta.merge(weight)?.f_to_kind(weight.kind()))?;
        *lora = None;
    }
    Ok(())
}

/// Normalises over groups of channels, with scale and shift for each channel.
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: i64,
    epsilon: f64,
}

impl GroupNorm {
    /// From `{name}.weight` and `{name}.bias`.
    pub fn load(
        loader: &mut Loader,
        name: &str,
        channels: i64,
        groups: i64,
        epsilon: f64,
    ) -> Result<Self, WeightsError> {
        let weight = loader.tensor(&format!("{name}.weight"), &[channels])?;
        let bias = loader.tensor(&format!("{name}.bias"), &[channels])?;
        Ok(Self { weight, bias, groups, epsilon })
    }

    /// `[B, C, ..] -> [B, C, ..]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        x.f_group_norm(self.groups, Some(&self.weight), Some(&self.bias), self.epsilon, true)
    }

    /// How many groups there are.
    pub fn groups(&self) -> i64 {
        self.groups
    }

    /// The same by given numbers: mean and variance of each group, `[groups]` each in float32.
    pub fn forward_by(&self, x: &Tensor, mean: &Tensor, variance: &Tensor) -> Result<Tensor, TchError> {
        let each = self.weight.size()[0] / self.groups;
        let wide = |tensor: &Tensor| tensor.f_to_kind(Kind::Float);
        let (mean, variance) =
            (mean.f_repeat_interleave_self_int(each, 0, None)?, variance.f_repeat_interleave_self_int(each, 0, None)?);
        let (weight, bias) = (wide(&self.weight)?, wide(&self.bias)?);
        x.f_batch_norm(Some(&weight), Some(&bias), Some(&mean), Some(&variance), false, 0.0, self.epsilon, true)
    }
}

/// Normalises over the last axis, with scale and shift.
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl LayerNorm {
    /// From `{name}.weight` and `{name}.bias`.
    pub fn load(loader: &mut Loader, name: &str, size: i64, epsilon: f64) -> Result<Self, WeightsError> {
        let weight = loader.tensor(&format!("{name}.weight"), &[size])?;
        let bias = loader.tensor(&format!("{name}.bias"), &[size])?;
        Ok(Self { weight, bias, epsilon })
    }

    /// `[B, size, H, W] -> [B, size, H, W]`, over the channels.
    pub fn forward_channels(&self, x: &Tensor) -> Result<Tensor, TchError> {
        self.forward(&x.f_permute([0, 2, 3, 1])?)?.f_permute([0, 3, 1, 2])
    }

    /// `[.., size] -> [.., size]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        x.f_layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.epsilon, true)
    }
}

/// Divides by the root mean square of the last axis, computed in float32, with a scale.
pub struct RmsNorm {
    weight: Tensor,
    epsilon: f64,
}

impl RmsNorm {
    /// From `{name}.weight`.
    pub fn load(loader: &mut Loader, name: &str, size: i64, epsilon: f64) -> Result<Self, WeightsError> {
        Ok(Self { weight: loader.tensor(&format!("{name}.weight"), &[size])?, epsilon })
    }

    /// `[.., size] -> [.., size]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let wide = x.f_to_kind(Kind::Float)?;
        let square = wide.f_pow_tensor_scalar(2)?.f_mean_dim([-1].as_slice(), true, Kind::Float)?;
        let scale = square.f_add_scalar(self.epsilon)?.f_rsqrt()?;
        wide.f_mul(&scale)?.f_to_kind(x.kind())?.f_mul(&self.weight)
    }

    /// The same in the weight's own dtype, of a sum that may be kept in a wider one.
    pub fn forward_narrowed(&self, x: &Tensor) -> Result<Tensor, TchError> {
        self.forward(x)?.f_to_kind(self.weight.kind())
    }
}

/// The dtype in which the sum of all layers of a transformer stays within range: that of the weights, but for half precision
/// float32. What layers see of the sum is normalised.
pub fn residual_kind(weights: Kind) -> Kind {
    if weights == Kind::Half { Kind::Float } else { weights }
}

/// `softmax(q k^T / sqrt(head_dim)) v` for `[B, heads, N, head_dim]`; `causal`: none sees what comes after it.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, causal: bool) -> Result<Tensor, TchError> {
    Tensor::f_scaled_dot_product_attention(q, k, v, None::<&Tensor>, 0.0, causal, None, false)
}

/// `[B, N, heads * head_dim] -> [B, heads, N, head_dim]`.
pub fn split_heads(x: &Tensor, heads: i64) -> Result<Tensor, TchError> {
    let (batch, length, width) = x.size3()?;
    x.f_view([batch, length, heads, width / heads])?.f_transpose(1, 2)
}

/// `[B, heads, N, head_dim] -> [B, N, heads * head_dim]`.
pub fn join_heads(x: &Tensor) -> Result<Tensor, TchError> {
    let (batch, heads, length, head_dim) = x.size4()?;
    x.f_transpose(1, 2)?.f_reshape([batch, length, heads * head_dim])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tch::Device;

    use super::*;
    use crate::runtime::rng::noise;
    use crate::runtime::weights::Weights;

    fn weights(weight: &[i64]) -> Weights {
        let tensors = [("layer.weight".into(), noise(weight)), ("layer.bias".into(), noise(&weight[..1]))];
        Weights::from_tensors(tensors.into())
    }

    fn pair(up: &[i64], down: &[i64]) -> LoraDelta {
        LoraDelta { up: noise(up), down: noise(down), scale: 0.75, dropout: None }
    }

    fn loader(weights: &Weights, lora: LoraDelta) -> Loader<'static> {
        let loras = BTreeMap::from([("layer".to_owned(), lora)]);
        Loader::new(weights, "", Device::Cpu, Kind::Float).unmerged(loras)
    }

    fn near(a: &Tensor, b: &Tensor) -> bool {
        (a - b).abs().max().double_value(&[]) < 1e-4
    }

    #[test]
    fn a_linear_layer_is_the_same_before_and_after_merging() {
        let (weights, lora, x) = (weights(&[7, 5]), pair(&[7, 3], &[3, 5]), noise(&[2, 4, 5]));
        let plain = Linear::load(&mut Loader::new(&weights, "", Device::Cpu, Kind::Float), "layer", 5, 7).unwrap();
        let mut loading = loader(&weights, lora.shallow_clone());
        let mut layer = Linear::load(&mut loading, "layer", 5, 7).unwrap();
        loading.finish("a layer").unwrap();
        let apart = layer.forward(&x).unwrap();
        assert!(near(&apart, &layer.forward_as(&x, Kind::Float).unwrap()));
        assert!(!near(&apart, &plain.forward(&x).unwrap()));
        layer.merge().unwrap();
        assert!(near(&layer.forward(&x).unwrap(), &apart));
        layer.merge().unwrap();
        assert!(near(&layer.forward(&x).unwrap(), &apart), "it is merged once");
        // The same as when it is merged on loading, and the file's tensor is as it was.
        let mut loading = Loader::new(&weights, "", Device::Cpu, Kind::Float);
        let merged = Linear::load_merged(&mut loading, "layer", [5, 7], true, Some(&lora)).unwrap();
        assert!(layer.forward(&x).unwrap().equal(&merged.forward(&x).unwrap()));
        assert!(weights.tensor("layer.weight").unwrap().unwrap().equal(&plain.weight));
    }

    #[test]
    fn a_convolution_is_the_same_before_and_after_merging() {
        for (kernel, stride, padding) in [(3, 1, 1), (3, 2, 0), (1, 1, 0), (5, 3, 2)] {
            let (weights, x) = (weights(&[6, 4, kernel, kernel]), noise(&[2, 4, 11, 8]));
            let lora = pair(&[6, 2, 1, 1], &[2, 4, kernel, kernel]);
            let mut loading = loader(&weights, lora);
            let mut layer = Conv2d::load(&mut loading, "layer", [4, 6], kernel, stride, padding).unwrap();
            let apart = layer.forward(&x).unwrap();
            layer.lora.as_mut().unwrap().scale *= 2.0;
            assert!(!near(&layer.forward(&x).unwrap(), &apart));
            layer.lora.as_mut().unwrap().scale /= 2.0;
            layer.merge().unwrap();
            assert!(near(&layer.forward(&x).unwrap(), &apart), "{kernel}, {stride}, {padding}");
        }
    }

    /// Float32 pairs beside a half-precision layer, which is not trained itself.
    #[test]
    fn gradients_reach_what_is_kept_beside_a_layer() {
        let (weights, lora) = (weights(&[7, 5]), pair(&[7, 3], &[3, 5]).trainable(Device::Cpu).unwrap());
        let loras = BTreeMap::from([("layer".to_owned(), lora.shallow_clone())]);
        let mut loading = Loader::new(&weights, "", Device::Cpu, Kind::BFloat16).unmerged(loras);
        let mut layer = Linear::load(&mut loading, "layer", 5, 7).unwrap();
        let y = layer.forward(&noise(&[2, 5]).to_kind(Kind::BFloat16)).unwrap();
        // A small change is not lost in the layer's dtype.
        assert_eq!(y.kind(), Kind::Float);
        y.to_kind(Kind::Float).square().sum(Kind::Float).backward();
        assert!(lora.up.grad().abs().sum(Kind::Float).double_value(&[]) > 0.0);
        assert!(lora.down.grad().abs().sum(Kind::Float).double_value(&[]) > 0.0);
        layer.merge().unwrap();
        assert!(!layer.weight.requires_grad() && layer.weight.kind() == Kind::BFloat16);
    }

    #[test]
    fn pairs_that_fit_no_layer_are_told() {
        let weights = weights(&[7, 5]);
        let loras = [("layer", pair(&[7, 3], &[3, 6])), ("other", pair(&[7, 3], &[3, 5]))];
        let loras = loras.map(|(name, lora)| (name.to_owned(), lora)).into();
        let mut loading = Loader::new(&weights, "", Device::Cpu, Kind::Float).unmerged(loras);
        Linear::load(&mut loading, "layer", 5, 7).unwrap();
        let found = loading.finish("a layer").unwrap_err().to_string();
        assert!(found.contains("the LoRA of layer is [7, 3] and [3, 6]; its weight is [7, 5]"), "{found}");
        assert!(found.contains("the LoRA of other belongs to no layer"), "{found}");
    }
}
