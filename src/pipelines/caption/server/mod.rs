//! Prompts by a server that people run already: the same question and pictures as for the vision-language model of this
//! program ([`vlm`](super::vlm)), asked over OpenAI's chat API. No byte goes anywhere but to the user's own address.

mod answer;
mod client;
mod exchange;

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use client::{ChatServer, Part, Patience, Question};

use super::{CaptionInput, Captioner};
use crate::base::{CaptionRequest, ENCODED, MemoryPlan, Progress, PromptSource, ServerEndpoint, Stage};
use crate::imaging::{Filter, Picture, resize};
use crate::pipelines::PipelineError;

/// Longer sides are reduced to it: photos of any size are shown, and servers reduce them further themselves.
const LONGEST_SIDE: u32 = 1536;
/// Letters of a token, about.
const TOKEN: usize = 4;
/// Side of the picture that a server is tried with, and tokens for what it sees there.
const TRIAL_SIDE: u32 = 128;
const TRIAL_TOKENS: usize = 256;

/// The captioner.
pub struct Server {
    server: ChatServer,
}

impl Server {
    /// Asks nothing yet.
    pub fn open(source: &PromptSource) -> Result<Self, PipelineError> {
        let endpoint = source.server.as_deref().cloned();
        let endpoint = endpoint.ok_or_else(|| PipelineError::Internal("no server was named to ask".into()))?;
        Ok(Self { server: ChatServer::new(endpoint, Patience::CAPTION) })
    }
}

/// A picture as a server is sent it.
fn shown(picture: &Arc<Picture>) -> Result<String, PipelineError> {
    let longest = picture.width().max(picture.height());
    if longest <= LONGEST_SIDE {
        return ChatServer::image(picture);
    }
    let side = |length: u32| (u64::from(length) * u64::from(LONGEST_SIDE) / u64::from(longest)).max(1) as u32;
    ChatServer::image(&resize(picture, side(picture.width()), side(picture.height()), Filter::Lanczos))
}

impl Captioner for Server {
    fn caption(
        &mut self,
        input: &CaptionInput,
        progress: &mut Progress,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<String, PipelineError> {
        progress.at(Stage::Prompting, 0.0)?;
        let request = &input.request;
        let images = input.pictures().iter().map(shown).collect::<Result<Vec<_>, _>>()?;
        let parts: Vec<Part> = images.iter().map(|image| Part::Image(image)).collect();
        let question = Question {
            system: Some(request.question()),
            parts: &parts,
            max_tokens: request.max_new_tokens,
            temperature: request.temperature,
            seed: Some(request.seed),
        };
        let fraction = Cell::new(0.0);
        let mut goes_on = || progress.at(Stage::Prompting, fraction.get()).is_ok();
        let mut on_text = |text: &str| {
            let written = text.len() as f32 / (TOKEN * request.max_new_tokens.max(1)) as f32;
            fraction.set(ENCODED + (1.0 - ENCODED) * written.min(1.0));
            on_text(text);
        };
        let answer = self.server.answer(&question, &mut goes_on, &mut on_text)?;
        answer.ok_or_else(|| self.server.only_thought())
    }

    fn bytes(&self) -> u64 {
        0
    }

    fn set_plan(&mut self, _: MemoryPlan) {}

    fn bytes_loaded(&self) -> u64 {
        0
    }

    fn bytes_to_load(&self) -> u64 {
        0
    }

    fn offload(&mut self, _: u64) {}
}

/// What came of trying a server.
#[derive(Debug)]
pub struct Trial {
    /// The models that it names.
    pub models: Vec<String>,
    /// Which was asked, what it saw, and how long that took; or why it saw nothing.
    pub seen: Result<(String, String, Duration), PipelineError>,
}

/// Asks a server for its models, and one of them what is in a picture of the program's own: an orange disc on blue.
///
/// # Errors
/// [`PipelineError::Cancelled`]; a server that does not answer at all.
pub fn try_server(endpoint: &ServerEndpoint, goes_on: &mut dyn FnMut() -> bool) -> Result<Trial, PipelineError> {
    let mut server = ChatServer::new(endpoint.clone(), Patience { tries: [1; 2], ..Patience::CAPTION });
    // Some have no list, and answer all the same where their model is named.
    let models = match server.models(goes_on) {
        Err(PipelineError::Server { .. }) if !endpoint.model.is_empty() => Vec::new(),
        models => models?,
    };
    let middle = f64::from(TRIAL_SIDE) / 2.0;
    let picture = Picture::from_fn(TRIAL_SIDE, TRIAL_SIDE, |x, y| {
        let is_inside = (f64::from(x) - middle).hypot(f64::from(y) - middle) < middle * 0.7;
        if is_inside { [240, 140, 20] } else { [30, 60, 160] }
    });
    let image = ChatServer::image(&picture)?;
    let question = Question {
        system: Some(CaptionRequest::default_message(false)),
        parts: &[Part::Image(&image)],
        max_tokens: TRIAL_TOKENS,
        temperature: 0.0,
        seed: Some(0),
    };
    let start = Instant::now();
    let seen = server.model(goes_on).and_then(|model| {
        let answer = server.answer(&question, goes_on, &mut |_| ())?;
        Ok((model, answer.ok_or_else(|| server.only_thought())?, start.elapsed()))
    });
    match seen {
        Err(PipelineError::Cancelled) => Err(PipelineError::Cancelled),
        seen => Ok(Trial { models, seen }),
    }
}
