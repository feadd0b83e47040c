//! Groups of completions that were sampled together, and what is made of them: ratings, advantages, log-probs before the first
//! step.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use super::loss::advantages;
use super::rewards::{Reward, TERMS};
use crate::pipelines::caption::vlm::processor::EncodedPrompt;
use crate::runtime::weights::Weights;
use crate::train::TrainError;

/// Numbers of a reward: its terms, and the whole.
const NUMBERS: usize = TERMS.len() + 1;

/// The completions of one prompt.
#[derive(Debug)]
pub struct CompletionGroup {
    /// Its pair's number among all.
    pub item: u64,
    /// The question; made again where a training goes on.
    pub prompt: Option<EncodedPrompt>,
    /// Token ids.
    pub completions: Vec<Vec<i64>>,
    /// Whether they were cut off.
    pub is_truncated: Vec<bool>,
    /// What they are worth.
    pub rewards: Vec<Reward>,
    /// Log-probs of the tokens that count, `[T]`: of the policy that has sampled them, and of the reference.
    pub log_probs: Option<[Tensor; 2]>,
}

impl CompletionGroup {
    /// Rewards by completion; NaN where the critic gave no number.
    fn totals(&self) -> Vec<f64> {
        self.rewards.iter().map(|reward| reward.total).collect()
    }

    /// Completions with a rating.
    pub fn rated(&self) -> usize {
        self.rewards.iter().filter(|reward| reward.total.is_finite()).count()
    }

    /// Less than two have a rating: there is nothing to compare.
    pub fn is_skipped(&self) -> bool {
        self.rated() < 2
    }

    /// All rewards are the same.
    pub fn has_zero_std(&self) -> bool {
        !self.is_skipped()
            && advantages(&self.totals(), false).iter().all(|&advantage| advantage == 0.0 || advantage.is_nan())
    }

    /// The completions that enter the loss of a micro-batch: of each its advantage and the tokens that count, none where it was cut off
    /// and such are masked.
    pub fn rows(&self, scale: bool, mask_truncated: bool) -> Vec<Row<'_>> {
        if self.is_skipped() {
            return Vec::new();
        }
        let all = advantages(&self.totals(), scale).into_iter().zip(&self.completions).zip(&self.is_truncated);
        let rated = all.filter(|((advantage, _), _)| advantage.is_finite());
        rated
            .map(|((advantage, ids), &is_truncated)| Row {
                advantage,
                ids: if is_truncated && mask_truncated { &[] } else { ids },
            })
            .collect()
    }
}

/// A completion in a loss.
pub struct Row<'a> {
    /// See [`advantages`].
    pub advantage: f64,
    /// The tokens that count.
    pub ids: &'a [i64],
}

/// Groups of one process, and how many steps have been made of them.
#[derive(Default)]
pub struct Rollout {
    /// By which options they were sampled and steps are made of them.
    pub options: u64,
    /// In the order in which steps take them.
    pub groups: Vec<CompletionGroup>,
    /// Steps that were made.
    pub used: usize,
}

impl Rollout {
    /// Adds it to a state.
    ///
    /// # Errors
    /// What libtorch says.
    pub(super) fn save(&self, tensors: &mut BTreeMap<String, Tensor>) -> Result<(), TrainError> {
        let numbers = |values: &[i64]| Tensor::f_from_slice(values);
        tensors.insert("rollout.used".into(), numbers(&[self.used as i64])?);
        tensors.insert("rollout.options".into(), numbers(&[self.options.cast_signed()])?);
        for (i, group) in self.groups.iter().enumerate() {
            let lengths: Vec<i64> = group.completions.iter().map(|ids| ids.len() as i64).collect();
            let truncated: Vec<i64> = group.is_truncated.iter().map(|&is| is.into()).collect();
            let rewards = group.rewards.iter().flat_map(|reward| reward.terms.into_iter().chain([reward.total]));
            let mut insert = |name: &str, tensor: Tensor| tensors.insert(format!("rollout.{i}.{name}"), tensor);
            insert("item", numbers(&[group.item.cast_signed()])?);
            insert("lengths", numbers(&lengths)?);
            insert("ids", numbers(&group.completions.concat())?);
            insert("truncated", numbers(&truncated)?);
            insert("rewards", Tensor::f_from_slice(&rewards.collect::<Vec<f64>>())?);
            if let Some([old, reference]) = &group.log_probs {
                insert("old_log_probs", old.shallow_clone());
                insert("reference_log_probs", reference.shallow_clone());
            }
        }
        Ok(())
    }

    /// Reads it from a state.
    ///
    /// # Errors
    /// What does not fit.
    pub(super) fn load(weights: &Weights) -> Result<Self, TrainError> {
        let find = |name: &str| weights.tensor(name).transpose();
        let wrong = |name: &str| TrainError::format(weights.file(), format!("{name} is missing or damaged"));
        let integers = |name: String| -> Result<Vec<i64>, TrainError> {
            let tensor = find(&name)?.ok_or_else(|| wrong(&name))?;
            Ok(Vec::try_from(tensor.f_to_kind(Kind::Int64)?.f_view([-1])?)?)
        };
        let mut groups = Vec::new();
        while let Some(item) = find(&format!("rollout.{}.item", groups.len()))? {
            let name = |part: &str| format!("rollout.{}.{part}", groups.len());
            let (lengths, ids) = (integers(name("lengths"))?, integers(name("ids"))?);
            let rewards = find(&name("rewards"))?.ok_or_else(|| wrong(&name("rewards")))?;
            let rewards = Vec::<f64>::try_from(rewards.f_to_kind(Kind::Double)?.f_view([-1])?)?;
            let is_truncated: Vec<bool> = integers(name("truncated"))?.into_iter().map(|is| is != 0).collect();
            let count = lengths.len();
            let is_whole = lengths.iter().sum::<i64>() == ids.len() as i64 && lengths.iter().all(|&length| length >= 0);
            if !is_whole || rewards.len() != count * NUMBERS || is_truncated.len() != count {
                return Err(wrong(&name("ids")));
            }
            let mut rest = ids.as_slice();
            let mut take = |length: &i64| {
                let (own, others) = rest.split_at(*length as usize);
                rest = others;
                own.to_vec()
            };
            let completions = lengths.iter().map(&mut take).collect();
            let reward = |numbers: &[f64; NUMBERS]| {
                let [critic, phrase, repetition, total] = *numbers;
                Reward { terms: [critic, phrase, repetition], total }
            };
            let rewards = rewards.as_chunks::<NUMBERS>().0.iter().map(reward).collect();
            let log_probs = match (find(&name("old_log_probs"))?, find(&name("reference_log_probs"))?) {
                (Some(old), Some(reference)) => Some([old, reference]),
                _ => None,
            };
            let item = item.f_view([-1])?.f_int64_value(&[0])?.cast_unsigned();
            groups.push(CompletionGroup { item, prompt: None, completions, is_truncated, rewards, log_probs });
        }
        let number = |name: &str| Ok::<i64, TrainError>(integers(name.into())?.first().copied().unwrap_or(0));
        let (used, options) = (number("rollout.used")? as usize, number("rollout.options")?.cast_unsigned());
        Ok(Self { options, groups, used })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(totals: &[f64]) -> CompletionGroup {
        CompletionGroup {
            item: 7,
            prompt: None,
            completions: (0..totals.len()).map(|i| vec![i as i64; i]).collect(),
            is_truncated: totals.iter().map(|&total| total == 1.0).collect(),
            rewards: totals.iter().map(|&total| Reward { terms: [total, 0.0, 0.0], total }).collect(),
            log_probs: None,
        }
    }

    #[test]
    fn only_what_is_rated_and_can_be_compared_counts() {
        let rated = group(&[0.5, f64::NAN, 1.0]);
        let rows = rated.rows(false, false);
        assert_eq!(rows.iter().map(|row| (row.advantage, row.ids.len())).collect::<Vec<_>>(), [(-0.25, 0), (0.25, 2)]);
        assert!(rated.rows(false, true).iter().all(|row| row.ids.is_empty()), "cut off, and masked");
        assert!(!rated.is_skipped() && !rated.has_zero_std() && rated.rated() == 2);
        let alone = group(&[0.5, f64::NAN]);
        assert!(alone.is_skipped() && alone.rows(true, false).is_empty());
        assert!(group(&[0.5, 0.5, f64::NAN]).has_zero_std() && !alone.has_zero_std());
    }

    #[test]
    fn a_rollout_is_read_as_it_was_saved() {
        let mut first = group(&[0.5, f64::NAN, 1.0]);
        first.log_probs = Some([Tensor::from_slice(&[0.5f32]), Tensor::from_slice(&[0.25f32])]);
        let rollout = Rollout { options: u64::MAX, groups: vec![first, group(&[0.0, 1.0])], used: 3 };
        let mut tensors = BTreeMap::new();
        rollout.save(&mut tensors).unwrap();
        let read = Rollout::load(&Weights::from_tensors(tensors.into_iter().collect())).unwrap();
        assert_eq!(format!("{:?}", read.groups), format!("{:?}", rollout.groups));
        assert_eq!((read.used, read.options), (3, u64::MAX));
    }
}
