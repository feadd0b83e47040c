//! Repositories of the Hugging Face hub: their addresses, their folders in its cache, their files.

use url::Url;

use super::hash::Hash;

/// Where the files of Chain-of-Zoom's own training are published with its demonstration.
pub(super) const TRAINED: Repository = Repository { id: "alexnasa/Chain-of-Zoom", is_space: true };
/// Where RAM is published.
pub(super) const RAM: Repository = Repository { id: "xinyu1205/recognize-anything", is_space: true };
/// Where Real-ESRGAN's network is mirrored, for machines without pip.
pub(super) const REAL_ESRGAN: Repository = Repository { id: "lllyasviel/Annotators", is_space: false };

/// A repository on the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repository {
    /// `owner/name`.
    pub id: &'static str,
    /// A demonstration rather than a model.
    pub is_space: bool,
}

impl Repository {
    fn kind(self) -> &'static str {
        if self.is_space { "spaces" } else { "models" }
    }

    /// Its folder in the cache.
    pub fn folder_name(self) -> String {
        format!("{}--{}", self.kind(), self.id.replace('/', "--"))
    }

    fn path(self) -> String {
        if self.is_space { format!("spaces/{}", self.id) } else { self.id.to_owned() }
    }

    /// The page where a person reads about it.
    pub fn page(self) -> String {
        format!("https://huggingface.co/{}", self.path())
    }

    /// Where the hub tells of its newest files.
    pub(super) fn info_url(self, endpoint: &str) -> String {
        format!("{endpoint}/api/{}/{}/revision/main?blobs=true", self.kind(), self.id)
    }

    /// Where a file's bytes are.
    pub(super) fn file_url(self, endpoint: &str, commit: &str, name: &str) -> Result<String, url::ParseError> {
        let mut url = Url::parse(&format!("{endpoint}/{}/resolve/{commit}", self.path()))?;
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(name.split('/'));
        }
        Ok(url.into())
    }
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its path there.
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// Of its bytes.
    pub hash: Hash,
}
