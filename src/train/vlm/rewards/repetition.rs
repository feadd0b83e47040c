//! The repetition penalty: the share of n-grams of words that have been said before (Yeo et al., arXiv 2502.03373, as ms-swift
//! computes it).

use std::collections::HashSet;

/// `-(1 - unique / total)` of the text's n-grams of lower-case words, -1 to 0; 0 for a text of fewer words than `n`.
pub fn repetition_reward(text: &str, n: usize) -> f64 {
    let text = text.to_lowercase();
    let words: Vec<&str> = text.split_whitespace().collect();
    let total = words.windows(n.max(1)).count();
    if total == 0 {
        return 0.0;
    }
    let unique: HashSet<&[&str]> = words.windows(n.max(1)).collect();
    unique.len() as f64 / total as f64 - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_words_cost_their_share() {
        assert_eq!(repetition_reward("", 3), 0.0);
        assert_eq!(repetition_reward("fur fur", 3), 0.0);
        assert_eq!(repetition_reward("one two three four", 3), 0.0);
        // Four 3-grams, one of them unique.
        assert_eq!(repetition_reward("fur Fur fur\nFUR fur fur", 3), -0.75);
        // a b c, b c a, c a b, a b c.
        assert_eq!(repetition_reward("a b c a b c", 3), -0.25);
        assert_eq!(repetition_reward("a a", 1), -0.5);
    }
}
