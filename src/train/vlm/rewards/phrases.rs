//! The phrase exclusion reward: a prompt that talks about the pictures ("the second image shows ...") describes nothing that a
//! super-resolution model could use (Chain-of-Zoom, section 3.3).

/// The two that the paper names, and others of their kind.
pub const PHRASES: [&str; 6] = ["first image", "second image", "zoom-in", "zoomed", "this image", "the image shows"];

/// Lower-case, with single spaces.
fn folded(text: &str) -> String {
    text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// 1 where none of the phrases occurs in the text, else 0; case and white space do not matter.
pub fn phrase_reward(text: &str, phrases: &[String]) -> f64 {
    let text = folded(text);
    let occurs = |phrase: &String| {
        let phrase = folded(phrase);
        !phrase.is_empty() && text.contains(&phrase)
    };
    if phrases.iter().any(occurs) { 0.0 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_are_found_whatever_their_case_and_spaces() {
        let phrases = PHRASES.map(String::from);
        for (text, reward) in [
            ("fur, whiskers", 1.0),
            ("", 1.0),
            ("The Second\n  Image shows fur", 0.0),
            ("a zoomed view", 0.0),
            ("an image of the first", 1.0),
            ("THE IMAGE  SHOWS", 0.0),
        ] {
            assert_eq!(phrase_reward(text, &phrases), reward, "{text}");
        }
        assert_eq!(phrase_reward("A  B", &["a b".to_owned()]), 0.0);
        assert_eq!(phrase_reward("anything", &[String::new()]), 1.0);
    }
}
