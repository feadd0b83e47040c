//! What there is on this machine of the models that consist of several files, and of all that can be downloaded.

use std::path::{Path, PathBuf};

use super::scores::Files;
use crate::base::{
    BACKBONES, Backbone, BackboneSpec, METRICS, MetricSpec, PROMPT_SOURCES, Precision, PromptSourceSpec, UserError,
};
use crate::hub;
use crate::hub::{ASSETS, Found, ModelAsset, ModelPaths};

/// All of it, as of the last look; empty until then.
#[derive(Debug, Default)]
pub struct FoundModels {
    /// The diffusion models, and what of each is on the disk.
    pub diffusion: Vec<(&'static BackboneSpec, FoundBackbone)>,
    /// The sources of prompts, and where each is or what is missing.
    pub prompt_models: Vec<(&'static PromptSourceSpec, Result<PathBuf, UserError>)>,
    /// The metrics that can be computed here, with where their weights lie.
    pub metrics: Vec<(&'static MetricSpec, Files)>,
    /// All that can be downloaded, and what of it is there.
    pub assets: Vec<(&'static ModelAsset, Found)>,
}

/// What was found of a diffusion model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundBackbone {
    /// Nothing; where it was looked for.
    Nothing(UserError),
    /// Some of it: what is missing.
    Incomplete(Backbone, Vec<PathBuf>),
    /// All that is needed.
    Whole(Backbone),
}

impl FoundModels {
    /// Looks for files that are chosen, and for the others wherever they may be. Those of the backbone in use come before what is
    /// chosen for others.
    pub(super) fn look(chosen: &ModelPaths, backbone: &Backbone) -> Self {
        let explicit = chosen.clone().with_files_of(backbone);
        let diffusion = BACKBONES.into_iter().filter(|spec| spec.is_diffusion());
        let with_models = PROMPT_SOURCES.into_iter().filter(|spec| !spec.files.is_empty());
        let prompt_model = |spec| {
            let source = hub::prompt_source(spec, chosen, Precision::Auto)?;
            Ok(source.main_file().map(Path::to_owned).unwrap_or_default())
        };
        let alone = METRICS.iter().filter(|spec| !spec.needs_reference);
        let with_files = alone.map(|spec| (spec, hub::metric_files(spec, None)));
        Self {
            diffusion: diffusion.map(|spec| (spec, FoundBackbone::look(spec, &explicit))).collect(),
            prompt_models: with_models.map(|spec| (spec, prompt_model(spec))).collect(),
            metrics: with_files
                .filter_map(|(spec, (files, missing))| missing.is_empty().then_some((spec, files)))
                .collect(),
            assets: ASSETS.iter().map(|asset| (asset, asset.found(&explicit))).collect(),
        }
    }
}

impl FoundBackbone {
    fn look(spec: &'static BackboneSpec, explicit: &ModelPaths) -> Self {
        match hub::backbone(spec, explicit, Precision::Auto) {
            Err(problem) => Self::Nothing(problem),
            Ok(backbone) => match hub::missing(&backbone) {
                missing if missing.is_empty() => Self::Whole(backbone),
                missing => Self::Incomplete(backbone, missing),
            },
        }
    }
}
