//! What the user chose, kept between starts in one file that a person can edit.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::image::{AlignMethod, Format, codec};
use crate::step::{Backbone, DeviceChoice};

/// The folders of the program on this system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folders {
    /// For `settings.toml`.
    pub config: PathBuf,
    /// For sessions and other work.
    pub data: PathBuf,
    /// For model files.
    pub models: PathBuf,
}

impl Folders {
    /// The system's usual places; `None` where there is no home.
    pub fn of_user() -> Option<Self> {
        let directories = directories::ProjectDirs::from("", "", "chain-of-zoom")?;
        let data = directories.data_dir().to_owned();
        Some(Self { config: directories.config_dir().to_owned(), models: data.join("models"), data })
    }
}

/// Light or dark surroundings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Theme {
    /// Neutral dark grey.
    #[default]
    Dark,
    /// Neutral light grey.
    Light,
}

/// What is kept. Unknown and missing entries are harmless, so older and newer files can be read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Side of every generated state, P of the paper's process size.
    pub process_size: u32,
    /// The super-resolution model.
    pub backbone: Backbone,
    /// Where it runs.
    pub device: DeviceChoice,
    /// Colour matching.
    pub align: AlignMethod,
    /// The noise's seed.
    pub seed: u64,
    /// Keep the seed; else every step rolls a new one.
    pub seed_locked: bool,
    /// Show the prompt and wait for Enter before a step runs.
    pub ask_first: bool,
    /// The camera glides into each new state.
    pub follow: bool,
    /// The camera glides and states fade in; off: everything is at once.
    pub motion: bool,
    /// Side panels are shown.
    pub panels: bool,
    /// Surroundings.
    pub theme: Theme,
    /// Of exported pictures.
    pub export_format: Format,
    /// Pictures opened lately, the newest first.
    pub recent: Vec<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            process_size: 512,
            backbone: Backbone::default(),
            device: DeviceChoice::default(),
            align: AlignMethod::default(),
            seed: 42,
            seed_locked: true,
            ask_first: false,
            follow: true,
            motion: true,
            panels: true,
            theme: Theme::default(),
            export_format: Format::Png,
            recent: Vec::new(),
        }
    }
}

const RECENT: usize = 8;

impl Settings {
    /// From the user's file. Where there is none these are the defaults; where it cannot be read, also what was wrong.
    pub fn load() -> (Self, Option<String>) {
        let Some(file) = Self::file() else { return (Self::default(), None) };
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return (Self::default(), None),
            Err(error) => return (Self::default(), Some(format!("cannot read {}: {error}", file.display()))),
        };
        match toml::from_str::<Self>(&text) {
            Ok(settings) => (settings.sane(), None),
            Err(error) => (Self::default(), Some(format!("{}: {}", file.display(), error.message()))),
        }
    }

    /// Into the user's file, whole or not at all.
    pub fn save(&self) -> Result<(), String> {
        let file = Self::file().ok_or("this system has no place for settings")?;
        let text = toml::to_string_pretty(self).map_err(|error| error.to_string())?;
        codec::write_whole(&file, |out| std::io::Write::write_all(out, text.as_bytes())).map_err(|e| e.to_string())
    }

    /// Where they are kept.
    pub fn file() -> Option<PathBuf> {
        Folders::of_user().map(|folders| folders.config.join("settings.toml"))
    }

    fn sane(mut self) -> Self {
        self.process_size = self.process_size.clamp(64, 2048);
        self.recent.truncate(RECENT);
        self
    }

    /// Puts a file on top of the recent ones.
    pub fn remember(&mut self, file: PathBuf) {
        self.recent.retain(|known| *known != file);
        self.recent.insert(0, file);
        self.recent.truncate(RECENT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_file() {
        let mut settings = Settings { backbone: Backbone::File("/a b/ö.pth".into()), ..Settings::default() };
        settings.remember("/x.png".into());
        settings.device = DeviceChoice::Cuda(1);
        let text = toml::to_string_pretty(&settings).expect("settings are plain data");
        assert_eq!(toml::from_str::<Settings>(&text).expect("what was written can be read"), settings);
    }

    #[test]
    fn unknown_and_missing_entries_are_harmless() {
        let settings: Settings = toml::from_str("seed = 7\nfrom_the_future = true\n").expect("unknown is ignored");
        assert_eq!(settings, Settings { seed: 7, ..Settings::default() });
    }
}
