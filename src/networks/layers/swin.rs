//! Blocks of Swin transformers for restoration (`SwinTransformerBlock`, `Mlp` of SwinIR's network_swinir.py), on pictures of
//! tokens `[B, H, W, C]`.

use tch::{TchError, Tensor};

use super::restoration::Block;
use super::windows::WindowAttention;
use super::{LayerNorm, Linear};
use crate::runtime::weights::{Loader, WeightsError};

const EPSILON: f64 = 1e-5;

/// Two linear layers with GELU between them.
pub struct Mlp([Linear; 2]);

impl Mlp {
    /// From `{name}.fc1` and `{name}.fc2`; its inner width is the file's.
    pub fn load(loader: &mut Loader, name: &str, width: i64) -> Result<Self, WeightsError> {
        let inner = loader.shape(&format!("{name}.fc1.weight")).and_then(|shape| shape.first().copied()).unwrap_or(0);
        Ok(Self([
            Linear::load(loader, &format!("{name}.fc1"), width, inner)?,
            Linear::load(loader, &format!("{name}.fc2"), inner, width)?,
        ]))
    }

    /// `[.., C] -> [.., C]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        self.0[1].forward(&self.0[0].forward(x)?.f_gelu("none")?)
    }
}

/// Attention within windows, then an [`Mlp`], each on what is normalised and added to its input.
pub struct SwinBlock {
    norm1: LayerNorm,
    attention: WindowAttention,
    norm2: LayerNorm,
    mlp: Mlp,
}

impl SwinBlock {
    /// From `{name}.norm1`, `.attn`, `.norm2`, `.mlp`.
    pub fn load(loader: &mut Loader, name: &str, width: i64, is_shifted: bool) -> Result<Self, WeightsError> {
        Ok(Self {
            norm1: LayerNorm::load(loader, &format!("{name}.norm1"), width, EPSILON)?,
            attention: WindowAttention::load(loader, &format!("{name}.attn"), width, is_shifted)?,
            norm2: LayerNorm::load(loader, &format!("{name}.norm2"), width, EPSILON)?,
            mlp: Mlp::load(loader, &format!("{name}.mlp"), width)?,
        })
    }

    /// Side of its windows: height and width of the picture are multiples of it.
    pub fn window(&self) -> i64 {
        self.attention.window()
    }

    /// `[B, H, W, C] -> [B, H, W, C]`, with something done to what attention adds; it is given the normalised input too.
    pub fn forward_with(
        &self,
        x: &Tensor,
        change: impl FnOnce(Tensor, &Tensor) -> Result<Tensor, TchError>,
    ) -> Result<Tensor, TchError> {
        let normalised = self.norm1.forward(x)?;
        let x = x.f_add(&change(self.attention.forward(&normalised)?, &normalised)?)?;
        x.f_add(&self.mlp.forward(&self.norm2.forward(&x)?)?)
    }
}

impl Block for SwinBlock {
    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        self.forward_with(x, |attended, _| Ok(attended))
    }
}

/// `[B, C, H, W] -> [B, H, W, C]`.
pub fn to_tokens(x: &Tensor) -> Result<Tensor, TchError> {
    x.f_permute([0, 2, 3, 1])?.f_contiguous()
}

/// `[B, H, W, C] -> [B, C, H, W]`.
pub fn from_tokens(x: &Tensor) -> Result<Tensor, TchError> {
    x.f_permute([0, 3, 1, 2])
}
