//! Seeds for all that is drawn: each thing has its own, so that it does not depend on what else is drawn.

use sha2::{Digest, Sha256};

/// A seed for one thing among many, by what it is for and all of these numbers.
pub(super) fn derived_seed(what: &str, parts: &[u64]) -> u64 {
    let numbers = parts.iter().flat_map(|part| part.to_le_bytes());
    let bytes: Vec<u8> = what.bytes().chain([0]).chain(numbers).collect();
    let mut seed = [0; 8];
    seed.copy_from_slice(&Sha256::digest(&bytes)[..8]);
    u64::from_le_bytes(seed)
}
