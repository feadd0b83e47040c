//! Single-image super-resolution networks behind one trait. A new one is a file beside this and a line in
//! [`ARCHITECTURES`].

use tch::{Device, Kind, TchError, Tensor};

use super::omnisr::OmniSr;
use super::plksr::Plksr;
use super::span::Span;
use super::{RrdbNet, SrvggNetCompact, dat, drct, hat, swinir};
use crate::checkpoint::CheckpointError;
use crate::runtime::weights::{Loader, Weights, WeightsError};

/// What of its input a network looks at for one pixel of its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// So many pixels to each side. Tiles that are computed with so much around them are equal to the whole picture.
    Local(u32),
    /// Windows of this side, and for a little their neighbours: tiles begin on multiples of it.
    Windows(i64),
    /// All of it: tiles differ in tone.
    Global,
}

/// A network, loaded.
pub trait SingleImageNetwork: Send {
    /// How many times larger its output is.
    fn scale(&self) -> i64;

    /// What of a picture it looks at, which decides how large pictures are cut into tiles.
    fn context(&self) -> Context;

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

/// An architecture of a name, the type or module that loads it, and its function that recognises it.
macro_rules! architecture {
    ($name:literal, $network:ident, $recognises:ident) => {
        Architecture {
            name: $name,
            recognises: $network::$recognises,
            load: |weights, prefix, device, kind| Ok(Box::new($network::load(weights, prefix, device, kind)?)),
        }
    };
}

/// All of them.
pub static ARCHITECTURES: [Architecture; 10] = [
    architecture!("RRDBNet", RrdbNet, recognises),
    architecture!("SRVGGNetCompact", SrvggNetCompact, recognises),
    architecture!("SPAN", Span, recognises),
    architecture!("RealPLKSR", Plksr, recognises_real),
    architecture!("PLKSR", Plksr, recognises),
    architecture!("DAT", dat, recognises),
    architecture!("SwinIR", swinir, recognises),
    architecture!("HAT", hat, recognises),
    architecture!("DRCT", drct, recognises),
    architecture!("OmniSR", OmniSr, recognises),
];

/// What training leaves in files and no network is made of: parts of keys.
const IGNORED: [&str; 8] = [
    "attn_mask",
    "relative_position_index",
    "rpe_biases",
    "num_batches_tracked",
    "total_ops",
    "total_params",
    "eval_conv",
    "init_pos",
];

/// A loader that passes over [`IGNORED`].
pub(super) fn loader(weights: &Weights, prefix: &str, device: Device, kind: Kind) -> Loader<'static> {
    let mut loader = Loader::new(weights, prefix, device, kind);
    loader.ignore_containing(&IGNORED);
    loader
}

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

fn recognised_at(weights: &Weights, prefix: &str) -> impl Iterator<Item = &'static Architecture> {
    ARCHITECTURES.iter().filter(move |known| (known.recognises)(weights, prefix))
}

/// The architectures whose keys are in a file.
pub fn recognised(weights: &Weights) -> impl Iterator<Item = &'static Architecture> {
    prefixes(weights).into_iter().flat_map(move |prefix| recognised_at(weights, &prefix).collect::<Vec<_>>())
}

/// A network, and what its authors call it.
pub type Named = (&'static str, Box<dyn SingleImageNetwork>);

/// The network in a file; `None` where no architecture recognises its keys.
pub fn load(weights: &Weights, device: Device, kind: Kind) -> Result<Option<Named>, WeightsError> {
    for prefix in prefixes(weights) {
        if let Some(architecture) = recognised_at(weights, &prefix).next() {
            if let Some((name, kind)) = weights.integer_below(&prefix, &IGNORED) {
                let found = format!("{name} is stored in integers ({kind:?}): quantised models are not read");
                return Err(CheckpointError::format(weights.file(), found).into());
            }
            only_for_rgb(weights)?;
            let network = (architecture.load)(weights, &prefix, device, kind)?;
            return Ok(Some((architecture.name, network)));
        }
    }
    only_for_rgb(weights)?;
    Ok(None)
}

fn only_for_rgb(weights: &Weights) -> Result<(), WeightsError> {
    let count = match channels(weights) {
        Some(1) => "one",
        Some(2) => "two",
        Some(4) => "four",
        _ => return Ok(()),
    };
    let found = format!("a {count}-channel network, and only those for RGB, of three channels, are read");
    Err(CheckpointError::format(weights.file(), found).into())
}

/// How many channels the first convolution of a network takes, where it has one of the usual names.
fn channels(weights: &Weights) -> Option<i64> {
    let shapes = weights.shapes();
    let firsts =
        ["conv_first.weight", "body.0.weight", "model.0.weight", "feats.0.weight", "input.weight", "conv_1.sk.weight"];
    let first = firsts.iter().find_map(|first| {
        shapes
            .iter()
            .find(|(key, _)| **key == *first || key.strip_suffix(first).is_some_and(|rest| rest.ends_with('.')))
    });
    first.filter(|(_, shape)| shape.len() == 4).map(|(_, shape)| shape[1])
}

/// Further away nothing is seen to change in networks of many plain convolutions.
const CONVOLUTIONAL: Context = Context::Local(16);

impl SingleImageNetwork for SrvggNetCompact {
    fn scale(&self) -> i64 {
        Self::scale(self)
    }

    fn context(&self) -> Context {
        CONVOLUTIONAL
    }

    fn forward(&self, x: &Tensor, _: &mut dyn FnMut(f32) -> bool) -> Result<Option<Tensor>, TchError> {
        Self::forward(self, x).map(Some)
    }
}

impl SingleImageNetwork for RrdbNet {
    fn scale(&self) -> i64 {
        Self::scale(self)
    }

    fn context(&self) -> Context {
        CONVOLUTIONAL
    }

    fn forward(&self, x: &Tensor, keep_going: &mut dyn FnMut(f32) -> bool) -> Result<Option<Tensor>, TchError> {
        Self::forward(self, x, &mut |done, total| keep_going(done as f32 / total as f32))
    }
}
