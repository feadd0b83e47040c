//! What a step takes of memory beside the weights, before any is made (docs/benchmarks.md).

use crate::networks::qwen::config::Language;

/// Bytes that a layer keeps of a token on the way back, in widths of its linear layers' inputs: what comes in, its float32 copy for
/// the LoRA, and what dropout leaves of that.
const OF_INPUT: f64 = 12.0;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Peaks of `coz train vlm --dry_run` on the published sizes in bf16, less the weights (7.5 GB), in GB.
    #[test]
    fn it_is_near_what_was_counted() {
        let config: Language = serde_json::from_str(
            r#"{"vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
                "num_attention_heads": 16, "num_key_value_heads": 2, "rms_norm_eps": 1e-6}"#,
        )
        .unwrap();
        for (checkpoints, counted) in [(true, 0.8), (false, 12.7)] {
            let estimated = step_bytes(&config, 8 * 64, checkpoints) as f64 / 1e9;
            assert!((estimated / counted - 1.0).abs() < 0.12, "{checkpoints}: {estimated}, {counted}");
        }
    }
}
