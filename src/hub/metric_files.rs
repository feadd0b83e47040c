//! Where the weights of metrics lie: in a folder that the user names, in the data folder, in the hub's cache, and in that of
//! PyTorch, where Python's packages leave them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::repository::Repository;
use super::store::Store;
use crate::base::hub_cache::{snapshot, torch_home};
use crate::base::{Folders, METRICS, MetricFile, MetricSpec};

/// The files of a metric that are on this machine, by [`MetricFile::id`], and those that it lacks.
pub fn metric_files(
    spec: &MetricSpec,
    folder: Option<&Path>,
) -> (BTreeMap<&'static str, PathBuf>, Vec<&'static MetricFile>) {
    let (mut found, mut missing) = (BTreeMap::new(), Vec::new());
    for file in spec.files {
        match place(file, folder) {
            Some(place) => _ = found.insert(file.id, place),
            None if file.is_required => missing.push(file),
            None => {}
        }
    }
    (found, missing)
}

/// The file of this id.
pub(super) fn named(id: &str) -> Option<&'static MetricFile> {
    METRICS.iter().flat_map(|spec| spec.files).find(|file| file.id == id)
}

/// Where a file is.
pub(super) fn place(file: &MetricFile, folder: Option<&Path>) -> Option<PathBuf> {
    let names = || file.names.iter().chain(file.published);
    let given = folder.into_iter().flat_map(|folder| names().map(move |name| folder.join(name)));
    // What replaces something inside the program is only taken where somebody says so.
    let elsewhere = file.is_required.then(|| {
        let own = Folders::of_user().map(|folders| folders.models);
        let own = own.into_iter().flat_map(|models| [models.join("metrics"), models]);
        let cached = file.hub.and_then(|(id, name)| {
            let store = Store::of_user(Repository { id, is_space: false })?;
            Some(snapshot(&store.folder()).join(name))
        });
        let of_torch =
            torch_home().into_iter().flat_map(|home| ["hub/checkpoints", "hub/pyiqa"].map(|it| home.join(it)));
        let folders = own.chain(of_torch);
        let all = folders.flat_map(|folder| names().map(move |name| folder.join(name)).collect::<Vec<_>>());
        cached.into_iter().chain(all).collect::<Vec<_>>()
    });
    given.chain(elsewhere.into_iter().flatten()).find(|path| path.is_file())
}
