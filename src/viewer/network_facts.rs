//! What lists of models show of single-image networks: looked up beside the window, one after another, and remembered in a
//! file, so that a network is measured once on a machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::Viewer;
use super::tasks::Outcome;
use crate::base::{Backbone, BackboneKind, DeviceChoice, Ticket, UserError, bytes_label, secs_label, write_atomic};
use crate::engine::NetworkFacts;
use crate::hub::ModelAsset;

/// Networks, and what is known of each, or why it cannot be used.
pub type Known = Vec<(Backbone, Result<NetworkFacts, UserError>)>;

/// What is known, by file and device, on the disk.
struct Remembered {
    file: Option<PathBuf>,
    entries: BTreeMap<String, NetworkFacts>,
}

impl Remembered {
    /// What cannot be read is measured anew.
    fn open(file: Option<PathBuf>) -> Self {
        let text = file.as_ref().and_then(|file| std::fs::read(file).ok());
        let entries = text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Self { file, entries }
    }

    /// Another file of the same name, or the same one changed, is another entry.
    fn key(backbone: &Backbone, device: DeviceChoice) -> String {
        let Some(file) = backbone.network_file() else { return format!("{} on {device}", backbone.spec.id) };
        let about = file.metadata().ok();
        let bytes = about.as_ref().map_or(0, std::fs::Metadata::len);
        let changed = about.and_then(|about| about.modified().ok()?.duration_since(UNIX_EPOCH).ok());
        format!("{} {bytes} {} on {device}", file.display(), changed.map_or(0, |since| since.as_secs()))
    }

    fn keep(&mut self, key: String, facts: NetworkFacts) {
        self.entries.insert(key, facts);
        let Some(file) = &self.file else { return };
        let written = write_atomic(file, |to| serde_json::to_writer_pretty(to, &self.entries));
        if let Err(error) = written {
            tracing::warn!("{error}");
        }
    }
}

/// Looks up one network after another, until it is stopped.
pub(super) fn look_up(
    backbones: &[Backbone],
    device: DeviceChoice,
    file: Option<PathBuf>,
    ticket: &Ticket,
    on_facts: &dyn Fn(Outcome),
) {
    let mut remembered = Remembered::open(file);
    for backbone in backbones {
        if ticket.cancel.is_cancelled() {
            return;
        }
        let key = Remembered::key(backbone, device);
        let facts = match remembered.entries.get(&key) {
            Some(facts) => Ok(facts.clone()),
            None => NetworkFacts::measure(backbone, device).map_err(UserError::from),
        };
        if let Ok(facts) = &facts
            && !remembered.entries.contains_key(&key)
        {
            remembered.keep(key, facts.clone());
        }
        on_facts(Outcome::NetworkFacts {
            generation: ticket.generation,
            backbone: backbone.clone(),
            facts: Box::new(facts),
        });
    }
    on_facts(Outcome::NetworkFactsDone { generation: ticket.generation });
}

/// One line on a network: what it is, its size, how fast it is here, its terms.
pub fn line(backbone: &Backbone, facts: &NetworkFacts) -> String {
    let scale = match facts.scale {
        1 => "cleans, does not enlarge".into(),
        scale => format!("\u{d7}{scale}"),
    };
    let size = (facts.bytes > 0).then(|| bytes_label(facts.bytes));
    let pace = format!("{} a step here", secs_label(facts.step_secs));
    let licence = facts.licence.clone().or_else(|| licence(backbone).map(str::to_owned));
    let parts = [Some(facts.architecture.clone()), Some(scale), size, Some(pace), licence];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" \u{b7} ")
}

/// Under which terms a model is published, where that is known.
pub fn licence(backbone: &Backbone) -> Option<&'static str> {
    match backbone.spec.kind {
        BackboneKind::SingleImage if backbone.network_file().is_none() => Some("MIT or Apache-2.0"),
        _ => ModelAsset::of(backbone).map(|asset| asset.licence),
    }
}

impl Viewer {
    /// The networks that lists show.
    pub(super) fn listed_networks(&self) -> Vec<Backbone> {
        let mut listed: Vec<Backbone> = Vec::new();
        for backbone in self.state.backbones.iter().chain([&self.state.choices.backbone]) {
            if backbone.spec.kind == BackboneKind::SingleImage && !listed.contains(backbone) {
                listed.push(backbone.clone());
            }
        }
        listed
    }

    /// Looks up networks while a list of them is open and nothing else runs that they would slow down, or that would slow them.
    pub(super) fn look_up_networks(&mut self) {
        let mut wanted = self.state.offered_models.clone();
        if self.state.models {
            wanted.extend(self.listed_networks());
        }
        if wanted.is_empty() || self.state.running.is_some() {
            return self.network_facts.clear();
        }
        if self.network_facts.is_busy() {
            return;
        }
        let known = &self.state.network_facts;
        let is_missing = |network: &Backbone| !known.iter().any(|(of, _)| of == network);
        let missing: Vec<Backbone> = wanted.into_iter().filter(is_missing).collect();
        if !missing.is_empty() {
            let file = self.data_folder().map(|folder| folder.join("networks.json"));
            self.tasks.look_up_networks(missing, self.state.settings.device, file, self.network_facts.start());
        }
    }

    /// Where the program keeps what it writes.
    pub(super) fn data_folder(&self) -> Option<&Path> {
        self.autosave_folder.as_deref().and_then(Path::parent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::BUILT_IN;

    fn facts(scale: u32) -> NetworkFacts {
        NetworkFacts { architecture: "SPAN".into(), scale, bytes: 1_600_000, licence: None, step_secs: 0.3 }
    }

    #[test]
    fn a_line_says_what_is_known() {
        let file = Backbone::file("x.pth");
        assert_eq!(line(&file, &facts(4)), "SPAN \u{b7} \u{d7}4 \u{b7} 2 MB \u{b7} 0.3 s a step here");
        assert!(line(&file, &facts(1)).contains("cleans, does not enlarge"));
        assert!(line(&(&BUILT_IN).into(), &facts(4)).ends_with("MIT or Apache-2.0"));
        let named = NetworkFacts { licence: Some("CC-BY-4.0".into()), ..facts(4) };
        assert!(line(&file, &named).ends_with("CC-BY-4.0"));
    }

    #[test]
    fn what_is_known_is_read_again_and_what_is_broken_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("networks.json");
        let mut remembered = Remembered::open(Some(file.clone()));
        remembered.keep("a".into(), facts(4));
        assert_eq!(Remembered::open(Some(file.clone())).entries["a"], facts(4));
        std::fs::write(&file, "{").unwrap();
        assert!(Remembered::open(Some(file)).entries.is_empty());
    }
}
