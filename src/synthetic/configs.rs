//! The sizes of the models: those of Stable Diffusion 3 medium, and small ones that differ from them in every number.

use serde_json::{Value, json};

/// How large a model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// As published: 2.1 billion numbers in the transformer, 4.8 in T5, 3.8 in Qwen2.5-VL, 24 GB in all.
    Full,
    /// A few MB.
    Tiny,
}

pub(super) struct Configs {
    pub transformer: Value,
    pub vae: Value,
    pub clip_l: Value,
    pub clip_g: Value,
    pub t5: Value,
}

struct Clip {
    act: &'static str,
    vocab: u32,
    width: u32,
    inner: u32,
    layers: u32,
    heads: u32,
    projection: u32,
}

impl Clip {
    fn config(&self) -> Value {
        json!({
            "architectures": ["CLIPTextModelWithProjection"], "model_type": "clip_text_model", "hidden_act": self.act,
            "vocab_size": self.vocab, "hidden_size": self.width, "intermediate_size": self.inner,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads, "projection_dim": self.projection,
            "max_position_embeddings": 77, "layer_norm_eps": 1e-5, "bos_token_id": 0, "eos_token_id": 2,
            "pad_token_id": 1,
        })
    }
}

fn transformer([heads, head, layers, joint, pooled, positions]: [u32; 6]) -> Value {
    json!({
        "_class_name": "SD3Transformer2DModel", "_diffusers_version": "0.29.0", "patch_size": 2, "in_channels": 16,
        "out_channels": 16, "sample_size": 128, "num_attention_heads": heads, "attention_head_dim": head,
        "num_layers": layers, "joint_attention_dim": joint, "caption_projection_dim": heads * head,
        "pooled_projection_dim": pooled, "pos_embed_max_size": positions,
    })
}

fn vae(widths: [u32; 4], groups: u32) -> Value {
    let (down, up) = (["DownEncoderBlock2D"; 4], ["UpDecoderBlock2D"; 4]);
    json!({
        "_class_name": "AutoencoderKL", "_diffusers_version": "0.29.0", "act_fn": "silu", "in_channels": 3,
        "out_channels": 3, "latent_channels": 16, "block_out_channels": widths, "layers_per_block": 2,
        "norm_num_groups": groups, "sample_size": 1024, "scaling_factor": 1.5305, "shift_factor": 0.0609,
        "force_upcast": true, "use_quant_conv": false, "use_post_quant_conv": false,
        "down_block_types": down, "up_block_types": up,
    })
}

/// Stable Diffusion 2.1-base.
pub(super) struct Sd21 {
    pub unet: Value,
    pub vae: Value,
    pub text: Value,
}

pub(super) fn sd21(size: Size) -> Sd21 {
    let (widths, heads, groups) = match size {
        Size::Full => ([320, 640, 1280, 1280], [5, 10, 20, 20], 32),
        Size::Tiny => ([12, 18, 24, 24], [1, 2, 3, 4], 6),
    };
    let (vae_widths, [vocab, width, inner, layers, text_heads]) = match size {
        Size::Full => ([128, 256, 512, 512], [49_408, 1024, 4096, 23, 16]),
        Size::Tiny => ([12, 18, 24, 24], [700, 36, 100, 3, 3]),
    };
    let (down, up) = (["DownEncoderBlock2D"; 4], ["UpDecoderBlock2D"; 4]);
    Sd21 {
        unet: json!({
            "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.10.0", "act_fn": "silu",
            "attention_head_dim": heads, "block_out_channels": widths, "center_input_sample": false,
            "cross_attention_dim": width, "downsample_padding": 1, "dual_cross_attention": false, "flip_sin_to_cos": true,
            "freq_shift": 0, "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-5,
            "norm_num_groups": groups, "num_class_embeds": null, "only_cross_attention": false, "out_channels": 4,
            "sample_size": 64, "use_linear_projection": true,
            "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        }),
        vae: json!({
            "_class_name": "AutoencoderKL", "_diffusers_version": "0.10.0", "act_fn": "silu", "in_channels": 3,
            "out_channels": 3, "latent_channels": 4, "block_out_channels": vae_widths, "layers_per_block": 2,
            "norm_num_groups": groups, "sample_size": 768, "down_block_types": down, "up_block_types": up,
        }),
        text: json!({
            "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "hidden_act": "gelu",
            "vocab_size": vocab, "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
            "num_attention_heads": text_heads, "projection_dim": 512, "max_position_embeddings": 77,
            "layer_norm_eps": 1e-5, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
        }),
    }
}

fn t5([vocab, width, head, inner, layers, heads]: [u32; 6]) -> Value {
    json!({
        "architectures": ["T5EncoderModel"], "model_type": "t5", "feed_forward_proj": "gated-gelu",
        "vocab_size": vocab, "d_model": width, "d_kv": head, "d_ff": inner, "num_layers": layers, "num_heads": heads,
        "num_decoder_layers": layers, "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6, "eos_token_id": 1, "pad_token_id": 0,
    })
}

/// Qwen2.5-VL-3B.
pub(super) fn vlm(size: Size) -> Value {
    let [depth, width, inner, heads, window, out, layers, hidden, head, shared] = match size {
        Size::Full => [32, 1280, 3420, 16, 112, 2048, 36, 11_008, 16, 2],
        Size::Tiny => [4, 48, 70, 3, 56, 60, 3, 90, 6, 2],
    };
    let (vocabulary, sections, full) = match size {
        Size::Full => (151_936, [16, 24, 24], vec![7, 15, 23, 31]),
        Size::Tiny => (400, [1, 2, 2], vec![1, 3]),
    };
    json!({
        "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl", "hidden_act": "silu",
        "hidden_size": out, "intermediate_size": hidden, "num_hidden_layers": layers, "num_attention_heads": head,
        "num_key_value_heads": shared, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": true,
        "rope_scaling": { "type": "mrope", "mrope_section": sections }, "vocab_size": vocabulary,
        "max_position_embeddings": 128_000, "use_sliding_window": false, "torch_dtype": "bfloat16",
        "bos_token_id": vocabulary - 8, "eos_token_id": vocabulary - 6, "vision_start_token_id": vocabulary - 5,
        "vision_end_token_id": vocabulary - 4, "image_token_id": vocabulary - 3, "video_token_id": vocabulary - 2,
        "vision_config": {
            "depth": depth, "hidden_act": "silu", "hidden_size": width, "intermediate_size": inner, "num_heads": heads,
            "in_chans": 3, "out_hidden_size": out, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
            "window_size": window, "fullatt_block_indexes": full, "model_type": "qwen2_5_vl",
        },
    })
}

/// The tagger: side, window, first width, width of labels, of tokens in the head, of the head, of its inner layers, labels.
pub(super) struct Tagger {
    pub side: i64,
    pub window: i64,
    pub width: i64,
    pub depths: &'static [i64],
    pub heads: &'static [i64],
    pub word: i64,
    pub tokens: i64,
    pub hidden: i64,
    pub inner: i64,
    pub labels: i64,
}

/// RAM with Swin-L.
pub(super) fn tagger(size: Size) -> Tagger {
    let (side, depths, heads): (_, &[i64], &[i64]) = match size {
        Size::Full => (384, &[2, 2, 18, 2], &[6, 12, 24, 48]),
        Size::Tiny => (96, &[2, 3, 2], &[2, 3, 4]),
    };
    let [window, width, word, tokens, hidden, inner, labels] = match size {
        Size::Full => [12, 192, 512, 512, 768, 3072, 4585],
        Size::Tiny => [6, 12, 24, 20, 40, 36, 40],
    };
    Tagger { side, window, width, depths, heads, word, tokens, hidden, inner, labels }
}

pub(super) fn of(size: Size) -> Configs {
    let clip = |act, [vocab, width, inner, layers, heads, projection]: [u32; 6]| {
        Clip { act, vocab, width, inner, layers, heads, projection }.config()
    };
    match size {
        Size::Full => Configs {
            transformer: transformer([24, 64, 24, 4096, 2048, 192]),
            vae: vae([128, 256, 512, 512], 32),
            clip_l: clip("quick_gelu", [49_408, 768, 3072, 12, 12, 768]),
            clip_g: clip("gelu", [49_408, 1280, 5120, 32, 20, 1280]),
            t5: t5([32_128, 4096, 64, 10_240, 24, 64]),
        },
        Size::Tiny => Configs {
            transformer: transformer([3, 20, 5, 72, 44, 40]),
            vae: vae([12, 18, 24, 24], 6),
            clip_l: clip("quick_gelu", [700, 36, 100, 4, 3, 20]),
            clip_g: clip("gelu", [700, 30, 90, 3, 5, 24]),
            t5: t5([200, 72, 12, 130, 4, 5]),
        },
    }
}
