//! What lists of models show of single-image networks. The engine measures one after another while it has nothing else to
//! do; what it found is kept in a file, so that a network is measured once on a machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use super::Viewer;
use crate::base::{Backbone, BackboneKind, UserError, bytes_label, secs_label, write_atomic};
use crate::engine::NetworkFacts;
use crate::hub::ModelAsset;

/// Of so many networks facts are kept.
const MOST: usize = 2000;

static WRITING: Mutex<()> = Mutex::new(());

/// Networks by [`id`], and what is known of each, or why it cannot be used.
pub type Known = BTreeMap<PathBuf, Result<NetworkFacts, UserError>>;

/// What a network is known by in this run: its file, or the name of the one inside the program.
pub fn id(backbone: &Backbone) -> PathBuf {
    backbone.network_file().map_or_else(|| backbone.spec.id.into(), Path::to_owned)
}

/// Where facts are kept, and on which device they were found.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    file: Option<PathBuf>,
    device: String,
}

impl Memory {
    /// What cannot be read is measured anew.
    fn entries(&self) -> BTreeMap<String, NetworkFacts> {
        let text = self.file.as_ref().and_then(|file| std::fs::read(file).ok());
        text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// The same file changed is another entry. Asks the disk.
    fn key(&self, backbone: &Backbone) -> String {
        // Of ncnn's pairs it is the other file that holds the weights.
        let is_graph = |file: &Path| file.extension().is_some_and(|ending| ending == "param");
        let weights = |file: &Path| if is_graph(file) { file.with_extension("bin") } else { file.to_owned() };
        let file = backbone.network_file().map(weights);
        let about = file.as_ref().and_then(|file| file.metadata().ok());
        let bytes = about.as_ref().map_or(0, std::fs::Metadata::len);
        let changed = about.and_then(|about| about.modified().ok()?.duration_since(UNIX_EPOCH).ok());
        let secs = changed.map_or(0, |since| since.as_secs());
        format!("{} {bytes} {secs} on {}", id(backbone).display(), self.device)
    }

    /// What is known of these.
    pub(super) fn recall(&self, backbones: &[Backbone]) -> Vec<(Backbone, NetworkFacts)> {
        let entries = self.entries();
        let known = |backbone: &Backbone| Some((backbone.clone(), entries.get(&self.key(backbone))?.clone()));
        backbones.iter().filter_map(known).collect()
    }

    /// Keeps what was found, with the terms of what is published.
    pub(super) fn keep(&self, backbone: &Backbone, mut facts: NetworkFacts) -> NetworkFacts {
        facts.licence = facts.licence.or_else(|| licence(backbone).map(str::to_owned));
        let Some(file) = &self.file else { return facts };
        // One after another: each reads what the one before has written.
        let _turn = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries = self.entries();
        if entries.len() >= MOST {
            entries.clear();
        }
        entries.insert(self.key(backbone), facts.clone());
        if let Err(error) = write_atomic(file, |to| serde_json::to_writer_pretty(to, &entries)) {
            tracing::warn!("{error}");
        }
        facts
    }
}

/// One line on a network: what it is, its size, how fast it is here, its terms.
pub fn line(facts: &NetworkFacts) -> String {
    let scale = match facts.scale {
        1 => "cleans, does not enlarge".into(),
        scale => format!("\u{d7}{scale}"),
    };
    let size = (facts.bytes > 0).then(|| bytes_label(facts.bytes));
    let pace = format!("{} a step here", secs_label(facts.step_secs));
    let parts = [Some(facts.architecture.clone()), Some(scale), size, Some(pace), facts.licence.clone()];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" \u{b7} ")
}

/// Under which terms a model is published, where that is known. Asks the disk.
fn licence(backbone: &Backbone) -> Option<&'static str> {
    match backbone.spec.kind {
        BackboneKind::SingleImage if backbone.network_file().is_none() => Some("MIT or Apache-2.0"),
        _ => ModelAsset::of(backbone).map(|asset| asset.licence),
    }
}

impl Viewer {
    /// Looks up which networks of the lists are known, and has the others measured while a list of them is open and nothing
    /// else runs.
    pub(super) fn look_up_networks(&mut self) {
        if self.state.cuda_devices.is_none() {
            // Where they would be measured is not known yet.
            return;
        }
        let device = self.state.device_name();
        if self.state.facts_device != device {
            self.state.facts_device = device;
            self.state.network_facts.clear();
            self.state.facts_recalled = false;
        }
        if !self.state.facts_recalled && !self.state.backbones.is_empty() {
            self.state.facts_recalled = true;
            let networks = [self.state.networks(), self.state.offered_models.clone()].concat();
            self.tasks.recall_networks(networks, self.facts_memory(), self.network_recall.start());
        }
        let is_idle = self.state.running.is_none() && self.state.exporting.is_none() && self.state.opening.is_none();
        if !is_idle || self.network_recall.is_busy() || self.state.measuring {
            return;
        }
        let listed = if self.state.models { self.state.networks() } else { Vec::new() };
        let wanted = self.state.offered_models.iter().chain(&listed);
        if let Some(next) = wanted.into_iter().find(|next| !self.state.network_facts.contains_key(&id(next))) {
            self.state.measuring = true;
            self.engine.measure(next.clone(), self.state.settings.device);
        }
    }

    /// A network was measured, or was not, because something else came.
    pub(super) fn take_measured(&mut self, backbone: Backbone, facts: Option<Result<NetworkFacts, UserError>>) {
        self.state.measuring = false;
        match facts {
            Some(Ok(facts)) => {
                self.state.network_facts.insert(id(&backbone), Ok(facts.clone()));
                self.tasks.keep_network(backbone, facts, self.facts_memory());
            }
            Some(Err(problem)) => _ = self.state.network_facts.insert(id(&backbone), Err(problem)),
            None => {}
        }
    }

    fn facts_memory(&self) -> Memory {
        let data = self.autosave_folder.as_deref().and_then(Path::parent);
        Memory { file: data.map(|data| data.join("networks.json")), device: self.state.facts_device.clone() }
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
        assert_eq!(line(&facts(4)), "SPAN \u{b7} \u{d7}4 \u{b7} 2 MB \u{b7} 0.3 s a step here");
        assert!(line(&facts(1)).contains("cleans, does not enlarge"));
        let named = NetworkFacts { licence: Some("CC-BY-4.0".into()), ..facts(4) };
        assert!(line(&named).ends_with("CC-BY-4.0"));
    }

    #[test]
    fn what_was_measured_is_known_on_that_device_until_the_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let network = folder.path().join("x.pth");
        std::fs::write(&network, "numbers").unwrap();
        let (inside, file) = (Backbone::from(&BUILT_IN), Backbone::file(&network));
        let on = |device: &str| Memory { file: Some(folder.path().join("networks.json")), device: device.into() };
        assert_eq!(on("cpu").keep(&inside, facts(4)).licence.as_deref(), Some("MIT or Apache-2.0"));
        on("cpu").keep(&file, facts(2));
        let both = [inside, file.clone()];
        assert_eq!(on("cpu").recall(&both).len(), 2);
        assert_eq!(on("cuda:0").recall(&both).len(), 0);
        std::fs::write(&network, "other numbers").unwrap();
        assert_eq!(on("cpu").recall(&[file]).len(), 0);
        std::fs::write(folder.path().join("networks.json"), "{").unwrap();
        assert_eq!(on("cpu").recall(&both).len(), 0);
    }
}
