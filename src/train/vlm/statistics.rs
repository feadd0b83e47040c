//! Sums over a step, to which those of other processes can be added, and what follows from them.

use super::options::RewardStatistics;
use super::rewards::{Reward, TERMS};
use super::rollout::CompletionGroup;

/// Numbers of a reward: its terms, and the whole.
const NUMBERS: usize = TERMS.len() + 1;

/// Sums over the tokens, completions and groups of a step, to which those of other processes can be added.
#[derive(Default)]
pub(super) struct Sums {
    pub(super) loss: f64,
    pub(super) kl: f64,
    pub(super) entropy: f64,
    pub(super) clipped: f64,
    pub(super) tokens: f64,
    pub(super) groups: f64,
    pub(super) zero_std: f64,
    pub(super) skipped: f64,
    pub(super) completions: f64,
    pub(super) truncated: f64,
    pub(super) length: f64,
    pub(super) unrated: f64,
    pub(super) rewards: [f64; 1 + 2 * NUMBERS],
}

impl Sums {
    pub(super) fn numbers(&mut self) -> Vec<&mut f64> {
        let Self { loss, kl, entropy, clipped, tokens, groups, zero_std, skipped, .. } = self;
        let mut all = vec![loss, kl, entropy, clipped, tokens, groups, zero_std, skipped];
        all.extend([&mut self.completions, &mut self.truncated, &mut self.length, &mut self.unrated]);
        all.extend(&mut self.rewards);
        all
    }

    pub(super) fn add_group(&mut self, group: &CompletionGroup) {
        self.groups += 1.0;
        self.zero_std += f64::from(u8::from(group.has_zero_std()));
        self.skipped += f64::from(u8::from(group.is_skipped()));
        self.completions += group.completions.len() as f64;
        self.truncated += group.is_truncated.iter().filter(|&&is| is).count() as f64;
        self.length += group.completions.iter().map(Vec::len).sum::<usize>() as f64;
        self.unrated += (group.rewards.len() - group.rated()) as f64;
        for (sum, number) in self.rewards.iter_mut().zip(reward_sums(group.rewards.iter())) {
            *sum += number;
        }
    }
}

/// Sums of rewards, which those of other processes can be added to: their number, the values, and the values' squares.
pub(super) fn reward_sums<'a>(rewards: impl Iterator<Item = &'a Reward>) -> [f64; 1 + 2 * NUMBERS] {
    let mut sums = [0.0; 1 + 2 * NUMBERS];
    for reward in rewards.filter(|reward| reward.total.is_finite()) {
        sums[0] += 1.0;
        for (i, value) in reward.terms.into_iter().chain([reward.total]).enumerate() {
            sums[1 + i] += value;
            sums[1 + NUMBERS + i] += value * value;
        }
    }
    sums
}

/// Means and deviations by such sums.
pub(super) fn statistics(sums: &[f64]) -> RewardStatistics {
    let count = sums[0];
    let mut found = RewardStatistics::default();
    for i in 0..NUMBERS {
        found.mean[i] = sums[1 + i] / count;
        found.std[i] = (sums[1 + NUMBERS + i] / count - found.mean[i].powi(2)).max(0.0).sqrt();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_follow_from_sums() {
        let reward = |total: f64| Reward { terms: [total, 0.0, 0.0], total };
        let rewards = [0.5, 1.5, f64::NAN, 1.0].map(reward);
        let found = statistics(&reward_sums(rewards.iter()));
        assert!((found.mean[3] - 1.0).abs() < 1e-12 && (found.std[3] - (0.5f64 / 3.0).sqrt()).abs() < 1e-12);
    }
}
