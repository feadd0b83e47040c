//! SRVGGNetCompact and RRDBNet against plain PyTorch, through the files that are in circulation: `.pth` as a zip and as
//! the format before it, safetensors, three namings, wrapped and bare.

use tch::{Device, Kind, Tensor};

use super::fixture;
use chain_of_zoom::networks::{RrdbNet, SrvggNetCompact};
use chain_of_zoom::runtime::weights::{Loader, Weights};

fn cases() -> Weights {
    Weights::open(&fixture("networks/cases.safetensors")).unwrap()
}

fn tensor(weights: &Weights, name: &str) -> Tensor {
    let shape = weights.shapes()[name].clone();
    Loader::new(weights, "", Device::Cpu, Kind::Float).tensor(name, &shape).unwrap()
}

fn check(name: &str, forward: impl Fn(&Tensor) -> Tensor) {
    let cases = cases();
    let output = tch::no_grad(|| forward(&tensor(&cases, &format!("{name}.input"))));
    let expected = tensor(&cases, &format!("{name}.output"));
    assert_eq!(output.size(), expected.size(), "{name}");
    let difference = (output - expected).abs().max().double_value(&[]);
    assert!(difference < 1e-5, "{name}: {difference}");
}

#[test]
fn compact_networks_equal_pytorch() {
    for (file, prefix, scale) in [
        ("compact_x4.pth", "params.", 4),
        ("compact_x4_legacy.pth", "params_ema.", 4),
        ("compact_x2_relu.safetensors", "", 2),
    ] {
        let weights = Weights::open(&fixture(&format!("networks/{file}"))).unwrap();
        assert!(SrvggNetCompact::recognises(&weights, prefix) && !RrdbNet::recognises(&weights, prefix));
        let network = SrvggNetCompact::load(&weights, prefix, Device::Cpu, Kind::Float).unwrap();
        assert_eq!(network.scale(), scale);
        check(file.split('.').next().unwrap(), |x| network.forward(x).unwrap());
    }
}

#[test]
fn rrdb_networks_equal_pytorch_under_all_their_names() {
    for (file, prefix, scale) in [
        ("rrdb_x4.pth", "params_ema.", 4),
        ("rrdb_x4_esrgan.pth", "", 4),
        ("rrdb_x4_sequential.pth", "", 4),
        ("rrdb_x2.safetensors", "", 2),
    ] {
        let weights = Weights::open(&fixture(&format!("networks/{file}"))).unwrap();
        assert!(RrdbNet::recognises(&weights, prefix) && !SrvggNetCompact::recognises(&weights, prefix));
        let network = RrdbNet::load(&weights, prefix, Device::Cpu, Kind::Float).unwrap();
        assert_eq!(network.scale(), scale);
        check(file.split('.').next().unwrap(), |x| network.forward(x, &mut |_, _| true).unwrap().unwrap());
    }
}

#[test]
fn rrdb_stops_between_blocks() {
    let weights = Weights::open(&fixture("networks/rrdb_x4.pth")).unwrap();
    let network = RrdbNet::load(&weights, "params_ema.", Device::Cpu, Kind::Float).unwrap();
    let input = Tensor::rand([1, 3, 8, 8], (Kind::Float, Device::Cpu));
    assert!(network.forward(&input, &mut |done, _| done < 1).unwrap().is_none());
}

#[test]
fn lists_of_views_are_read_as_torch_shows_them() {
    let weights = Weights::open(&fixture("networks/views.pkl")).unwrap();
    let shapes: Vec<_> = weights.shapes().into_iter().collect();
    assert_eq!(shapes, [("0", vec![4, 2]), ("1", vec![6, 4]), ("2.deep", vec![6])]);
    let base = Tensor::arange(24, (Kind::Float, Device::Cpu)).reshape([4, 6]);
    assert_eq!(tensor(&weights, "0"), base.narrow(1, 1, 2));
    assert_eq!(tensor(&weights, "1"), base.transpose(0, 1));
    assert_eq!(tensor(&weights, "2.deep"), base.get(2));
}
