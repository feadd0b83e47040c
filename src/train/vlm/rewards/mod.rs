//! What a prompt is rewarded for: a critic's rating, no phrases about the pictures themselves, no repetition (Chain-of-Zoom,
//! section 3.3).

pub mod critic;
pub mod phrases;
pub mod repetition;

use phrases::phrase_reward;
use repetition::repetition_reward;

/// The terms, by their names in logs.
pub const TERMS: [&str; 3] = ["critic", "phrase", "repetition"];

/// What the terms weigh, and what they look for.
#[derive(Clone, Debug, PartialEq)]
pub struct RewardOptions {
    /// In the order of [`TERMS`].
    pub weights: [f64; 3],
    /// None of these may occur.
    pub phrases: Vec<String>,
    /// Words of an n-gram that must not come again.
    pub ngram: usize,
}

impl Default for RewardOptions {
    /// The paper's weights.
    fn default() -> Self {
        Self { weights: [1.0, 0.5, 0.5], phrases: phrases::PHRASES.map(String::from).to_vec(), ngram: 3 }
    }
}

/// A completion's reward by its terms, in the order of [`TERMS`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reward {
    /// Critic 0 to 1 (NaN where it gave none), phrase 0 or 1, repetition -1 to 0.
    pub terms: [f64; 3],
    /// Their weighted sum; NaN without a critic's rating.
    pub total: f64,
}

impl RewardOptions {
    /// `critic`: 0 to 1, `None` where it gave no rating. A term without weight is not asked for, and is 0 then.
    pub fn reward(&self, text: &str, critic: Option<f64>) -> Reward {
        let terms = [
            if self.needs_critic() { critic.unwrap_or(f64::NAN) } else { 0.0 },
            phrase_reward(text, &self.phrases),
            repetition_reward(text, self.ngram),
        ];
        Reward { terms, total: terms.iter().zip(self.weights).map(|(term, weight)| term * weight).sum() }
    }

    /// Whether there is anything to ask the critic for.
    pub fn needs_critic(&self) -> bool {
        self.weights[0] != 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_weighed_and_a_missing_rating_spoils_the_sum() {
        let options = RewardOptions::default();
        assert_eq!(options.reward("fur", Some(0.8)), Reward { terms: [0.8, 1.0, 0.0], total: 1.3 });
        let bad = options.reward("second image a b c a b c", Some(0.5));
        assert_eq!(bad.terms[1], 0.0);
        assert!(bad.terms[2] < 0.0 && bad.total < 0.5);
        let unrated = options.reward("fur", None);
        assert!(unrated.total.is_nan() && unrated.terms[0].is_nan());
        let without = RewardOptions { weights: [0.0, 0.5, 0.5], ..options };
        assert_eq!(without.reward("fur", None).total, 0.5);
    }
}
