//! The places that the system gives to programs (`directories`).

use std::path::PathBuf;

/// The folders of the program on this system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folders {
    /// For `settings.toml`.
    pub config: PathBuf,
    /// For sessions and other work.
    pub data: PathBuf,
    /// For model files.
    pub models: PathBuf,
    /// For the sessions of open windows.
    pub autosave: PathBuf,
}

impl Folders {
    /// The system's usual places; `None` where there is no home.
    pub fn of_user() -> Option<Self> {
        let directories = directories::ProjectDirs::from("", "", "chain-of-zoom")?;
        let data = directories.data_dir().to_owned();
        Some(Self {
            config: directories.config_dir().to_owned(),
            models: data.join("models"),
            autosave: data.join("autosave"),
            data,
        })
    }

    /// The log; older ones have `.1` to `.4` behind their names.
    pub fn log_file(&self) -> PathBuf {
        self.data.join("log.txt")
    }

    /// The window's settings.
    pub fn settings_file(&self) -> PathBuf {
        self.config.join("settings.toml")
    }

    /// The key of the server that writes prompts, which only this user may read.
    pub fn server_key_file(&self) -> PathBuf {
        self.config.join("server-key.toml")
    }
}
