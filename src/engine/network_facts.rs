//! What is known of a single-image network before it is used: what lists of models show.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::base::{Backbone, DeviceChoice};
use crate::checkpoint;
use crate::networks::single_image;
use crate::pipelines::PipelineError;
use crate::pipelines::sr::Upscaler;
use crate::runtime::device;
use crate::runtime::weights::Weights;

/// The step whose pace is shown: from so many pixels a side to so many.
const STEP: [u32; 2] = [128, 512];

/// What is known of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkFacts {
    /// As its authors call it.
    pub architecture: String,
    /// How many times larger it makes pictures.
    pub scale: u32,
    /// Bytes of its file.
    pub bytes: u64,
    /// Its terms, where they are known.
    pub licence: Option<String>,
    /// How long a step from 128 x 128 to 512 x 512 takes, in seconds.
    pub step_secs: f64,
}

impl NetworkFacts {
    /// Reads the network and runs it on small pictures, as long as it is of use.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(super) fn measure(
        backbone: &Backbone,
        device: DeviceChoice,
        is_active: &dyn Fn() -> bool,
    ) -> Result<Self, PipelineError> {
        if !is_active() {
            return Err(PipelineError::Cancelled);
        }
        let network = Upscaler::of(backbone, device::resolve(device)?.picture)?;
        network.measure(is_active)?;
        let file = backbone.network_file().map(checkpoint::weights_file);
        Ok(Self {
            architecture: network.architecture().into(),
            scale: network.scale(),
            bytes: file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |file| file.len()),
            licence: file.and_then(|file| checkpoint::licence(&file)),
            step_secs: network.estimate((STEP[0], STEP[0]), STEP[1], true)?.secs,
        })
    }
}

/// Whether a file holds such a network; its numbers are not read.
pub fn is_network(file: &Path) -> bool {
    Weights::open(file).is_ok_and(|weights| single_image::recognised(&weights).next().is_some())
}
