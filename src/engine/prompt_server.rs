//! What is found where a server that writes prompts should be: for the window, on the thread of whoever asks.

use std::time::Duration;

use crate::base::{CancelToken, ServerEndpoint, UserError, secs_label};
use crate::pipelines::PipelineError;
use crate::pipelines::caption::server::{Trial, try_server};

/// Letters of an answer that are shown.
const SHOWN: usize = 160;

/// What came of trying a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTrial {
    /// The models that it names.
    pub models: Vec<String>,
    /// In a line what one of them saw in a picture of the program's own, or why it saw nothing.
    pub seen: Result<String, UserError>,
}

impl ServerTrial {
    /// Asks the server; `None` where nobody wants to know any more.
    pub fn run(endpoint: &ServerEndpoint, cancel: &CancelToken) -> Option<Self> {
        match try_server(endpoint, &mut || !cancel.is_cancelled()) {
            Err(PipelineError::Cancelled) => None,
            Err(error) => Some(Self { models: Vec::new(), seen: Err(error.into()) }),
            Ok(Trial { models, seen }) => Some(Self { models, seen: seen.map(line).map_err(UserError::from) }),
        }
    }
}

fn line((model, answer, time): (String, String, Duration)) -> String {
    let answer: String = answer.chars().take(SHOWN).collect();
    format!("{model} answers in {}. An orange disc on blue it calls: {answer}", secs_label(time.as_secs_f64()))
}
