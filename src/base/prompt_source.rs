//! Where prompts come from (the reference's `--prompt_type`). Which sources there are is one table; `pipelines::caption`
//! opens them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::model_files::{Content, FileSpec, ModelFiles, Published};
use super::{BackboneSpec, Precision, ServerEndpoint, model_files};

/// A source of prompts: a row that window, command line, hub and doctor iterate.
#[derive(Debug)]
pub struct PromptSourceSpec {
    /// On the command line, with the reference's name.
    pub id: &'static str,
    /// In sessions and settings; sources that differ by a file share it.
    pub tag: &'static str,
    /// In the window, beside "Prompt from:".
    pub label: &'static str,
    /// In menus and lists.
    pub title: &'static str,
    /// What it is good for.
    pub about: &'static str,
    /// Whether it is asked a question and answers word by word.
    pub is_asked: bool,
    /// What it is made of; the last one required tells it from others of its tag.
    pub files: &'static [FileSpec],
}

const VLM_MODEL: FileSpec = FileSpec {
    role: "model",
    id: "vlm",
    label: "Qwen2.5-VL",
    option: "vlm-path",
    help: "Vision-language model: a folder in the layout of Qwen/Qwen2.5-VL-3B-Instruct, or such a name, which is looked for \
           in the data folder and in the Hugging Face cache [default: Qwen/Qwen2.5-VL-3B-Instruct]",
    is_required: true,
    published: Published::Repository(&["Qwen/Qwen2.5-VL-3B-Instruct"]),
    contents: &[
        Content::File("config.json"),
        Content::File("tokenizer.json"),
        Content::File("preprocessor_config.json"),
        Content::Optional("generation_config.json"),
        Content::Optional("tokenizer_config.json"),
        Content::Optional("processor_config.json"),
        Content::Optional("chat_template.json"),
        Content::Optional("chat_template.jinja"),
        Content::Weights("", "model"),
    ],
};

/// The user's own prompt, or none.
pub static USER: PromptSourceSpec = PromptSourceSpec {
    id: "null",
    tag: "own",
    label: "You",
    title: "Your own prompt",
    about: "Your own prompt, or none",
    is_asked: false,
    files: &[],
};

/// Tags, by RAM with DAPE.
static TAGS: PromptSourceSpec = PromptSourceSpec {
    id: "dape",
    tag: "tags",
    label: "Tags",
    title: "Tags, by RAM with DAPE",
    about: "Tags of the enlarged crop, by RAM with DAPE",
    is_asked: false,
    files: &[
        FileSpec {
            role: "ram",
            id: "ram",
            label: "RAM",
            option: "ram-path",
            help: "The tagger for --prompt-type dape [default: ckpt/RAM/ram_swin_large_14m.pth, here or in the data folder]",
            is_required: true,
            published: Published::Path("RAM/ram_swin_large_14m.pth"),
            contents: &[],
        },
        FileSpec {
            role: "dape",
            id: "dape",
            label: "DAPE",
            option: "ram-ft-path",
            help: "Its LoRA, DAPE [default: ckpt/DAPE/DAPE.pth, here or in the data folder, if there]",
            is_required: false,
            published: Published::Path("DAPE/DAPE.pth"),
            contents: &[],
        },
        FileSpec {
            role: "tags",
            id: "tags",
            label: "Tag list",
            option: "ram-tag-list",
            help: "A tag in each line [default: ram_tag_list.txt beside the tagger, or in data there]",
            is_required: true,
            published: Published::Path("ram/data/ram_tag_list.txt"),
            contents: &[],
        },
        FileSpec {
            role: "thresholds",
            id: "thresholds",
            label: "Thresholds",
            option: "ram-tag-thresholds",
            help: "A probability for each tag [default: ram_tag_list_threshold.txt, as the list]",
            is_required: true,
            published: Published::Path("ram/data/ram_tag_list_threshold.txt"),
            contents: &[],
        },
    ],
};

/// Qwen2.5-VL as published.
static VLM: PromptSourceSpec = PromptSourceSpec {
    id: "vlm_base",
    tag: "vlm",
    label: "VLM",
    title: "Qwen2.5-VL",
    about: "A vision-language model, Qwen2.5-VL, as published; 8 GB in 16 bits, while it is at work",
    is_asked: true,
    files: &[VLM_MODEL],
};

/// The same with Chain-of-Zoom's adapter.
static VLM_TUNED: PromptSourceSpec = PromptSourceSpec {
    id: "vlm",
    tag: "vlm",
    label: "VLM (tuned)",
    title: "Qwen2.5-VL, tuned",
    about: "The same with Chain-of-Zoom's adapter, which was trained for this",
    is_asked: true,
    files: &[
        VLM_MODEL,
        FileSpec {
            role: "adapter",
            id: "adapter",
            label: "Adapter",
            option: "vlm-lora-path",
            help: "Its adapter for --prompt-type vlm [default: ckpt/VLM_LoRA/checkpoint-10000, here or in the data folder]",
            is_required: true,
            published: Published::Path("VLM_LoRA/checkpoint-10000"),
            contents: &[Content::File("adapter_config.json"), Content::Weights("", "adapter_model")],
        },
    ],
};

/// A vision-language model behind an address.
pub static SERVER: PromptSourceSpec = PromptSourceSpec {
    id: "server",
    tag: "server",
    label: "Server",
    title: "A server you run",
    about: "A vision-language model on a server with OpenAI's chat API: Ollama, llama.cpp, LM Studio, vLLM",
    is_asked: true,
    files: &[],
};

/// All sources, in the order in which they are offered.
pub static PROMPT_SOURCES: [&PromptSourceSpec; 5] = [&USER, &TAGS, &VLM, &VLM_TUNED, &SERVER];

impl PromptSourceSpec {
    /// The source of this id.
    pub fn named(id: &str) -> Option<&'static Self> {
        PROMPT_SOURCES.into_iter().find(|spec| spec.id == id)
    }
}

impl PartialEq for PromptSourceSpec {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for PromptSourceSpec {}

/// A source of prompts with its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptSource {
    /// Which.
    pub spec: &'static PromptSourceSpec,
    /// Where its files lie.
    pub files: ModelFiles,
    /// In which numbers it computes.
    pub precision: Precision,
    /// Who is asked, of a server: always this user's own, never what a file says.
    pub server: Option<Box<ServerEndpoint>>,
}

impl From<&'static PromptSourceSpec> for PromptSource {
    /// One without files.
    fn from(spec: &'static PromptSourceSpec) -> Self {
        Self { spec, files: ModelFiles::default(), precision: Precision::default(), server: None }
    }
}

impl Default for PromptSource {
    fn default() -> Self {
        (&USER).into()
    }
}

impl PromptSource {
    /// The same with a file or folder in this role; roles that the kind does not have are ignored.
    pub fn with(mut self, role: &str, path: impl Into<PathBuf>) -> Self {
        if let Some(file) = self.spec.files.iter().find(|file| file.role == role) {
            self.files.set(file, path.into());
        }
        self
    }

    /// The same, asked there where it is a server.
    pub fn asked_at(self, endpoint: ServerEndpoint) -> Self {
        Self { server: self.is_server().then(|| Box::new(endpoint)), ..self }
    }

    /// Whether pictures go to a server.
    pub fn is_server(&self) -> bool {
        *self.spec == SERVER
    }

    /// Whether no model is asked.
    pub fn is_user(&self) -> bool {
        *self.spec == USER
    }

    /// The file or folder it is known by; `None` for what has none.
    pub fn main_file(&self) -> Option<&Path> {
        self.files.get(self.spec.distinct_file()?.role)
    }
}

impl PromptSourceSpec {
    /// The file by which people know it: the adapter of a tuned model, else the model.
    pub fn distinct_file(&self) -> Option<&'static FileSpec> {
        if self.is_asked { self.files.last() } else { self.files.first() }
    }
}

impl Serialize for PromptSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        model_files::serialize(self.spec.tag, self.spec.files, &self.files, self.precision, serializer)
    }
}

impl<'de> Deserialize<'de> for PromptSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = model_files::Read::from(deserializer)?;
        let same = PROMPT_SOURCES.iter().filter(|spec| spec.tag == read.id);
        // Of those that share a tag the one with the most files that are named.
        let spec = same.clone().rev().find(|spec| read.is_whole(spec.files)).or_else(|| same.clone().next());
        let spec = spec.ok_or_else(|| serde::de::Error::custom(format!("there is no prompt source {:?}", read.id)))?;
        let (files, precision) = read.files(spec.files).map_err(serde::de::Error::custom)?;
        Ok(Self { spec, files, precision, server: None })
    }
}

/// How a vision-language model is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct CaptionRequest {
    /// What is asked, instead of what the reference asks.
    pub message: Option<String>,
    /// The parent state is shown too (`recursive_multiscale`).
    pub include_parent: bool,
    /// The answer is cut off there.
    pub max_new_tokens: usize,
    /// 0: always the likeliest word.
    pub temperature: f64,
    /// Of the draws, where there is a temperature.
    pub seed: u64,
}

impl Default for CaptionRequest {
    fn default() -> Self {
        Self { message: None, include_parent: false, max_new_tokens: 32, temperature: 0.0, seed: 0 }
    }
}

impl CaptionRequest {
    /// What is asked where nothing else is said (`inference_coz.py`, `get_validation_prompt`).
    pub fn default_message(include_parent: bool) -> &'static str {
        match include_parent {
            false => "What is in this image? Give me a set of words.",
            true => {
                "The second image is a zoom-in of the first image. Based on this knowledge, what is in the second image? \
                 Give me a set of words."
            }
        }
    }

    /// What is asked.
    pub fn question(&self) -> &str {
        self.message.as_deref().unwrap_or(Self::default_message(self.include_parent))
    }
}

/// Share of captioning that is done when the images are encoded, about.
pub const ENCODED: f32 = 0.2;

/// The prompt that was extracted and the user's own, as the reference of the model joins them.
pub fn joined(extracted: &str, own: &str, backbone: &BackboneSpec) -> String {
    match own.is_empty() && !backbone.joins_empty_prompt {
        true => extracted.to_owned(),
        false => format!("{extracted}, {own},"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_written_as_ever_and_read_again() {
        for (text, id) in [
            (r#""own""#, "null"),
            (r#""server""#, "server"),
            (r#"{"vlm":{"model":"/m","precision":"auto"}}"#, "vlm_base"),
            (r#"{"vlm":{"adapter":"/a","model":"/m","precision":"fp32"}}"#, "vlm"),
            (r#"{"tags":{"dape":null,"precision":"auto","ram":"/r","tags":"/t","thresholds":"/h"}}"#, "dape"),
        ] {
            let source: PromptSource = serde_json::from_str(text).expect(text);
            assert_eq!(source.spec.id, id);
            assert_eq!(serde_json::to_string(&source).expect("it is plain data"), text);
        }
        let old = r#"{"vlm":{"model":"/m","adapter":null,"precision":"auto"}}"#;
        let source: PromptSource = serde_json::from_str(old).expect("as programs wrote it before");
        assert_eq!(source.spec, &VLM);
    }

    #[test]
    fn a_file_says_nothing_of_a_server_but_that_one_is_asked() {
        let address = "https://example.org/v1".parse().expect("it is one");
        let endpoint = ServerEndpoint { address, ..ServerEndpoint::default() };
        let source = PromptSource::from(&SERVER).asked_at(endpoint.clone());
        assert_eq!(source.server.as_deref(), Some(&endpoint));
        let text = serde_json::to_string(&source).expect("it is plain data");
        assert_eq!(text, r#""server""#);
        assert_eq!(serde_json::from_str::<PromptSource>(&text).expect("it was written so").server, None);
        for text in [r#"{"server":"https://example.org/v1"}"#, r#"{"server":{"address":"https://example.org/v1"}}"#] {
            let read = serde_json::from_str::<PromptSource>(text);
            assert!(read.is_err() || read.is_ok_and(|source| source.server.is_none()), "{text}");
        }
        assert_eq!(PromptSource::from(&USER).asked_at(endpoint).server, None);
    }
}
