//! Scores of states by metrics that judge a picture by itself. The engine computes them when they are asked for.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Viewer;
use super::state::{Cause, Document, Message};
use crate::base::{MetricSpec, UserError};
use crate::document::{ScaleState, StateId};
use crate::engine::ScoreRequest;

/// For larger pictures, such as most photos, networks would take gigabytes.
const MOST_PIXELS: u64 = 4 << 20;

/// Where the weights of a metric lie, by [`MetricFile::id`](crate::base::MetricFile::id).
pub(super) type Files = BTreeMap<&'static str, PathBuf>;

/// Whether a state can be scored.
fn is_scorable(state: &ScaleState, metric: &MetricSpec) -> bool {
    let has_network = metric.files.iter().any(|file| file.is_required);
    !has_network || u64::from(state.picture.width()) * u64::from(state.picture.height()) <= MOST_PIXELS
}

impl Document {
    /// What a metric says of the states from the photo down to the one at hand: magnification, and the score where there
    /// is one.
    pub fn scores(&self, metric: &MetricSpec) -> Vec<(f64, &Result<f64, String>)> {
        let chain = self.history.chain(self.history.current().id);
        let score = |state: &&ScaleState| Some((state.magnification, self.scores.get(&(state.id, metric.id))?));
        chain.iter().filter_map(score).collect()
    }

    /// Whether the state at hand cannot be scored by a metric for its size.
    pub fn is_too_large_for(&self, metric: &MetricSpec) -> bool {
        !is_scorable(self.history.current(), metric)
    }

    /// The states of these that a metric has not scored yet.
    pub fn unscored(&self, metric: &MetricSpec) -> Vec<&ScaleState> {
        let chain = self.history.chain(self.history.current().id);
        let is_new =
            |state: &&ScaleState| is_scorable(state, metric) && !self.scores.contains_key(&(state.id, metric.id));
        chain.into_iter().filter(is_new).collect()
    }
}

impl Viewer {
    /// Has the chain of the state at hand scored.
    pub(super) fn score_chain(&mut self) {
        let metric = self.state.metric;
        let Some(document) = &self.state.document else { return };
        let Some((_, files)) = self.state.found.metrics.iter().find(|(spec, _)| *spec == metric) else { return };
        let pictures: Vec<_> =
            document.unscored(metric).into_iter().map(|state| (state.id, state.picture.clone())).collect();
        if pictures.is_empty() {
            return;
        }
        self.state.scoring = true;
        self.engine.score(ScoreRequest {
            metric,
            files: files.clone(),
            device: self.state.settings.device,
            document: document.number,
            pictures,
        });
    }

    pub(super) fn take_score(
        &mut self,
        number: u64,
        state: StateId,
        metric: &'static MetricSpec,
        score: Result<f64, String>,
    ) {
        if let Some(document) = self.state.document.as_mut().filter(|document| document.number == number) {
            document.scores.insert((state, metric.id), score);
        }
    }

    pub(super) fn scores_done(&mut self, problem: Option<UserError>) {
        self.state.scoring = false;
        if let Some(problem) = problem {
            self.tell(Message::UserError(problem, Cause::Other));
        }
    }
}
