//! Single-image networks against spandrel, on tiny models in the layouts that are in circulation.

use tch::{Device, Kind, Tensor};

use super::fixture;
use chain_of_zoom::networks::single_image::{self, ARCHITECTURES, SingleImageNetwork};
use chain_of_zoom::runtime::weights::{Loader, Weights};

/// Files, which network each is of, and how much that enlarges.
const FILES: [(&str, &str, i64); 21] = [
    ("span_x4.pth", "SPAN", 4),
    ("span_x2_plain.safetensors", "SPAN", 2),
    ("plksr_x4.pth", "PLKSR", 4),
    ("plksr_x2_iccm.safetensors", "PLKSR", 2),
    ("plksr_x3_dccm.pth", "PLKSR", 3),
    ("realplksr_x4.pth", "RealPLKSR", 4),
    ("realplksr_x2_dysample.safetensors", "RealPLKSR", 2),
    ("realplksr_x3_dysample.pth", "RealPLKSR", 3),
    ("realplksr_x1_dysample.pth", "RealPLKSR", 1),
    ("dat_x2.safetensors", "DAT", 2),
    ("dat_x4_direct.pth", "DAT", 4),
    ("swinir_x4_nearest.safetensors", "SwinIR", 4),
    ("swinir_x2_direct.safetensors", "SwinIR", 2),
    ("swinir_x2.safetensors", "SwinIR", 2),
    ("swinir_x1_jpeg.pth", "SwinIR", 1),
    ("swinir_x1_unshuffle.safetensors", "SwinIR", 1),
    ("hat_x4.safetensors", "HAT", 4),
    ("hat_x2_bf16.safetensors", "HAT", 2),
    ("drct_x2.safetensors", "DRCT", 2),
    ("omnisr_x4.pth", "OmniSR", 4),
    ("omnisr_x2_plain.safetensors", "OmniSR", 2),
];

fn open(file: &str) -> Weights {
    Weights::open(&fixture(&format!("single_image/{file}"))).unwrap()
}

fn tensor(name: &str) -> Tensor {
    let cases = open("cases.safetensors");
    let shape = cases.shape(name).unwrap();
    Loader::new(&cases, "", Device::Cpu, Kind::Float).tensor(name, &shape).unwrap()
}

fn load(weights: &Weights) -> Box<dyn SingleImageNetwork> {
    single_image::load(weights, Device::Cpu, Kind::Float).unwrap().expect("it is recognised")
}

#[test]
fn networks_equal_spandrel() {
    for (file, name, scale) in FILES {
        let network = load(&open(file));
        assert_eq!(network.scale(), scale, "{file}");
        let stem = file.split('.').next().unwrap();
        let (input, expected) = (tensor(&format!("{stem}.input")), tensor(&format!("{stem}.output")));
        let output = tch::no_grad(|| network.forward(&input, &mut |_| true)).unwrap().unwrap();
        assert_eq!(output.size(), expected.size(), "{file}");
        let difference = (output - &expected).abs().max().double_value(&[]);
        let largest = expected.abs().max().double_value(&[]).max(1.0);
        println!("{name:10} {file:35} {:.1e}", difference / largest);
        assert!(difference < 1e-5 * largest, "{file}: {difference} of {largest}");
    }
}

#[test]
fn every_file_is_recognised_as_one_network_alone() {
    let others = ["networks/compact_x4.pth", "networks/compact_x2_relu.safetensors", "networks/rrdb_x4.pth"];
    let others = others.into_iter().chain(["networks/rrdb_x4_esrgan.pth", "networks/rrdb_x4_sequential.pth"]);
    let others = others.map(|file| (fixture(file), if file.contains("rrdb") { "RRDBNet" } else { "SRVGGNetCompact" }));
    let files = FILES.map(|(file, name, _)| (fixture(&format!("single_image/{file}")), name));
    for (file, name) in files.into_iter().chain(others) {
        let weights = Weights::open(&file).unwrap();
        let found: Vec<&str> = single_image::recognised(&weights).map(|architecture| architecture.name).collect();
        assert_eq!(found, [name], "{}", file.display());
    }
    let named: Vec<&str> = ARCHITECTURES.iter().map(|architecture| architecture.name).collect();
    assert!(FILES.iter().all(|(_, name, _)| named.contains(name)));
}

#[test]
fn networks_stop_between_blocks() {
    for (file, _, _) in FILES {
        let network = load(&open(file));
        let (mut asked, input) = (0, Tensor::rand([1, 3, 16, 16], (Kind::Float, Device::Cpu)));
        let stopped = network.forward(&input, &mut |_| {
            asked += 1;
            asked < 2
        });
        assert!(stopped.unwrap().is_none() && asked == 2, "{file}");
    }
}
