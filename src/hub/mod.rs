//! Models on this machine and on the hub: which there are, where they lie, how to get them. The only layer that reaches
//! for the network.

mod assets;
mod catalogue;
pub mod direct;
mod download;
mod error;
mod hash;
mod known;
mod metric_files;
mod model_folder;
mod paths;
mod realesrgan;
mod remote;
mod repository;
mod server;
mod store;
mod transfer;

pub use assets::{Found, ModelAsset, Origin};
pub use catalogue::ASSETS;
pub use download::download;
pub use error::HubError;
pub use known::known;
pub use metric_files::metric_files;
pub use model_folder::models_in;
pub use paths::{ModelPaths, backbone, missing, prompt_source};
pub use realesrgan::{model_file, realesrgan};
pub use remote::Patience;
pub use repository::Repository;
pub use server::{keep_server_key, server_at, server_key, server_of_environment, server_of_user, with_key};
pub use store::Store;
pub use transfer::Transfer;

use crate::base::{BACKBONES, BUILT_IN, Backbone, Precision};

/// The super-resolution models on this machine, the best for photos first: diffusion models all of whose files are here,
/// Real-ESRGAN, the built-in, those for drawings.
pub fn backbones(explicit: &ModelPaths) -> Vec<Backbone> {
    let is_whole = |backbone: &Backbone| {
        let all = backbone.spec.files.iter().all(|file| backbone.files.get(file.role).is_some());
        all && missing(backbone).is_empty()
    };
    let diffusion = BACKBONES.into_iter().filter(|spec| spec.is_diffusion());
    let whole = diffusion.filter_map(|spec| backbone(spec, explicit, Precision::Auto).ok()).filter(is_whole);
    let file = realesrgan().map(Backbone::file);
    let drawings = realesrgan::for_drawings().into_iter().map(Backbone::file);
    whole.chain(file).chain([Backbone::from(&BUILT_IN)]).chain(drawings).collect()
}
