//! Out: states as files, side by side, on a sheet, in the reference's folders. Every file appears whole or not at all.

pub mod provenance;
pub mod sheet;
pub mod stills;
pub mod strip;
pub mod tree;
