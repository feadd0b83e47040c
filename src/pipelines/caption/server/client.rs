//! A client of servers that speak OpenAI's chat completions with images: vLLM, llama.cpp, Ollama, LM Studio, OpenAI
//! itself. No server has all fields of that API; what one does not know it is not told again.

use std::io::Cursor;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use serde_json::{Value, json};

use super::answer::{Answer, Flaw, Reading, described, said};
use super::exchange::{Exchange, Head, Piece, Waited};
use crate::base::{ServerEndpoint, is_in_the_cloud};
use crate::imaging::Picture;
use crate::pipelines::PipelineError;

/// Of other answers than words so many bytes are read, and so many letters of what a server says are told.
const LONGEST_DOCUMENT: usize = 4 << 20;
const TOLD: usize = 300;

const START: &str = "Start the server, or correct its address, up to and with /v1.";
const ADDRESS: &str = "Check the address, up to and with /v1, and that the server speaks OpenAI's chat API.";
const KEY: &str =
    "Check its key: what was entered in the window, or OPENAI_API_KEY with OPENAI_BASE_URL for this server.";
const MODEL: &str = "Choose a model that the server has and that sees pictures.";
const SLOW: &str = "A smaller model may be fast enough here; the server's own output says what it does.";
const AGAIN: &str = "Try again; the server's own output says why it stopped.";
const REASONS: &str = "Choose a model that does not reason, or allow more tokens (--max-new-tokens).";
const ELSEWHERE: &str = "Nothing was sent there. If it is the right one, enter that address.";

/// How long a server is waited for, and how often it is asked again.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the first word: a large model may have to be loaded, and looks at pictures for minutes on slow machines.
    pub first: Duration,
    /// From word to word.
    pub between: Duration,
    /// Tries, of a server that has never answered and of one that has and may have been started again.
    pub tries: [u32; 2],
    /// Of these, where nothing came for as long as it may take.
    pub silent_tries: u32,
    /// After the first try; twice as long after each, up to the longest.
    pub pause: Duration,
    /// Whatever the server asks for.
    pub longest_pause: Duration,
}

impl Patience {
    /// Somebody waits for the answer.
    pub const CAPTION: Self = Self {
        connect: Duration::from_secs(5),
        first: Duration::from_secs(300),
        between: Duration::from_secs(60),
        tries: [3, 3],
        silent_tries: 1,
        pause: Duration::from_millis(500),
        longest_pause: Duration::from_secs(30),
    };
    /// A training of days waits for it.
    pub const TRAINING: Self = Self {
        tries: [4, 11],
        silent_tries: 2,
        pause: Duration::from_secs(1),
        longest_pause: Duration::from_secs(32),
        ..Self::CAPTION
    };
}

/// A part of a message from the user.
pub enum Part<'a> {
    /// Words.
    Text(String),
    /// A picture, by [`ChatServer::image`].
    Image(&'a str),
}

/// What is asked.
pub struct Question<'a> {
    /// As a message of the system's.
    pub system: Option<&'a str>,
    /// The user's message.
    pub parts: &'a [Part<'a>],
    /// The answer is cut off there.
    pub max_tokens: usize,
    /// 0: always the likeliest word.
    pub temperature: f64,
    /// Of the draws.
    pub seed: Option<u64>,
}

/// What this server has said that it does not know.
#[derive(Default)]
struct Unknown {
    /// Newer models of OpenAI have it under another name.
    max_tokens: bool,
    seed: bool,
    temperature: bool,
    stream: bool,
    /// Some chat templates know only a user; what the system says comes behind the pictures then.
    system: bool,
    reasoning_effort: bool,
    chat_template_kwargs: bool,
}

impl Unknown {
    /// Whether something of it is new by what the server says.
    fn learn(&mut self, said: &str) -> bool {
        let said = said.to_ascii_lowercase();
        let fields = [
            ("max_tokens", &mut self.max_tokens),
            ("seed", &mut self.seed),
            ("temperature", &mut self.temperature),
            ("stream", &mut self.stream),
            ("system", &mut self.system),
            ("reasoning_effort", &mut self.reasoning_effort),
            ("chat_template_kwargs", &mut self.chat_template_kwargs),
        ];
        let is_named = |name: &str| said.split(|it: char| !it.is_alphanumeric() && it != '_').any(|word| word == name);
        let new = fields.into_iter().find(|(name, known)| !**known && is_named(name));
        new.map(|(_, known)| *known = true).is_some()
    }

    /// `is_hushed`: its model is not to reason.
    fn body(&self, model: &str, question: &Question, is_hushed: bool) -> Value {
        let part = |part: &Part| match part {
            Part::Text(text) => json!({ "type": "text", "text": text }),
            Part::Image(url) => json!({ "type": "image_url", "image_url": { "url": url } }),
        };
        let mut content: Vec<Value> = question.parts.iter().map(part).collect();
        let mut messages = Vec::new();
        match question.system {
            Some(system) if self.system => content.push(json!({ "type": "text", "text": system })),
            Some(system) => messages.push(json!({ "role": "system", "content": system })),
            None => {}
        }
        messages.push(json!({ "role": "user", "content": content }));
        let mut body = json!({ "model": model, "messages": messages });
        body[if self.max_tokens { "max_completion_tokens" } else { "max_tokens" }] = question.max_tokens.into();
        if !self.temperature {
            body["temperature"] = question.temperature.into();
        }
        if let Some(seed) = question.seed.filter(|_| !self.seed) {
            body["seed"] = seed.into();
        }
        if !self.stream {
            body["stream"] = true.into();
        }
        // The one is OpenAI's and Ollama's name for it, the other vLLM's and llama.cpp's.
        if is_hushed && !self.reasoning_effort {
            body["reasoning_effort"] = "none".into();
        }
        if is_hushed && !self.chat_template_kwargs {
            body["chat_template_kwargs"] = json!({ "enable_thinking": false });
        }
        body
    }
}

/// Why a try came to nothing.
enum Setback {
    Cancelled,
    /// It may come when asked again: after this pause where the server names one, up to so many times in all.
    Busy(PipelineError, Option<Duration>, u32),
    /// It loads its model, and says so meanwhile.
    Loading(PipelineError),
    /// The request is not understood: what the server says.
    Misunderstood(PipelineError, String),
    Refused(PipelineError),
}

/// Called with the bytes of an answer.
type Take<'a> = &'a mut dyn FnMut(&[u8]) -> Result<Reading, Flaw>;

/// One try; its second argument says whether to go on.
type Try<'a, T> = &'a mut dyn FnMut(&ChatServer, &mut dyn FnMut() -> bool) -> Result<T, Setback>;

/// A server, and the model that is asked there.
pub struct ChatServer {
    endpoint: ServerEndpoint,
    patience: Patience,
    /// The one to be asked, once it is known.
    model: Option<String>,
    unknown: Unknown,
    /// Its model has used up the tokens with thoughts, and is asked not to from then on.
    is_hushed: bool,
    has_answered: bool,
}

impl ChatServer {
    /// Asks nothing yet.
    pub fn new(endpoint: ServerEndpoint, patience: Patience) -> Self {
        let model = Some(endpoint.model.clone()).filter(|model| !model.is_empty());
        Self { endpoint, patience, model, unknown: Unknown::default(), is_hushed: false, has_answered: false }
    }

    /// The models that the server names. `goes_on` is asked again and again, here and below.
    ///
    /// # Errors
    /// A server that does not answer, or answers something else.
    pub fn models(&mut self, goes_on: &mut dyn FnMut() -> bool) -> Result<Vec<String>, PipelineError> {
        let document = self.patiently(goes_on, &mut |server, goes_on| {
            let mut document = Vec::new();
            let mut take = |bytes: &[u8]| {
                document.extend_from_slice(bytes);
                let fits = document.len() <= LONGEST_DOCUMENT;
                fits.then_some(Reading::Waiting).ok_or(Flaw::TooLong("more than 4 MB"))
            };
            server.attempt("models", None, goes_on, &mut take)?;
            Ok(document)
        })?;
        let other = || self.wrong(format!("it answers with {} for its models", described(&document)), ADDRESS);
        let found: Value = serde_json::from_slice(&document).map_err(|_| other())?;
        let models = found.get("data").and_then(Value::as_array).ok_or_else(other)?;
        Ok(models.iter().filter_map(|model| model.get("id")?.as_str()).map(str::to_owned).collect())
    }

    /// The model that is asked: the first that the server has, where none was named.
    ///
    /// # Errors
    /// As [`Self::models`]; a server that has none.
    pub fn model(&mut self, goes_on: &mut dyn FnMut() -> bool) -> Result<String, PipelineError> {
        if let Some(model) = &self.model {
            return Ok(model.clone());
        }
        let models = self.models(goes_on)?;
        // Nobody has asked for one that runs elsewhere, and those for search say nothing.
        let is_fit = |model: &&String| !is_in_the_cloud(model) && !model.contains("embed");
        let first = models.iter().find(is_fit).cloned().ok_or_else(|| match models.as_slice() {
            [] => self.wrong("it has no model".into(), "Have it load a model that sees pictures."),
            names => {
                self.wrong(format!("it has only {}", names.join(", ")), "Name one of them to ask it all the same.")
            }
        })?;
        Ok(self.model.insert(first).clone())
    }

    /// What it answers, `None` where it has only thought; `on_text` is called with all words so far, again and again.
    ///
    /// # Errors
    /// [`PipelineError::Cancelled`] within a moment of `goes_on` saying so; a server that does not answer, or answers
    /// something else, or less than a whole answer.
    pub fn answer(
        &mut self,
        question: &Question,
        goes_on: &mut dyn FnMut() -> bool,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Option<String>, PipelineError> {
        let model = self.model(goes_on)?;
        let answer = self.answer_of(&model, question, goes_on, on_text)?;
        if answer.is_some() || self.is_hushed {
            return Ok(answer);
        }
        self.is_hushed = true;
        self.answer_of(&model, question, goes_on, on_text)
    }

    fn answer_of(
        &mut self,
        model: &str,
        question: &Question,
        goes_on: &mut dyn FnMut() -> bool,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Option<String>, PipelineError> {
        self.patiently(goes_on, &mut |server, goes_on| {
            let body = server.unknown.body(model, question, server.is_hushed).to_string().into_bytes();
            let mut answer = Answer::default();
            let mut take = |bytes: &[u8]| {
                let reading = answer.push(bytes)?;
                if reading != Reading::Waiting {
                    on_text(answer.text());
                }
                Ok(reading)
            };
            server.attempt("chat/completions", Some(body), goes_on, &mut take)?;
            answer.finish().map_err(|flaw| server.flawed(flaw))
        })
    }

    /// A picture as an address that holds it.
    ///
    /// # Errors
    /// Where it cannot be encoded.
    pub fn image(picture: &Picture) -> Result<String, PipelineError> {
        let mut bytes = Cursor::new(Vec::new());
        let written = PngEncoder::new(&mut bytes).write_image(
            picture.rgb(),
            picture.width(),
            picture.height(),
            ExtendedColorType::Rgb8,
        );
        written.map_err(|error| PipelineError::Internal(format!("no PNG for the server: {error}")))?;
        Ok(format!("data:image/png;base64,{}", STANDARD.encode(bytes.into_inner())))
    }

    /// Tries until it succeeds or there is no hope.
    fn patiently<T>(&mut self, goes_on: &mut dyn FnMut() -> bool, attempt: Try<T>) -> Result<T, PipelineError> {
        let (begin, mut tries, mut pause) = (Instant::now(), 1, self.patience.pause);
        loop {
            let after = match attempt(self, goes_on) {
                Ok(found) => {
                    self.has_answered = true;
                    return Ok(found);
                }
                Err(Setback::Cancelled) => return Err(PipelineError::Cancelled),
                Err(Setback::Refused(error)) => return Err(error),
                Err(Setback::Misunderstood(_, said)) if self.unknown.learn(&said) => continue,
                Err(Setback::Misunderstood(error, _)) => return Err(error),
                Err(Setback::Busy(error, _, most)) if tries >= most => return Err(error),
                Err(Setback::Busy(error, after, _)) => {
                    tracing::warn!("{error}; asking again");
                    after
                }
                Err(Setback::Loading(error)) if begin.elapsed() >= self.patience.first => return Err(error),
                Err(Setback::Loading(_)) => {
                    (tries, pause) = (0, self.patience.pause);
                    None
                }
            };
            let (start, length) = (Instant::now(), after.unwrap_or(pause).min(self.patience.longest_pause));
            while start.elapsed() < length {
                if !goes_on() {
                    return Err(PipelineError::Cancelled);
                }
                std::thread::sleep((length / 10).min(Duration::from_millis(50)));
            }
            (tries, pause) = (tries + 1, pause * 2);
        }
    }

    /// Asks once. Where words have come already it is not tried again: they were shown.
    fn attempt(
        &self,
        path: &str,
        body: Option<Vec<u8>>,
        goes_on: &mut dyn FnMut() -> bool,
        take: Take,
    ) -> Result<(), Setback> {
        let exchange = Exchange::start(&self.endpoint, path, body, self.patience.connect);
        let exchange = exchange.map_err(|error| Setback::Refused(PipelineError::Internal(error.to_string())))?;
        let tries = self.patience.tries[usize::from(self.has_answered)];
        let lost = |error: ureq::Error| self.unreachable(error, tries);
        let head = match self.next(&exchange, Reading::Waiting, goes_on)? {
            Piece::Head(head) => head,
            Piece::End(Err(error)) => return Err(lost(error)),
            Piece::End(Ok(())) | Piece::Bytes(_) => return Err(self.flawed(Flaw::Cut)),
        };
        if !(200..300).contains(&head.status) {
            return Err(self.refusal(&head, &exchange, tries, goes_on)?);
        }
        for (kind, what) in [("text/html", "a web page"), ("image/", "a picture")] {
            if head.content_type.starts_with(kind) {
                return Err(self.flawed(Flaw::Other(what.into())));
            }
        }
        let mut reading = Reading::Waiting;
        loop {
            match self.next(&exchange, reading, goes_on)? {
                Piece::Bytes(bytes) => reading = take(&bytes).map_err(|flaw| self.flawed(flaw))?,
                Piece::End(Err(error)) if reading == Reading::Waiting => return Err(lost(error)),
                Piece::End(Err(_)) => return Err(self.flawed(Flaw::Cut)),
                Piece::End(Ok(())) | Piece::Head(_) => return Ok(()),
            }
            if reading == Reading::Done {
                return Ok(());
            }
        }
    }

    fn next(&self, exchange: &Exchange, reading: Reading, goes_on: &mut dyn FnMut() -> bool) -> Result<Piece, Setback> {
        let has_begun = reading != Reading::Waiting;
        let patience = if has_begun { self.patience.between } else { self.patience.first };
        exchange.next(patience, goes_on).map_err(|waited| match waited {
            Waited::Cancelled => Setback::Cancelled,
            Waited::InVain => {
                let what = if has_begun { "it stopped in the middle of its answer" } else { "it does not answer" };
                let error = self.wrong(format!("{what}: nothing came for {} s", patience.as_secs_f64()), SLOW);
                let tries = if has_begun { 1 } else { self.patience.silent_tries };
                Setback::Busy(error, None, tries)
            }
        })
    }

    /// What an answer means that is none.
    fn refusal(
        &self,
        head: &Head,
        exchange: &Exchange,
        tries: u32,
        goes_on: &mut dyn FnMut() -> bool,
    ) -> Result<Setback, Setback> {
        let status = head.status;
        if let Some(location) = head.location.as_ref().filter(|_| (300..400).contains(&status)) {
            let details = format!("it sends to another address: {}", self.endpoint.address.named(location));
            return Ok(Setback::Refused(self.wrong(details, ELSEWHERE)));
        }
        let mut text = Vec::new();
        while text.len() < LONGEST_DOCUMENT {
            match self.next(exchange, Reading::Waiting, goes_on)? {
                Piece::Bytes(bytes) => text.extend(bytes),
                Piece::Head(_) | Piece::End(_) => break,
            }
        }
        let told = match serde_json::from_slice::<Value>(&text) {
            Ok(answer) => said(answer.get("error").unwrap_or(&answer)),
            Err(_) if head.content_type.starts_with("text/plain") => String::from_utf8_lossy(&text).into_owned(),
            Err(_) if text.is_empty() => "it says no more".into(),
            Err(_) => format!("it answers with {}", described(&text)),
        };
        let told_small = told.to_ascii_lowercase();
        let speaks_of = |words: &[&str]| words.iter().any(|word| told_small.contains(word));
        // Ollama and llama.cpp of a model that sees nothing.
        let is_blind = status == 500 && speaks_of(&["image input", "mmproj", "does not support"]);
        let hint = match status {
            401 | 403 => KEY,
            404 if speaks_of(&["model"]) => MODEL,
            404 | 405 => ADDRESS,
            400 | 413 | 422 => MODEL,
            _ if is_blind => MODEL,
            _ => AGAIN,
        };
        let error = self.wrong(format!("{status}: {}", told.trim()), hint);
        Ok(match status {
            400 | 422 => Setback::Misunderstood(error, told),
            // Chat templates that know no system fail so in some servers.
            500 if speaks_of(&["system role"]) && !self.unknown.system => {
                Setback::Misunderstood(error, "system".into())
            }
            503 if speaks_of(&["loading"]) => Setback::Loading(error),
            _ if is_blind => Setback::Refused(error),
            408 | 429 | 500..=599 => Setback::Busy(error, head.retry_after, tries),
            _ => Setback::Refused(error),
        })
    }

    fn unreachable(&self, error: ureq::Error, tries: u32) -> Setback {
        let is_of_the_network = matches!(
            error,
            ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::HostNotFound | ureq::Error::ConnectionFailed
        );
        let error = self.wrong(error.to_string(), START);
        if is_of_the_network { Setback::Busy(error, None, tries) } else { Setback::Refused(error) }
    }

    fn flawed(&self, flaw: Flaw) -> Setback {
        Setback::Refused(match flaw {
            Flaw::TooLong(what) => self.wrong(format!("it answers with {what}, which is no prompt"), ADDRESS),
            // LM Studio of an address without /v1.
            Flaw::Said(text) if text.contains("endpoint") => self.wrong(text, ADDRESS),
            Flaw::Said(text) => self.wrong(text, MODEL),
            Flaw::Other(what) => self.wrong(format!("it answers with {what}, not with a chat's answer"), ADDRESS),
            Flaw::Cut => self.wrong("it broke off in the middle of its answer".into(), AGAIN),
        })
    }

    /// Where it has only thought, and more was hoped for.
    pub(super) fn only_thought(&self) -> PipelineError {
        self.wrong("its model thought until the tokens were used up, and wrote nothing".into(), REASONS)
    }

    /// An error, in which a server may repeat what it was sent.
    fn wrong(&self, details: String, hint: &'static str) -> PipelineError {
        let details = without_key(details, self.endpoint.key.reveal());
        let letters = details.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
        let details = letters.take(TOLD).collect();
        PipelineError::Server { address: self.endpoint.address.to_string(), details, hint }
    }
}

/// Without the key, and without the beginning of it where what a server says was cut off in it.
fn without_key(details: String, key: &str) -> String {
    /// So many letters of a key tell nothing yet.
    const FEW: usize = 4;
    if key.is_empty() {
        return details;
    }
    let mut details = details.replace(key, "(key)");
    let end = details.trim_end_matches(['"', '\\']).len();
    let cut = (FEW..key.len()).rev().find(|&n| key.get(..n).is_some_and(|begin| details[..end].ends_with(begin)));
    if let Some(n) = cut {
        details.replace_range(end - n..end, "(key)");
    }
    details
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_told_neither_whole_nor_in_part() {
        let key = format!("sk-proj-{}", "0123456789abcdef".repeat(9));
        for text in [format!("Bearer {key}."), format!("Bearer {}", &key[..90]), format!("{:?}", &key[..100])] {
            let told = without_key(text.clone(), &key);
            assert!(told.contains("(key)") && !told.contains("sk-proj"), "{told}");
        }
        assert_eq!(without_key("a desk".into(), &key), "a desk");
        assert_eq!(without_key("a desk".into(), ""), "a desk");
    }
}
