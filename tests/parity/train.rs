//! Training against PyTorch, replayed from files (tests/parity/train).

use tch::{Kind, Tensor};

use super::fixture;
use crate::samples::{Folder, coz};
use chain_of_zoom::runtime::weights::Weights;

fn tensor(weights: &Weights, name: &str) -> Tensor {
    weights.tensor(name).unwrap_or_else(|| panic!("{name} is missing")).unwrap().to_kind(Kind::Double)
}

#[test]
fn degradations_equal_pytorch() {
    let folder = Folder::new();
    let (traces, out) = (fixture("train/traces.json"), folder.path("out"));
    let arguments = ["train", "sr", "--replay_degradation", traces.to_str().unwrap(), "-o", out.to_str().unwrap()];
    let run = coz(arguments).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let found = Weights::open(&out.join("lq.safetensors")).unwrap();
    let expected = Weights::open(&fixture("train/traces_expected.safetensors")).unwrap();
    let names: Vec<&str> = expected.shapes().into_keys().filter_map(|name| name.strip_prefix("expected.")).collect();
    assert!(names.len() >= 8);
    for name in names {
        let (found, expected) = (tensor(&found, name), tensor(&expected, &format!("expected.{name}")));
        assert_eq!(found.size(), expected.size(), "{name}");
        let apart = (found - expected).abs();
        let within = apart.le(1.0).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
        println!("{name}: {:.4} % within a level, at most {}", 100.0 * within, apart.max().double_value(&[]));
        assert!(within >= 0.99, "{name}: {within}");
    }
}

/// The rows of a CSV file of numbers, without its first line and column.
fn rows(file: &std::path::Path) -> Vec<Vec<f64>> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().skip(1).map(|line| line.split(',').skip(1).map(|cell| cell.parse().unwrap()).collect()).collect()
}

fn relative(found: f64, expected: f64) -> f64 {
    (found - expected).abs() / expected.abs().max(1e-12)
}

/// Length of the difference, by that of what is expected.
fn distance(found: &[Tensor], expected: &[Tensor]) -> f64 {
    let length = |square: f64| square.sqrt();
    let apart: f64 =
        found.iter().zip(expected).map(|(a, b)| (a - b).square().sum(Kind::Double).double_value(&[])).sum();
    let whole: f64 = expected.iter().map(|b| b.square().sum(Kind::Double).double_value(&[])).sum();
    length(apart) / length(whole)
}

#[test]
fn training_steps_equal_pytorch() {
    let expected = Weights::open(&fixture("train/expected.safetensors")).unwrap();
    let initial = Weights::open(&fixture("train/init.safetensors")).unwrap();
    let table = |name: &str| Vec::<Vec<f64>>::try_from(tensor(&expected, name)).unwrap();
    let case = fixture("train/case.json");
    for more in [&[][..], &["--gradient_checkpointing"]] {
        let folder = Folder::new();
        let out = folder.path("out");
        let arguments = ["train", "sr", "--replay", case.to_str().unwrap(), "-o", out.to_str().unwrap()];
        let run = coz(arguments).args(more).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        for (file, name, limit) in [("losses.csv", "losses", 2e-4), ("grad_norms.csv", "grad_norms", 5e-3)] {
            let (found, expected) = (rows(&out.join("replay").join(file)), table(name));
            assert_eq!(found.len(), expected.len(), "{file}");
            for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                assert!(relative(*found, *expected) < limit, "{file}: {found}, expected {expected}");
            }
        }
        let steps = table("grad_norms").len();
        let names: Vec<String> =
            initial.shapes().into_keys().map(|name| name.trim_start_matches("init.").into()).collect();
        for step in 1..=steps {
            let file = |kind: &str| Weights::open(&out.join(format!("replay/{kind}{step}.safetensors"))).unwrap();
            let (gradients, parameters) = (file("grad"), file("step"));
            for group in ["gen.", "vae.", "reg."] {
                let of_group: Vec<&String> = names.iter().filter(|name| name.starts_with(group)).collect();
                assert!(of_group.len() > 4, "{group}");
                let found = |from: &Weights| of_group.iter().map(|name| tensor(from, name)).collect::<Vec<_>>();
                let wanted = |kind: &str| -> Option<Vec<Tensor>> {
                    let name = |name: &&String| format!("{kind}{step}.{name}");
                    let is_there = of_group.iter().all(|it| expected.has(&name(it)));
                    is_there.then(|| of_group.iter().map(|it| tensor(&expected, &name(it))).collect())
                };
                if let Some(wanted) = wanted("grad") {
                    let apart = distance(&found(&gradients), &wanted);
                    println!("{group} gradients of step {step}: {apart:.1e}");
                    assert!(apart < 1e-2, "{group} step {step}: gradients differ by {apart}");
                }
                if let Some(wanted) = wanted("step") {
                    let first: Vec<Tensor> =
                        of_group.iter().map(|name| tensor(&initial, &format!("init.{name}"))).collect();
                    let moved = |to: &[Tensor]| to.iter().zip(&first).map(|(to, from)| to - from).collect::<Vec<_>>();
                    let apart = distance(&moved(&found(&parameters)), &moved(&wanted));
                    println!("{group} updates up to step {step}: {apart:.1e}");
                    assert!(apart < 2e-2, "{group} step {step}: updates differ by {apart}");
                }
            }
        }
        for file in ["checkpoints/model", "checkpoints_reg/model"] {
            assert!(out.join(format!("{file}_{steps}.pkl")).is_file(), "{file}");
        }
        assert!(out.join(format!("checkpoints_vae/vae_encoder_{steps}.pt")).is_file());
    }
}
