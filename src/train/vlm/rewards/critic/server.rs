//! A critic behind an address: a server that speaks OpenAI's chat completions.

use super::{ANSWER_TOKENS, Critic, CriticOptions, question, rating};
use crate::imaging::Picture;
use crate::pipelines::PipelineError;
use crate::pipelines::caption::server::{ChatServer, Part};
use crate::train::TrainError;

pub(super) struct Server(ChatServer);

impl Server {
    pub(super) fn open(options: &CriticOptions) -> Result<Self, TrainError> {
        if options.is_expected {
            let found = "the expected score needs the probabilities of all answers, which servers do not tell".into();
            return Err(TrainError::Critic(found));
        }
        Ok(Self(ChatServer::open(&options.name, options.model.as_deref())?))
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
        let [first, second] = [self.0.image(first)?, self.0.image(second)?];
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
            // Who has given no number may give one in another mood.
            Ok(rating(&self.0.answer(&parts, ANSWER_TOKENS, attempt as f64, goes_on)?))
        };
        descriptions.iter().map(rate).collect()
    }
}
