//! JPEG decoding against Pillow's libjpeg-turbo: the same pixels.

use super::{cases, difference, fixture, pictures};
use chain_of_zoom::imaging::codec;

#[test]
fn jpeg_pixels_are_the_same() {
    let pictures = pictures("jpeg/cases.safetensors");
    assert_eq!(cases(&pictures), 5);
    for i in 0..cases(&pictures) {
        let ours = codec::open(&fixture(&format!("jpeg/{i}.jpg"))).unwrap();
        assert_eq!(difference(&ours, &pictures[&format!("{i}.pixels")]), 0, "case {i}");
    }
}
