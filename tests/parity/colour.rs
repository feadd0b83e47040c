//! `adain` and `wavelet` against the reference's arithmetic in PyTorch: within one level.

use super::{cases, difference, pictures};
use chain_of_zoom::base::AlignMethod;
use chain_of_zoom::imaging::colour::align;

#[test]
fn colour_matching_is_within_one_level() {
    let pictures = pictures("colour/cases.safetensors");
    assert_eq!(cases(&pictures), 3);
    for i in 0..cases(&pictures) {
        let (result, source) = (&pictures[&format!("{i}.result")], &pictures[&format!("{i}.source")]);
        for (name, method) in [("adain", AlignMethod::Adain), ("wavelet", AlignMethod::Wavelet)] {
            let ours = align(method, result, source);
            assert!(difference(&ours, &pictures[&format!("{i}.{name}")]) <= 1, "{name} of case {i}");
            assert!(difference(&ours, result) > 20, "{name} of case {i} did nothing");
        }
        assert_eq!(align(AlignMethod::NoFix, result, source), *result);
    }
}
