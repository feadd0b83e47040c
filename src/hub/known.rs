//! Models that a file names: a session, a recipe. Where they lie is not believed, for anybody may have written that.

use super::{ModelPaths, backbones, model_file};
use crate::base::{Backbone, BackboneKind, FILE, Precision};
use crate::checkpoint::weights_digest;

/// The model of this machine that a file means: one that lies in the folder of models, or that the user has opened before.
/// It has the same name, and the same weights where a digest of them is known.
pub fn known(named: &Backbone, digest: Option<&str>) -> Option<Backbone> {
    if named.spec.files.is_empty() {
        return Some(named.clone());
    }
    let mut here = backbones(&ModelPaths::of_user());
    here.extend(ModelPaths::opened_by_user());
    if let BackboneKind::Diffusion = named.spec.kind {
        here.extend(super::backbone(named.spec, &ModelPaths::of_user(), Precision::Auto).ok());
    }
    if named.is(&FILE) {
        here.extend(model_file(&named.name()).map(Backbone::file));
    }
    let with_precision = |backbone: &Backbone| Backbone { precision: named.precision, ..backbone.clone() };
    if let Some(same) = here.iter().find(|other| other.spec == named.spec && other.files == named.files) {
        return Some(with_precision(same));
    }
    let is_meant = |other: &&Backbone| {
        let is_same = || digest.is_none_or(|digest| weights_digest(other).is_ok_and(|found| found == digest));
        other.spec == named.spec && other.name() == named.name() && is_same()
    };
    here.iter().find(is_meant).map(with_precision)
}
