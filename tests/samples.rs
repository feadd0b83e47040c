//! What many tests need: folders that vanish, pictures, the program itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use chain_of_zoom::base::{Backbone, BackboneSpec, Precision, PromptSource, PromptSourceSpec};
use chain_of_zoom::hub;
use chain_of_zoom::hub::ModelPaths;
use chain_of_zoom::imaging::{Picture, codec};

/// A folder that is deleted with the value.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn root(&self) -> &Path {
        self.0.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// A picture with something to see, saved under this name.
    pub fn photo(&self, name: &str, width: u32, height: u32) -> PathBuf {
        let file = self.path(name);
        codec::save(&photo(width, height), &file).unwrap();
        file
    }
}

/// Soft waves with hard-edged discs.
pub fn photo(width: u32, height: u32) -> Picture {
    Picture::from_fn(width, height, |x, y| {
        let (u, v) = (f64::from(x), f64::from(y));
        let wave = |a: f64, b: f64| (127.0 + 90.0 * (u / a).sin() * (v / b).cos()) as u8;
        let disc = ((u % 60.0) - 30.0).hypot((v % 60.0) - 30.0) < 14.0;
        if disc { [240, 160, 40] } else { [wave(23.0, 31.0), wave(17.0, 41.0), wave(47.0, 19.0)] }
    })
}

/// Chain-of-Zoom's own model from this folder, with the files of its training that lie in it or beside it.
pub fn sd3(folder: &Path, precision: Precision) -> Backbone {
    let mut paths = ModelPaths::default();
    paths.set("sd3", folder.to_owned());
    hub::backbone(BackboneSpec::named("sd3").unwrap(), &paths, precision).unwrap()
}

/// Qwen2.5-VL from this folder, tuned where an adapter is named.
pub fn vlm(model: &Path, adapter: Option<&Path>, precision: Precision) -> PromptSource {
    let spec = PromptSourceSpec::named(if adapter.is_some() { "vlm" } else { "vlm_base" }).unwrap();
    let source = PromptSource { precision, ..spec.into() }.with("model", model);
    match adapter {
        Some(adapter) => source.with("adapter", adapter),
        None => source,
    }
}

/// The program with these arguments, away from the user's own settings.
pub fn coz<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coz"));
    command
        .args(arguments)
        // Several run beside each other: threads that wait leave the cores to the others.
        .env("OMP_WAIT_POLICY", "passive")
        .env_remove("LD_LIBRARY_PATH")
        .env_remove("OPENAI_API_KEY")
        .env_remove("OPENAI_BASE_URL")
        .env_remove("OPENAI_MODEL")
        .env_remove("HF_HUB_CACHE")
        .env_remove("HUGGINGFACE_HUB_CACHE");
    for variable in ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "HF_HOME"] {
        command.env(variable, "/nonexistent");
    }
    command
}
