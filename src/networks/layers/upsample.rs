//! What restoration transformers end in (`Upsample`, `UpsampleOneStep` of SwinIR's network_swinir.py, which HAT, DRCT and
//! DAT took over): convolutions and pixel shuffles from features to a larger picture.

use tch::{TchError, Tensor};

use super::Conv2d;
use crate::runtime::weights::{Loader, WeightsError};

const SLOPE: f64 = 0.2;
/// Of the layer before the pixel shuffles (`nn.LeakyReLU`'s own).
const SLOPE_BEFORE: f64 = 0.01;
/// Further ones are reported as belonging to no layer.
const MOST_DOUBLINGS: i64 = 4;

/// `max(x, slope * x)`.
pub fn leaky_relu(x: &Tensor, slope: f64) -> Result<Tensor, TchError> {
    x.f_maximum(&x.f_mul_scalar(slope)?)
}

/// How far a convolution to `outputs` channels enlarges, where a pixel shuffle to `channels` follows.
pub fn shuffle_factor(outputs: i64, channels: i64) -> i64 {
    ((outputs / channels.max(1)) as f64).sqrt().round() as i64
}

/// From features to the picture.
pub enum Upsampler {
    /// `pixelshuffle`: convolutions each followed by a pixel shuffle.
    PixelShuffle { before: Conv2d, shuffles: Vec<(Conv2d, i64)>, last: Conv2d },
    /// `pixelshuffledirect`: a single one.
    Direct(Conv2d, i64),
    /// `nearest+conv`: doublings each followed by a convolution.
    Nearest { before: Conv2d, doublings: Vec<Conv2d>, high_resolution: Conv2d, last: Conv2d },
    /// None: what is added to the picture itself.
    Residual(Conv2d),
}

impl Upsampler {
    /// From the keys there are; `width`: channels of the features.
    pub fn load(loader: &mut Loader, width: i64) -> Result<Self, WeightsError> {
        if !loader.has("conv_before_upsample.0.weight") {
            if !loader.has("upsample.0.weight") {
                return Ok(Self::Residual(Conv2d::same(loader, "conv_last", [width, 3], 3)?));
            }
            let factor = shuffle_factor(loader.rows("upsample.0.weight"), 3);
            return Ok(Self::Direct(Conv2d::same(loader, "upsample.0", [width, 3 * factor * factor], 3)?, factor));
        }
        let features = loader.rows("conv_before_upsample.0.weight");
        let before = Conv2d::same(loader, "conv_before_upsample.0", [width, features], 3)?;
        if loader.has("conv_up1.weight") {
            let names = (1..=MOST_DOUBLINGS).map(|i| format!("conv_up{i}"));
            let names: Vec<_> = names.take_while(|name| loader.has(&format!("{name}.weight"))).collect();
            let mut conv = |name: &str, outputs: i64| Conv2d::same(loader, name, [features, outputs], 3);
            let doublings = names.iter().map(|name| conv(name, features)).collect::<Result<_, _>>()?;
            let (high_resolution, last) = (conv("conv_hr", features)?, conv("conv_last", 3)?);
            return Ok(Self::Nearest { before, doublings, high_resolution, last });
        }
        let mut shuffles = Vec::new();
        while loader.has(&format!("upsample.{}.weight", 2 * shuffles.len())) {
            let name = format!("upsample.{}", 2 * shuffles.len());
            let factor = shuffle_factor(loader.rows(&format!("{name}.weight")), features);
            let outputs = features * factor * factor;
            shuffles.push((Conv2d::same(loader, &name, [features, outputs], 3)?, factor));
        }
        let last = Conv2d::same(loader, "conv_last", [features, 3], 3)?;
        Ok(Self::PixelShuffle { before, shuffles, last })
    }

    /// How many times larger the picture is than the features.
    pub fn scale(&self) -> i64 {
        match self {
            Self::PixelShuffle { shuffles, .. } => {
                shuffles.iter().fold(1i64, |scale, (_, factor)| scale.saturating_mul(*factor))
            }
            Self::Direct(_, factor) => *factor,
            Self::Nearest { doublings, .. } => 1 << doublings.len(),
            Self::Residual(_) => 1,
        }
    }

    /// `[B, C, H, W] -> [B, 3, scale * H, scale * W]`; `picture`: what a residual is added to.
    pub fn forward(&self, x: &Tensor, picture: &Tensor) -> Result<Tensor, TchError> {
        match self {
            Self::PixelShuffle { before, shuffles, last } => {
                let mut x = leaky_relu(&before.forward(x)?, SLOPE_BEFORE)?;
                for (conv, factor) in shuffles {
                    x = conv.forward(&x)?.f_pixel_shuffle(*factor)?;
                }
                last.forward(&x)
            }
            Self::Direct(conv, factor) => conv.forward(x)?.f_pixel_shuffle(*factor),
            Self::Nearest { before, doublings, high_resolution, last } => {
                let mut x = leaky_relu(&before.forward(x)?, SLOPE_BEFORE)?;
                for conv in doublings {
                    let (_, _, height, width) = x.size4()?;
                    let doubled = x.f_upsample_nearest2d([2 * height, 2 * width], None, None)?;
                    x = leaky_relu(&conv.forward(&doubled)?, SLOPE)?;
                }
                last.forward(&leaky_relu(&high_resolution.forward(&x)?, SLOPE)?)
            }
            Self::Residual(conv) => picture.f_add(&conv.forward(x)?),
        }
    }
}
