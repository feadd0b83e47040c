//! RRDBNet, the network of ESRGAN and Real-ESRGAN (`basicsr/archs/rrdbnet_arch.py`): residual-in-residual dense
//! blocks at low resolution, then nearest-neighbour doublings with convolutions.
//!
//! Three namings of the same layers are in circulation. All sizes are read off the tensors.

mod tensors;
mod winograd;

use tch::{Device, Kind, TchError, Tensor};
use tensors::Conv;

use super::layers::winograd::{Conv3x3, Simd};
use super::single_image::loader;
use crate::runtime::weights::{Weights, WeightsError};

const NETWORK: &str = "RRDBNet";
/// Slope of the leaky ReLUs.
const SLOPE: f32 = 0.2;
/// Further ones are reported as belonging to no layer.
const MOST_DOUBLINGS: usize = 8;
/// Weight of what a block adds to its input.
const RESIDUAL: f32 = 0.2;

/// Which program wrote the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Naming {
    /// Real-ESRGAN, BasicSR: `body.0.rdb1.conv1`.
    BasicSr,
    /// ESRGAN's release: `RRDB_trunk.0.RDB1.conv1`.
    Esrgan,
    /// ESRGAN's first code, most community models: `model.1.sub.0.RDB1.conv1.0`.
    Sequential,
}

impl Naming {
    fn block(self, i: usize, dense: usize, conv: usize) -> String {
        match self {
            Naming::BasicSr => format!("body.{i}.rdb{dense}.conv{conv}"),
            Naming::Esrgan => format!("RRDB_trunk.{i}.RDB{dense}.conv{conv}"),
            Naming::Sequential => format!("model.1.sub.{i}.RDB{dense}.conv{conv}.0"),
        }
    }

    fn first(self) -> &'static str {
        if self == Naming::Sequential { "model.0" } else { "conv_first" }
    }

    fn after_blocks(self, blocks: usize) -> String {
        match self {
            Naming::BasicSr => "conv_body".into(),
            Naming::Esrgan => "trunk_conv".into(),
            Naming::Sequential => format!("model.1.sub.{blocks}"),
        }
    }

    /// The convolution after doubling `i`, counted from 1.
    fn doubling(self, i: usize) -> String {
        match self {
            Naming::BasicSr => format!("conv_up{i}"),
            Naming::Esrgan => format!("upconv{i}"),
            Naming::Sequential => format!("model.{}", 3 * i),
        }
    }

    fn high_resolution(self, doublings: usize) -> String {
        match self {
            Naming::BasicSr => "conv_hr".into(),
            Naming::Esrgan => "HRconv".into(),
            Naming::Sequential => format!("model.{}", 3 * doublings + 2),
        }
    }

    fn last(self, doublings: usize) -> String {
        if self == Naming::Sequential { format!("model.{}", 3 * doublings + 4) } else { "conv_last".into() }
    }
}

/// The network's layers, whatever computes them.
struct Layers<C> {
    first: C,
    blocks: Vec<Block<C>>,
    after_blocks: C,
    doublings: Vec<C>,
    high_resolution: C,
    last: C,
}

/// Three dense blocks of five convolutions, each of which sees all before it in its dense block.
type Block<C> = [[C; 5]; 3];

/// What computes them.
enum Kernel {
    /// libtorch, on any device and in any dtype.
    Tensors(Layers<Conv>),
    /// Our own convolutions, on the CPU in float32.
    Winograd(Box<Layers<Conv3x3>>),
}

/// `[B, 3, H, W]` in [0, 1] -> `[B, 3, scale * H, scale * W]`, not clamped.
pub struct RrdbNet {
    kernel: Kernel,
    /// How many times the output is doubled.
    doublings: usize,
    /// x1 and x2 models of Real-ESRGAN fold 4 x 4 or 2 x 2 pixels into channels first.
    unshuffle: i64,
}

impl RrdbNet {
    /// Whether the keys under `prefix` look like this network.
    pub fn recognises(weights: &Weights, prefix: &str) -> bool {
        Self::naming(weights, prefix).is_some()
    }

    fn naming(weights: &Weights, prefix: &str) -> Option<Naming> {
        let shape = |key: &str| weights.shape(&format!("{prefix}{key}.weight"));
        // Three channels, or 2 x 2 or 4 x 4 pixels of them.
        let is_rgb = |naming: &Naming| {
            shape(naming.first()).is_none_or(|shape| shape.len() != 4 || matches!(shape[1], 3 | 12 | 48))
        };
        let namings = [Naming::BasicSr, Naming::Esrgan, Naming::Sequential].into_iter();
        namings.filter(is_rgb).find(|naming| shape(&naming.block(0, 1, 1)).is_some())
    }

    /// Reads the network from the keys under `prefix` (`params_ema.` or nothing, say).
    ///
    /// # Errors
    /// Every missing, surplus or misshapen key, all at once.
    pub fn load(weights: &Weights, prefix: &str, device: Device, kind: Kind) -> Result<Self, WeightsError> {
        let naming = Self::naming(weights, prefix).unwrap_or(Naming::BasicSr);
        let shapes = weights.shapes();
        let shape = |key: &str| shapes.get(format!("{prefix}{key}.weight").as_str());
        let size = |key: &str, axis: usize, otherwise: i64| {
            shape(key).and_then(|shape| shape.get(axis).copied()).unwrap_or(otherwise)
        };
        let count = (0..).take_while(|&i| shape(&naming.block(i, 1, 1)).is_some()).count();
        let features = size(naming.first(), 0, 64);
        let growth = size(&naming.block(0, 1, 1), 0, 32);
        let channels_in = size(naming.first(), 1, 3);
        // Numbered layers only tell their places; the last one's place tells the number of doublings.
        let doublings = if naming == Naming::Sequential {
            (0..8).rev().find(|&n| shape(&naming.last(n)).is_some()).unwrap_or(2)
        } else {
            (1..=MOST_DOUBLINGS).take_while(|&i| shape(&naming.doubling(i)).is_some()).count()
        };

        let mut loader = loader(weights, prefix, device, kind);
        let first = Conv::load(&mut loader, naming.first(), channels_in, features)?;
        let mut blocks = Vec::with_capacity(count);
        for i in 0..count {
            let mut dense = |d: usize| -> Result<[Conv; 5], WeightsError> {
                let mut conv = |c: usize| {
                    let channels_out = if c == 5 { features } else { growth };
                    let channels_in = features + growth * (c as i64 - 1);
                    Conv::load(&mut loader, &naming.block(i, d, c), channels_in, channels_out)
                };
                Ok([conv(1)?, conv(2)?, conv(3)?, conv(4)?, conv(5)?])
            };
            blocks.push([dense(1)?, dense(2)?, dense(3)?]);
        }
        let mut conv = |key: String, channels_out: i64| Conv::load(&mut loader, &key, features, channels_out);
        let layers = Layers {
            first,
            blocks,
            after_blocks: conv(naming.after_blocks(count), features)?,
            doublings: (1..=doublings).map(|i| conv(naming.doubling(i), features)).collect::<Result<_, _>>()?,
            high_resolution: conv(naming.high_resolution(doublings), features)?,
            last: conv(naming.last(doublings), 3)?,
        };
        loader.finish(NETWORK)?;
        let unshuffle = ((channels_in / 3) as f64).sqrt().round().max(1.0) as i64;
        let kernel = match Simd::for_convolutions(device, kind, features.min(growth)) {
            Some(simd) => Kernel::Winograd(Box::new(layers.transformed(simd)?)),
            None => Kernel::Tensors(layers),
        };
        let network = Self { kernel, doublings, unshuffle };
        if network.unshuffle * network.unshuffle * 3 != channels_in || network.scale() < 1 {
            let problems = vec![format!("{channels_in} input channels with {doublings} doublings make no scale")];
            return Err(WeightsError::Mismatch { file: weights.file().to_owned(), network: NETWORK, problems });
        }
        Ok(network)
    }

    /// How many times larger the output is.
    pub fn scale(&self) -> i64 {
        (1 << self.doublings) / self.unshuffle
    }

    /// `[B, 3, H, W]` -> `[B, 3, scale * H, scale * W]`. Before each block `keep_going(done, total)` is asked; where
    /// it says no, the result is `None`.
    pub fn forward(
        &self,
        x: &Tensor,
        keep_going: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Option<Tensor>, TchError> {
        let (height, width) = (x.size()[2], x.size()[3]);
        let fold = self.unshuffle;
        let padding = [0, (fold - width % fold) % fold, 0, (fold - height % fold) % fold];
        let folded =
            if fold > 1 { x.f_replication_pad2d(padding)?.f_pixel_unshuffle(fold)? } else { x.shallow_clone() };

        let out = match &self.kernel {
            Kernel::Tensors(layers) => layers.forward(&folded, keep_going)?,
            Kernel::Winograd(layers) => layers.forward(&folded, keep_going)?,
        };
        let Some(out) = out else { return Ok(None) };
        Ok(Some(out.f_narrow(2, 0, height * self.scale())?.f_narrow(3, 0, width * self.scale())?))
    }
}
