//! The hub itself: which files a repository has, and their bytes from anywhere on.

use std::io::Read;
use std::path::{Component, Path};
use std::time::Duration;

use hf_hub::Cache;
use hf_hub::api::sync::{Api, ApiBuilder};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

use super::error::HubError;
use super::parts::Repository;
use super::store::Hash;

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

/// A repository as it is now.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Which state of it.
    pub commit: String,
    /// All its files.
    pub files: Vec<RemoteFile>,
}

/// A way to the hub.
pub struct Remote {
    api: Api,
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
    let told = |variable: &str| std::env::var(variable).ok().filter(|value| !value.trim().is_empty());
    let saved = |file: std::path::PathBuf| std::fs::read_to_string(file).ok();
    let token = told("HF_TOKEN")
        .or_else(|| saved(told("HF_TOKEN_PATH")?.into()))
        .or_else(|| saved(super::home()?.join("token")))?;
    Some(token.trim().to_owned()).filter(|token| !token.is_empty())
}

impl Remote {
    /// By the usual settings: `HF_ENDPOINT`, `HF_TOKEN` or the saved token, the system's proxy.
    pub fn of_user(patience: Patience) -> Result<Self, HubError> {
        let failed = |error: hf_hub::api::sync::ApiError| HubError::Unreachable {
            url: "the hub".into(),
            details: error.to_string(),
        };
        let token = token();
        let cache = Cache::new(super::cache().ok_or(HubError::NoPlace)?);
        let mut builder = ApiBuilder::from_cache(cache).with_token(token.clone());
        if let Some(endpoint) = std::env::var("HF_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty()) {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // The token is for the hub, not for the hosts it sends us to.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(patience.connection))
            .timeout_recv_response(Some(patience.connection))
            .timeout_recv_body(Some(patience.connection))
            .build();
        Ok(Self { api: builder.build().map_err(failed)?, agent: config.into(), token, patience })
    }

    /// The repository's files.
    pub fn list(&self, repository: &Repository) -> Result<Listing, HubError> {
        let request = self.api.repo(repository.at(None)).info_request().query("blobs", "true");
        let url = request.uri_ref().map(ToString::to_string).unwrap_or_default();
        let mut response = request
            .config()
            .http_status_as_error(false)
            .timeout_global(Some(self.patience.connection))
            .build()
            .call()
            .map_err(|error| unreachable(&url, error))?;
        self.check(&url, *repository, &response)?;
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
    pub fn url(&self, repository: Repository, commit: &str, file: &RemoteFile) -> String {
        const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_').remove(b'/');
        self.api.repo(repository.at(Some(commit))).url(&utf8_percent_encode(&file.name, PLAIN).to_string())
    }

    /// A file's bytes from `start` on, and where they really start.
    pub fn bytes(&self, url: &str, repository: Repository, start: u64) -> Result<(u64, impl Read + use<>), HubError> {
        let mut request = self.agent.get(url).header(header::ACCEPT_ENCODING, "identity");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
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
