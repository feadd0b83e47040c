//! A chat with Qwen2.5-VL as token ids, and its answer as text: the chat template, the tokenizer and the rules of
//! generation that lie in the model's folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind};
use serde::Deserialize;
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::pipelines::PipelineError;

/// How the model is talked to.
pub(super) struct Chat {
    tokenizer: Tokenizer,
    template: String,
    /// Where the template is.
    file: PathBuf,
    /// Tokens that the template may name, such as `bos_token`.
    names: BTreeMap<String, Value>,
    /// The answer is over at any of these.
    pub ends: Vec<i64>,
    /// On tokens that were there before.
    pub penalty: f64,
}

/// `generation_config.json`, as far as it is followed: its temperature, 1e-6, is none.
#[derive(Default, Deserialize)]
#[serde(default)]
struct GenerationConfig {
    eos_token_id: Option<OneOrMore>,
    repetition_penalty: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(i64),
    More(Vec<i64>),
}

fn wrong(file: &Path, found: impl std::fmt::Display) -> PipelineError {
    PipelineError::Folder { file: file.to_owned(), found: found.to_string() }
}

/// A JSON file of the folder; `None` where it is not there.
fn json(file: &Path) -> Result<Option<Value>, PipelineError> {
    match std::fs::read(file) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| wrong(file, error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(wrong(file, error)),
    }
}

impl Chat {
    /// Reads a model's folder. `config`: its `config.json`, which names the end where `generation_config.json` does not.
    pub(super) fn open(folder: &Path, config: &Value) -> Result<Self, PipelineError> {
        let file = folder.join("tokenizer.json");
        let mut tokenizer = Tokenizer::from_file(&file).map_err(|error| wrong(&file, error))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| wrong(&file, error))?;

        let file = folder.join("generation_config.json");
        let generation = json(&file)?.map(GenerationConfig::deserialize).transpose();
        let generation = generation.map_err(|error| wrong(&file, error))?.unwrap_or_default();
        let of_config = config.get("eos_token_id").or_else(|| config.get("text_config")?.get("eos_token_id"));
        let ends = generation.eos_token_id.or_else(|| OneOrMore::deserialize(of_config?).ok());
        let ends = match ends {
            Some(OneOrMore::One(end)) => vec![end],
            Some(OneOrMore::More(ends)) => ends,
            None => Vec::new(),
        };

        let of_tokenizer = folder.join("tokenizer_config.json");
        let tokens = json(&of_tokenizer)?.unwrap_or_default();
        let (template, file) = template(folder, &tokens, of_tokenizer)?;
        let content = |value: &Value| value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned);
        let names = tokens.as_object().into_iter().flatten();
        let names = names.filter(|(name, _)| name.ends_with("_token"));
        let names = names.filter_map(|(name, value)| Some((name.clone(), content(value)?.into()))).collect();
        let penalty = generation.repetition_penalty.unwrap_or(1.0);
        Ok(Self { tokenizer, template, file, names, ends, penalty })
    }

    /// A chat as the template has it, and the start of the answer.
    fn rendered(&self, chat: &Value) -> Result<String, Error> {
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |text: String| -> Result<(), Error> {
            Err(Error::new(ErrorKind::InvalidOperation, text))
        });
        let mut about = self.names.clone();
        about.insert("messages".into(), chat.clone());
        about.insert("add_generation_prompt".into(), true.into());
        environment.template_from_str(&self.template)?.render(minijinja::Value::from(Serde(&about)))
    }

    /// A chat's token ids; the image token of each image stands as often as `counts` says.
    ///
    /// # Errors
    /// Where the template fails, or names other images than there are.
    pub(super) fn ids(&self, chat: &Value, image_token: i64, counts: &[i64]) -> Result<Vec<i64>, PipelineError> {
        let failed = |error: Error| {
            let mut text = error.to_string();
            let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            wrong(&self.file, format_args!("its chat template fails: {text}"))
        };
        let text = self.rendered(chat).map_err(failed)?;
        let encoding = self.tokenizer.encode(text, true).map_err(|error| wrong(&self.file, error))?;
        let asked = encoding.get_ids().iter().filter(|&&id| i64::from(id) == image_token).count();
        if asked != counts.len() {
            let found = format!("it asks about {asked} images, where there are {}", counts.len());
            return Err(wrong(&self.file, found));
        }
        let mut counts = counts.iter();
        let mut ids = Vec::new();
        for &id in encoding.get_ids() {
            let id = i64::from(id);
            let count = if id == image_token { counts.next().copied().unwrap_or(1) } else { 1 };
            ids.extend(std::iter::repeat_n(id, count as usize));
        }
        Ok(ids)
    }

    /// The token of a text that is one.
    pub(super) fn token(&self, text: &str) -> Option<i64> {
        let encoding = self.tokenizer.encode(text, false).ok()?;
        match encoding.get_ids() {
            [id] => Some((*id).into()),
            _ => None,
        }
    }

    /// What the answer's ids say, without special tokens; not stripped.
    pub(super) fn text(&self, ids: &[i64]) -> Result<String, PipelineError> {
        let ids: Vec<u32> = ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect();
        self.tokenizer.decode(&ids, true).map_err(|error| wrong(&self.file, error))
    }
}

/// The chat template and its file: a file of its own where there is one, else in the tokenizer's config.
fn template(folder: &Path, tokens: &Value, of_tokenizer: PathBuf) -> Result<(String, PathBuf), PipelineError> {
    let file = folder.join("chat_template.json");
    if let Some(template) = json(&file)?.as_ref().and_then(|value| value.get("chat_template")?.as_str()) {
        return Ok((template.to_owned(), file));
    }
    let file = folder.join("chat_template.jinja");
    if file.exists() {
        let text = std::fs::read_to_string(&file).map_err(|error| wrong(&file, error))?;
        return Ok((text, file));
    }
    let template = tokens.get("chat_template").and_then(|template| match template {
        Value::String(text) => Some(text.as_str()),
        // Several by name.
        Value::Array(named) => named
            .iter()
            .find(|entry| entry.get("name").is_some_and(|name| name == "default"))?
            .get("template")?
            .as_str(),
        _ => None,
    });
    match template {
        Some(template) => Ok((template.to_owned(), of_tokenizer)),
        None => Err(wrong(&of_tokenizer, "it holds no chat_template, and there is no file for one")),
    }
}
