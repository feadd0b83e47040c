//! Words to token ids, as transformers' CLIP and T5 tokenizers make them.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{BertNormalizer, NFC, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer, TruncationParams,
};

use crate::checkpoint::{CheckpointError, TOKENIZER};
use crate::runtime::weights::WeightsError;

/// What CLIP takes for a word.
const WORDS: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

fn format(file: &Path, found: impl std::fmt::Display) -> WeightsError {
    CheckpointError::format(file, found.to_string()).into()
}

fn text(file: &Path) -> Result<String, WeightsError> {
    std::fs::read_to_string(file).map_err(|source| CheckpointError::Io { file: file.to_owned(), source }.into())
}

/// A tokenizer as its own library writes it; how much it makes of a prompt is said when it is used.
fn whole(file: &Path) -> Result<Tokenizer, WeightsError> {
    let mut tokenizer: Tokenizer = text(file)?.parse().map_err(|error| format(file, error))?;
    tokenizer.with_padding(None).with_truncation(None).map_err(|error| format(file, error))?;
    Ok(tokenizer)
}

/// CLIP's tokenizer without its special tokens, from `vocab.json` and `merges.txt`.
fn of_parts(folder: &Path, unknown: &str) -> Result<Tokenizer, WeightsError> {
    let (vocab_file, merges_file) = (folder.join("vocab.json"), folder.join("merges.txt"));
    let vocab: Vocab = serde_json::from_str(&text(&vocab_file)?).map_err(|error| format(&vocab_file, error))?;
    let merges = text(&merges_file)?;
    let merges = merges.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty());
    let merges = merges
        .map(|line| line.split_once(' ').map(|(left, right)| (left.to_owned(), right.trim_end().to_owned())))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| format(&merges_file, "a line does not hold two parts"))?;
    let bpe = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .unk_token(unknown.to_owned())
        .end_of_word_suffix("</w>".into())
        .build()
        .map_err(|error| format(&merges_file, error))?;
    let mut tokenizer = Tokenizer::new(bpe);
    let wrong = |error: tokenizers::Error| format(folder, error);
    // Control characters go, every ideograph stands alone, all in small letters; accents stay.
    let clean = BertNormalizer::new(true, true, Some(false), true);
    let normalizers: Vec<NormalizerWrapper> = vec![NFC.into(), clean.into()];
    tokenizer.with_normalizer(Some(Normalizers::new(normalizers))).map_err(wrong)?;
    let words = Split::new(SplitPattern::Regex(WORDS.into()), SplitDelimiterBehavior::Removed, true).map_err(wrong)?;
    let pieces: Vec<PreTokenizerWrapper> = vec![words.into(), ByteLevel::new(false, true, false).into()];
    tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(pieces)));
    Ok(tokenizer)
}

/// CLIP's tokenizer, from a folder with `vocab.json` and `merges.txt`, or with `tokenizer.json` alone, as transformers 5 writes it.
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    start: i64,
    end: i64,
    pad: i64,
}

/// A token in `tokenizer_config.json`: its text, or an object that holds it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Named {
    Plain(String),
    Object { content: String },
}

impl Named {
    fn content(&self) -> &str {
        match self {
            Named::Plain(content) | Named::Object { content } => content,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenizerConfig {
    bos_token: Option<Named>,
    eos_token: Option<Named>,
    unk_token: Option<Named>,
    pad_token: Option<Named>,
    added_tokens_decoder: HashMap<String, Added>,
}

impl TokenizerConfig {
    fn or(self, others: Self) -> Self {
        Self {
            bos_token: self.bos_token.or(others.bos_token),
            eos_token: self.eos_token.or(others.eos_token),
            unk_token: self.unk_token.or(others.unk_token),
            pad_token: self.pad_token.or(others.pad_token),
            added_tokens_decoder: others.added_tokens_decoder,
        }
    }
}

#[derive(Deserialize)]
struct Added {
    content: String,
}

impl ClipTokenizer {
    /// Reads a folder such as `tokenizer`. Which tokens are special, the one for padding above all, `tokenizer_config.json` says: `!` in
    /// Stable Diffusion 3's second tokenizer. In older folders, where that lists no added tokens, `special_tokens_map.json` has the last
    /// word, as in transformers: `!` in Stable Diffusion 2.
    pub fn open(folder: &Path) -> Result<Self, WeightsError> {
        let read = |name: &str| {
            let file = folder.join(name);
            match file.exists() {
                true => serde_json::from_str(&text(&file)?).map_err(|error| format(&file, error)),
                false => Ok(TokenizerConfig::default()),
            }
        };
        let mut config: TokenizerConfig = read("tokenizer_config.json")?;
        if config.added_tokens_decoder.is_empty() {
            config = read("special_tokens_map.json")?.or(config);
        }
        let name = |named: &Option<Named>, usual: &str| named.as_ref().map_or(usual, Named::content).to_owned();
        let start = name(&config.bos_token, "<|startoftext|>");
        let end = name(&config.eos_token, "<|endoftext|>");
        let unknown = name(&config.unk_token, "<|endoftext|>");
        let pad = name(&config.pad_token, "<|endoftext|>");
        let (vocab_file, whole_file) = (folder.join("vocab.json"), folder.join(TOKENIZER));
        let is_whole = !vocab_file.is_file() && whole_file.is_file();
        let (mut tokenizer, file) = match is_whole {
            true => (whole(&whole_file)?, whole_file),
            false => (of_parts(folder, &unknown)?, vocab_file),
        };
        let id = |token: &str| {
            let id = tokenizer.token_to_id(token).map(i64::from);
            id.ok_or_else(|| format(&file, format_args!("the token {token:?} is not in it")))
        };
        let (start_id, end_id, pad_id) = (id(&start)?, id(&end)?, id(&pad)?);
        if !is_whole {
            let mut special: Vec<String> = vec![start, end, unknown, pad];
            special.extend(config.added_tokens_decoder.into_values().map(|added| added.content));
            special.sort();
            special.dedup();
            let special: Vec<AddedToken> = special.into_iter().map(|token| AddedToken::from(token, true)).collect();
            tokenizer.add_special_tokens(special).map_err(|error| format(folder, error))?;
        }
        Ok(Self { tokenizer, start: start_id, end: end_id, pad: pad_id })
    }

    /// Exactly `length` ids: start, words, end, padding; surplus words are cut off.
    pub fn encode(&self, prompt: &str, length: usize) -> Result<Vec<i64>, String> {
        let encoding = self.tokenizer.encode(prompt, false).map_err(|error| error.to_string())?;
        let words = encoding.get_ids().iter().map(|&id| i64::from(id)).take(length.saturating_sub(2));
        let mut ids: Vec<i64> = std::iter::once(self.start).chain(words).chain([self.end]).collect();
        ids.resize(length, self.pad);
        Ok(ids)
    }
}

/// T5's tokenizer, from a folder with `tokenizer.json`.
pub struct T5Tokenizer(Tokenizer);

impl T5Tokenizer {
    /// Reads a folder such as `tokenizer_3`.
    pub fn open(folder: &Path) -> Result<Self, WeightsError> {
        Ok(Self(whole(&folder.join(TOKENIZER))?))
    }

    /// Exactly `length` ids: words, end, padding (0); surplus words are cut off before the end.
    pub fn encode(&self, prompt: &str, length: usize) -> Result<Vec<i64>, String> {
        let mut tokenizer = self.0.clone();
        let truncation = TruncationParams { max_length: length, ..Default::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|error| error.to_string())?;
        let encoding = tokenizer.encode(prompt, true).map_err(|error| error.to_string())?;
        let mut ids: Vec<i64> = encoding.get_ids().iter().map(|&id| i64::from(id)).collect();
        ids.resize(length, 0);
        Ok(ids)
    }
}
