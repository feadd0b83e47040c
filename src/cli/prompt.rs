//! The options that say where a step's words come from, with the reference's names.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::hub;
use crate::problem::Problem;
use crate::prompt::{Asking, Extractor, ExtractorKind, Places};
use crate::settings::Settings;
use crate::step::Precision;

#[derive(Args)]
#[command(next_help_heading = "Words")]
pub struct PromptArguments {
    /// Where the words come from
    #[arg(long, alias = "prompt_type", value_enum, default_value_t = PromptType::Null)]
    prompt_type: PromptType,
    /// Your own words for every step, added to those that are found
    #[arg(long, default_value = "")]
    pub prompt: String,
    /// Vision-language model: a folder in the layout of Qwen/Qwen2.5-VL-3B-Instruct, or such a name, which is looked for
    /// in the data folder and in the Hugging Face cache [default: Qwen/Qwen2.5-VL-3B-Instruct]
    #[arg(long, alias = "vlm_path", value_name = "FOLDER OR NAME")]
    vlm_path: Option<PathBuf>,
    /// Its adapter for --prompt-type vlm [default: ckpt/VLM_LoRA/checkpoint-10000, here or in the data folder]
    #[arg(long, alias = "vlm_lora_path", value_name = "FOLDER")]
    vlm_lora_path: Option<PathBuf>,
    /// Its answer is cut off after so many tokens [default: 32; for a tile of a whole picture 16]
    #[arg(long, alias = "max_new_tokens", value_parser = clap::value_parser!(u32).range(1..=4096))]
    max_new_tokens: Option<u32>,
    /// The tagger for --prompt-type dape [default: ckpt/RAM/ram_swin_large_14m.pth, here or in the data folder]
    #[arg(long, alias = "ram_path", value_name = "FILE")]
    ram_path: Option<PathBuf>,
    /// Its changes by DAPE [default: ckpt/DAPE/DAPE.pth, here or in the data folder, if there]
    #[arg(long, alias = "ram_ft_path", value_name = "FILE")]
    ram_ft_path: Option<PathBuf>,
    /// A tag in each line [default: ram_tag_list.txt beside the tagger, or in data there]
    #[arg(long, alias = "ram_tag_list", value_name = "FILE")]
    ram_tag_list: Option<PathBuf>,
    /// A probability for each tag [default: ram_tag_list_threshold.txt, as the list]
    #[arg(long, alias = "ram_tag_thresholds", value_name = "FILE")]
    ram_tag_thresholds: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum PromptType {
    /// Your own words, or none
    Null,
    /// Tags of the enlarged crop, by RAM with DAPE
    Dape,
    /// A vision-language model, Qwen2.5-VL, as published
    VlmBase,
    /// The same with Chain-of-Zoom's adapter
    Vlm,
}

impl From<PromptType> for ExtractorKind {
    fn from(prompt_type: PromptType) -> Self {
        match prompt_type {
            PromptType::Null => Self::Own,
            PromptType::Dape => Self::Tags,
            PromptType::VlmBase => Self::Vlm,
            PromptType::Vlm => Self::Tuned,
        }
    }
}

impl PromptArguments {
    /// What finds the words. Its files are found where they are not told: first where the viewer was told that they are.
    pub fn extractor(&self, precision: Precision) -> Result<Extractor, Problem> {
        let known = Settings::load().0.places;
        let told = Places {
            vlm: self.vlm_path.clone().or(known.vlm),
            adapter: self.vlm_lora_path.clone().or(known.adapter),
            ram: self.ram_path.clone().or(known.ram),
            dape: self.ram_ft_path.clone().or(known.dape),
            tags: self.ram_tag_list.clone().or(known.tags),
            thresholds: self.ram_tag_thresholds.clone().or(known.thresholds),
        };
        hub::extractor(self.prompt_type.into(), &told, precision)
    }

    /// How it is asked; `both`: about the state before too. `tokens`: where their number is not told.
    pub fn asking(&self, both: bool, tokens: u32) -> Asking {
        Asking { both, max_new_tokens: self.max_new_tokens.unwrap_or(tokens) as usize, ..Asking::default() }
    }
}
