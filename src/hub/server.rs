//! Which server writes prompts: as the user has entered it in the window, or as the environment says it, with the names
//! that programs for OpenAI's API have: `OPENAI_BASE_URL`, `OPENAI_MODEL`, `OPENAI_API_KEY`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::paths::in_settings;
use crate::base::{Folders, ServerAddress, ServerEndpoint, ServerKey, UserError, write_private};

/// The key in a file of its own, beside the settings: those people show to others.
#[derive(Serialize, Deserialize)]
struct StoredKey {
    /// Where it was entered for; nobody else is given it.
    address: ServerAddress,
    key: String,
}

/// The server of the settings file.
pub fn server_of_user() -> ServerEndpoint {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Settings {
        server: ServerEndpoint,
    }
    let Settings { server } = in_settings();
    let file = Folders::of_user().map(|folders| folders.server_key_file());
    with_key(ServerEndpoint { key: file.map(|file| server_key(&file, &server.address)).unwrap_or_default(), ..server })
}

/// The server that the environment names.
///
/// # Errors
/// An address that is none.
pub fn server_of_environment() -> Result<Option<ServerEndpoint>, UserError> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let Some(address) = variable("OPENAI_BASE_URL") else { return Ok(None) };
    let wrong = |details| UserError::new("OPENAI_BASE_URL is no address", details, "Correct it, or unset it.");
    let address = address.parse().map_err(wrong)?;
    let model = variable("OPENAI_MODEL").unwrap_or_default();
    Ok(Some(ServerEndpoint { address, model, key: ServerKey::of_environment() }))
}

/// The server that a command names, with the key that was entered for it, or else that of the environment: where that
/// is meant for it, and where it stays on this machine.
pub fn server_at(address: ServerAddress) -> ServerEndpoint {
    let file = Folders::of_user().map(|folders| folders.server_key_file());
    let key = file.map(|file| server_key(&file, &address)).unwrap_or_default();
    let server = with_key(ServerEndpoint { address, model: String::new(), key });
    match server.key.is_empty() && server.address.is_loopback() {
        true => ServerEndpoint { key: ServerKey::of_environment(), ..server },
        false => server,
    }
}

/// A server that was entered without a key has that of the environment, where it is meant for it.
pub fn with_key(server: ServerEndpoint) -> ServerEndpoint {
    let is_meant = || match server_of_environment() {
        Ok(Some(named)) => named.address.is_same_server(&server.address),
        // Whose name it bears.
        Ok(None) => server.address.is_encrypted() && server.address.host() == "api.openai.com",
        Err(_) => false,
    };
    match server.key.is_empty() && is_meant() {
        true => ServerEndpoint { key: ServerKey::of_environment(), ..server },
        false => server,
    }
}

/// The key in this file, where it is for this address; none where it cannot be read, which is in the log.
pub fn server_key(file: &Path, address: &ServerAddress) -> ServerKey {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return ServerKey::default(),
        Err(error) => {
            tracing::warn!("{}: {error}", file.display());
            return ServerKey::default();
        }
    };
    match toml::from_str::<StoredKey>(&text) {
        Ok(stored) if stored.address.is_same_server(address) => ServerKey::new(&stored.key),
        Ok(_) => ServerKey::default(),
        // What is wrong stands beside the key in such messages.
        Err(_) => {
            tracing::warn!("{}: not a key with its address", file.display());
            ServerKey::default()
        }
    }
}

/// Keeps the server's key in this file; where it has none, none for it. That of another one stays until there is one.
///
/// # Errors
/// What the system says.
pub fn keep_server_key(file: &Path, server: &ServerEndpoint) -> Result<(), String> {
    if server_key(file, &server.address) == server.key {
        return Ok(());
    }
    if server.key.is_empty() {
        return match std::fs::remove_file(file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {error}", file.display())),
            _ => Ok(()),
        };
    }
    let stored = StoredKey { address: server.address.clone(), key: server.key.reveal().into() };
    let text = toml::to_string(&stored).map_err(|_| format!("{}: the key cannot be written", file.display()))?;
    write_private(file, &text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(address: &str, key: &str) -> ServerEndpoint {
        ServerEndpoint { address: address.parse().expect(address), model: String::new(), key: ServerKey::new(key) }
    }

    #[test]
    fn a_key_is_kept_for_its_own_server_and_for_nobody_else() {
        let folder = tempfile::tempdir().expect("there is room");
        let file = folder.path().join("key.toml");
        let own = server("https://example.org/v1", "sk-\"1\\");
        keep_server_key(&file, &own).expect("there is room");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(file.metadata().expect("it is there").permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(server_key(&file, &own.address), own.key);
        assert_eq!(server_key(&file, &server("https://example.org/v2", "").address), own.key);
        for other in ["http://example.org/v1", "https://example.org:8443/v1", "https://example.com/v1"] {
            assert!(server_key(&file, &server(other, "").address).is_empty(), "{other}");
        }
        for text in ["", "key = 1", "key = \"sk\"", "address = \"nowhere\"\nkey = \"sk\""] {
            std::fs::write(&file, text).expect("there is room");
            assert!(server_key(&file, &own.address).is_empty(), "{text}");
        }
        keep_server_key(&file, &own).expect("there is room");
        keep_server_key(&file, &server("http://127.0.0.1/v1", "")).expect("nothing is to be done");
        assert_eq!(server_key(&file, &own.address), own.key, "one may come back to it");
        for _ in 0..2 {
            keep_server_key(&file, &server("https://example.org/v1", "")).expect("it may go");
            assert!(!file.exists());
        }
    }
}
