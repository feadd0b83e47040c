//! The hub itself: which files a repository has, and their bytes from anywhere on.

use std::io::Read;
use std::path::{Component, Path};
use std::time::Duration;

use serde::Deserialize;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, StatusCode, header};
use ureq::typestate::WithoutBody;
use ureq::{Agent, Body, RequestBuilder};

use super::error::HubError;
use super::hash::Hash;
use super::repository::{RemoteFile, Repository};
use crate::base::hub_cache;

/// How long the hub is waited for, and how often it is asked again.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// A connection lasts no longer than this; what came is kept and the next one goes on from there.
    pub connection: Duration,
    /// Tries in a row that bring nothing.
    pub tries: u32,
    /// Between the first two of these; twice as long with each.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { connection: Duration::from_secs(30), tries: 6, pause: Duration::from_secs(1) }
    }
}

/// A repository as it is now.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    /// Which state of it.
    pub commit: String,
    /// All its files.
    pub files: Vec<RemoteFile>,
}

/// A way to the hub.
pub(super) struct Remote {
    endpoint: String,
    agent: Agent,
    token: Option<String>,
    patience: Patience,
}

/// What the hub says of a repository (`api/models/ID?blobs=true`).
#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

/// The user's token, where the hub's own programs have it.
fn token() -> Option<String> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let saved = |file: std::path::PathBuf| std::fs::read_to_string(file).ok();
    let token = variable("HF_TOKEN")
        .or_else(|| saved(variable("HF_TOKEN_PATH")?.into()))
        .or_else(|| saved(hub_cache::home()?.join("token")))?;
    Some(token.trim().to_owned()).filter(|token| !token.is_empty())
}

impl Remote {
    /// By the usual settings: `HF_ENDPOINT`, `HF_TOKEN` or the saved token, the system's proxy.
    pub(super) fn of_user(patience: Patience) -> Result<Self, HubError> {
        let token = token();
        let endpoint = std::env::var("HF_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty());
        let endpoint = endpoint.unwrap_or_else(|| "https://huggingface.co".into()).trim_end_matches('/').to_owned();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // The token is for the hub, not for the hosts it sends us to.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(patience.connection))
            .timeout_recv_response(Some(patience.connection))
            .timeout_recv_body(Some(patience.connection))
            .build();
        Ok(Self { endpoint, agent: config.into(), token, patience })
    }

    /// A request with the user's token.
    fn get(&self, url: &str) -> RequestBuilder<WithoutBody> {
        let request = self.agent.get(url);
        match &self.token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    /// The repository's files.
    pub(super) fn list(&self, repository: Repository) -> Result<Listing, HubError> {
        let url = repository.info_url(&self.endpoint);
        let request = self.get(&url).config().timeout_global(Some(self.patience.connection)).build();
        let mut response = request.call().map_err(|error| unreachable(&url, error))?;
        self.check(&url, repository, &response)?;
        let info: Info = response
            .body_mut()
            .with_config()
            .limit(64 << 20)
            .read_json()
            .map_err(|error| HubError::Nonsense { url: url.clone(), found: error.to_string() })?;
        let nonsense = |found: String| HubError::Nonsense { url: url.clone(), found };
        if !matches!(Hash::named(&info.sha), Some(Hash::Git(_))) {
            return Err(nonsense(format!("{:?} is no commit", info.sha)));
        }
        let file = |sibling: Sibling| {
            let (size, hash) = match sibling.lfs {
                Some(lfs) => (Some(lfs.size), Hash::named(&lfs.sha256)),
                None => (sibling.size, sibling.blob.as_deref().and_then(Hash::named)),
            };
            let is_plain = Path::new(&sibling.rfilename).components().all(|part| matches!(part, Component::Normal(_)));
            // What leads elsewhere, or cannot be checked, is as if it were not there.
            let (size, hash) = (size?, hash?);
            (is_plain && !sibling.rfilename.contains('\\')).then_some(RemoteFile {
                name: sibling.rfilename,
                size,
                hash,
            })
        };
        Ok(Listing { commit: info.sha, files: info.siblings.into_iter().filter_map(file).collect() })
    }

    /// Where a file's bytes are.
    pub(super) fn url(&self, repository: Repository, commit: &str, file: &RemoteFile) -> Result<String, HubError> {
        repository.file_url(&self.endpoint, commit, &file.name).map_err(|error| HubError::Unreachable {
            url: self.endpoint.clone(),
            details: format!("HF_ENDPOINT is no address: {error}"),
        })
    }

    /// A file's bytes from `start` on, and where they really start.
    pub(super) fn bytes(
        &self,
        url: &str,
        repository: Repository,
        start: u64,
    ) -> Result<(u64, impl Read + use<>), HubError> {
        let mut request = self.get(url).header(header::ACCEPT_ENCODING, "identity");
        if start > 0 {
            request = request.header(header::RANGE, format!("bytes={start}-"));
        }
        let response = request.call().map_err(|error| unreachable(url, error))?;
        self.check(url, repository, &response)?;
        let start = if response.status() == StatusCode::PARTIAL_CONTENT { start } else { 0 };
        Ok((start, response.into_body().into_reader()))
    }

    fn check(&self, url: &str, repository: Repository, response: &Response<Body>) -> Result<(), HubError> {
        match response.status().as_u16() {
            200..=299 => Ok(()),
            status @ (401 | 403)
                if response.headers().get("x-error-code").is_none_or(|code| code != "RepoNotFound") =>
            {
                Err(HubError::Gated { page: repository.page(), status, has_token: self.token.is_some() })
            }
            status => Err(HubError::Status { url: url.to_owned(), status }),
        }
    }
}

fn unreachable(url: &str, error: ureq::Error) -> HubError {
    HubError::Unreachable { url: url.to_owned(), details: error.to_string() }
}
