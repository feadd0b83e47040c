//! Our own convolutions against libtorch's in 64 bits: sizes that are no multiples of a tile, stripes, several inputs side by
//! side, sums, doublings, every kind of vector instructions of this processor; and RRDBNet by both.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use chain_of_zoom::networks::layers::winograd::{Conv3x3, FeatureMap, Simd, Sum};
use chain_of_zoom::networks::{RrdbNet, SrvggNetCompact};
use chain_of_zoom::runtime::weights::{Loader, Weights};

const OPTIONS: (Kind, Device) = (Kind::Double, Device::Cpu);

/// Numbers that look random and are the same everywhere: of unit variance, about.
fn numbers(shape: &[i64], seed: f64) -> Tensor {
    let count = shape.iter().product::<i64>();
    ((Tensor::arange(count, OPTIONS) * 12.9898 + seed).sin() * 43758.5453).frac().reshape(shape) * 1.7
}

fn conv(x: &Tensor, weight: &Tensor, bias: &Tensor, slopes: &Tensor) -> Tensor {
    x.conv2d(weight, Some(bias), [1, 1], [1, 1], [1, 1], 1).prelu(slopes)
}

fn largest(difference: Tensor) -> f64 {
    difference.abs().max().double_value(&[])
}

#[test]
fn convolutions_equal_their_definition() {
    for simd in Simd::detect() {
        for (height, width) in [(1, 1), (2, 3), (4, 4), (5, 7), (1, 90), (90, 1), (33, 50)] {
            for (channels_in, channels_out) in [(&[3][..], 64), (&[64, 32, 32], 32), (&[17, 5], 70), (&[16], 3)] {
                let total = channels_in.iter().sum::<usize>() as i64;
                let weight = numbers(&[channels_out, total, 3, 3], 1.0) / (9.0 * total as f64).sqrt();
                let (bias, slopes) = (numbers(&[channels_out], 2.0), numbers(&[channels_out], 3.0));
                let x = numbers(&[1, total, height, width], 4.0);
                let slopes_f32 = Vec::<f32>::try_from(slopes.to_kind(Kind::Float)).unwrap();
                let ours = Conv3x3::new(simd, &weight, &bias, &slopes_f32, channels_in).unwrap();
                let mut maps = Vec::new();
                for (i, &channels) in channels_in.iter().enumerate() {
                    let start = channels_in[..i].iter().sum::<usize>() as i64;
                    maps.push(FeatureMap::from_tensor(&x.get(0).narrow(0, start, channels as i64)).unwrap());
                }
                let maps: Vec<&FeatureMap> = maps.iter().collect();
                let about = format!("{simd:?}, {channels_in:?} to {channels_out}, {width} x {height}");
                let mut out = FeatureMap::default();

                ours.forward(&maps, &mut out).unwrap();
                let expected = conv(&x, &weight, &bias, &slopes).get(0);
                let apart = largest(out.to_tensor(0..height as usize).unwrap() - &expected);
                assert!(apart < 2e-5, "{about}: {apart}");

                let added = numbers(&[channels_out, height, width], 5.0);
                let map = FeatureMap::from_tensor(&added).unwrap();
                ours.forward_sum(&maps, Sum { factor: 0.2, added: &[(0.5, &map)] }, &mut out).unwrap();
                let apart = largest(out.to_tensor(0..height as usize).unwrap() - (expected * 0.2 + added * 0.5));
                assert!(apart < 1e-5, "{about}, in a sum: {apart}");

                if let [map] = maps[..] {
                    ours.forward_doubled(map, &mut out).unwrap();
                    let doubled = x.upsample_nearest2d([2 * height, 2 * width], None, None);
                    let expected = conv(&doubled, &weight, &bias, &slopes).get(0);
                    let apart = largest(out.to_tensor(0..2 * height as usize).unwrap() - expected);
                    assert!(apart < 2e-5, "{about}, doubled: {apart}");
                }
            }
        }
    }
}

#[test]
fn maps_that_do_not_fit_are_refused() {
    let Some(&simd) = Simd::detect().first() else { return };
    let (weight, bias) = (numbers(&[4, 3, 3, 3], 0.0), numbers(&[4], 0.0));
    assert!(Conv3x3::new(simd, &weight, &bias, &[1.0; 4], &[4]).is_err());
    assert!(Conv3x3::new(simd, &weight, &bias, &[1.0; 3], &[3]).is_err());
    let conv = Conv3x3::new(simd, &weight, &bias, &[1.0; 4], &[3]).unwrap();
    let other = FeatureMap::from_tensor(&numbers(&[2, 5, 5], 0.0)).unwrap();
    assert!(conv.forward(&[&other], &mut FeatureMap::default()).is_err());
    assert!(conv.forward(&[], &mut FeatureMap::default()).is_err());
}

/// Random weights of RRDBNet under BasicSR's names.
fn rrdb(features: i64, growth: i64, blocks: usize, doublings: usize) -> Weights {
    let mut tensors = BTreeMap::new();
    let mut add = |name: String, channels_in: i64, channels_out: i64| {
        let seed = tensors.len() as f64;
        let gain = 1.2 / (9.0 * channels_in as f64).sqrt();
        let weight = numbers(&[channels_out, channels_in, 3, 3], seed) * gain;
        tensors.insert(format!("{name}.weight"), weight.to_kind(Kind::Float));
        tensors.insert(format!("{name}.bias"), (numbers(&[channels_out], seed) * 0.1).to_kind(Kind::Float));
    };
    add("conv_first".into(), 3, features);
    for i in 0..blocks {
        for d in 1..=3 {
            for c in 1..=5 {
                let channels_out = if c == 5 { features } else { growth };
                add(format!("body.{i}.rdb{d}.conv{c}"), features + growth * (c - 1), channels_out);
            }
        }
    }
    add("conv_body".into(), features, features);
    (1..=doublings).for_each(|i| add(format!("conv_up{i}"), features, features));
    add("conv_hr".into(), features, features);
    add("conv_last".into(), features, 3);
    Weights::from_tensors(tensors)
}

#[test]
fn rrdbnet_is_the_same_by_both() {
    for (features, growth, blocks, doublings, batch, height, width) in
        [(64, 32, 2, 2, 1, 37, 50), (32, 16, 3, 2, 2, 70, 9), (17, 16, 1, 1, 1, 33, 1), (48, 16, 1, 0, 1, 45, 20)]
    {
        let weights = rrdb(features, growth, blocks, doublings);
        let x = (numbers(&[batch, 3, height, width], 7.0) * 0.25 + 0.5).clamp(0.0, 1.0);
        let [ours, exact] = [Kind::Float, Kind::Double].map(|kind| {
            let network = RrdbNet::load(&weights, "", Device::Cpu, kind).unwrap();
            tch::no_grad(|| network.forward(&x.to_kind(kind), &mut |_, _| true).unwrap().unwrap())
        });
        assert_eq!(ours.size(), [batch, 3, height << doublings, width << doublings]);
        let range = (exact.max() - exact.min()).double_value(&[]);
        let apart = largest(ours - &exact);
        assert!(apart < 1e-5 * range.max(1.0), "{features}/{growth}: {apart} of {range}");
    }
}

#[test]
fn our_rrdbnet_stops_between_blocks_and_strips() {
    let network = RrdbNet::load(&rrdb(32, 16, 2, 2), "", Device::Cpu, Kind::Float).unwrap();
    let x = numbers(&[1, 3, 70, 8], 1.0).to_kind(Kind::Float);
    for last in 0..5 {
        let mut asked = 0;
        let out = network.forward(&x, &mut |done, total| {
            assert_eq!((done, total), (asked, 5), "two blocks, three strips");
            asked += 1;
            done < last
        });
        assert!(out.unwrap().is_none() && asked == last + 1);
    }
}

#[test]
fn srvgg_is_the_same_by_both() {
    for (features, inner, scale, has_slopes) in [(64, 3, 4, true), (20, 2, 2, false), (16, 1, 1, true)] {
        let mut tensors = BTreeMap::new();
        for i in 0..=inner {
            let (channels_in, channels_out) =
                (if i == 0 { 3 } else { features }, if i == inner { 3 * scale * scale } else { features });
            let gain = 1.2 / (9.0 * channels_in as f64).sqrt();
            let weight = numbers(&[channels_out, channels_in, 3, 3], i as f64) * gain;
            tensors.insert(format!("body.{}.weight", 2 * i), weight.to_kind(Kind::Float));
            tensors
                .insert(format!("body.{}.bias", 2 * i), numbers(&[channels_out], i as f64).to_kind(Kind::Float) * 0.1);
            if has_slopes && i < inner {
                let slopes = numbers(&[features], i as f64).abs() * 0.3;
                tensors.insert(format!("body.{}.weight", 2 * i + 1), slopes.to_kind(Kind::Float));
            }
        }
        let weights = Weights::from_tensors(tensors);
        let x = (numbers(&[2, 3, 21, 34], 7.0) * 0.25 + 0.5).clamp(0.0, 1.0);
        let [ours, exact] = [Kind::Float, Kind::Double].map(|kind| {
            let network = SrvggNetCompact::load(&weights, "", Device::Cpu, kind).unwrap();
            tch::no_grad(|| network.forward(&x.to_kind(kind)).unwrap())
        });
        assert_eq!(ours.size(), [2, 3, 21 * scale, 34 * scale]);
        let apart = largest(ours - &exact);
        assert!(apart < 1e-5, "{features} channels: {apart}");
    }
}

#[test]
fn what_is_trained_stays_with_libtorch() {
    let mut tensors = BTreeMap::new();
    for (i, shape) in [[16, 3, 3, 3], [3, 16, 3, 3]].iter().enumerate() {
        let weight = (numbers(shape, 1.0) * 0.1).to_kind(Kind::Float).set_requires_grad(true);
        tensors.insert(format!("body.{}.weight", 2 * i), weight);
        tensors.insert(format!("body.{}.bias", 2 * i), Tensor::zeros([shape[0]], (Kind::Float, Device::Cpu)));
    }
    let weights = Weights::from_tensors(tensors);
    let network = SrvggNetCompact::load(&weights, "", Device::Cpu, Kind::Float).unwrap();
    let loss =
        network.forward(&Tensor::ones([1, 3, 8, 8], (Kind::Float, Device::Cpu))).unwrap().square().mean(Kind::Float);
    loss.backward();
    let gradient =
        Loader::new(&weights, "", Device::Cpu, Kind::Float).tensor("body.0.weight", &[16, 3, 3, 3]).unwrap().grad();
    assert!(largest(gradient) > 0.0);
}
