//! A client of servers that speak OpenAI's chat completions with images: vLLM, llama.cpp, Ollama, LM Studio, OpenAI itself.

use std::cell::Cell;
use std::io::Cursor;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use serde_json::{Value, json};
use ureq::Agent;

use crate::imaging::Picture;
use crate::pipelines::PipelineError;

/// An answer may take that long: large models on slow machines. Then it is asked once more.
const TIMEOUT: Duration = Duration::from_secs(300);
/// Tries where a server does not answer or is busy: of one that has never answered, and of one that may have been started again,
/// which has three minutes.
const FIRST_TRIES: u32 = 4;
const TRIES: u32 = 11;
/// The pause after the first try; twice as long after each, up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(32);

/// A server, and the model that is asked there.
pub struct ChatServer {
    /// Without a slash at its end.
    address: String,
    model: String,
    /// `OPENAI_API_KEY`.
    key: Option<String>,
    agent: Agent,
    has_answered: Cell<bool>,
}

/// What came of one request.
enum Answer {
    Found(Value),
    /// It may come when asked again, up to so many times in all.
    Busy(PipelineError, u32),
    Refused(PipelineError),
}

/// A part of a message from the user.
pub enum Part<'a> {
    /// Words.
    Text(String),
    /// A picture, by [`ChatServer::image`].
    Image(&'a str),
}

impl ChatServer {
    /// `address`: up to and with `/v1`. Without a name the model is the first that the server has.
    ///
    /// # Errors
    /// A server that does not answer, or has no model.
    pub fn open(address: &str, model: Option<&str>) -> Result<Self, PipelineError> {
        let key = std::env::var("OPENAI_API_KEY").ok().filter(|key| !key.trim().is_empty());
        let config = Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false).build();
        let address = address.trim_end_matches('/').to_owned();
        let has_answered = Cell::new(false);
        let mut server = Self { address, model: String::new(), key, agent: config.into(), has_answered };
        server.model = match model {
            Some(model) => model.to_owned(),
            None => {
                let models = server.request("models", None, &mut || true)?;
                let first = models.get("data").and_then(|models| models.get(0)?.get("id")?.as_str());
                first.ok_or_else(|| server.wrong(format!("it names no model: {models}")))?.to_owned()
            }
        };
        Ok(server)
    }

    /// What it answers to a message from the user; nothing where it has only thought. `goes_on` is asked between tries.
    ///
    /// # Errors
    /// A server that does not answer, or answers something else.
    pub fn answer(
        &self,
        parts: &[Part],
        max_tokens: usize,
        temperature: f64,
        goes_on: &mut dyn FnMut() -> bool,
    ) -> Result<String, PipelineError> {
        let content = parts.iter().map(|part| match part {
            Part::Text(text) => json!({ "type": "text", "text": text }),
            Part::Image(url) => json!({ "type": "image_url", "image_url": { "url": url } }),
        });
        let body = json!({
            "model": self.model,
            "messages": [{ "role": "user", "content": content.collect::<Vec<_>>() }],
            "max_tokens": max_tokens,
            "temperature": temperature,
        });
        let found = self.request("chat/completions", Some(&body), goes_on)?;
        let message = found.get("choices").and_then(|choices| choices.get(0)?.get("message"));
        let message = message.ok_or_else(|| self.wrong(format!("it answers without a message: {found}")))?;
        Ok(message.get("content").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// A picture as an address that holds it.
    ///
    /// # Errors
    /// Where it cannot be encoded.
    pub fn image(&self, picture: &Picture) -> Result<String, PipelineError> {
        let mut bytes = Cursor::new(Vec::new());
        let written = PngEncoder::new(&mut bytes).write_image(
            picture.rgb(),
            picture.width(),
            picture.height(),
            ExtendedColorType::Rgb8,
        );
        written.map_err(|error| self.wrong(error.to_string()))?;
        Ok(format!("data:image/png;base64,{}", STANDARD.encode(bytes.into_inner())))
    }

    fn request(
        &self,
        path: &str,
        body: Option<&Value>,
        goes_on: &mut dyn FnMut() -> bool,
    ) -> Result<Value, PipelineError> {
        let (mut attempt, mut pause) = (1, PAUSE);
        loop {
            match self.request_once(path, body) {
                Answer::Found(found) => {
                    self.has_answered.set(true);
                    return Ok(found);
                }
                Answer::Refused(error) => return Err(error),
                Answer::Busy(error, most) if attempt >= most => return Err(error),
                Answer::Busy(error, _) => tracing::warn!("{error}; asking again"),
            }
            let start = Instant::now();
            while start.elapsed() < pause {
                if !goes_on() {
                    return Err(PipelineError::Cancelled);
                }
                std::thread::sleep(PAUSE / 10);
            }
            (attempt, pause) = (attempt + 1, (pause * 2).min(LONGEST_PAUSE));
        }
    }

    fn request_once(&self, path: &str, body: Option<&Value>) -> Answer {
        let url = format!("{}/{path}", self.address);
        let key = self.key.as_ref().map(|key| format!("Bearer {key}"));
        let answer = match body {
            Some(body) => {
                let request = self.agent.post(&url);
                let request = match &key {
                    Some(key) => request.header("Authorization", key),
                    None => request,
                };
                request.send_json(body)
            }
            None => {
                let request = self.agent.get(&url);
                match &key {
                    Some(key) => request.header("Authorization", key).call(),
                    None => request.call(),
                }
            }
        };
        let tries = if self.has_answered.get() { TRIES } else { FIRST_TRIES };
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(error @ ureq::Error::Timeout(_)) => return Answer::Busy(self.wrong(error.to_string()), 2),
            Err(error) => return Answer::Busy(self.wrong(error.to_string()), tries),
        };
        let status = answer.status();
        if !status.is_success() {
            let text = answer.body_mut().read_to_string().unwrap_or_default();
            let text: String = text.chars().take(300).collect();
            let error = self.wrong(format!("{status}: {}", text.trim()));
            let is_busy = status.is_server_error() || [408, 429].contains(&status.as_u16());
            return if is_busy { Answer::Busy(error, tries) } else { Answer::Refused(error) };
        }
        match answer.body_mut().read_json() {
            Ok(found) => Answer::Found(found),
            Err(error) => Answer::Busy(self.wrong(error.to_string()), tries),
        }
    }

    fn wrong(&self, details: String) -> PipelineError {
        PipelineError::Server { address: self.address.clone(), details }
    }
}
