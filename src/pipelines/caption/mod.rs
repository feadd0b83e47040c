//! Captioners: models that write the prompt for a step. A new one is a file here, a line in `REGISTRY` and a row of
//! [`PROMPT_SOURCES`](crate::base::PROMPT_SOURCES).

pub mod server;
pub mod tags;
pub mod vlm;

use std::sync::Arc;

use server::Server;
use tags::Tagger;
use tch::Device;
use vlm::Vlm;

use super::PipelineError;
use crate::base::{CaptionRequest, DeviceChoice, MemoryPlan, Progress, PromptSource};
use crate::imaging::Picture;
use crate::runtime::device;

/// What a captioner may look at.
#[derive(Clone, Debug)]
pub struct CaptionInput {
    /// The state the region is cut from (x_{i-1} of the paper).
    pub parent: Arc<Picture>,
    /// The region, enlarged to the working size by bicubic.
    pub enlarged: Arc<Picture>,
    /// For those that are asked.
    pub request: CaptionRequest,
}

impl CaptionInput {
    /// What a vision-language model is shown, in this order.
    pub(in crate::pipelines) fn pictures(&self) -> Vec<Arc<Picture>> {
        match self.request.include_parent {
            true => vec![self.parent.clone(), self.enlarged.clone()],
            false => vec![self.enlarged.clone()],
        }
    }
}

/// Writes the prompt for a region. Lives on the engine's thread.
pub trait Captioner: Send {
    /// The prompt for this region; `on_text` is called with all that is written so far, again and again.
    ///
    /// # Errors
    /// [`PipelineError::Cancelled`] where `progress` says so, which is asked often.
    fn caption(
        &mut self,
        input: &CaptionInput,
        progress: &mut Progress,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<String, PipelineError>;

    /// Bytes of its weights in memory.
    fn bytes(&self) -> u64;

    /// Follows this plan from now on.
    fn set_plan(&mut self, plan: MemoryPlan);

    /// Bytes of its weights that are in memory now.
    fn bytes_loaded(&self) -> u64;

    /// Bytes that the next prompt will take beside what is in memory: weights, and what they compute with.
    fn bytes_to_load(&self) -> u64;

    /// Makes room for so many bytes of other models, unless its plan is to stay or they fit beside it.
    fn offload(&mut self, needed: u64);
}

type Open = fn(&PromptSource, Device) -> Result<Box<dyn Captioner>, PipelineError>;

/// What opens each of [`PROMPT_SOURCES`](crate::base::PROMPT_SOURCES), by id; the user's own prompt needs nothing.
const REGISTRY: [(&str, Option<Open>); 5] = [
    ("null", None),
    ("dape", Some(|source, device| Ok(Box::new(Tagger::open(source, device)?)))),
    ("vlm_base", Some(|source, device| Ok(Box::new(Vlm::open(source, device)?)))),
    ("vlm", Some(|source, device| Ok(Box::new(Vlm::open(source, device)?)))),
    ("server", Some(|source, _| Ok(Box::new(Server::open(source)?)))),
];

/// Opens a captioner; `None` where the prompt is the user's own. Weights are read with the first picture.
pub fn open(source: &PromptSource, device: DeviceChoice) -> Result<Option<Box<dyn Captioner>>, PipelineError> {
    let device = device::resolve(device)?.text;
    let open = REGISTRY.iter().find(|(id, _)| *id == source.spec.id).map(|(_, open)| open);
    let unknown = || PipelineError::Internal(format!("nothing opens a prompt source {}", source.spec.id));
    open.ok_or_else(unknown)?.map(|open| open(source, device)).transpose()
}

/// A file of the source, which the spec requires.
fn required<'a>(source: &'a PromptSource, role: &str) -> Result<&'a std::path::Path, PipelineError> {
    let missing = || PipelineError::Internal(format!("{} was chosen without its {role}", source.spec.id));
    source.files.get(role).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::REGISTRY;
    use crate::base::PROMPT_SOURCES;

    #[test]
    fn every_prompt_source_is_opened_by_something() {
        let (mut known, mut opened) = (PROMPT_SOURCES.map(|spec| spec.id), REGISTRY.map(|(id, _)| id));
        known.sort_unstable();
        opened.sort_unstable();
        assert_eq!(known, opened);
    }
}
