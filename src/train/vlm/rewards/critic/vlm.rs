//! Qwen2.5-VL of any size as a critic (Chain-of-Zoom, appendix F). What its questions about one pair have in common, the pictures
//! above all, is read once.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::json;
use tch::{Device, Kind, Tensor};

use super::{ANSWER_TOKENS, Critic, CriticOptions, MOST, question, rating};
use crate::base::Progress;
use crate::imaging::Picture;
use crate::networks::qwen::Qwen;
use crate::networks::qwen::adapter::Adapter;
use crate::networks::qwen::language::{Cache, LanguageModel};
use crate::pipelines::PipelineError;
use crate::pipelines::caption::vlm::generate::{SamplingOptions, generate};
use crate::pipelines::caption::vlm::processor::{EncodedPrompt, Processor};
use crate::runtime::weights::{Loader, Weights};
use crate::runtime::{LazyModel, precision};
use crate::train::TrainError;

/// Where less than this share of all answers begins with a digit, there is no number to be expected.
const LEAST_DIGITS: f64 = 0.01;

pub(super) struct VlmCritic {
    folder: PathBuf,
    processor: Processor,
    networks: LazyModel<Qwen>,
    /// Those of somebody else, instead.
    shared: Option<Rc<Qwen>>,
    /// The tokens of 0 to 9, where ratings are expected ones.
    digits: Option<[i64; 10]>,
    device: Device,
    kind: Kind,
}

impl VlmCritic {
    pub(super) fn open(options: &CriticOptions) -> Result<Self, TrainError> {
        let folder = PathBuf::from(&options.name);
        let processor = Processor::open(&folder)?;
        let digits: Vec<i64> = (0..10).map_while(|digit: u8| processor.token(&digit.to_string())).collect();
        let digits = match <[i64; 10]>::try_from(digits) {
            Ok(digits) => Some(digits),
            Err(_) if options.is_expected => {
                return Err(TrainError::format(&folder.join("tokenizer.json"), "it has no token for each digit"));
            }
            Err(_) => None,
        };
        let weights = Weights::open_folder(&folder, "model")?;
        let (device, kind) = (options.device, precision::for_weights(options.precision, &weights, options.device));
        let config = processor.config.clone();
        let networks = LazyModel::new(vec![weights.clone()], move |mode, on_read| {
            let mut loader = Loader::new(&weights, "", device, kind).mode(mode).on_read(on_read);
            Qwen::load(&mut loader, &config, &Adapter::default())
        })?;
        let digits = digits.filter(|_| options.is_expected);
        Ok(Self { folder, processor, networks, shared: None, digits, device, kind })
    }
}

impl Critic for VlmCritic {
    fn rate(
        &mut self,
        pictures: &[Picture; 2],
        descriptions: &[String],
        attempt: u64,
        goes_on: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<Option<f64>>, TrainError> {
        let Self { processor, digits, device, .. } = self;
        let networks = match &self.shared {
            Some(shared) => shared,
            None => self.networks.get(&mut Progress::new(&mut |_, _| true)).map_err(PipelineError::from)?,
        };
        let language = &networks.language;
        tch::no_grad(|| {
            let image = |picture| processor.encode_image(&networks.vision, picture, *device, &mut |_| Ok(()));
            let images = [image(&pictures[0])?, image(&pictures[1])?];
            let encoded = |description: &String| {
                let [before, between, behind] =
                    question(description).map(|text| json!({ "type": "text", "text": text }));
                let picture = || json!({ "type": "image" });
                let chat = json!([{ "role": "user", "content": [before, picture(), between, picture(), behind] }]);
                processor.encode_chat(language, &chat, &images.each_ref())
            };
            let prompts = descriptions.iter().map(encoded).collect::<Result<Vec<_>, _>>()?;
            let common = common(&prompts);
            let mut cache = language.cache(common)?;
            let mut ratings = Vec::new();
            for (i, prompt) in prompts.iter().enumerate() {
                if !goes_on() {
                    return Err(PipelineError::Cancelled.into());
                }
                if i == 0 && common > 0 {
                    _ = read(language, prompt, 0, common, &mut cache)?;
                }
                let length = prompt.ids.len() as i64;
                let mut own = cache.copies(1, length)?;
                let logits = read(language, prompt, common, length - common, &mut own)?;
                ratings.push(match digits {
                    Some(digits) if attempt == 0 => expected(language, prompt, &own, &logits, digits)?,
                    // Asked again, it may say something else.
                    _ => {
                        let is_greedy = attempt == 0 || digits.is_some();
                        let temperature = if is_greedy { 0.0 } else { 1.0 };
                        // Without a penalty: digits of the question are as good as others.
                        let options = SamplingOptions { temperature, max_completion_length: ANSWER_TOKENS };
                        let said = generate(language, prompt, (&own, &logits), &options, (&[0], processor.ends()))?;
                        rating(&processor.text(&said[0])?)
                    }
                });
            }
            Ok(ratings)
        })
    }

    fn folder(&self) -> Option<&Path> {
        Some(&self.folder)
    }

    fn bytes(&self) -> u64 {
        self.networks.bytes(self.kind.elt_size_in_bytes())
    }

    fn share(&mut self, networks: Rc<Qwen>) {
        self.shared = Some(networks);
    }

    fn unload(&mut self) {
        self.networks.unload_and_trim();
    }
}

/// How many tokens all prompts begin with, less than any of them has.
fn common(prompts: &[EncodedPrompt]) -> i64 {
    let Some((first, others)) = prompts.split_first() else { return 0 };
    let alike = |other: &EncodedPrompt| first.ids.iter().zip(&other.ids).take_while(|(a, b)| a == b).count();
    let shortest = prompts.iter().map(|prompt| prompt.ids.len()).min().unwrap_or(0);
    others.iter().map(alike).min().unwrap_or(shortest).min(shortest.saturating_sub(1)) as i64
}

/// Reads some of a prompt's tokens -> the logits of what follows, `[vocabulary]`.
fn read(
    language: &LanguageModel,
    prompt: &EncodedPrompt,
    start: i64,
    count: i64,
    cache: &mut Cache,
) -> Result<Tensor, TrainError> {
    let (embedded, positions) =
        (prompt.embedded.f_narrow(1, start, count)?, prompt.positions.f_narrow(1, start, count)?);
    let mut quiet = |_| Ok::<(), PipelineError>(());
    Ok(language.forward(&embedded, &positions, cache, &mut quiet)?.f_get(0)?)
}

/// The mean of 0 to 100 by the probabilities of their digits, 0 to 1; `None` where the answer hardly begins with one.
fn expected(
    language: &LanguageModel,
    prompt: &EncodedPrompt,
    cache: &Cache,
    logits: &Tensor,
    digits: &[i64; 10],
) -> Result<Option<f64>, TrainError> {
    let here = |ids: &[i64], rows: i64| Tensor::f_from_slice(ids)?.f_view([rows, -1])?.f_to_device(language.device());
    let columns = Tensor::f_from_slice(digits)?.f_to_device(language.device())?;
    // `[B, vocabulary] -> B` rows of the ten digits' probabilities.
    let shares = |logits: &Tensor| -> Result<Vec<Vec<f64>>, TrainError> {
        let shares = logits.f_softmax(-1, Kind::Float)?.f_index_select(-1, &columns)?;
        Ok(Vec::try_from(shares.f_to_kind(Kind::Double)?.f_to_device(Device::Cpu)?)?)
    };
    let behind = |ids: &[i64], rows: i64| -> Result<Tensor, TrainError> {
        let count = ids.len() as i64 / rows;
        let mut cache = cache.copies(rows, cache.filled() + count)?;
        let mut quiet = |_| Ok::<(), PipelineError>(());
        let positions = prompt.positions_behind(0, count)?;
        Ok(language.forward(&language.embed(&here(ids, rows)?)?, &positions, &mut cache, &mut quiet)?)
    };
    let first = shares(&logits.f_unsqueeze(0)?)?.swap_remove(0);
    let all: f64 = first.iter().sum();
    if all < LEAST_DIGITS {
        return Ok(None);
    }
    let second = shares(&behind(digits, 10)?)?;
    let hundred = shares(&behind(&[digits[1], digits[0]], 1)?)?[0][0];
    let mut sum = 0.0;
    for (tens, (share, second)) in first.iter().zip(&second).enumerate() {
        let ends = 1.0 - second.iter().sum::<f64>();
        let mut mean = ends * tens as f64;
        for (ones, share) in second.iter().enumerate() {
            mean += share * if (tens, ones) == (1, 0) { 10.0 + 90.0 * hundred } else { (10 * tens + ones) as f64 };
        }
        sum += share * mean;
    }
    Ok(Some((sum / all / MOST).clamp(0.0, 1.0)))
}
