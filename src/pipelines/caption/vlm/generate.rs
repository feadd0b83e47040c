//! Several answers to one prompt, beside each other: they share what is remembered of the prompt.

use tch::{Device, Kind, TchError, Tensor};

use super::processor::EncodedPrompt;
use crate::networks::qwen::language::{Cache, LanguageModel};
use crate::pipelines::PipelineError;
use crate::runtime::rng;

/// How answers are sampled.
#[derive(Clone, Copy, Debug)]
pub struct SamplingOptions {
    /// Logits are divided by it; 0: always the likeliest token.
    pub temperature: f64,
    /// Longer ones are cut off there.
    pub max_completion_length: usize,
}

/// Token ids of as many answers as there are seeds, each with the end where it was reached. `cache` and `logits`
/// (`[vocabulary]`): after the prompt.
///
/// # Errors
/// What libtorch says.
pub fn generate(
    language: &LanguageModel,
    prompt: &EncodedPrompt,
    (cache, logits): (&Cache, &Tensor),
    options: &SamplingOptions,
    (seeds, ends): (&[u64], &[i64]),
) -> Result<Vec<Vec<i64>>, PipelineError> {
    let (count, room) = (seeds.len() as i64, options.max_completion_length as i64);
    let mut cache = cache.copies(count, cache.filled() + room)?;
    let mut logits = logits.f_unsqueeze(0)?.f_expand([count, -1], false)?;
    let mut answers = vec![Vec::new(); seeds.len()];
    for i in 0..room {
        let next = draw(&logits, options.temperature, seeds, i as u64)?;
        for (answer, &id) in answers.iter_mut().zip(&next) {
            if answer.last().is_none_or(|last| !ends.contains(last)) {
                answer.push(id);
            }
        }
        let is_over = |answer: &Vec<i64>| answer.last().is_some_and(|last| ends.contains(last));
        if i + 1 == room || answers.iter().all(is_over) {
            break;
        }
        let next = Tensor::f_from_slice(&next)?.f_unsqueeze(1)?.f_to_device(language.device())?;
        let mut quiet = |_| Ok::<(), PipelineError>(());
        let position = prompt.positions_behind(i, 1)?;
        logits = language.forward(&language.embed(&next)?, &position, &mut cache, &mut quiet)?;
    }
    Ok(answers)
}

/// The next token of each answer by its logits `[B, vocabulary]`, each drawn on the CPU by a seed of its own, so that a seed means
/// the same everywhere.
fn draw(logits: &Tensor, temperature: f64, seeds: &[u64], number: u64) -> Result<Vec<i64>, TchError> {
    if temperature <= 0.0 {
        return Vec::try_from(logits.f_argmax(-1, false)?.f_to_device(Device::Cpu)?);
    }
    let shares = logits.f_div_scalar(temperature)?.f_softmax(-1, Kind::Float)?.f_to_device(Device::Cpu)?;
    let draw = |(row, seed): (i64, &u64)| {
        rng::multinomial(seed.wrapping_add(number), &shares.f_get(row)?)?.f_int64_value(&[0])
    };
    (0..).zip(seeds).map(draw).collect()
}
