//! When a training ends before its last step: nothing more to learn, no ratings, gradients that are not finite, a policy that has
//! left the reference behind.

use std::collections::{BTreeMap, VecDeque};

use tch::{Kind, Tensor};

use super::options::{Options, Step};
use crate::runtime::weights::Weights;
use crate::train::TrainError;

/// Steps in a row whose gradients are not finite, or without any group that was rated.
const MOST_SKIPPED: usize = 20;
/// The KL of one step may be far off by one unlikely token: so many are looked at together.
const KL_STEPS: usize = 10;
const NAME: &str = "limits";

/// Steps in a row, up to the last one.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Limits {
    infinite: usize,
    unrated: usize,
    without_difference: usize,
    kl: VecDeque<f64>,
}

impl Limits {
    /// Looks at another step; says why the training ends here, where there is nothing more to learn.
    ///
    /// # Errors
    /// Where it cannot go on.
    pub(super) fn check(&mut self, step: &Step, options: &Options) -> Result<Option<String>, TrainError> {
        let counted = |count: usize, is: bool| if is { count + 1 } else { 0 };
        let is_unrated = step.skipped_groups == step.groups;
        let is_flat = step.zero_std_groups + step.skipped_groups == step.groups && !is_unrated;
        self.infinite = counted(self.infinite, !step.norm.is_finite());
        self.unrated = counted(self.unrated, is_unrated);
        self.without_difference = counted(self.without_difference, is_flat);
        if self.kl.len() == KL_STEPS {
            self.kl.pop_front();
        }
        self.kl.push_back(step.kl);
        if self.infinite >= MOST_SKIPPED {
            return Err(TrainError::Infinite(self.infinite));
        }
        if self.unrated >= MOST_SKIPPED {
            return Err(TrainError::Unrated(self.unrated));
        }
        let kl = self.kl.iter().sum::<f64>() / self.kl.len() as f64;
        if self.kl.len() == KL_STEPS && kl > options.max_kl {
            return Err(TrainError::Collapsed { kl, limit: options.max_kl });
        }
        let ends = self.without_difference >= options.early_stopping_steps;
        Ok(ends.then(|| format!("all rewards of each group were equal, {} steps in a row", self.without_difference)))
    }

    /// Adds them to a state.
    ///
    /// # Errors
    /// What libtorch says.
    pub(super) fn save(&self, tensors: &mut BTreeMap<String, Tensor>) -> Result<(), TrainError> {
        let counts = [self.infinite, self.unrated, self.without_difference].map(|count| count as f64);
        let numbers: Vec<f64> = counts.into_iter().chain(self.kl.iter().copied()).collect();
        tensors.insert(NAME.into(), Tensor::f_from_slice(&numbers)?);
        Ok(())
    }

    /// Reads them from a state.
    ///
    /// # Errors
    /// What does not fit.
    pub(super) fn load(weights: &Weights) -> Result<Self, TrainError> {
        let wrong = || TrainError::format(weights.file(), format!("{NAME} is missing or damaged"));
        let tensor = weights.tensor(NAME).transpose()?.ok_or_else(wrong)?;
        let numbers = Vec::<f64>::try_from(tensor.f_to_kind(Kind::Double)?.f_view([-1])?)?;
        let Some((counts, kl)) = numbers.split_first_chunk::<3>() else { return Err(wrong()) };
        let [infinite, unrated, without_difference] = counts.map(|count| count as usize);
        Ok(Self { infinite, unrated, without_difference, kl: kl.iter().copied().collect() })
    }
}
