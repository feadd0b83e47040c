//! How the built-in super-resolution weights were made: `coz train` repeats it.
//!
//! No photo is involved. [`scenes`] draws dead leaves (occluding shapes with a power-law size distribution, which have
//! the edge statistics of natural images), [`degrade`] makes small pictures of them, [`fit`] teaches SRVGGNetCompact
//! the way back; `coz measure` compares the result with bicubic on real photos it has never seen.

pub mod degrade;
pub mod fit;
pub mod scenes;
