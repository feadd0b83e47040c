//! A server of the tests' own with OpenAI's chat API, which does whatever a test has it do.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// The model that it has.
pub const MODEL: &str = "eyes";

/// A request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Method, path, version.
    pub line: String,
    /// Names in small letters.
    pub headers: Vec<(String, String)>,
    pub body: Value,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The pictures in the user's message.
    pub fn images(&self) -> Vec<&str> {
        let messages = self.body["messages"].as_array().unwrap();
        let content = messages.last().unwrap()["content"].as_array().unwrap();
        content.iter().filter_map(|part| part["image_url"]["url"].as_str()).collect()
    }
}

/// It runs as long as the process.
#[derive(Clone)]
pub struct ChatServer {
    /// Up to and with `/v1`.
    pub address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl ChatServer {
    /// `answer` is given the number of each question, from 0, the question, and where to write; each in a thread of its
    /// own. What models there are, it tells itself.
    pub fn start(answer: impl Fn(usize, &Asked, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/v1", listener.local_addr().unwrap());
        let (asked, answer) = (Arc::<Mutex<Vec<Asked>>>::default(), Arc::new(answer));
        let server = Self { address, asked };
        let of_server = server.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let (server, answer) = (of_server.clone(), answer.clone());
                std::thread::spawn(move || {
                    let Some(asked) = read(&stream) else { return };
                    let is_list = asked.line.starts_with("GET /v1/models ");
                    let number = {
                        let mut all = server.asked.lock().unwrap();
                        all.push(asked.clone());
                        all.iter().filter(|other| other.line.starts_with("POST")).count()
                    };
                    match is_list {
                        true => document(&mut stream, 200, &json!({ "data": [{ "id": MODEL }] })),
                        false => answer(number.saturating_sub(1), &asked, &mut stream),
                    }
                });
            }
        });
        server
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Those that are questions.
    pub fn questions(&self) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.line.starts_with("POST /v1/chat/completions ")).collect()
    }
}

/// `None` where whoever asked is gone before all of it is there.
fn read(stream: &TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).ok()? <= 2 {
            break;
        }
        let (name, value) = header.split_once(':')?;
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let mut asked = Asked { line, headers, body: Value::Null };
    let length = asked.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    asked.body = serde_json::from_slice(&body).unwrap_or_default();
    Some(asked)
}

/// A whole answer. Whoever asked may be gone.
pub fn respond(stream: &mut TcpStream, status: u16, headers: &str, body: &[u8]) {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n");
    _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

pub fn document(stream: &mut TcpStream, status: u16, body: &Value) {
    respond(stream, status, "Content-Type: application/json\r\n", body.to_string().as_bytes());
}

pub fn message(stream: &mut TcpStream, text: &str) {
    document(stream, 200, &json!({ "choices": [{ "message": { "content": text }, "finish_reason": "stop" }] }));
}

/// The start of a stream, which ends with the connection.
pub fn begin(stream: &mut TcpStream) {
    _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n");
}

/// A word of a stream.
pub fn word(stream: &mut TcpStream, text: &str) {
    let event = json!({ "choices": [{ "index": 0, "delta": { "content": text }, "finish_reason": null }] });
    _ = stream.write_all(format!("data: {event}\n\n").as_bytes());
}

pub fn done(stream: &mut TcpStream) {
    _ = stream.write_all(b"data: [DONE]\n\n");
}

/// All of a stream.
pub fn stream(to: &mut TcpStream, words: &[&str]) {
    begin(to);
    words.iter().for_each(|text| word(to, text));
    done(to);
}

/// Waits until the other side is gone, at most so many seconds; whether it is.
pub fn is_left(stream: &mut TcpStream, secs: u64) -> bool {
    stream.set_read_timeout(Some(std::time::Duration::from_secs(secs))).unwrap();
    match stream.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}
