//! What a server answers, from its bytes: a stream of events as OpenAI's API has it (`data: {..}`, one a line, up to
//! `data: [DONE]`), or one JSON document from servers that do not stream. Answers come from anywhere: all is bounded.

use serde_json::Value;

/// A line, or a document that is one, and an answer in all, in bytes.
const LONGEST_LINE: usize = 1 << 20;
const LONGEST: usize = 4 << 20;
/// Of its words.
const LONGEST_TEXT: usize = 64 << 10;
/// Letters of what is no answer that are told.
const TOLD: usize = 120;

/// What is wrong with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// Longer than any prompt.
    TooLong(&'static str),
    /// The server says itself what is wrong.
    Said(String),
    /// No answer of this API: what it is instead.
    Other(String),
    /// It breaks off.
    Cut,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Of no word yet.
    Waiting,
    /// Words or thoughts have come.
    Begun,
    /// All of it is there.
    Done,
}

/// An answer that is being read.
#[derive(Default)]
pub(super) struct Answer {
    /// Bytes of the line that is not over, or of the document.
    line: Vec<u8>,
    total: usize,
    /// Whether it is a stream of events; not known before its first byte.
    is_stream: Option<bool>,
    /// Thoughts included that stand among the words.
    written: String,
    has_thought: bool,
    is_done: bool,
}

impl Answer {
    /// Takes in what came.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Reading, Flaw> {
        self.total += bytes.len();
        if self.total > LONGEST {
            return Err(Flaw::TooLong("more than 4 MB"));
        }
        for (at, &byte) in bytes.iter().enumerate() {
            if self.is_stream.is_none() && !byte.is_ascii_whitespace() {
                if !byte.is_ascii() {
                    return Err(Flaw::Other(described(&bytes[at..])));
                }
                self.is_stream = Some(byte != b'{' && byte != b'[');
            }
            if byte == b'\n' && self.is_stream == Some(true) {
                let line = std::mem::take(&mut self.line);
                self.take_line(&line)?;
            } else if self.line.len() >= LONGEST_LINE {
                return Err(Flaw::TooLong("a line of more than 1 MB"));
            } else {
                self.line.push(byte);
            }
        }
        if self.text().len() > LONGEST_TEXT {
            return Err(Flaw::TooLong("more than 64 KB of words"));
        }
        Ok(match (self.is_done, self.has_begun()) {
            (true, _) => Reading::Done,
            (false, true) => Reading::Begun,
            (false, false) => Reading::Waiting,
        })
    }

    fn has_begun(&self) -> bool {
        self.has_thought || !self.written.is_empty()
    }

    /// The words so far.
    pub(super) fn text(&self) -> &str {
        words(&self.written, false)
    }

    /// All words, when no more comes; `None` where it has only thought.
    pub(super) fn finish(mut self) -> Result<Option<String>, Flaw> {
        match self.is_stream {
            None => return Err(Flaw::Other("nothing".into())),
            Some(true) if !self.is_done => {
                let (line, has_begun) = (std::mem::take(&mut self.line), self.has_begun());
                match self.take_line(&line) {
                    Ok(()) if self.is_done => {}
                    Err(Flaw::Other(_)) if has_begun => return Err(Flaw::Cut),
                    Ok(()) => return Err(Flaw::Cut),
                    Err(flaw) => return Err(flaw),
                }
            }
            Some(true) => {}
            Some(false) => {
                let document = serde_json::from_slice(&self.line).map_err(|error| match error.is_eof() {
                    true => Flaw::Cut,
                    false => Flaw::Other(described(&self.line)),
                })?;
                self.take(&document)?;
            }
        }
        let text = words(&self.written, true);
        if text.len() > LONGEST_TEXT {
            return Err(Flaw::TooLong("more than 64 KB of words"));
        }
        // Reasoning apart from the words, or among them.
        let has_thought = self.has_thought || text.len() < self.written.trim().len();
        Ok((!text.is_empty() || !has_thought).then(|| text.to_owned()))
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), Flaw> {
        let line = line.trim_ascii();
        // Comments keep connections open; other fields tell nothing here.
        let is_other = |field: &[u8]| line.starts_with(field);
        if self.is_done || line.is_empty() || [&b":"[..], b"event:", b"id:", b"retry:"].into_iter().any(is_other) {
            return Ok(());
        }
        // As some versions of llama.cpp tell an error.
        if let Some(error) = line.strip_prefix(b"error:").and_then(|error| serde_json::from_slice(error).ok()) {
            return Err(Flaw::Said(said(&error)));
        }
        let Some(data) = line.strip_prefix(b"data:") else { return Err(Flaw::Other(described(line))) };
        match data.trim_ascii() {
            b"[DONE]" => self.is_done = true,
            data => {
                let event = serde_json::from_slice(data).map_err(|_| Flaw::Other(described(data)))?;
                self.take(&event)?;
            }
        }
        Ok(())
    }

    /// A part of the answer, or all of it.
    fn take(&mut self, event: &Value) -> Result<(), Flaw> {
        if let Some(error) = event.get("error").filter(|error| !error.is_null()) {
            return Err(Flaw::Said(said(error)));
        }
        // The last one may only count tokens.
        let choices = event.get("choices").and_then(Value::as_array);
        let choices = choices.ok_or_else(|| Flaw::Other(described(event.to_string().as_bytes())))?;
        let Some(choice) = choices.first() else { return Ok(()) };
        if let Some(message) = choice.get("delta").or_else(|| choice.get("message")) {
            match message.get("content") {
                Some(Value::String(text)) => self.written.push_str(text),
                Some(Value::Array(parts)) => {
                    let texts = parts.iter().filter_map(|part| part.get("text")?.as_str());
                    texts.for_each(|text| self.written.push_str(text));
                }
                _ => {}
            }
            let thoughts = ["reasoning_content", "reasoning"].map(|name| message.get(name).and_then(Value::as_str));
            self.has_thought |= thoughts.into_iter().flatten().any(|thought| !thought.is_empty());
        }
        // Some servers end with this and say no more.
        let reason = choice.get("finish_reason").and_then(Value::as_str).filter(|reason| !reason.is_empty());
        self.is_done |= reason.is_some();
        // Where no word came of all the tokens, there were thoughts that the server keeps to itself.
        self.has_thought |= reason == Some("length") && self.written.trim().is_empty();
        Ok(())
    }
}

/// What is said, without what is thought before it; `is_all`: no more comes.
fn words(written: &str, is_all: bool) -> &str {
    const THOUGHT: [&str; 2] = ["<think>", "</think>"];
    if let Some((_, words)) = written.rsplit_once(THOUGHT[1]) {
        return words.trim();
    }
    let text = written.trim();
    let may_think = text.starts_with(THOUGHT[0]) || (!is_all && THOUGHT[0].starts_with(text));
    if may_think { "" } else { text }
}

/// What a server says of an error, in whatever form.
pub(super) fn said(error: &Value) -> String {
    match error {
        Value::String(text) => text.clone(),
        error => error.get("message").and_then(Value::as_str).map_or_else(|| error.to_string(), str::to_owned),
    }
}

/// What bytes are that are no answer.
pub(super) fn described(bytes: &[u8]) -> String {
    let is_picture = image::guess_format(bytes).is_ok();
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * TOLD)]);
    match text.trim_start() {
        _ if is_picture => "a picture".into(),
        page if page.starts_with('<') => "a web page".into(),
        text => format!("{:?}", text.chars().take(TOLD).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(content: &str) -> String {
        format!("data: {{\"choices\":[{{\"delta\":{{\"content\":{content}}}}}]}}\n\n")
    }

    /// The texts as they grow, and what it comes to; fed in pieces of this many bytes.
    fn read(answer: &[u8], piece: usize) -> (Vec<String>, Result<Option<String>, Flaw>) {
        let mut reader = Answer::default();
        let mut texts = Vec::new();
        for bytes in answer.chunks(piece) {
            match reader.push(bytes) {
                Err(flaw) => return (texts, Err(flaw)),
                Ok(_) if !reader.text().is_empty() => texts.push(reader.text().to_owned()),
                Ok(_) => {}
            }
        }
        texts.dedup();
        (texts, reader.finish())
    }

    fn finished(answer: &str) -> Result<Option<String>, Flaw> {
        let (_, whole) = read(answer.as_bytes(), usize::MAX);
        for piece in [1, 7] {
            assert_eq!(read(answer.as_bytes(), piece).1, whole, "in pieces of {piece}");
        }
        whole
    }

    #[test]
    fn streams_are_read_word_by_word() {
        let words = [r#""fur""#, "null", r#"", ""#, r#"[{"type":"text","text":"w\u00e9t"}]"#, r#"" snow""#].map(delta);
        let start = "\u{20}\n: keep\r\nevent: x\r\ndata: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\r\n\r\n";
        for end in ["data: [DONE]\n\n", "data:[DONE]", "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}"] {
            let answer = format!("{start}{}{end}", words.concat());
            assert_eq!(finished(&answer), Ok(Some("fur, wét snow".into())), "{end}");
            let (texts, _) = read(answer.as_bytes(), 1);
            assert_eq!(texts, ["fur", "fur,", "fur, wét", "fur, wét snow"]);
        }
        assert_eq!(finished(&format!("{start}{}", words.concat())), Err(Flaw::Cut));
        assert_eq!(finished(&format!("{}data: {{\"cho", words[0])), Err(Flaw::Cut));
        let counted = format!("{}data: {{\"choices\":[],\"usage\":{{}}}}\n\ndata: [DONE]\n", words[0]);
        assert_eq!(finished(&counted), Ok(Some("fur".into())));
    }

    #[test]
    fn documents_are_answers_too() {
        let message = |content: &str| format!("\n{{\"choices\":[{{\"message\":{{\"content\":{content}}}}}]}}\n");
        assert_eq!(finished(&message(r#"" fur\nsnow ""#)), Ok(Some("fur\nsnow".into())));
        assert_eq!(finished(&message("null")), Ok(Some("".into())));
        assert_eq!(finished(&message(r#""<think>a fox?</think>\n\nfur""#)), Ok(Some("fur".into())));
        assert_eq!(finished(&message(r#""<think>a fox""#)), Ok(None));
        let silent = r#"{"choices":[{"message":{"content":""},"finish_reason":"length"}]}"#;
        assert_eq!(finished(silent), Ok(None), "it thought and does not show it");
        assert!(matches!(finished(&message(&format!("{:?}", "x".repeat(1 << 17)))), Err(Flaw::TooLong(_))));
        assert_eq!(finished(r#"{"choices":[{"message"#), Err(Flaw::Cut));
        let errors = [r#"{"error":"no such model"}"#, r#"{"error":{"message":"no such model","code":404}}"#];
        for error in errors {
            assert_eq!(finished(error), Err(Flaw::Said("no such model".into())));
            assert_eq!(finished(&format!("data: {error}\n")), Err(Flaw::Said("no such model".into())));
            let inside = serde_json::from_str::<Value>(error).expect("it is JSON")["error"].to_string();
            assert_eq!(finished(&format!("error: {inside}\n\n")), Err(Flaw::Said("no such model".into())));
        }
    }

    #[test]
    fn thoughts_are_no_words() {
        let stream = |parts: &[&str]| parts.iter().map(|part| delta(part)).collect::<String>() + "data: [DONE]\n";
        let (texts, all) = read(stream(&[r#""<th""#, r#""ink>a""#, r#""fox</think>""#, r#""fur""#]).as_bytes(), 1);
        assert_eq!((texts, all), (vec!["fur".to_owned()], Ok(Some("fur".to_owned()))));
        let apart = "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"a fox?\",\"content\":null}}]}\n";
        assert_eq!(finished(&format!("{apart}{}", stream(&[r#""fur""#]))), Ok(Some("fur".into())));
        assert_eq!(finished(&format!("{apart}data: [DONE]\n")), Ok(None));
        // What only begins like one.
        assert_eq!(finished(&stream(&[r#""<t""#])), Ok(Some("<t".into())));
    }

    #[test]
    fn what_is_no_answer_is_told() {
        let other = |text: &str| Err(Flaw::Other(text.into()));
        assert_eq!(finished("<!DOCTYPE html><p>Welcome"), other("a web page"));
        assert_eq!(finished("{\"hello\": 1}"), other("\"{\\\"hello\\\":1}\""));
        assert_eq!(finished("hello"), other("\"hello\""));
        assert_eq!(finished("[1, 2]"), other("\"[1,2]\""));
        assert_eq!(finished(" \n"), other("nothing"));
        assert_eq!(read(b"\x89PNG\r\n\x1a\n\0\0", 100).1, other("a picture"));
        let long = "x".repeat(10 << 20);
        for answer in [format!("data: {long}\n"), format!("{{\"a\":\"{long}\"}}"), format!(": {long}")] {
            assert!(matches!(read(answer.as_bytes(), 1 << 14).1, Err(Flaw::TooLong(_))));
        }
        let many = delta(r#""fur, ""#).repeat(100_000);
        assert!(matches!(read(many.as_bytes(), 1 << 14).1, Err(Flaw::TooLong(_))));
    }
}
