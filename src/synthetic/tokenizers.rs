//! Small tokenizers in the layouts of the large ones: letters, a few words, and the special tokens where they belong.

use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::{RandomError, text};

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
const WORDS: [&str; 12] =
    ["the", "red", "fur", "of", "an", "old", "fox", "whiskers", "photo", "sharp", "green", "leaves"];

/// `vocab.json`, `merges.txt`, `tokenizer_config.json`: bytes, their ends of words, some words; start and end are the
/// last two of `size` tokens.
pub(super) fn clip(folder: &Path, size: u64, pad: &str) -> Result<(), RandomError> {
    let mut letters: Vec<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
    letters.sort();
    let mut tokens = letters.clone();
    // In the second tokenizer of Stable Diffusion 3 this is token 0.
    if let Some(i) = tokens.iter().position(|token| token == pad) {
        let pad = tokens.remove(i);
        tokens.insert(0, pad);
    }
    tokens.extend(letters.iter().map(|letter| format!("{letter}</w>")));
    let mut merges = vec!["#version: 0.2".to_owned()];
    for word in WORDS {
        let mut parts: Vec<String> = word.chars().map(String::from).collect();
        if let Some(last) = parts.last_mut() {
            last.push_str("</w>");
        }
        let mut left = parts.remove(0);
        for right in parts {
            let merge = format!("{left} {right}");
            if !merges.contains(&merge) {
                merges.push(merge);
            }
            left += &right;
            if !tokens.contains(&left) {
                tokens.push(left.clone());
            }
        }
    }
    let mut ids: Map<String, Value> = tokens.into_iter().enumerate().map(|(i, token)| (token, json!(i))).collect();
    ids.insert(START.into(), json!(size - 2));
    ids.insert(END.into(), json!(size - 1));
    let special = [START, END, pad].map(|token| {
        let id = ids[token].to_string();
        let about = json!({
            "content": token, "lstrip": false, "normalized": token != "!", "rstrip": false, "single_word": false,
            "special": true,
        });
        (id, about)
    });
    let config = json!({
        "tokenizer_class": "CLIPTokenizer", "bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad,
        "model_max_length": 77, "do_lower_case": true, "added_tokens_decoder": Map::from_iter(special),
    });
    text(&folder.join("vocab.json"), &Value::Object(ids).to_string())?;
    text(&folder.join("merges.txt"), &(merges.join("\n") + "\n"))?;
    text(&folder.join("tokenizer_config.json"), &config.to_string())
}

/// `tokenizer.json` with pieces for letters and some words.
pub(super) fn t5(folder: &Path) -> Result<(), RandomError> {
    let special = ["<pad>", "</s>", "<unk>"];
    let letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!?.,;:'-";
    let words = WORDS.iter().map(|word| format!("\u{2581}{word}"));
    let pieces = std::iter::once("\u{2581}".to_owned()).chain(words).chain(letters.chars().map(String::from));
    let vocabulary: Vec<Value> = special
        .iter()
        .map(|token| json!([token, 0.0]))
        .chain(pieces.enumerate().map(|(i, piece)| json!([piece, -1.0 - i as f64 / 10.0])))
        .collect();
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true,
            })
        })
        .collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": { "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "SpecialToken": { "id": "</s>", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "</s>": { "id": "</s>", "ids": [1], "tokens": ["</s>"] } },
        },
        "decoder": null,
        "model": { "type": "Unigram", "unk_id": 2, "vocab": vocabulary, "byte_fallback": false },
    });
    text(&folder.join("tokenizer.json"), &tokenizer.to_string())
}

/// The tokens of Qwen2.5-VL that are no text, in the order of their ids; they are before the last one of all.
const QWEN: [&str; 7] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
];

/// Qwen2.5-VL's way to put a question, for what is asked here: text from the system, images from the user.
const QWEN_TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message['role'] }}\n\
    {% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}\
    {% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ content['text'] }}\
    {% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// `tokenizer.json`, `tokenizer_config.json`, `generation_config.json`, `preprocessor_config.json`: bytes, made-up words, and
/// the tokens that are no text at the end of `size`.
pub(super) fn qwen(folder: &Path, size: u64) -> Result<(), RandomError> {
    let mut letters: Vec<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
    letters.sort();
    let words =
        WORDS.iter().map(|word| format!("\u{120}{word}")).chain((0..).map(|i| format!("\u{120}{}", made_up(i))));
    let first = size - 1 - QWEN.len() as u64;
    let tokens = letters.into_iter().chain(words).take(first as usize);
    let mut ids: Map<String, Value> = tokens.enumerate().map(|(i, token)| (token, json!(i))).collect();
    let special: Vec<(String, u64)> = QWEN.iter().map(|token| (*token).to_owned()).zip(first..).collect();
    ids.extend(special.iter().map(|(token, id)| (token.clone(), json!(id))));
    let added: Vec<Value> = special
        .iter()
        .map(|(token, id)| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true,
            })
        })
        .collect();
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": { "type": "NFC" },
        "pre_tokenizer": bytes, "post_processor": bytes, "decoder": bytes,
        "model": { "type": "BPE", "vocab": ids, "merges": [], "byte_fallback": false, "fuse_unk": false, "ignore_merges": true },
    });
    let end = |name: &str| special.iter().find(|(token, _)| token == name).map(|(_, id)| *id);
    let generation = json!({
        "bos_token_id": end("<|endoftext|>"), "pad_token_id": end("<|endoftext|>"), "do_sample": true,
        "eos_token_id": [end("<|im_end|>"), end("<|endoftext|>")], "repetition_penalty": 1.05, "temperature": 1e-6,
    });
    let processor = json!({
        "image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136, "max_pixels": 12_845_056, "patch_size": 14,
        "temporal_patch_size": 2, "merge_size": 2, "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    });
    let config = json!({
        "tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "chat_template": QWEN_TEMPLATE,
    });
    text(&folder.join("tokenizer.json"), &tokenizer.to_string())?;
    text(&folder.join("generation_config.json"), &generation.to_string())?;
    text(&folder.join("preprocessor_config.json"), &processor.to_string())?;
    text(&folder.join("tokenizer_config.json"), &config.to_string())
}

/// A word for a number, of syllables.
fn made_up(number: usize) -> String {
    const SYLLABLES: [&str; 32] = [
        "ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu", "na", "pe", "ri", "so", "tu", "va", "we", "xi",
        "yo", "zu", "bar", "cen", "dil", "fos", "gur", "han", "jel", "kis", "lor", "mun", "nal", "pes",
    ];
    let mut word = String::new();
    let mut rest = number + SYLLABLES.len();
    while rest > 0 {
        word += SYLLABLES[rest % SYLLABLES.len()];
        rest /= SYLLABLES.len();
    }
    word
}
