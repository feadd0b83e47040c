//! The options that say where a step's prompt comes from, with the reference's names.

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use super::model_files::PromptSourceFiles;
use crate::base::{
    CaptionRequest, PROMPT_SOURCES, Precision, PromptSource, PromptSourceSpec, ServerEndpoint, USER, UserError,
};
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
    /// The server for --prompt-type server, up to and with /v1 [default: OPENAI_BASE_URL, else what was entered in the
    /// window, else Ollama on this machine]. Its key is what was entered for it there, else OPENAI_API_KEY where
    /// OPENAI_BASE_URL names it too or it is on this machine
    // Not parsed by clap, which would print what it holds.
    #[arg(long, alias = "prompt_server", value_name = "URL")]
    prompt_server: Option<String>,
    /// The model that is asked there [default: OPENAI_MODEL with OPENAI_BASE_URL, else the first that the server names]
    #[arg(long, alias = "prompt_server_model", value_name = "NAME")]
    prompt_server_model: Option<String>,
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
    /// Where pictures leave this machine, that is told.
    pub(crate) fn prompt_source(&self, precision: Precision, include_parent: bool) -> Result<PromptSource, UserError> {
        let paths = self.files.0.paths(self.prompt_type.files).or(ModelPaths::of_user());
        let source = hub::prompt_source(self.prompt_type, &paths, precision)?;
        if !source.is_server() {
            return Ok(source);
        }
        let server = self.server()?;
        if let Some(notice) = server.notice(include_parent) {
            eprintln!("{notice}");
        }
        Ok(source.asked_at(server))
    }

    /// The server that is asked.
    fn server(&self) -> Result<ServerEndpoint, UserError> {
        let mut server = match &self.prompt_server {
            Some(address) => {
                let wrong = |details| UserError::new("--prompt-server is no address", details, "Correct it.");
                hub::server_at(address.parse().map_err(wrong)?)
            }
            None => hub::server_of_environment()?.unwrap_or_else(hub::server_of_user),
        };
        if let Some(model) = &self.prompt_server_model {
            server.model.clone_from(model);
        }
        Ok(server)
    }

    /// How it is asked; `include_parent`: about the parent state too. `tokens`: where their number is not given.
    pub(crate) fn request(&self, include_parent: bool, tokens: u32) -> CaptionRequest {
        let max_new_tokens = self.max_new_tokens.unwrap_or(tokens) as usize;
        CaptionRequest { include_parent, max_new_tokens, ..CaptionRequest::default() }
    }
}
