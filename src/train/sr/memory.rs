//! What a step takes of memory beside the weights, before any is made: counted on the full-size model (docs/benchmarks.md), and
//! in proportion for others.

use crate::networks::sd3::mmdit;
use crate::networks::vae;

/// Feature maps of the VAE's first width at full size, in float32, of encoder, decoder and LPIPS together.
const MAPS: f64 = 74.0;
const MAPS_CHECKPOINTED: f64 = 24.0;
/// What a block keeps of a token, in widths of the transformer.
const OF_TOKEN: f64 = 17.0;
const OF_TOKEN_CHECKPOINTED: f64 = 1.0;
/// Tokens of a prompt.
const TEXT_TOKENS: f64 = 589.0;

/// What decides about it.
#[derive(Clone, Copy, Debug)]
pub struct StepShape {
    /// Pictures of a micro-batch.
    pub batch: usize,
    /// Their side.
    pub side: u32,
    /// Bytes of a number in the transformer.
    pub element_size: usize,
    /// What is between is computed again.
    pub gradient_checkpointing: bool,
}

/// Bytes.
pub fn step_bytes(mmdit: &mmdit::Config, vae: &vae::Config, step: &StepShape) -> u64 {
    let pixels = f64::from(step.side).powi(2);
    let first = vae.block_out_channels.first().copied().unwrap_or(0) as f64;
    let patches = pixels / 4f64.powi(vae.halvings() as i32) / mmdit.patch_size.pow(2) as f64;
    let widths = mmdit.width() as f64 * mmdit.num_layers as f64 * step.element_size as f64;
    let [maps, of_token] = match step.gradient_checkpointing {
        true => [MAPS_CHECKPOINTED, OF_TOKEN_CHECKPOINTED],
        false => [MAPS, OF_TOKEN],
    };
    let of_item = maps * 4.0 * first * pixels + of_token * (patches + TEXT_TOKENS) * widths;
    (step.batch as f64 * of_item) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Peaks of `coz train sr --dry_run` on the published sizes, less the weights, in GB.
    #[test]
    fn it_is_near_what_was_counted() {
        let mmdit: mmdit::Config = serde_json::from_str(
            r#"{"patch_size": 2, "in_channels": 16, "num_layers": 24, "attention_head_dim": 64, "num_attention_heads": 24,
                "joint_attention_dim": 4096, "caption_projection_dim": 1536, "pooled_projection_dim": 2048,
                "out_channels": 16, "pos_embed_max_size": 192}"#,
        )
        .unwrap();
        let vae: vae::Config = serde_json::from_str(
            r#"{"in_channels": 3, "out_channels": 3, "latent_channels": 16, "block_out_channels": [128, 256, 512, 512],
                "layers_per_block": 2, "norm_num_groups": 32, "scaling_factor": 1.5305}"#,
        )
        .unwrap();
        for (side, element_size, gradient_checkpointing, counted) in [
            (256, 2, true, 0.94),
            (512, 2, true, 3.24),
            (512, 4, true, 3.43),
            (256, 2, false, 3.54),
            (384, 2, false, 7.04),
        ] {
            let step = StepShape { batch: 1, side, element_size, gradient_checkpointing };
            let estimated = step_bytes(&mmdit, &vae, &step) as f64 / 1e9;
            assert!((estimated / counted - 1.0).abs() < 0.1, "{step:?}: {estimated}, {counted}");
        }
    }
}
