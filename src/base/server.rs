//! A server that people run already and that speaks OpenAI's chat API: where it is, which model is asked there, and its
//! key. All of it is the user's own; of a session or a picture it is no part.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::{Host, Url};

/// Where Ollama listens, which most people have who have one.
const USUAL: &str = "http://127.0.0.1:11434/v1";

/// An address up to and with `/v1`, in the one way that browsers would write it.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerAddress(Url);

impl ServerAddress {
    /// Without a slash at its end.
    pub fn as_str(&self) -> &str {
        self.0.as_str().trim_end_matches('/')
    }

    /// The machine.
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    /// Whether it is this machine, whatever its name server says.
    pub fn is_loopback(&self) -> bool {
        match self.0.host() {
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        }
    }

    /// Whether nobody on the way can read along.
    pub fn is_encrypted(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Whether a key that one was given may go to the other.
    pub fn is_same_server(&self, other: &Self) -> bool {
        self.0.origin() == other.0.origin()
    }

    /// Another address as this one's answers name it, without what may be secret in it.
    pub fn named(&self, location: &str) -> String {
        let Ok(mut url) = Url::options().base_url(Some(&self.0)).parse(location) else { return "nowhere".into() };
        url.set_query(None);
        url.set_fragment(None);
        // Only of addresses without a host, which have none of these.
        _ = url.set_username("").and_then(|()| url.set_password(None));
        url.into()
    }
}

impl FromStr for ServerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let expected = || match text.contains('@') {
            true => format!("expected an address such as {USUAL}, without a user's name or password"),
            false => format!("expected an address such as {USUAL}, found {text:?}"),
        };
        if !text.starts_with("http://") && !text.starts_with("https://") {
            return Err(expected());
        }
        let mut url = Url::parse(text).map_err(|error| format!("{}: {error}", expected()))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the address holds a user's name or password: a key is given apart from it".into());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("the address holds more than a path: a key is given apart from it".into());
        }
        // As it stands in examples of others.
        let path = url.path().trim_end_matches('/').trim_end_matches("/chat/completions").to_owned();
        url.set_path(&path);
        Ok(Self(url))
    }
}

impl Default for ServerAddress {
    #[expect(clippy::expect_used, reason = "a test reads it")]
    fn default() -> Self {
        USUAL.parse().expect("it is an address")
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl Serialize for ServerAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ServerAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What opens a server. Nothing prints or writes it by accident: it has no `Display` and is not serialized.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ServerKey(String);

impl ServerKey {
    /// Without the white space that copying brings along.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// `OPENAI_API_KEY`; empty where it is not set.
    pub fn of_environment() -> Self {
        Self::new(&std::env::var("OPENAI_API_KEY").unwrap_or_default())
    }

    /// The key itself: for the server, and for the file it is kept in.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "no key" } else { "a key" })
    }
}

/// Who is asked. The key is in no file that this is written to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerEndpoint {
    /// The server.
    pub address: ServerAddress,
    /// The model there; empty: the first that it names.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// May be empty.
    #[serde(skip)]
    pub key: ServerKey,
}

impl ServerEndpoint {
    /// What leaves this machine and where to, in plain words; `None` where nothing does. `include_parent`: the parent
    /// state is shown too.
    pub fn notice(&self, include_parent: bool) -> Option<String> {
        let what =
            if include_parent { "The box, the state around it and the question" } else { "The box and its question" };
        if self.address.is_loopback() {
            let passed_on = format!("{what} leave this machine: the server passes {} on to the cloud.", self.model);
            return is_in_the_cloud(&self.model).then_some(passed_on);
        }
        let open = match self.address.is_encrypted() {
            true => "",
            false => " The connection is not encrypted: others on the way can read along.",
        };
        Some(format!("{what} are sent to {}.{open}", self.address.host()))
    }
}

/// Whether a model's name says that a server on this machine only passes questions on (Ollama's `...-cloud`).
pub fn is_in_the_cloud(model: &str) -> bool {
    model.ends_with("-cloud") || model.ends_with(":cloud")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> ServerAddress {
        text.parse().expect(text)
    }

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, expected) in [
            ("http://127.0.0.1:11434/v1/", USUAL),
            (" http://127.1:11434/v1\n", USUAL),
            ("http://127.0.0.1:11434/v1/chat/completions", USUAL),
            ("https://EXAMPLE.org/v1", "https://example.org/v1"),
            ("http://[::1]:8080", "http://[::1]:8080"),
        ] {
            assert_eq!(address(text).as_str(), expected);
        }
        let with_secrets =
            ["http://me:secret@x/v1", "ftp://me:secret@x", "http://me:secret@x:99999", "https://x/v1?key=secret"];
        for text in ["", "localhost:11434", "ftp://x/v1", "http://"].into_iter().chain(with_secrets) {
            let error = text.parse::<ServerAddress>().expect_err(text);
            assert!(!error.contains("secret"), "{error}");
        }
        assert_eq!(ServerAddress::default().as_str(), USUAL);
        assert_eq!(address("http://x/v1").named("https://me:pw@y/z?token=1#2"), "https://y/z");
        assert_eq!(address("http://x/v1/a").named("/login?next=a"), "http://x/login");
    }

    #[test]
    fn only_this_machine_is_no_matter_of_words() {
        for text in ["http://127.0.0.1/v1", "http://127.200.3.4:1/v1", "http://[::1]:8080/v1", "http://LOCALHOST/v1"] {
            let endpoint = ServerEndpoint { address: address(text), ..ServerEndpoint::default() };
            assert_eq!(endpoint.notice(true), None, "{text}");
        }
        for text in
            ["http://0.0.0.0/v1", "http://localhost.example.org/v1", "http://10.0.0.1/v1", "http://127.0.0.1.nip.io/"]
        {
            let endpoint = ServerEndpoint { address: address(text), ..ServerEndpoint::default() };
            let notice = endpoint.notice(false).expect(text);
            assert!(notice.contains(endpoint.address.host()) && notice.contains("not encrypted"), "{notice}");
        }
        let endpoint = ServerEndpoint { address: address("https://example.org/v1"), ..ServerEndpoint::default() };
        assert_eq!(endpoint.notice(false).as_deref(), Some("The box and its question are sent to example.org."));
        let cloud = ServerEndpoint { model: "qwen3-vl:235b-cloud".into(), ..ServerEndpoint::default() };
        assert!(cloud.notice(false).is_some_and(|notice| notice.contains("leave this machine")));
    }

    #[test]
    fn a_key_is_neither_printed_nor_written() {
        let endpoint = ServerEndpoint { key: ServerKey::new(" sk-secret\n"), ..ServerEndpoint::default() };
        assert_eq!(endpoint.key.reveal(), "sk-secret");
        let written = toml::to_string(&endpoint).expect("it is plain data");
        assert!(!written.contains("secret") && !format!("{endpoint:?}").contains("secret"), "{written}");
    }
}
