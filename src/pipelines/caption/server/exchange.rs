//! One request on a thread of its own: whoever waits for the answer can leave at any moment, and the thread ends then.

use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use ureq::http::{Response, header};
use ureq::{Agent, Body, RequestBuilder};

use crate::base::ServerEndpoint;

/// How often whoever waits is asked whether to go on.
const TICK: Duration = Duration::from_millis(50);
/// Pieces of an answer that wait to be taken, each of at most so many bytes.
const PIECES: usize = 16;
const PIECE: usize = 1 << 14;
/// The longest that any answer may take, however it trickles.
const LONGEST: Duration = Duration::from_secs(1800);
/// Before more bytes than this are sent, the server may say that it does not want them: one that closes the connection
/// meanwhile is not heard.
const ASKED_BEFORE: usize = 1 << 19;

/// Something of an answer.
pub(super) enum Piece {
    Head(Head),
    Bytes(Vec<u8>),
    /// The connection is over, and how.
    End(Result<(), ureq::Error>),
}

/// How an answer begins.
pub(super) struct Head {
    pub status: u16,
    /// In small letters; empty where nothing is said.
    pub content_type: String,
    /// Where it sends to.
    pub location: Option<String>,
    /// When to ask again.
    pub retry_after: Option<Duration>,
}

/// Why there is no further piece.
pub(super) enum Waited {
    Cancelled,
    /// Nothing came for so long.
    InVain,
}

/// A request on its way.
pub(super) struct Exchange {
    agent: Agent,
    pieces: Receiver<Piece>,
}

impl Exchange {
    /// Asks for `path` below the server's address, with `body` as JSON. `connect`: how long a connection may take.
    pub(super) fn start(
        endpoint: &ServerEndpoint,
        path: &str,
        body: Option<Vec<u8>>,
        connect: Duration,
    ) -> std::io::Result<Self> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Key and pictures go where the user has said, and nowhere else.
            .max_redirects(0)
            .timeout_global(Some(LONGEST))
            .timeout_resolve(Some(connect))
            .timeout_connect(Some(connect));
        // What is for this machine passes none of the system's proxies.
        let config = if endpoint.address.is_loopback() { config.proxy(None) } else { config };
        let agent = Agent::from(config.build());
        let (sender, pieces) = bounded(PIECES);
        let (url, asking) = (format!("{}/{path}", endpoint.address), agent.clone());
        let key = Some(&endpoint.key).filter(|key| !key.is_empty()).map(|key| format!("Bearer {}", key.reveal()));
        std::thread::Builder::new().name("coz-server".into()).spawn(move || {
            let end = converse(&asking, &url, key.as_deref(), body, &sender);
            // Who has left needs no end.
            _ = sender.send(Piece::End(end));
        })?;
        Ok(Self { agent, pieces })
    }

    /// The next piece, waited for so long; `goes_on` is asked meanwhile.
    pub(super) fn next(&self, patience: Duration, goes_on: &mut dyn FnMut() -> bool) -> Result<Piece, Waited> {
        let start = Instant::now();
        loop {
            if !goes_on() {
                return Err(Waited::Cancelled);
            }
            match self.pieces.recv_timeout(TICK) {
                Ok(piece) => return Ok(piece),
                Err(RecvTimeoutError::Timeout) if start.elapsed() < patience => {}
                // Without its thread nothing will come.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Err(Waited::InVain),
            }
        }
    }
}

impl Drop for Exchange {
    /// Closes the connection, at which the thread ends; while it connects still, `connect` bounds that.
    fn drop(&mut self) {
        self.agent.clone().shutdown();
    }
}

fn converse(
    agent: &Agent,
    url: &str,
    key: Option<&str>,
    body: Option<Vec<u8>>,
    pieces: &Sender<Piece>,
) -> Result<(), ureq::Error> {
    let answer = match body {
        Some(body) => {
            let request = authorized(agent.post(url), key)
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::ACCEPT, "text/event-stream, application/json");
            match body.len() > ASKED_BEFORE {
                true => request.header(header::EXPECT, "100-continue").send(&body)?,
                false => request.send(&body)?,
            }
        }
        None => authorized(agent.get(url), key).header(header::ACCEPT, "application/json").call()?,
    };
    let mut has_left = pieces.send(Piece::Head(head(&answer))).is_err();
    let mut reader = answer.into_body().into_reader();
    let mut buffer = vec![0; PIECE];
    while !has_left {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => has_left = pieces.send(Piece::Bytes(buffer[..count].to_vec())).is_err(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn authorized<B>(request: RequestBuilder<B>, key: Option<&str>) -> RequestBuilder<B> {
    match key {
        Some(key) => request.header(header::AUTHORIZATION, key),
        None => request,
    }
}

fn head(answer: &Response<Body>) -> Head {
    let text = |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    Head {
        status: answer.status().as_u16(),
        content_type: text(header::CONTENT_TYPE).unwrap_or_default().to_ascii_lowercase(),
        location: text(header::LOCATION),
        // The other form, a date, is for caches.
        retry_after: text(header::RETRY_AFTER).and_then(|secs| secs.trim().parse().ok()).map(Duration::from_secs),
    }
}
