//! Number for number against Pillow and PyTorch. `export.py` made the fixtures; none of its libraries is needed here.

mod chain;
mod colour;
mod full;
mod grpo;
mod jpeg;
pub mod metrics;
mod ncnn;
mod networks;
mod qwen;
mod ram;
mod resample;
mod sd21;
mod sd3;
mod single_image;
mod train;
mod winograd;

use std::collections::BTreeMap;
use std::path::PathBuf;

use safetensors::SafeTensors;

use chain_of_zoom::imaging::Picture;

/// A file beside the test of this name.
pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/parity").join(name)
}

/// All pictures of a fixture: `[H, W, 3]` bytes.
fn pictures(name: &str) -> BTreeMap<String, Picture> {
    let bytes = std::fs::read(fixture(name)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let picture = |view: safetensors::tensor::TensorView| {
        let [height, width, 3] = view.shape() else { panic!("{:?} is no picture", view.shape()) };
        Picture::from_rgb(*width as u32, *height as u32, view.data().to_vec()).unwrap()
    };
    tensors.tensors().into_iter().map(|(name, view)| (name, picture(view))).collect()
}

/// The numbers of the cases in a fixture: `0`, `1`, ...
fn cases(pictures: &BTreeMap<String, Picture>) -> usize {
    (0..).take_while(|i| pictures.keys().any(|key| key.starts_with(&format!("{i}.")))).count()
}

/// The largest difference of any byte.
fn difference(ours: &Picture, theirs: &Picture) -> u8 {
    assert_eq!((ours.width(), ours.height()), (theirs.width(), theirs.height()));
    ours.rgb().iter().zip(theirs.rgb()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}
