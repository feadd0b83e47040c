//! Layers that several networks share. Each takes its tensors from a [`Loader`] under the checkpoint's own keys.

mod streaming;
pub mod winograd;

use tch::{Kind, TchError, Tensor};

pub use streaming::Layers;

use super::weights::{Loader, WeightsError};

/// `[.., in] -> [.., out]`.
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// From `{name}.weight` and `{name}.bias`.
    pub fn load(loader: &mut Loader, name: &str, inputs: i64, outputs: i64) -> Result<Self, WeightsError> {
        let weight = loader.take(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = Some(loader.take(&format!("{name}.bias"), &[outputs])?);
        Ok(Self { weight, bias })
    }

    /// From `{name}.weight` alone.
    pub fn load_without_bias(loader: &mut Loader, name: &str, inputs: i64, outputs: i64) -> Result<Self, WeightsError> {
        Ok(Self { weight: loader.take(&format!("{name}.weight"), &[outputs, inputs])?, bias: None })
    }

    /// With `up @ down` (`[out, r] @ [r, in]`) added to the weight in float32.
    pub fn load_with_lora(
        loader: &mut Loader,
        name: &str,
        [inputs, outputs]: [i64; 2],
        has_bias: bool,
        (up, down): (&Tensor, &Tensor),
    ) -> Result<Self, WeightsError> {
        let added = up.f_to_kind(Kind::Float)?.f_matmul(&down.f_to_kind(Kind::Float)?)?;
        let weight = loader.take_changed(&format!("{name}.weight"), &[outputs, inputs], |weight| {
            weight.f_add(&added.f_to_device(weight.device())?)
        })?;
        let bias = has_bias.then(|| loader.take(&format!("{name}.bias"), &[outputs])).transpose()?;
        Ok(Self { weight, bias })
    }

    /// `[.., in] -> [.., out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        x.f_linear(&self.weight, self.bias.as_ref())
    }

    /// The same computed in another dtype; the wider weights are gone afterwards.
    pub fn forward_as(&self, x: &Tensor, kind: Kind) -> Result<Tensor, TchError> {
        let bias = self.bias.as_ref().map(|bias| bias.f_to_kind(kind)).transpose()?;
        x.f_to_kind(kind)?.f_linear(&self.weight.f_to_kind(kind)?, bias.as_ref())
    }
}

/// A 2D convolution with bias.
pub struct Conv2d {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
    padding: i64,
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
        let weight = loader.take(&format!("{name}.weight"), &[outputs, inputs, kernel, kernel])?;
        let bias = loader.take(&format!("{name}.bias"), &[outputs])?;
        Ok(Self { weight, bias, stride, padding })
    }

    /// One of 3 x 3 that computes in float32, whatever the rest of its network computes in.
    pub fn load_wide(loader: &mut Loader, name: &str, [inputs, outputs]: [i64; 2]) -> Result<Self, WeightsError> {
        let weight = loader.take_as(Kind::Float, &format!("{name}.weight"), &[outputs, inputs, 3, 3])?;
        let bias = loader.take_as(Kind::Float, &format!("{name}.bias"), &[outputs])?;
        Ok(Self { weight, bias, stride: 1, padding: 1 })
    }

    /// Rows and columns of nothing that it sees beyond each edge.
    pub fn padding(&self) -> i64 {
        self.padding
    }

    /// `[B, in, H, W] -> [B, out, H', W']`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        x.f_conv2d(&self.weight, Some(&self.bias), stride, padding, [1, 1], 1)
    }
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
        let weight = loader.take(&format!("{name}.weight"), &[channels])?;
        let bias = loader.take(&format!("{name}.bias"), &[channels])?;
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
        let weight = loader.take(&format!("{name}.weight"), &[size])?;
        let bias = loader.take(&format!("{name}.bias"), &[size])?;
        Ok(Self { weight, bias, epsilon })
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
        Ok(Self { weight: loader.take(&format!("{name}.weight"), &[size])?, epsilon })
    }

    /// `[.., size] -> [.., size]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let wide = x.f_to_kind(Kind::Float)?;
        let square = wide.f_pow_tensor_scalar(2)?.f_mean_dim([-1].as_slice(), true, Kind::Float)?;
        let scale = square.f_add_scalar(self.epsilon)?.f_rsqrt()?;
        wide.f_mul(&scale)?.f_to_kind(x.kind())?.f_mul(&self.weight)
    }
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
