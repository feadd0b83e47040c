//! What the user chose, kept between starts in one file that a person can edit.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::{
    AlignMethod, BUILT_IN, Backbone, DeviceChoice, Folders, MemoryPlan, PromptSource, Tiling, write_atomic,
};
use crate::hub::ModelPaths;
use crate::imaging::Format;
use crate::scene::film;

/// Light or dark surroundings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Theme {
    /// Neutral dark grey.
    #[default]
    Dark,
    /// Neutral light grey.
    Light,
    /// Black and white, for eyes that need it.
    Contrast,
}

/// What is kept. Unknown and missing entries are harmless, so older and newer files can be read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Side of every generated state, P of the paper's process size.
    pub process_size: u32,
    /// The super-resolution model.
    pub backbone: Backbone,
    /// It is to be the best one on this machine; where nothing is said, unless another than the built-in was chosen.
    pub auto_backbone: Option<bool>,
    /// Where the prompt for a step comes from.
    #[serde(rename = "extractor")]
    pub prompt_source: PromptSource,
    /// Where such models are, where the user has said so.
    #[serde(rename = "places")]
    pub model_paths: ModelPaths,
    /// What a vision-language model is asked, instead of what the reference asks; empty: that.
    pub message: String,
    /// It is shown the parent state too.
    #[serde(rename = "both_images")]
    pub include_parent: bool,
    /// How freely it answers anew: 0 not at all.
    pub temperature: f64,
    /// How full images are worked through.
    pub tiling: Tiling,
    /// Where models run.
    pub device: DeviceChoice,
    /// Which of its weights stay in memory.
    pub memory: MemoryPlan,
    /// Colour matching.
    pub align: AlignMethod,
    /// The noise's seed.
    pub seed: u64,
    /// Keep the seed; else every step rolls a new one.
    pub seed_locked: bool,
    /// How many variants of a box are made at once.
    pub variants: u32,
    /// Show the prompt and wait for Enter before a step runs.
    #[serde(rename = "ask_first")]
    pub edit_prompt_first: bool,
    /// The camera glides into each new state.
    pub follow: bool,
    /// The camera glides and states fade in; off: everything is at once.
    pub motion: bool,
    /// Boxes are prepared while they are being placed.
    #[serde(rename = "work_ahead")]
    pub prefetch: bool,
    /// Sessions link to their photo instead of holding it.
    pub link_photo: bool,
    /// Side panels are shown.
    pub panels: bool,
    /// The one on the right too.
    pub info: bool,
    /// Their widths, left and right, in points.
    pub panel_widths: [f32; 2],
    /// The window's width and height, in points.
    pub window: [f32; 2],
    /// It filled the screen.
    pub maximized: bool,
    /// Surroundings.
    pub theme: Theme,
    /// Of exported pictures.
    pub export_format: Format,
    /// Pictures and sessions opened lately, the newest first.
    pub recent: Vec<PathBuf>,
    /// Words used lately, the newest last.
    pub prompts: Vec<String>,
    /// How films look.
    pub film: film::Options,
    /// Keys that were changed: an action's name and its keys, such as `fit = ["F"]`.
    pub keys: BTreeMap<String, Vec<String>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            process_size: 512,
            backbone: Backbone::default(),
            auto_backbone: None,
            prompt_source: PromptSource::default(),
            model_paths: ModelPaths::default(),
            message: String::new(),
            include_parent: true,
            temperature: 0.7,
            tiling: Tiling::default(),
            device: DeviceChoice::default(),
            memory: MemoryPlan::default(),
            align: AlignMethod::default(),
            seed: 42,
            seed_locked: true,
            variants: 4,
            edit_prompt_first: false,
            follow: true,
            motion: true,
            prefetch: true,
            link_photo: false,
            panels: true,
            info: true,
            panel_widths: [232.0, 264.0],
            window: [1440.0, 900.0],
            maximized: false,
            theme: Theme::default(),
            export_format: Format::PNG,
            recent: Vec::new(),
            prompts: Vec::new(),
            film: film::Options::default(),
            keys: BTreeMap::new(),
        }
    }
}

const RECENT: usize = 8;
const PROMPTS: usize = 50;

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
            Ok(settings) => (settings.clamped(), None),
            Err(error) => (Self::default(), Some(format!("{}: {}", file.display(), error.message()))),
        }
    }

    /// Into the user's file, whole or not at all.
    pub fn save(&self) -> Result<(), String> {
        let file = Self::file().ok_or("this system has no place for settings")?;
        let text = toml::to_string_pretty(self).map_err(|error| error.to_string())?;
        write_atomic(&file, |out| std::io::Write::write_all(out, text.as_bytes())).map_err(|e| e.to_string())
    }

    /// Where they are kept.
    pub fn file() -> Option<PathBuf> {
        Folders::of_user().map(|folders| folders.settings_file())
    }

    fn clamped(mut self) -> Self {
        self.process_size = self.process_size.clamp(64, 2048);
        self.recent.truncate(RECENT);
        self.variants = self.variants.clamp(2, 16);
        self.film = self.film.clamped();
        self.temperature = if self.temperature.is_finite() { self.temperature.clamp(0.1, 2.0) } else { 0.7 };
        let side = |length: f32, range: std::ops::RangeInclusive<f32>, usual: f32| {
            if length.is_finite() { length.clamp(*range.start(), *range.end()) } else { usual }
        };
        self.window = [side(self.window[0], 900.0..=16000.0, 1440.0), side(self.window[1], 600.0..=16000.0, 900.0)];
        self.panel_widths = self.panel_widths.map(|width| side(width, 200.0..=360.0, 232.0));
        self
    }

    /// Whether the best model on this machine is to be used.
    pub fn is_auto_backbone(&self) -> bool {
        self.auto_backbone.unwrap_or(self.backbone.is(&BUILT_IN))
    }

    /// Puts a prompt at the end of the prompt history.
    pub fn remember_prompt(&mut self, prompt: &str) {
        if !prompt.trim().is_empty() {
            self.prompts.retain(|known| known != prompt);
            self.prompts.push(prompt.to_owned());
            let surplus = self.prompts.len().saturating_sub(PROMPTS);
            self.prompts.drain(..surplus);
        }
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
        let mut settings = Settings { backbone: Backbone::file("/a b/ö.pth"), ..Settings::default() };
        settings.remember("/x.png".into());
        settings.device = DeviceChoice::Cuda(1);
        settings.keys.insert("fit".into(), vec!["Ctrl+F".into()]);
        settings.remember_prompt("fur");
        settings.film.hold = 0.5;
        let text = toml::to_string_pretty(&settings).expect("settings are plain data");
        assert_eq!(toml::from_str::<Settings>(&text).expect("what was written can be read"), settings);
    }

    #[test]
    fn unknown_and_missing_entries_are_harmless() {
        let settings: Settings = toml::from_str("seed = 7\nfrom_the_future = true\n").expect("unknown is ignored");
        assert_eq!(settings, Settings { seed: 7, ..Settings::default() });
    }

    #[test]
    fn the_best_model_is_used_unless_another_was_chosen() {
        let auto = |text: &str| toml::from_str::<Settings>(text).expect("it is a settings file").is_auto_backbone();
        assert!(auto(""));
        assert!(auto("backbone = \"builtin\""), "files of before the choice existed name the default too");
        assert!(!auto("backbone = \"bicubic\""));
        assert!(!auto("backbone = \"builtin\"\nauto_backbone = false"));
        assert!(auto("auto_backbone = true\n[backbone]\nfile = \"/x.safetensors\""));
    }
}
