//! Scores of states, asked for in the window.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::message::Event;
use super::outbox::Outbox;
use crate::base::{DeviceChoice, MetricSpec, Ticket};
use crate::document::{CachedPicture, StateId};
use crate::evaluate::{EvaluateError, metrics};
use crate::pipelines::PipelineError;
use crate::runtime::{allocator, device};

/// States to be scored.
#[derive(Clone, Debug)]
pub struct ScoreRequest {
    /// By this.
    pub metric: &'static MetricSpec,
    /// Its weights.
    pub files: BTreeMap<&'static str, PathBuf>,
    /// Where it runs.
    pub device: DeviceChoice,
    /// Whose states they are; each score repeats it.
    pub document: u64,
    /// The states.
    pub pictures: Vec<(StateId, CachedPicture)>,
}

/// Scores one after another, as long as it is wanted.
pub(super) fn score(request: &ScoreRequest, ticket: &Ticket, outbox: &Outbox) -> Result<(), EvaluateError> {
    if ticket.cancel.is_cancelled() {
        return Ok(());
    }
    let device = device::resolve(request.device).map_err(PipelineError::from)?.picture;
    let metric = metrics::open(request.metric, &request.files, device)?;
    for (state, picture) in &request.pictures {
        if ticket.cancel.is_cancelled() {
            break;
        }
        let score = match picture.load() {
            Ok(picture) => metric.score(&picture, None)?,
            Err(error) => Err(error.to_string()),
        };
        outbox.send(Event::Scored { document: request.document, state: *state, metric: request.metric, score });
    }
    allocator::trim();
    Ok(())
}
