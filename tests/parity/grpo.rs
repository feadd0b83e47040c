//! GRPO's log-probs, losses, gradients and steps against transformers and peft: `coz train vlm --replay`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tch::{Kind, Tensor};

use super::fixture;
use crate::samples::{Folder, coz};

fn tensors(file: &Path) -> BTreeMap<String, Tensor> {
    Tensor::read_safetensors(file).unwrap().into_iter().collect()
}

fn json(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn length(x: &Tensor) -> f64 {
    x.square().sum(Kind::Double).sqrt().double_value(&[])
}

/// All numbers of two values are near each other.
fn near(what: &str, ours: &Value, theirs: &Value) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{what}");
            ours.iter().for_each(|(name, value)| near(&format!("{what}.{name}"), value, &theirs[name]));
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            assert_eq!(ours.len(), theirs.len(), "{what}");
            ours.iter().zip(theirs).for_each(|(ours, theirs)| near(what, ours, theirs));
        }
        _ => {
            let (ours, theirs) = (ours.as_f64().unwrap(), theirs.as_f64().unwrap());
            let allowed = if what.contains("norm") { 1e-5 * theirs } else { 1e-5 };
            assert!((ours - theirs).abs() < allowed, "{what}: {ours}, {theirs}");
        }
    }
}

#[test]
fn replays_equal_transformers_and_peft() {
    let folder = Folder::new();
    for name in ["tied", "untied"] {
        let (case, out) = (fixture("grpo").join(format!("{name}.json")), folder.path(name));
        let run =
            coz(["train", "vlm", "--replay", case.to_str().unwrap(), "-o", out.to_str().unwrap()]).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let of = |ending: &str| fixture("grpo").join(format!("{name}_expected.{ending}"));
        near(name, &json(&out.join("replay.json")), &json(&of("json")));
        let (ours, theirs) = (tensors(&out.join("replay.safetensors")), tensors(&of("safetensors")));
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
        let before = tensors(&fixture("grpo").join(format!("{name}_init.safetensors")));
        for (key, theirs) in &theirs {
            let difference = &ours[key] - theirs;
            let largest = difference.abs().max().double_value(&[]);
            match key.split_once('.').unwrap() {
                (step, peft) if step.starts_with("step") => {
                    // What the steps so far have changed.
                    let change = before.get(&format!("step0.{peft}")).map_or(theirs.copy(), |before| theirs - before);
                    let off = length(&difference) / length(&change);
                    assert!(off < 1e-3, "{name} {key}: {off}");
                }
                _ if key.contains(".grad.") => {
                    let off = length(&difference) / length(theirs).max(1e-12);
                    assert!(off < 1e-4, "{name} {key}: {off}");
                }
                _ => assert!(largest < if key.contains("logps") { 2e-5 } else { 1e-5 }, "{name} {key}: {largest}"),
            }
        }
        let written = tensors(&out.join("B_adapter/adapter_model.safetensors"));
        let last =
            ours.keys().filter_map(|key| key.strip_prefix("step")?.split('.').next()?.parse::<usize>().ok()).max();
        assert!(written.iter().all(|(key, tensor)| tensor.equal(&ours[&format!("step{}.{key}", last.unwrap())])));
        assert!(out.join("B_adapter/adapter_config.json").is_file());
    }
}
