//! `coz zoom` without a model against the reference's own steps in Pillow: every pixel of every state.

use super::{cases, difference, pictures};
use crate::samples::{Folder, coz};
use chain_of_zoom::imaging::codec;

#[test]
fn nearest_and_bicubic_chains_equal_the_reference() {
    let pictures = pictures("chain/cases.safetensors");
    assert_eq!(cases(&pictures), 7);
    for i in 0..cases(&pictures) {
        let folder = Folder::new();
        let source = folder.path("photo.png");
        codec::save(&pictures[&format!("{i}.source")], &source).unwrap();
        let size = pictures[&format!("{i}.0")].width().to_string();
        for method in ["nearest", "bicubic"] {
            let out = folder.path(method);
            // The reference's spelling of the options.
            let run = coz(["zoom", "-i", source.to_str().unwrap(), "-o", out.to_str().unwrap()])
                .args(["--rec_type", method, "--rec_num", "2", "--process_size", &size, "--prompt_type", "null"])
                .output()
                .unwrap();
            assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
            for (state, key) in [(0, format!("{i}.0")), (1, format!("{i}.{method}.1")), (2, format!("{i}.{method}.2"))]
            {
                let ours = codec::open(&out.join(format!("per-sample/photo/{state}.png"))).unwrap();
                assert_eq!(difference(&ours, &pictures[&key]), 0, "{method}, case {i}, state {state}");
            }
        }
    }
}
