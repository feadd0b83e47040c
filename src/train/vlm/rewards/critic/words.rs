//! `words:fur,stone`: a critic without a model, for tests and trials. It likes some words: a description is worth the share of its
//! letters that they make up.

use super::{Critic, CriticOptions};
use crate::imaging::Picture;
use crate::train::TrainError;

pub(super) struct Words(Vec<String>);

impl Words {
    pub(super) fn new(options: &CriticOptions) -> Self {
        let words = options.name.trim_start_matches("words:").split(',').filter(|word| !word.is_empty());
        Self(words.map(str::to_lowercase).collect())
    }

    /// 0 to 1.
    fn worth(&self, text: &str) -> f64 {
        let text = text.to_lowercase();
        let mut is_liked = vec![false; text.len()];
        for word in &self.0 {
            for (start, _) in text.match_indices(word) {
                is_liked[start..start + word.len()].fill(true);
            }
        }
        let letters = text.bytes().zip(is_liked).filter(|(byte, _)| !byte.is_ascii_whitespace());
        let (liked, all) = letters.fold((0, 0), |(liked, all), (_, is)| (liked + usize::from(is), all + 1));
        liked as f64 / f64::from(all.max(1))
    }
}

impl Critic for Words {
    fn rate(
        &mut self,
        _: &[Picture; 2],
        texts: &[String],
        _: u64,
        _: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<Option<f64>>, TrainError> {
        Ok(texts.iter().map(|text| Some(self.worth(text))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Precision, ServerKey};

    #[test]
    fn liked_letters_count() {
        let options = CriticOptions {
            name: "words:Fur,of".into(),
            is_expected: false,
            model: None,
            key: ServerKey::default(),
            device: tch::Device::Cpu,
            precision: Precision::Auto,
        };
        let critic = Words::new(&options);
        for (text, share) in [("fur of fur", 1.0), ("FUR", 1.0), ("furs", 0.75), ("", 0.0), ("stone", 0.0)] {
            assert_eq!(critic.worth(text), share, "{text}");
        }
    }
}
