//! Single-image super-resolution networks behind one trait. A new one is a file beside this and a line in
//! [`ARCHITECTURES`].

use tch::{Device, Kind, TchError, Tensor};

use super::{RrdbNet, SrvggNetCompact};
use crate::checkpoint::CheckpointError;
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

/// Dictionaries that training programs wrap the tensors in, and what parallel training puts before each name.
const WRAPPERS: [&str; 13] = [
    "params_ema",
    "params-ema",
    "g_ema",
    "params",
    "model_state_dict",
    "state_dict",
    "model",
    "net",
    "netG",
    "net_g",
    "generator",
    "module",
    "weights",
];
/// They do not nest deeper.
const DEEPEST: usize = 4;

/// What stands before all names of a network: dictionaries around it, or an only entry, whatever its name. Averaged
/// weights come first, then the outermost.
fn prefixes(weights: &Weights) -> Vec<String> {
    let shapes = weights.shapes();
    let mut all = vec![String::new()];
    let mut inside = vec![String::new()];
    for _ in 0..DEEPEST {
        let mut deeper = Vec::new();
        for prefix in inside {
            let names = shapes.range(prefix.as_str()..).map(|(key, _)| *key);
            let rests = names.map_while(|key| key.strip_prefix(prefix.as_str()));
            let mut entries: Vec<&str> = rests.filter_map(|rest| Some(rest.split_once('.')?.0)).collect();
            entries.dedup();
            let is_only = entries.len() == 1;
            entries.retain(|entry| is_only || WRAPPERS.contains(entry));
            deeper.extend(entries.iter().map(|entry| format!("{prefix}{entry}.")));
        }
        all.extend(deeper.iter().cloned());
        inside = deeper;
    }
    // The order among equals stays.
    all.sort_by_key(|prefix| !prefix.contains("ema."));
    all
}

/// The network in a file; `None` where no architecture recognises its keys.
pub fn load(
    weights: &Weights,
    device: Device,
    kind: Kind,
) -> Result<Option<Box<dyn SingleImageNetwork>>, WeightsError> {
    for prefix in prefixes(weights) {
        if let Some(architecture) = ARCHITECTURES.iter().find(|known| (known.recognises)(weights, &prefix)) {
            if let Some((name, kind)) = weights.integer_below(&prefix) {
                let found = format!("{name} is stored in integers ({kind:?}): quantised models are not read");
                return Err(CheckpointError::format(weights.file(), found).into());
            }
            return (architecture.load)(weights, &prefix, device, kind).map(Some);
        }
    }
    match channels(weights) {
        Some(channels @ (1 | 2 | 4)) => {
            let count = ["one", "two", "four"][usize::from(channels == 2) + 2 * usize::from(channels == 4)];
            let found = format!("a {count}-channel network, and only those for RGB, of three channels, are read");
            Err(CheckpointError::format(weights.file(), found).into())
        }
        _ => Ok(None),
    }
}

/// How many channels the first convolution of a network takes, where it has one of the usual names.
fn channels(weights: &Weights) -> Option<i64> {
    let shapes = weights.shapes();
    let firsts = ["conv_first.weight", "body.0.weight", "model.0.weight"];
    let first = firsts.iter().find_map(|first| {
        shapes
            .iter()
            .find(|(key, _)| **key == *first || key.strip_suffix(first).is_some_and(|rest| rest.ends_with('.')))
    });
    first.filter(|(_, shape)| shape.len() == 4).map(|(_, shape)| shape[1])
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
