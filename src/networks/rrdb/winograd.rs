//! RRDBNet by our own convolutions: on the CPU in float32, about three times as fast as by libtorch's.

use rayon::prelude::*;
use tch::{TchError, Tensor};

use super::tensors::Conv;
use super::{Block, Layers, RESIDUAL, SLOPE};
use crate::networks::layers::winograd::{Conv3x3, FeatureMap, Simd, Sum, THREADS};

/// Rows at low resolution that are enlarged together: the large feature maps are never whole in memory.
const STRIP: usize = 32;
/// Rows at low resolution beyond a strip that are computed with it; the convolutions there see at most two.
const HALO: usize = 4;

impl Layers<Conv> {
    /// The same layers with transformed weights.
    pub(super) fn transformed(self, simd: Simd) -> Result<Layers<Conv3x3>, TchError> {
        let features = self.first.weight.size()[0] as usize;
        let conv = |conv: Conv, slope: f32, channels_in: &[usize]| {
            let slopes = vec![slope; conv.weight.size()[0] as usize];
            Conv3x3::new(simd, &conv.weight, &conv.bias, &slopes, channels_in)
        };
        let block = |block: Block<Conv>| -> Result<Block<Conv3x3>, TchError> {
            let dense = |convs: [Conv; 5]| -> Result<[Conv3x3; 5], TchError> {
                let mut channels_in = vec![features];
                let [c1, c2, c3, c4, c5] = convs;
                let mut growing = |c: Conv| {
                    let growth = c.weight.size()[0] as usize;
                    let transformed = conv(c, SLOPE, &channels_in);
                    channels_in.push(growth);
                    transformed
                };
                Ok([growing(c1)?, growing(c2)?, growing(c3)?, growing(c4)?, conv(c5, 1.0, &channels_in)?])
            };
            let [d1, d2, d3] = block;
            Ok([dense(d1)?, dense(d2)?, dense(d3)?])
        };
        let channels_in = self.first.weight.size()[1] as usize;
        Ok(Layers {
            first: conv(self.first, 1.0, &[channels_in])?,
            blocks: match &*THREADS {
                Some(threads) => {
                    threads.install(|| self.blocks.into_par_iter().map(block).collect::<Result<_, _>>())?
                }
                None => self.blocks.into_iter().map(block).collect::<Result<_, _>>()?,
            },
            after_blocks: conv(self.after_blocks, 1.0, &[features])?,
            doublings: self.doublings.into_iter().map(|c| conv(c, SLOPE, &[features])).collect::<Result<_, _>>()?,
            high_resolution: conv(self.high_resolution, SLOPE, &[features])?,
            last: conv(self.last, 1.0, &[features])?,
        })
    }
}

impl Layers<Conv3x3> {
    /// `[B, C, H, W]` -> `[B, 3, 2^n * H, 2^n * W]`, or `None` where `keep_going(done, total)` says no.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        keep_going: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Option<Tensor>, TchError> {
        let mut images = Vec::new();
        for i in 0..x.size()[0] {
            match self.image(&x.f_get(i)?, keep_going)? {
                Some(image) => images.push(image),
                None => return Ok(None),
            }
        }
        Tensor::f_stack(&images, 0).map(Some)
    }

    /// `[C, H, W]` -> `[3, 2^n * H, 2^n * W]`.
    fn image(&self, x: &Tensor, keep_going: &mut dyn FnMut(usize, usize) -> bool) -> Result<Option<Tensor>, TchError> {
        let mut shallow = FeatureMap::default();
        self.first.forward(&[&FeatureMap::from_tensor(x)?], &mut shallow)?;
        let height = shallow.height();
        let total = self.blocks.len() + height.div_ceil(STRIP);
        // Feature maps are used again: fresh memory for each would take longer than a convolution.
        let mut grown: [FeatureMap; 4] = std::array::from_fn(|_| FeatureMap::default());
        let mut inner = [FeatureMap::default(), FeatureMap::default()];
        let (mut deep, mut next) = (shallow.crop_rows(0..height)?, FeatureMap::default());
        for (i, block) in self.blocks.iter().enumerate() {
            if !keep_going(i, total) {
                return Ok(None);
            }
            let ([d1, d2, d3], [a, b]) = (block, &mut inner);
            dense(d1, &deep, None, &mut grown, a)?;
            dense(d2, a, None, &mut grown, b)?;
            dense(d3, b, Some(&deep), &mut grown, &mut next)?;
            std::mem::swap(&mut deep, &mut next);
        }
        self.after_blocks.forward_sum(&[&deep], Sum { factor: 1.0, added: &[(1.0, &shallow)] }, &mut next)?;
        let scale = 1 << self.doublings.len();
        let [_, mut b] = inner;
        let mut strips = Vec::new();
        for start in (0..height).step_by(STRIP) {
            if !keep_going(self.blocks.len() + strips.len(), total) {
                return Ok(None);
            }
            let top = start.saturating_sub(HALO);
            let mut a = next.crop_rows(top..start + STRIP + HALO)?;
            for conv in &self.doublings {
                conv.forward_doubled(&a, &mut b)?;
                std::mem::swap(&mut a, &mut b);
            }
            self.high_resolution.forward(&[&a], &mut b)?;
            self.last.forward(&[&b], &mut a)?;
            strips.push(a.to_tensor((start - top) * scale..((start + STRIP).min(height) - top) * scale)?);
        }
        Tensor::f_cat(&strips, 1).map(Some)
    }
}

/// A dense block and its residual; the last one of a block has the block's own residual added at once.
fn dense(
    [c1, c2, c3, c4, c5]: &[Conv3x3; 5],
    input: &FeatureMap,
    block_input: Option<&FeatureMap>,
    [x1, x2, x3, x4]: &mut [FeatureMap; 4],
    out: &mut FeatureMap,
) -> Result<(), TchError> {
    c1.forward(&[input], x1)?;
    c2.forward(&[input, x1], x2)?;
    c3.forward(&[input, x1, x2], x3)?;
    c4.forward(&[input, x1, x2, x3], x4)?;
    let inputs = [input, x1, x2, x3, x4];
    match block_input {
        None => c5.forward_sum(&inputs, Sum { factor: RESIDUAL, added: &[(1.0, input)] }, out),
        Some(block_input) => {
            let added = [(RESIDUAL, input), (1.0, block_input)];
            c5.forward_sum(&inputs, Sum { factor: RESIDUAL * RESIDUAL, added: &added }, out)
        }
    }
}
