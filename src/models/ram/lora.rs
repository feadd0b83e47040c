//! DAPE's changes to RAM (SeeSR, arXiv 2311.16518): loralib's low-rank pairs under the names of the layers they belong to,
//! with alpha 1. Of a layer for queries, keys and values in one, only queries and values are changed.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tch::{Kind, TchError, Tensor};

use crate::models::layers::Linear;
use crate::models::weights::{Loader, Reading, Weights, WeightsError};

/// The changes, or none.
#[derive(Default)]
pub struct Changes {
    weights: Option<Weights>,
    /// The keys that a layer has taken.
    taken: Mutex<BTreeSet<String>>,
}

const HALVES: [&str; 2] = [".lora_A", ".lora_B"];

/// Where changes are that matter here.
const TAGGING: [&str; 2] = ["visual_encoder.", "tagging_head."];

impl Changes {
    /// From a file such as `DAPE.pth`.
    ///
    /// # Errors
    /// Where it cannot be read or holds no such pairs.
    pub fn new(weights: Weights) -> Result<Self, WeightsError> {
        if !weights.shapes().keys().any(|key| key.ends_with(HALVES[0])) {
            let found = "it holds no lora_A and lora_B of any layer".to_owned();
            return Err(WeightsError::Format { file: weights.file().to_owned(), found });
        }
        Ok(Self { weights: Some(weights), ..Self::default() })
    }

    /// A pair for `name`: `lora_A` and `lora_B`, where both are there.
    fn pair(&self, name: &str) -> Option<Result<[Tensor; 2], TchError>> {
        let weights = self.weights.as_ref()?;
        let keys = HALVES.map(|half| format!("{name}{half}"));
        let [a, b] = [weights.tensor(&keys[0])?, weights.tensor(&keys[1])?];
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).extend(keys);
        Some(a.and_then(|a| Ok([a.f_to_kind(Kind::Float)?, b?.f_to_kind(Kind::Float)?])))
    }

    /// The linear layer of the first name, with the changes to all of them.
    pub(super) fn linear(
        &self,
        loader: &mut Loader,
        names: &[String],
        [inputs, outputs]: [i64; 2],
    ) -> Result<Linear, WeightsError> {
        let (mut ups, mut downs) = (Vec::new(), Vec::new());
        for name in names {
            let Some([down, up]) = self.pair(name).transpose()? else { continue };
            let rank = down.size().first().copied().unwrap_or(0);
            if !self.fits(loader, name, [&down, &up], [[rank, inputs], [outputs, rank]]) {
                return Linear::load(loader, &names[0], inputs, outputs);
            }
            ups.push(up.f_div_scalar(rank)?);
            downs.push(down);
        }
        if ups.is_empty() || loader.how() == Reading::Checked {
            return Linear::load(loader, &names[0], inputs, outputs);
        }
        let changes = (&Tensor::f_cat(&ups, 1)?, &Tensor::f_cat(&downs, 0)?);
        Linear::load_with_lora(loader, &names[0], [inputs, outputs], true, changes)
    }

    /// The layer for queries, keys and values at once; the first and the last are changed (loralib's `MergedLinear`).
    pub(super) fn qkv(&self, loader: &mut Loader, name: &str, width: i64) -> Result<Linear, WeightsError> {
        let plain = |loader: &mut Loader| Linear::load(loader, name, width, 3 * width);
        let Some([down, up]) = self.pair(name).transpose()? else { return plain(loader) };
        let rank = up.size().get(1).copied().unwrap_or(0);
        let fits = self.fits(loader, name, [&down, &up], [[2 * rank, width], [2 * width, rank]]);
        if !fits || loader.how() == Reading::Checked {
            return plain(loader);
        }
        let part = |start: i64| up.f_narrow(0, start, width)?.f_div_scalar(rank);
        let (queries, values) = (part(0)?, part(width)?);
        let zeros = queries.f_zeros_like()?;
        let row = |left: &Tensor, right: &Tensor| Tensor::f_cat(&[left, right], 1);
        let rows = [row(&queries, &zeros)?, row(&zeros, &zeros)?, row(&zeros, &values)?];
        Linear::load_with_lora(loader, name, [width, 3 * width], true, (&Tensor::f_cat(&rows, 0)?, &down))
    }

    /// Whether a pair has these shapes; it is noted where not.
    fn fits(&self, loader: &mut Loader, name: &str, pair: [&Tensor; 2], expected: [[i64; 2]; 2]) -> bool {
        let found = pair.map(Tensor::size);
        let fits = found[0] == expected[0] && found[1] == expected[1] && !expected[0].contains(&0);
        if !fits {
            loader.note(format!("{}: lora_A {:?} and lora_B {:?} do not fit {name}", self.file(), found[0], found[1]));
        }
        fits
    }

    /// Notes the pairs that no layer has taken.
    pub(super) fn check(&self, loader: &mut Loader) {
        let Some(weights) = &self.weights else { return };
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        for key in weights.shapes().into_keys() {
            let is_ours =
                HALVES.iter().any(|half| key.ends_with(half)) && TAGGING.iter().any(|part| key.starts_with(part));
            if is_ours && !taken.contains(key) {
                loader.note(format!("{}: {key} is of no layer of this model", self.file()));
            }
        }
    }

    fn file(&self) -> String {
        self.weights.as_ref().map(|weights| weights.file().display().to_string()).unwrap_or_default()
    }
}
