//! The options that say where a step's prompt comes from, with the reference's names.

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use super::model_files::PromptSourceFiles;
use crate::base::{CaptionRequest, PROMPT_SOURCES, Precision, PromptSource, PromptSourceSpec, USER, UserError};
use crate::hub;
use crate::hub::ModelPaths;

/// The options.
#[derive(Args)]
#[command(next_help_heading = "Prompt")]
pub(crate) struct PromptArguments {
    /// Where the prompt comes from
    #[arg(long, alias = "prompt_type", value_parser = prompt_type(), default_value = USER.id)]
    prompt_type: &'static PromptSourceSpec,
    /// Your own prompt for every step, added to what is extracted
    #[arg(long, default_value = "")]
    pub prompt: String,
    #[command(flatten)]
    files: PromptSourceFiles,
    /// A vision-language model's answer is cut off after so many tokens [default: 32; for a tile of a full image 16]
    #[arg(long, alias = "max_new_tokens", value_parser = clap::value_parser!(u32).range(1..=4096))]
    max_new_tokens: Option<u32>,
}

fn prompt_type() -> impl TypedValueParser<Value = &'static PromptSourceSpec> {
    let values = PROMPT_SOURCES.map(|spec| PossibleValue::new(spec.id).help(spec.about));
    PossibleValuesParser::new(values)
        .try_map(|id| PromptSourceSpec::named(&id).ok_or_else(|| format!("there is no prompt source {id:?}")))
}

impl PromptArguments {
    /// The source of prompts. Its files are found where they are not given: first where the viewer's user has said.
    pub(crate) fn prompt_source(&self, precision: Precision) -> Result<PromptSource, UserError> {
        hub::prompt_source(
            self.prompt_type,
            &self.files.0.paths(self.prompt_type.files).or(ModelPaths::of_user()),
            precision,
        )
    }

    /// How it is asked; `include_parent`: about the parent state too. `tokens`: where their number is not given.
    pub(crate) fn request(&self, include_parent: bool, tokens: u32) -> CaptionRequest {
        let max_new_tokens = self.max_new_tokens.unwrap_or(tokens) as usize;
        CaptionRequest { include_parent, max_new_tokens, ..CaptionRequest::default() }
    }
}
