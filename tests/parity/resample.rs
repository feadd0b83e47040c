//! Resizing against `PIL.Image.resize`: not a single level of difference.

use super::{cases, difference, pictures};
use chain_of_zoom::imaging::{Filter, resize};

#[test]
fn every_filter_equals_pillow() {
    let pictures = pictures("resample/cases.safetensors");
    assert_eq!(cases(&pictures), 19);
    for i in 0..cases(&pictures) {
        let source = &pictures[&format!("{i}.source")];
        for (name, filter) in [
            ("nearest", Filter::Nearest),
            ("bilinear", Filter::Bilinear),
            ("bicubic", Filter::Bicubic),
            ("lanczos", Filter::Lanczos),
        ] {
            let expected = &pictures[&format!("{i}.{name}")];
            let ours = resize(source, expected.width(), expected.height(), filter);
            assert_eq!(difference(&ours, expected), 0, "{name}, {source:?} to {expected:?}");
        }
    }
}
