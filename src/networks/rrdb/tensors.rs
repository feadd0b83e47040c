//! RRDBNet by libtorch's operators.

use tch::{TchError, Tensor};

use super::{Layers, RESIDUAL, SLOPE};
use crate::runtime::weights::{Loader, WeightsError};

pub(super) struct Conv {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
}

impl Conv {
    pub(super) fn load(
        loader: &mut Loader,
        key: &str,
        channels_in: i64,
        channels_out: i64,
    ) -> Result<Self, WeightsError> {
        Ok(Self {
            weight: loader.tensor(&format!("{key}.weight"), &[channels_out, channels_in, 3, 3])?,
            bias: loader.tensor(&format!("{key}.bias"), &[channels_out])?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        x.f_conv2d(&self.weight, Some(&self.bias), [1, 1], [1, 1], [1, 1], 1)
    }
}

fn leaky(x: Tensor) -> Result<Tensor, TchError> {
    // leaky_relu with a slope; the generated binding of it takes none.
    x.f_maximum(&x.f_mul_scalar(f64::from(SLOPE))?)
}

fn dense(convs: &[Conv; 5], x: &Tensor) -> Result<Tensor, TchError> {
    let mut seen = vec![x.shallow_clone()];
    let [growing @ .., last] = convs;
    for conv in growing {
        seen.push(leaky(conv.forward(&Tensor::f_cat(&seen, 1)?)?)?);
    }
    last.forward(&Tensor::f_cat(&seen, 1)?)?.f_mul_scalar(f64::from(RESIDUAL))?.f_add(x)
}

impl Layers<Conv> {
    /// `[B, C, H, W]` -> `[B, 3, 2^n * H, 2^n * W]`, or `None` where `keep_going(done, total)` says no.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        keep_going: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Option<Tensor>, TchError> {
        let shallow = self.first.forward(x)?;
        let mut deep = shallow.shallow_clone();
        let total = self.blocks.len() + self.doublings.len();
        for (i, block) in self.blocks.iter().enumerate() {
            if !keep_going(i, total) {
                return Ok(None);
            }
            let mut inner = deep.shallow_clone();
            for convs in block {
                inner = dense(convs, &inner)?;
            }
            deep = inner.f_mul_scalar(f64::from(RESIDUAL))?.f_add(&deep)?;
        }
        let mut h = self.after_blocks.forward(&deep)?.f_add(&shallow)?;
        for (i, conv) in self.doublings.iter().enumerate() {
            if !keep_going(self.blocks.len() + i, total) {
                return Ok(None);
            }
            let doubled = h.f_upsample_nearest2d([h.size()[2] * 2, h.size()[3] * 2], None, None)?;
            h = leaky(conv.forward(&doubled)?)?;
        }
        self.last.forward(&leaky(self.high_resolution.forward(&h)?)?).map(Some)
    }
}
