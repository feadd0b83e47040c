//! `config.json` of Qwen2.5-VL: flat as published, or with `text_config` as newer libraries write it.

use serde::Deserialize;
use serde_json::Value;

/// The vision tower's sizes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Vision {
    /// Blocks.
    pub depth: i64,
    /// Width.
    pub hidden_size: i64,
    /// Inner width of a block.
    pub intermediate_size: i64,
    /// Heads.
    pub num_heads: i64,
    /// Channels of a picture.
    #[serde(default = "three", alias = "in_chans")]
    pub in_channels: i64,
    /// Side of a patch in pixels.
    pub patch_size: i64,
    /// Side of the square of patches that becomes one token.
    pub spatial_merge_size: i64,
    /// Pictures in a patch; a still counts that often.
    pub temporal_patch_size: i64,
    /// Side of an attention window in pixels.
    pub window_size: i64,
    /// Blocks that attend to everything.
    pub fullatt_block_indexes: Vec<i64>,
    /// Width of the language model.
    pub out_hidden_size: i64,
}

fn three() -> i64 {
    3
}

/// The language model's sizes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Language {
    /// Tokens.
    pub vocab_size: i64,
    /// Width.
    pub hidden_size: i64,
    /// Inner width of a layer.
    pub intermediate_size: i64,
    /// Layers.
    pub num_hidden_layers: i64,
    /// Heads of queries.
    pub num_attention_heads: i64,
    /// Heads of keys and values, shared by groups of the others.
    pub num_key_value_heads: i64,
    /// Of the norms.
    pub rms_norm_eps: f64,
    /// The base of the positions' wave lengths.
    #[serde(default = "theta")]
    pub rope_theta: f64,
    /// Pairs of a head's channels that turn with time, row and column.
    #[serde(skip)]
    pub sections: [i64; 3],
    /// The output layer is the embedding.
    #[serde(default)]
    pub tie_word_embeddings: bool,
}

fn theta() -> f64 {
    1_000_000.0
}

impl Language {
    /// Width of a head.
    pub fn head_dim(&self) -> i64 {
        self.hidden_size / self.num_attention_heads
    }
}

/// The whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What sees.
    pub vision: Vision,
    /// What speaks.
    pub language: Language,
    /// The token whose place an image's features take.
    pub image_token: i64,
}

impl Config {
    /// From the text of `config.json`; what is wrong with it otherwise.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let wrong = |error: serde_json::Error| error.to_string();
        let whole: Value = serde_json::from_slice(text).map_err(wrong)?;
        let flat = whole.get("text_config").filter(|config| config.get("hidden_size").is_some()).unwrap_or(&whole);
        let mut language = Language::deserialize(flat).map_err(wrong)?;
        let vision = whole.get("vision_config").ok_or("it has no vision_config")?;
        let rope = flat.get("rope_parameters").or_else(|| flat.get("rope_scaling"));
        if let Some(theta) = rope.and_then(|rope| rope.get("rope_theta")).and_then(Value::as_f64) {
            language.rope_theta = theta;
        }
        let sections = rope.and_then(|rope| rope.get("mrope_section")).ok_or("it has no mrope_section")?;
        language.sections = <[i64; 3]>::deserialize(sections).map_err(wrong)?;
        language.tie_word_embeddings |= whole.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false);
        let heads = [language.num_attention_heads, language.num_key_value_heads];
        if heads.contains(&0)
            || heads[0] % heads[1] != 0
            || 2 * language.sections.iter().sum::<i64>() != language.head_dim()
        {
            return Err(format!("heads {heads:?} and mrope_section {:?} do not fit its width", language.sections));
        }
        if flat.get("use_sliding_window").and_then(Value::as_bool).unwrap_or(false) {
            return Err("it asks for sliding windows, which are not known here".into());
        }
        let image_token = whole.get("image_token_id").and_then(Value::as_i64).unwrap_or(151_655);
        Ok(Self { vision: Vision::deserialize(vision).map_err(wrong)?, language, image_token })
    }
}
