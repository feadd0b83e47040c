//! A critic behind an address: a server that speaks OpenAI's chat completions.

use super::{ANSWER_TOKENS, Critic, CriticOptions, question, rating};
use crate::base::ServerEndpoint;
use crate::imaging::Picture;
use crate::pipelines::PipelineError;
use crate::pipelines::caption::server::{ChatServer, Part, Patience, Question};
use crate::train::TrainError;

pub(super) struct Server(ChatServer);

impl Server {
    pub(super) fn open(options: &CriticOptions) -> Result<Self, TrainError> {
        if options.is_expected {
            let found = "the expected score needs the probabilities of all answers, which servers do not tell".into();
            return Err(TrainError::Critic(found));
        }
        let endpoint = ServerEndpoint {
            address: options.name.parse().map_err(TrainError::Critic)?,
            model: options.model.clone().unwrap_or_default(),
            key: options.key.clone(),
        };
        let mut server = ChatServer::new(endpoint, Patience::TRAINING);
        // Whether it is there shows before anything else is done.
        server.model(&mut || true)?;
        Ok(Self(server))
    }
}

impl Critic for Server {
    fn rate(
        &mut self,
        [first, second]: &[Picture; 2],
        descriptions: &[String],
        attempt: u64,
        goes_on: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<Option<f64>>, TrainError> {
        let [first, second] = [ChatServer::image(first)?, ChatServer::image(second)?];
        let rate = |description: &String| {
            if !goes_on() {
                return Err(PipelineError::Cancelled.into());
            }
            let [before, between, behind] = question(description);
            let parts = [
                Part::Text(before),
                Part::Image(&first),
                Part::Text(between),
                Part::Image(&second),
                Part::Text(behind),
            ];
            let question = Question {
                system: None,
                parts: &parts,
                max_tokens: ANSWER_TOKENS,
                // Who has given no number may give one in another mood.
                temperature: attempt as f64,
                seed: None,
            };
            Ok(rating(&self.0.answer(&question, goes_on, &mut |_| ())?.unwrap_or_default()))
        };
        descriptions.iter().map(rate).collect()
    }
}
