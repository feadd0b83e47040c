//! The options that say which super-resolution model is used, where its files are and how it is kept in memory, with the
//! reference's names.

use clap::Args;

use super::model_files::BackboneFiles;
use crate::base::{BACKBONES, Backbone, BackboneSpec, MemoryPlan, Precision, UserError};
use crate::hub;
use crate::hub::ModelPaths;

/// The options.
#[derive(Args)]
#[command(next_help_heading = "Diffusion models")]
pub(crate) struct BackboneArguments {
    #[command(flatten)]
    files: BackboneFiles,
    /// Numbers models compute in: auto (bf16 where the files hold 16 bits and the device is fast in it, else fp32), fp32,
    /// fp16 or bf16
    #[arg(long, alias = "mixed_precision", default_value_t = Precision::Auto)]
    mixed_precision: Precision,
    /// Which weights stay in memory: auto, resident (all), staged (not those for text) or streamed (none)
    #[arg(long, default_value_t = MemoryPlan::Auto)]
    memory: MemoryPlan,
    /// The same as --memory staged
    #[arg(long, alias = "efficient_memory", conflicts_with = "memory")]
    efficient_memory: bool,
}

impl BackboneArguments {
    /// The diffusion model of which most files are given, so that it is the model that is meant: the first of those that share them.
    fn meant(&self) -> Option<&'static BackboneSpec> {
        let count = |spec: &&BackboneSpec| self.files.0.count(spec.files);
        BACKBONES.into_iter().rev().filter(|spec| count(spec) > 0).max_by_key(count)
    }

    /// The model asked for by name or file; without one, that of which a file is given, else the command's default.
    pub(crate) fn model(&self, backbone: Option<&str>, default: &str) -> Result<Backbone, UserError> {
        let name = backbone.unwrap_or(self.meant().map_or(default, |spec| spec.id));
        if let Some(spec) = BackboneSpec::named(name).filter(|spec| spec.is_diffusion()) {
            return self.with_files(spec);
        }
        let model = crate::cli::backbone(name)
            .map_err(|details| UserError::new("The model is not clear", details, "See `coz zoom --help`."))?;
        if model.is_diffusion() { self.with_files(model.spec) } else { Ok(model) }
    }

    /// The diffusion model that is meant, Chain-of-Zoom's own where nothing else is said.
    pub(crate) fn diffusion(&self) -> Result<Backbone, UserError> {
        let first = || BACKBONES.iter().copied().find(|spec| spec.is_diffusion());
        let nothing = || UserError::new("The model is not clear", "there is no diffusion model", "");
        self.with_files(self.meant().or_else(first).ok_or_else(nothing)?)
    }

    /// A model with its files, found where they are not given.
    fn with_files(&self, spec: &'static BackboneSpec) -> Result<Backbone, UserError> {
        hub::backbone(spec, &self.files.0.paths(spec.files).or(ModelPaths::of_user()), self.mixed_precision)
    }

    /// The options given for files that this diffusion model does not have.
    pub(crate) fn idle(&self, model: &Backbone) -> Vec<String> {
        if model.is_diffusion() { self.files.0.others(model.spec.files) } else { Vec::new() }
    }

    /// In which numbers models compute.
    pub(crate) fn precision(&self) -> Precision {
        self.mixed_precision
    }

    /// Which weights stay in memory.
    pub(crate) fn memory(&self) -> MemoryPlan {
        if self.efficient_memory { MemoryPlan::Staged } else { self.memory }
    }
}
