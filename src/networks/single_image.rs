//! Single-image super-resolution networks behind one trait. A new one is a file beside this and a line in
//! [`ARCHITECTURES`].

use tch::{Device, Kind, TchError, Tensor};

use super::{RrdbNet, SrvggNetCompact};
use crate::runtime::weights::{Weights, WeightsError};

/// A network, loaded.
pub trait SingleImageNetwork: Send {
    /// How many times larger its output is.
    fn scale(&self) -> i64;

    /// Pixels of context around a tile that are computed and thrown away, so that no seam shows.
    fn margin(&self) -> u32 {
        16
    }

    /// `[B, 3, H, W]` in [0, 1] -> `[B, 3, scale * H, scale * W]`, not clamped. `keep_going` is asked now and then, with
    /// the share that is done; where it says no, the result is `None`.
    fn forward(&self, x: &Tensor, keep_going: &mut dyn FnMut(f32) -> bool) -> Result<Option<Tensor>, TchError>;
}

type Loaded = Result<Box<dyn SingleImageNetwork>, WeightsError>;

/// A network that can be recognised by the keys of its file.
pub struct Architecture {
    /// As its authors call it.
    pub name: &'static str,
    /// Whether the keys under a prefix look like it.
    pub recognises: fn(&Weights, &str) -> bool,
    load: fn(&Weights, &str, Device, Kind) -> Loaded,
}

/// All of them.
pub static ARCHITECTURES: [Architecture; 2] = [
    Architecture {
        name: "RRDBNet",
        recognises: RrdbNet::recognises,
        load: |weights, prefix, device, kind| Ok(Box::new(RrdbNet::load(weights, prefix, device, kind)?)),
    },
    Architecture {
        name: "SRVGGNetCompact",
        recognises: SrvggNetCompact::recognises,
        load: |weights, prefix, device, kind| Ok(Box::new(SrvggNetCompact::load(weights, prefix, device, kind)?)),
    },
];

/// Dictionaries that training programs wrap the tensors in, the averaged ones first; others do not wrap them.
const PREFIXES: [&str; 5] = ["params_ema.", "params.", "state_dict.", "model_state_dict.", ""];

/// The network in a file; `None` where no architecture recognises its keys.
pub fn load(
    weights: &Weights,
    device: Device,
    kind: Kind,
) -> Result<Option<Box<dyn SingleImageNetwork>>, WeightsError> {
    for prefix in PREFIXES {
        if let Some(architecture) = ARCHITECTURES.iter().find(|known| (known.recognises)(weights, prefix)) {
            return (architecture.load)(weights, prefix, device, kind).map(Some);
        }
    }
    Ok(None)
}

impl SingleImageNetwork for SrvggNetCompact {
    fn scale(&self) -> i64 {
        Self::scale(self)
    }

    fn forward(&self, x: &Tensor, _: &mut dyn FnMut(f32) -> bool) -> Result<Option<Tensor>, TchError> {
        Self::forward(self, x).map(Some)
    }
}

impl SingleImageNetwork for RrdbNet {
    fn scale(&self) -> i64 {
        Self::scale(self)
    }

    fn forward(&self, x: &Tensor, keep_going: &mut dyn FnMut(f32) -> bool) -> Result<Option<Tensor>, TchError> {
        Self::forward(self, x, &mut |done, total| keep_going(done as f32 / total as f32))
    }
}
