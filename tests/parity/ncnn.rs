//! ncnn's pairs of files against ncnn itself: fp16 and fp32, activations and residuals fused or not, graphs that resize
//! their output; and pairs that are not as they should be.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::fixture;
use crate::samples::Folder;
use chain_of_zoom::base::Progress;
use chain_of_zoom::checkpoint::Checkpoint;
use chain_of_zoom::imaging::Picture;
use chain_of_zoom::networks::{RrdbNet, single_image};
use chain_of_zoom::pipelines::sr::{StepInput, SuperResolver, Upscaler};
use chain_of_zoom::runtime::weights::{Loader, Weights};

fn tensor(name: &str) -> Tensor {
    let cases = Weights::open(&fixture("ncnn/cases.safetensors")).unwrap();
    let shape = cases.shapes()[name].clone();
    Loader::new(&cases, "", Device::Cpu, Kind::Float).tensor(name, &shape).unwrap()
}

fn picture(tensor: &Tensor) -> Picture {
    let (height, width) = (tensor.size()[2] as u32, tensor.size()[3] as u32);
    let level = |c, y, x| (tensor.double_value(&[0, c, y, x]) * 255.0).round().clamp(0.0, 255.0) as u8;
    Picture::from_fn(width, height, |x, y| [0, 1, 2].map(|c| level(c, i64::from(y), i64::from(x))))
}

#[test]
fn networks_of_pairs_equal_ncnn() {
    for (name, ending, scale) in [
        ("rrdb_x4_fp16", "param", 4),
        ("rrdb_x2_fp32", "bin", 2),
        ("compact_x4_fp16", "bin", 4),
        ("compact_x2_relu", "param", 2),
        ("span_x4_fp16", "param", 4),
        ("span_x2_mean", "bin", 2),
        ("span_x2_plain", "param", 2),
    ] {
        let weights = Weights::open(&fixture(&format!("ncnn/{name}.{ending}"))).unwrap();
        let network = single_image::load(&weights, Device::Cpu, Kind::Float).unwrap().expect("it is recognised").1;
        assert_eq!(network.scale(), scale, "{name}");
        let expected = tensor(&format!("{name}.output"));
        let output =
            tch::no_grad(|| network.forward(&tensor(&format!("{name}.input")), &mut |_| true)).unwrap().unwrap();
        let largest = expected.abs().max().double_value(&[]);
        let difference = (output - expected).abs().max().double_value(&[]);
        assert!(difference < 1e-5 * largest, "{name}: {difference} of {largest}");
    }
}

#[test]
fn graphs_that_resize_their_output_have_a_scale_of_their_own() {
    for (name, scale) in [("compact_x4_to_x2", 2), ("compact_x4_to_x3", 3), ("rrdb_x4_fp16", 4)] {
        let mut network = Upscaler::open(&fixture(&format!("ncnn/{name}.param")), Device::Cpu).unwrap();
        assert_eq!(network.scale(), scale, "{name}");
        let expected = picture(&tensor(&format!("{name}.output")));
        let input = StepInput {
            cut: Arc::new(picture(&tensor(&format!("{name}.input")))),
            enlarged: Arc::new(expected.clone()),
            prompt: String::new(),
            seed: 0,
        };
        let restored = network.restore(&input, &mut Progress::new(&mut |_, _| true)).unwrap();
        let apart = restored.rgb().iter().zip(expected.rgb()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(apart <= Some(1), "{name}: {apart:?} levels");
    }
}

#[test]
fn written_as_safetensors_they_are_the_same() {
    let folder = Folder::new();
    let param = fixture("ncnn/rrdb_x4_fp16.param");
    let pair = Weights::open(&param).unwrap();
    let file = folder.path("converted.safetensors");
    std::fs::write(&file, Checkpoint::open(&param).unwrap().to_safetensors().unwrap()).unwrap();
    let converted = Weights::open(&file).unwrap();
    assert_eq!(converted.shapes(), pair.shapes());
    let input = tensor("rrdb_x4_fp16.input");
    let [a, b] = [&pair, &converted].map(|weights| {
        let network = RrdbNet::load(weights, "", Device::Cpu, Kind::Float).unwrap();
        tch::no_grad(|| network.forward(&input, &mut |_, _| true).unwrap().unwrap())
    });
    assert_eq!(a, b);
}

/// What opening the pair says after its graph or its weights were changed.
fn complaint(name: &str, graph: impl Fn(String) -> String, weights: impl Fn(Vec<u8>) -> Vec<u8>) -> String {
    let folder = Folder::new();
    let text = std::fs::read_to_string(fixture(&format!("ncnn/{name}.param"))).unwrap();
    let bytes = std::fs::read(fixture(&format!("ncnn/{name}.bin"))).unwrap();
    std::fs::write(folder.path("m.param"), graph(text)).unwrap();
    std::fs::write(folder.path("m.bin"), weights(bytes)).unwrap();
    match Upscaler::open(&folder.path("m.bin"), Device::Cpu) {
        Ok(_) => panic!("{name} was opened"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_does_not_fit_is_told() {
    let same = |text: String| text;
    let whole = |bytes: Vec<u8>| bytes;
    for (name, from, to, expected) in [
        ("rrdb_x4_fp16", "7767517", "7767518", "7767517"),
        ("rrdb_x4_fp16", "Eltwise", "Softmax", "is a Softmax"),
        ("rrdb_x4_fp16", "2.000000e-01", "1.000000e-01", "leaky"),
        ("rrdb_x4_fp16", "1=3", "1=5", "expected 3 x 3"),
        ("rrdb_x4_fp16", "0=12 ", "0=13 ", "do not make"),
        ("rrdb_x4_fp16", " 4=1", " 4", "cannot be read"),
        ("rrdb_x2_fp32", "Interp", "Split", "no RRDBNet"),
        ("rrdb_x2_fp32", "5=1", "5=1 8=1", "8-bit integers"),
        ("compact_x4_fp16", "PixelShuffle", "Permute", "is a PReLU"),
        ("compact_x4_fp16", "0=1 1=4", "0=2 1=4", "pixel shuffle"),
        ("compact_x4_to_x3", "7.500000e-01", "7.100000e-01", "whole number"),
        ("compact_x2_relu", "9=1", "9=5", "activation 5"),
        ("span_x4_fp16", "Sigmoid", "Split", "no SPAN"),
        ("span_x4_fp16", "2=5.000000e-01", "2=4.000000e-01", "do not weigh"),
        ("span_x4_fp16", "0=1 1=1 2=3", "0=1 1=1 2=4", "no mean colour"),
        ("span_x2_mean", "b2 0=1", "b2 0=3", "does not begin"),
    ] {
        let said = complaint(name, |text| text.replace(from, to), whole);
        assert!(said.contains(expected), "{name}, {from} -> {to}: {said}");
    }
    let said = complaint("rrdb_x4_fp16", |text| text.lines().take(9).map(|line| format!("{line}\n")).collect(), whole);
    assert!(said.contains("cut short"), "{said}");
    for length in [0, 3, 100, 80_000] {
        let said = complaint("rrdb_x4_fp16", same, |bytes| bytes[..length].to_vec());
        assert!(said.contains("ends within") || said.contains("empty"), "{length}: {said}");
    }
    let said = complaint("rrdb_x4_fp16", same, |bytes| [bytes, vec![0; 8]].concat());
    assert!(said.contains("8 bytes are left over"), "{said}");
    let said = complaint("rrdb_x4_fp16", same, |bytes| [&[9, 9, 9, 9], &bytes[4..]].concat());
    assert!(said.contains("0x09090909"), "{said}");
    // Both files must be there.
    for (there, missing) in [("m.param", "m.bin"), ("m.bin", "m.param")] {
        let folder = Folder::new();
        let name = if there == "m.bin" { "rrdb_x4_fp16.bin" } else { "rrdb_x4_fp16.param" };
        std::fs::copy(fixture(&format!("ncnn/{name}")), folder.path(there)).unwrap();
        let said = Weights::open(&folder.path(there)).err().unwrap().to_string();
        assert!(said.contains(missing) && said.contains("pair"), "{said}");
    }
}
