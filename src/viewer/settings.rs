//! What the user chose, kept between starts in one file that a person can edit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::{
    AlignMethod, BUILT_IN, Backbone, DeviceChoice, Folders, MemoryPlan, PromptSource, ServerEndpoint, Tiling,
    UserError, write_atomic,
};
use crate::document::session::Choices;
use crate::hub;
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
    /// Models that the user has opened, the newest first: files that name them may use them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub opened_models: Vec<Backbone>,
    /// Folders of models, whose networks are listed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub model_folders: Vec<PathBuf>,
    /// Where the prompt for a step comes from.
    #[serde(rename = "extractor")]
    pub prompt_source: PromptSource,
    /// Where such models are, where the user has said so.
    #[serde(rename = "places")]
    pub model_paths: ModelPaths,
    /// The server that is asked where they come from one; its key is in a file of its own.
    pub server: ServerEndpoint,
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
    /// Memory for pictures of states in MB; what does not fit is reread when it is looked at. Nothing: as much as suits the
    /// machine.
    pub picture_memory_mb: Option<u32>,
    /// Boxes are prepared while they are being placed.
    #[serde(rename = "work_ahead")]
    pub prefetch: bool,
    /// Sessions link to their photo instead of holding it.
    pub link_photo: bool,
    /// Exports of photos opened from now on say where they were taken.
    pub keep_location: bool,
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
            opened_models: Vec::new(),
            model_folders: Vec::new(),
            prompt_source: PromptSource::default(),
            model_paths: ModelPaths::default(),
            server: ServerEndpoint::default(),
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
            picture_memory_mb: None,
            prefetch: true,
            link_photo: false,
            keep_location: false,
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

/// A settings file that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// What is wrong with it.
    pub problem: UserError,
    /// It lies under another name now, so others may be written.
    pub is_kept: bool,
}

/// Renames a file to `<name>.bak`, or `.bak2` and so on: what was kept before stays.
fn keep(file: &Path) -> std::io::Result<PathBuf> {
    let name = |n: u32| {
        let mut name = file.as_os_str().to_owned();
        name.push(if n == 1 { ".bak".to_owned() } else { format!(".bak{n}") });
        PathBuf::from(name)
    };
    let kept = (1..).map(name).find(|kept| !kept.exists()).unwrap_or_else(|| name(0));
    std::fs::rename(file, &kept)?;
    Ok(kept)
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|&byte| byte == b'\n').count()
}

/// What may be chosen as memory for pictures, in MB.
pub const PICTURE_MEMORY_MB: std::ops::RangeInclusive<u32> = 64..=65536;
const RECENT: usize = 8;
const PROMPTS: usize = 50;
const OPENED_MODELS: usize = 64;

impl Settings {
    /// From the user's file. Where there is none these are the defaults; where it cannot be read, also what was wrong.
    pub fn load() -> (Self, Option<Unreadable>) {
        let Some(folders) = Folders::of_user() else { return (Self::default(), None) };
        let (mut settings, unreadable) = Self::load_from(&folders.settings_file());
        settings.server.key = hub::server_key(&folders.server_key_file(), &settings.server.address);
        (settings, unreadable)
    }

    fn load_from(file: &Path) -> (Self, Option<Unreadable>) {
        let problem = |details: &dyn std::fmt::Display, hint: &str| {
            UserError::new("The settings could not be read", format!("{}: {details}", file.display()), hint)
        };
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return (Self::default(), None),
            Err(error) => {
                let problem = problem(&error, "The defaults are used, and changes last until you quit.");
                return (Self::default(), Some(Unreadable { problem, is_kept: false }));
            }
        };
        let error = match toml::from_str::<Self>(&text) {
            Ok(settings) => return (settings.clamped(), None),
            Err(error) => error,
        };
        let details =
            format!("line {}: {}", error.span().map_or(1, |span| line_of(&text, span.start)), error.message());
        let unreadable = match keep(file) {
            Ok(kept) => {
                let hint = format!("The defaults are used. Your file is kept as {}.", kept.display());
                Unreadable { problem: problem(&details, &hint), is_kept: true }
            }
            Err(error) => {
                let hint = format!("The defaults are used, and changes last until you quit: {error}.");
                Unreadable { problem: problem(&details, &hint), is_kept: false }
            }
        };
        (Self::default(), Some(unreadable))
    }

    /// Into the user's files, whole or not at all.
    pub fn save(&self) -> Result<(), String> {
        let folders = Folders::of_user().ok_or("this system has no place for settings")?;
        hub::keep_server_key(&folders.server_key_file(), &self.server)?;
        let file = folders.settings_file();
        let text = toml::to_string_pretty(self).map_err(|error| error.to_string())?;
        write_atomic(&file, |out| std::io::Write::write_all(out, text.as_bytes())).map_err(|e| e.to_string())
    }

    /// Where they are kept.
    pub fn file() -> Option<PathBuf> {
        Folders::of_user().map(|folders| folders.settings_file())
    }

    fn clamped(mut self) -> Self {
        self.process_size = self.process_size.clamp(64, 2048);
        let (least, most) = PICTURE_MEMORY_MB.into_inner();
        self.picture_memory_mb = self.picture_memory_mb.map(|megabytes| megabytes.clamp(least, most));
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

    /// Memory for pictures of states, where the user has said how much.
    pub fn picture_bytes(&self) -> Option<u64> {
        self.picture_memory_mb.map(|megabytes| u64::from(megabytes) << 20)
    }

    /// What a photo begins with.
    pub fn choices(&self) -> Choices {
        Choices {
            process_size: self.process_size,
            backbone: self.backbone.clone(),
            align: self.align,
            seed: self.seed,
            draft: String::new(),
        }
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

    /// Puts a model on top of those that were opened.
    pub fn remember_model(&mut self, backbone: &Backbone) {
        if !backbone.spec.files.is_empty() {
            self.opened_models.retain(|known| known != backbone);
            self.opened_models.insert(0, backbone.clone());
            self.opened_models.truncate(OPENED_MODELS);
        }
    }

    /// The networks among the models that were opened.
    pub fn opened_networks(&self) -> Vec<PathBuf> {
        self.opened_models.iter().filter_map(|model| model.network_file()).map(Path::to_owned).collect()
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
        settings.server.address = "https://example.org/v1".parse().expect("it is one");
        settings.server.model = "eyes".into();
        let text = toml::to_string_pretty(&settings).expect("settings are plain data");
        assert_eq!(toml::from_str::<Settings>(&text).expect("what was written can be read"), settings);
    }

    #[test]
    fn unknown_and_missing_entries_are_harmless() {
        let settings: Settings = toml::from_str("seed = 7\nfrom_the_future = true\n").expect("unknown is ignored");
        assert_eq!(settings, Settings { seed: 7, ..Settings::default() });
    }

    #[test]
    fn a_file_with_a_typo_is_kept() {
        let folder = tempfile::tempdir().expect("there is room");
        let path = |name: &str| folder.path().join(name);
        let file = path("settings.toml");
        assert_eq!(Settings::load_from(&file), (Settings::default(), None));
        for (text, kept) in [("seed = 7\nvariants = four\n", "settings.toml.bak"), ("seed = =", "settings.toml.bak2")] {
            std::fs::write(&file, text).expect("there is room");
            let (settings, unreadable) = Settings::load_from(&file);
            let Unreadable { problem, is_kept } = unreadable.expect("it is not read");
            assert_eq!((settings, is_kept), (Settings::default(), true));
            assert!(!file.exists() && problem.hint.contains(kept), "{problem}");
            assert_eq!(std::fs::read_to_string(path(kept)).expect("it is there"), text);
            assert!(problem.details.contains(if text.contains("four") { "line 2" } else { "line 1" }), "{problem}");
        }
        // What cannot be read at all is left where it is, and not written over.
        std::fs::create_dir(&file).expect("there is room");
        let (_, unreadable) = Settings::load_from(&file);
        assert!(!unreadable.expect("it is not read").is_kept && file.is_dir());
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
