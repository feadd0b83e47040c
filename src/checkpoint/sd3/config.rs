//! The `config.json` that a network of Stable Diffusion 3 would have, out of the shapes of its tensors. What shapes do not tell is as
//! published: heads of 64 numbers (where norms of queries do not say otherwise), 32 groups in the VAE's norms, its scaling and
//! shift, T5's longest distance, the activations of either CLIP.

use serde_json::{Value, json};

use super::Network;
use crate::checkpoint::Index;

/// Width of a head, where nothing else is told.
const HEAD: i64 = 64;
/// Of the VAE's norms.
const GROUPS: i64 = 32;

/// Shapes by key; what is not there counts as 0, and the loader names it.
struct Shapes<'a>(&'a Index);

impl Shapes<'_> {
    fn size(&self, key: &str, axis: usize) -> i64 {
        self.0.get(key).and_then(|stored| stored.shape.get(axis)).copied().unwrap_or(0)
    }

    fn rows(&self, key: &str) -> i64 {
        self.size(key, 0)
    }

    fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// How many numbers follow each other in `name`, from 0 on, so that there is such a key.
    fn count(&self, name: impl Fn(i64) -> String) -> i64 {
        (0..).take_while(|&i| self.has(&name(i))).count() as i64
    }
}

/// The config of a network.
///
/// # Errors
/// What is needed and shapes do not tell, in words.
pub(super) fn derived(network: Network, tensors: &Index) -> Result<Value, String> {
    let shapes = Shapes(tensors);
    match network {
        Network::Transformer => transformer(&shapes),
        Network::Vae => Ok(vae(&shapes)),
        Network::ClipL => clip(&shapes, "CLIP-L", 768, "quick_gelu"),
        Network::ClipG => clip(&shapes, "CLIP-G", 1280, "gelu"),
        Network::T5 => t5(&shapes),
    }
}

fn heads(width: i64, head: i64) -> Result<i64, String> {
    let fits = head > 0 && width > 0 && width % head == 0;
    fits.then(|| width / head).ok_or_else(|| format!("its width {width} is no multiple of a head's {head}"))
}

fn transformer(shapes: &Shapes) -> Result<Value, String> {
    let block = |i: i64, name: &str| format!("transformer_blocks.{i}.{name}.weight");
    let layers = shapes.count(|i| block(i, "attn.to_q"));
    let width = shapes.rows(&block(0, "attn.to_q"));
    let norm = block(0, "attn.norm_q");
    let head = if shapes.has(&norm) { shapes.rows(&norm) } else { HEAD };
    let patch = shapes.size("pos_embed.proj.weight", 2);
    let positions = shapes.size("pos_embed.pos_embed", 1);
    let dual: Vec<i64> = (0..layers).filter(|&i| shapes.has(&block(i, "attn2.to_q"))).collect();
    Ok(json!({
        "num_layers": layers,
        "num_attention_heads": heads(width, head)?,
        "attention_head_dim": head,
        "patch_size": patch,
        "in_channels": shapes.size("pos_embed.proj.weight", 1),
        "out_channels": shapes.rows("proj_out.weight") / patch.saturating_mul(patch).max(1),
        "joint_attention_dim": shapes.size("context_embedder.weight", 1),
        "caption_projection_dim": shapes.rows("context_embedder.weight"),
        "pooled_projection_dim": shapes.size("time_text_embed.text_embedder.linear_1.weight", 1),
        "pos_embed_max_size": positions.isqrt(),
        "dual_attention_layers": dual,
        "qk_norm": shapes.has(&norm).then_some("rms_norm"),
    }))
}

fn vae(shapes: &Shapes) -> Value {
    let conv = |i: i64, j: i64| format!("encoder.down_blocks.{i}.resnets.{j}.conv1.weight");
    let levels = shapes.count(|i| conv(i, 0));
    let widths: Vec<i64> = (0..levels).map(|i| shapes.rows(&conv(i, 0))).collect();
    let groups = widths.iter().fold(GROUPS, |a, &b| greatest_common_divisor(a, b));
    json!({
        "in_channels": shapes.size("encoder.conv_in.weight", 1),
        "out_channels": shapes.rows("decoder.conv_out.weight"),
        "latent_channels": shapes.size("decoder.conv_in.weight", 1),
        "block_out_channels": widths,
        "layers_per_block": shapes.count(|j| conv(0, j)),
        "norm_num_groups": groups,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
        "mid_block_add_attention": shapes.has("encoder.mid_block.attentions.0.to_q.weight"),
        "use_quant_conv": shapes.has("quant_conv.weight"),
        "use_post_quant_conv": shapes.has("post_quant_conv.weight"),
    })
}

fn greatest_common_divisor(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// Activation and heads depend on which of the two it is, which only the width tells.
fn clip(shapes: &Shapes, name: &str, usual: i64, activation: &str) -> Result<Value, String> {
    let layer = |i: i64, name: &str| format!("text_model.encoder.layers.{i}.{name}.weight");
    let width = shapes.size("text_model.embeddings.token_embedding.weight", 1);
    if width != usual {
        return Err(format!("its text encoder is {width} wide, and {name} is {usual}"));
    }
    let projection = if shapes.has(PROJECTION) { shapes.rows(PROJECTION) } else { width };
    Ok(json!({
        "vocab_size": shapes.rows("text_model.embeddings.token_embedding.weight"),
        "hidden_size": width,
        "intermediate_size": shapes.rows(&layer(0, "mlp.fc1")),
        "projection_dim": projection,
        "num_hidden_layers": shapes.count(|i| layer(i, "mlp.fc1")),
        "num_attention_heads": heads(width, HEAD)?,
        "max_position_embeddings": shapes.rows("text_model.embeddings.position_embedding.weight"),
        "hidden_act": activation,
        "layer_norm_eps": 1e-5,
    }))
}

/// Not in the published `clip_l.safetensors`, whose pooled state is used as it is.
pub(super) const PROJECTION: &str = "text_projection.weight";

fn t5(shapes: &Shapes) -> Result<Value, String> {
    let layer = |i: i64, name: &str| format!("encoder.block.{i}.layer.{name}.weight");
    let distances = layer(0, "0.SelfAttention.relative_attention_bias");
    let tokens = ["shared.weight", "encoder.embed_tokens.weight"].into_iter().find(|key| shapes.has(key));
    let tokens = tokens.unwrap_or("shared.weight");
    let gate = layer(0, "1.DenseReluDense.wi_0");
    if !shapes.has(&gate) {
        return Err("its T5 is not version 1.1, the one with gated GELU".into());
    }
    let heads = shapes.size(&distances, 1).max(1);
    Ok(json!({
        "vocab_size": shapes.rows(tokens),
        "d_model": shapes.size(tokens, 1),
        "d_kv": shapes.rows(&layer(0, "0.SelfAttention.q")) / heads,
        "d_ff": shapes.rows(&gate),
        "num_layers": shapes.count(|i| layer(i, "0.SelfAttention.q")),
        "num_heads": heads,
        "relative_attention_num_buckets": shapes.rows(&distances),
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "gated-gelu",
    }))
}
