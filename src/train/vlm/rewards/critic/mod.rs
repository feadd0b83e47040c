//! Critics: who rates how well a prompt describes the second picture of a pair. A new one is a file here and a line in
//! `REGISTRY`.

mod server;
mod vlm;
mod words;

use std::path::Path;
use std::rc::Rc;

use tch::Device;

use crate::base::{Precision, ServerKey};
use crate::imaging::Picture;
use crate::networks::qwen::Qwen;
use crate::train::TrainError;

/// Ratings are 0 to this.
const MOST: f64 = 100.0;
/// An answer is cut off there.
const ANSWER_TOKENS: usize = 8;

/// How critics are opened.
#[derive(Clone, Debug)]
pub struct CriticOptions {
    /// A folder, an address, or whatever the critics' names are.
    pub name: String,
    /// The rating that is expected by the probabilities of all answers, rather than the likeliest answer.
    pub is_expected: bool,
    /// Of a server: which model.
    pub model: Option<String>,
    /// And what opens it.
    pub key: ServerKey,
    /// Where it computes.
    pub device: Device,
    /// Of its weights.
    pub precision: Precision,
}

/// Rates descriptions.
pub trait Critic {
    /// How well each of these describes the second picture, 0 to 1; `None` where the answer is no number. `attempt`: 0, and 1 for
    /// those that were asked before without success. `goes_on` is asked now and then.
    ///
    /// # Errors
    /// Where it cannot be asked; [`PipelineError::Cancelled`](crate::pipelines::PipelineError::Cancelled).
    fn rate(
        &mut self,
        pictures: &[Picture; 2],
        descriptions: &[String],
        attempt: u64,
        goes_on: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<Option<f64>>, TrainError>;

    /// The folder of its weights, where it computes itself.
    fn folder(&self) -> Option<&Path> {
        None
    }

    /// Bytes of its weights.
    fn bytes(&self) -> u64 {
        0
    }

    /// Its networks are these, which are in memory already.
    fn share(&mut self, _networks: Rc<Qwen>) {}

    /// Its weights leave memory.
    fn unload(&mut self) {}
}

type Open = fn(&CriticOptions) -> Result<Box<dyn Critic>, TrainError>;

type IsName = fn(&str) -> bool;

/// Which names belong to each, and what opens it.
const REGISTRY: [(IsName, Open); 3] = [
    (|name| name.starts_with("words:"), |options| Ok(Box::new(words::Words::new(options)))),
    (
        |name| name.starts_with("http://") || name.starts_with("https://"),
        |options| Ok(Box::new(server::Server::open(options)?)),
    ),
    (|_| true, |options| Ok(Box::new(vlm::VlmCritic::open(options)?))),
];

/// Opens a critic.
///
/// # Errors
/// What is missing; a server that does not answer.
pub fn open(options: &CriticOptions) -> Result<Box<dyn Critic>, TrainError> {
    let (_, open) = REGISTRY.iter().find(|(is_its, _)| is_its(&options.name)).unwrap_or(&REGISTRY[2]);
    open(options)
}

/// The ratings of all, those without a number asked once more.
///
/// # Errors
/// Where the critic cannot be asked.
pub fn ratings(
    critic: &mut dyn Critic,
    pictures: &[Picture; 2],
    descriptions: &[String],
    goes_on: &mut dyn FnMut() -> bool,
) -> Result<Vec<Option<f64>>, TrainError> {
    // There is nothing to be rated in nothing.
    let mut ratings: Vec<Option<f64>> = descriptions.iter().map(|text| text.trim().is_empty().then_some(0.0)).collect();
    for attempt in 0..2 {
        let open: Vec<usize> = (0..ratings.len()).filter(|&i| ratings[i].is_none()).collect();
        if open.is_empty() {
            break;
        }
        let texts: Vec<String> = open.iter().map(|&i| descriptions[i].trim().to_owned()).collect();
        for (i, rating) in open.into_iter().zip(critic.rate(pictures, &texts, attempt, goes_on)?) {
            ratings[i] = rating;
        }
    }
    Ok(ratings)
}

/// What the critic is asked, before and behind the description; pictures stand at `{image}` (Chain-of-Zoom, appendix B).
const QUESTION: [&str; 2] = [
    "First Image: {image}\nSecond Image: {image}\nThe second image is a zoom-in of the first image. Please rate the quality of the \
     following description on how well it describes the second image. Output only a single score between 0 and 100.\nDescription: ",
    "\nRating (0-100):",
];

/// The question about a description, cut where the pictures are: three texts.
fn question(description: &str) -> [String; 3] {
    let mut parts = QUESTION[0].split("{image}");
    let mut next = || parts.next().unwrap_or_default().to_owned();
    [next(), next(), format!("{}{description}{}", next(), QUESTION[1])]
}

/// The first number in an answer, 0 to 1.
fn rating(answer: &str) -> Option<f64> {
    let start = answer.find(|letter: char| letter.is_ascii_digit())?;
    let is_negative = answer[..start].ends_with('-');
    let number = &answer[start..];
    let is_part = |letter: char| letter.is_ascii_digit() || letter == '.';
    let end = number.find(|letter| !is_part(letter)).unwrap_or(number.len());
    let number: f64 = number[..end].split('.').take(2).collect::<Vec<_>>().join(".").parse().ok()?;
    Some(if is_negative { 0.0 } else { number.clamp(0.0, MOST) / MOST })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_counts() {
        for (answer, expected) in [
            ("85", Some(0.85)),
            (" Score: 7.5/10", Some(0.075)),
            ("100.", Some(1.0)),
            ("-5", Some(0.0)),
            ("1000000", Some(1.0)),
            ("92.5.1", Some(0.925)),
            ("good", None),
            ("", None),
        ] {
            assert_eq!(rating(answer), expected, "{answer}");
        }
    }

    #[test]
    fn the_question_is_the_papers() {
        let [first, second, rest] = question("fur");
        assert_eq!([first.as_str(), second.as_str()], ["First Image: ", "\nSecond Image: "]);
        assert!(rest.starts_with("\nThe second image is a zoom-in of the first image. Please rate the quality of"));
        assert!(rest.ends_with("between 0 and 100.\nDescription: fur\nRating (0-100):"));
    }

    /// Answers with numbers after so many tries, and counts the questions.
    struct Shy(u64, usize);

    impl Critic for Shy {
        fn rate(
            &mut self,
            _: &[Picture; 2],
            texts: &[String],
            attempt: u64,
            _: &mut dyn FnMut() -> bool,
        ) -> Result<Vec<Option<f64>>, TrainError> {
            self.1 += texts.len();
            Ok(texts.iter().map(|text| (attempt >= self.0 || text == "fur").then_some(0.5)).collect())
        }
    }

    #[test]
    fn who_gives_no_number_is_asked_once_more() {
        let picture = Picture::from_fn(2, 2, |_, _| [0; 3]);
        let pictures = [picture.clone(), picture];
        let texts = ["fur", "  ", "stone"].map(String::from);
        for (patience, expected, asked) in [(0, Some(0.5), 2), (1, Some(0.5), 3), (2, None, 3)] {
            let mut critic = Shy(patience, 0);
            assert_eq!(
                ratings(&mut critic, &pictures, &texts, &mut || true).unwrap(),
                [Some(0.5), Some(0.0), expected]
            );
            assert_eq!(critic.1, asked);
        }
    }
}
