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
    /// Whether the output layer is the embedding; where nothing is said it is, if the file has no other.
    #[serde(default)]
    pub tie_word_embeddings: Option<bool>,
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
        let mut vision = whole.get("vision_config").cloned().ok_or("it has no vision_config")?;
        if let Some(entries) = vision.as_object_mut().filter(|entries| entries.contains_key("in_channels")) {
            // The published name of the same, which newer libraries write beside theirs.
            entries.remove("in_chans");
        }
        let rope = flat.get("rope_parameters").or_else(|| flat.get("rope_scaling"));
        if let Some(theta) = rope.and_then(|rope| rope.get("rope_theta")).and_then(Value::as_f64) {
            language.rope_theta = theta;
        }
        let sections = rope.and_then(|rope| rope.get("mrope_section")).ok_or("it has no mrope_section")?;
        language.sections = <[i64; 3]>::deserialize(sections).map_err(wrong)?;
        let of_whole = whole.get("tie_word_embeddings").and_then(Value::as_bool);
        if of_whole == Some(true) || language.tie_word_embeddings.is_none() {
            language.tie_word_embeddings = of_whole;
        }
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
        let vision = Vision::deserialize(vision).map_err(wrong)?;
        let sizes = [vision.num_heads, vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size];
        if sizes.iter().any(|&size| size < 1) {
            return Err(format!("its vision_config has a size below 1: {sizes:?}"));
        }
        let image_token = whole.get("image_token_id").and_then(Value::as_i64).unwrap_or(151_655);
        Ok(Self { vision, language, image_token })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(change: impl FnOnce(&mut Value)) -> Result<Config, String> {
        let mut config = json!({
            "hidden_size": 8, "intermediate_size": 9, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 1, "vocab_size": 7, "rms_norm_eps": 1e-6,
            "rope_scaling": { "type": "mrope", "mrope_section": [1, 1, 0] },
            "vision_config": {
                "depth": 1, "hidden_size": 8, "intermediate_size": 9, "num_heads": 2, "in_chans": 3, "patch_size": 14,
                "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 56, "fullatt_block_indexes": [],
                "out_hidden_size": 8,
            },
        });
        change(&mut config);
        Config::parse(config.to_string().as_bytes())
    }

    #[test]
    fn layouts_of_several_libraries_are_read() {
        let published = parsed(|_| ()).expect("as published");
        assert_eq!((published.language.tie_word_embeddings, published.vision.in_channels), (None, 3));
        let both = parsed(|config| config["vision_config"]["in_channels"] = json!(3));
        assert_eq!(both.as_ref(), Ok(&published));
        let nested = parsed(|config| {
            let mut text = config.clone();
            text["tie_word_embeddings"] = json!(false);
            text["rope_parameters"] = json!({ "rope_theta": 5e5, "mrope_section": [1, 1, 0] });
            *config = json!({ "text_config": text, "vision_config": config["vision_config"] });
        });
        let nested = nested.expect("nested").language;
        assert_eq!((nested.tie_word_embeddings, nested.rope_theta), (Some(false), 5e5));
        assert!(parsed(|config| config["num_key_value_heads"] = json!(0)).is_err());
        assert!(parsed(|config| config["vision_config"]["patch_size"] = json!(0)).is_err());
        assert!(
            parsed(|config| config["rope_scaling"] = json!({})).is_err_and(|found| found.contains("mrope_section"))
        );
    }
}
