//! DAPE, RAM's LoRA (SeeSR, arXiv 2311.16518): loralib's pairs under the names of the layers they belong to, with alpha 1.
//! Of a layer for queries, keys and values in one, only queries and values are changed.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tch::Tensor;

use crate::checkpoint::CheckpointError;
use crate::networks::layers::Linear;
use crate::runtime::weights::lora::{Half, loralib_half};
use crate::runtime::weights::{LoadMode, Loader, LoraDelta, LoraFile, Weights, WeightsError};

/// The pairs, or none.
#[derive(Default)]
pub struct RamLora {
    pairs: Option<LoraFile>,
    /// The layers that have taken theirs.
    taken: Mutex<BTreeSet<String>>,
}

/// Where pairs are that matter here.
const TAGGING: [&str; 2] = ["visual_encoder.", "tagging_head."];

fn misfit(name: &str, up: &[i64], down: &[i64]) -> String {
    format!("lora_A {down:?} and lora_B {up:?} do not fit {name}")
}

impl RamLora {
    /// From a file such as `DAPE.pth`.
    ///
    /// # Errors
    /// Where it cannot be read or holds no such pairs.
    pub fn new(weights: Weights) -> Result<Self, WeightsError> {
        let pairs = LoraFile::new(&weights, |key| loralib_half(key).map(|(layer, half)| (layer.to_owned(), half)));
        if !pairs.layers().any(|layer| pairs.keys(layer)[Half::Down as usize].is_some()) {
            let found = "it holds no lora_A and lora_B of any layer";
            return Err(CheckpointError::format(weights.file(), found).into());
        }
        Ok(Self { pairs: Some(pairs), ..Self::default() })
    }

    /// The pairs, where there is one for `name`, which has it then; and the shapes of its up and down.
    fn pair(&self, name: &str) -> Option<(&LoraFile, [Vec<i64>; 2])> {
        let pairs = self.pairs.as_ref()?;
        let shapes = pairs.shapes(name)?;
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        Some((pairs, shapes))
    }

    /// The linear layer of the first name, with the pairs of all of them merged in.
    pub(super) fn linear(
        &self,
        loader: &mut Loader,
        names: &[String],
        [inputs, outputs]: [i64; 2],
    ) -> Result<Linear, WeightsError> {
        let mut loras = Vec::new();
        for name in names {
            let Some((pairs, _)) = self.pair(name) else { continue };
            let scale = |rank: i64| 1.0 / rank as f64;
            loras.extend(pairs.delta(loader, name, &[outputs, inputs], scale, |up, down| misfit(name, up, down))?);
        }
        let lora = match &loras[..] {
            [] => None,
            loras => Some(LoraDelta::sum(loras)?),
        };
        Linear::load_merged(loader, &names[0], [inputs, outputs], true, lora.as_ref())
    }

    /// The layer for queries, keys and values at once; the first and the last are changed (loralib's `MergedLinear`).
    pub(super) fn qkv(&self, loader: &mut Loader, name: &str, width: i64) -> Result<Linear, WeightsError> {
        let lora = self.merged_linear(loader, name, width)?;
        Linear::load_merged(loader, name, [width, 3 * width], true, lora.as_ref())
    }

    /// The first rows of `lora_A` and `lora_B` are of the queries, the others of the values.
    fn merged_linear(&self, loader: &mut Loader, name: &str, width: i64) -> Result<Option<LoraDelta>, WeightsError> {
        let Some((pairs, [up, down])) = self.pair(name) else { return Ok(None) };
        let rank = up.get(1).copied().unwrap_or(0);
        if rank == 0 || up != [2 * width, rank] || down != [2 * rank, width] {
            loader.report(format!("{}: {}", pairs.file(), misfit(name, &up, &down)));
            return Ok(None);
        }
        if loader.load_mode() == LoadMode::ShapesOnly {
            return Ok(None);
        }
        let Some(LoraDelta { up, down, scale, dropout }) = pairs.read(name, 1.0 / rank as f64)? else {
            return Ok(None);
        };
        let (queries, values) = (up.f_narrow(0, 0, width)?, up.f_narrow(0, width, width)?);
        let zeros = queries.f_zeros_like()?;
        let row = |left: &Tensor, right: &Tensor| Tensor::f_cat(&[left, right], 1);
        let rows = [row(&queries, &zeros)?, row(&zeros, &zeros)?, row(&zeros, &values)?];
        Ok(Some(LoraDelta { up: Tensor::f_cat(&rows, 0)?, down, scale, dropout }))
    }

    /// Notes the pairs that no layer has taken.
    pub(super) fn check(&self, loader: &mut Loader) {
        let Some(pairs) = &self.pairs else { return };
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let is_left = |name: &&str| TAGGING.iter().any(|part| name.starts_with(part)) && !taken.contains(*name);
        // Both halves, down first as in the file.
        for key in pairs.layers().filter(is_left).flat_map(|name| pairs.keys(name).into_iter().rev().flatten()) {
            loader.report(format!("{}: {key} is of no layer of this model", pairs.file()));
        }
    }
}
