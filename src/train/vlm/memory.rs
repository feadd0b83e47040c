//! What a step takes of memory beside the weights, before any is made (docs/benchmarks.md).

use crate::networks::qwen::config::Language;

/// Bytes that a layer keeps of a token on the way back, in widths of its linear layers' inputs: what comes in, its float32 copy for
/// the LoRA, and what dropout leaves of that.
const OF_INPUT: f64 = 11.0;
/// The same where only what is between the layers is kept.
const OF_TOKEN_CHECKPOINTED: f64 = 4.0;
/// Tokens of a question: two pictures of 512 x 512 and the text around them.
const PROMPT_TOKENS: f64 = 750.0;

/// Bytes. `completions`: tokens of all completions of a group.
pub fn step_bytes(config: &Language, completions: usize, gradient_checkpointing: bool) -> u64 {
    let tokens = PROMPT_TOKENS + completions as f64;
    let (width, inner, layers) =
        (config.hidden_size as f64, config.intermediate_size as f64, config.num_hidden_layers as f64);
    // q, k, v, gate, up and out take the width, down takes the inner one.
    let of_layer = OF_INPUT * (6.0 * width + inner);
    let kept = match gradient_checkpointing {
        true => OF_TOKEN_CHECKPOINTED * width * layers + of_layer,
        false => of_layer * layers,
    };
    (tokens * kept) as u64
}
