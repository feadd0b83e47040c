//! The self-test as users run it: on the command line and in its window.

use std::time::Duration;

use serde_json::Value;

use crate::samples::coz;

#[test]
fn this_machine_computes_what_it_should() {
    let run = coz(["selftest", "--device", "cpu", "--json"]).output().unwrap();
    let (output, errors) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{output}{errors}");
    assert_eq!(errors, "");
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.len() >= 12, "{output}");
    for check in checks {
        let keys: Vec<&str> = check.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["limit", "ms", "name", "ok", "value"]);
        assert_eq!(check["ok"], true);
        assert!(check["value"].is_f64() && check["limit"].is_f64() && check["ms"].as_f64().unwrap() > 0.0, "{check}");
    }
    let total: f64 = checks.iter().map(|check| check["ms"].as_f64().unwrap()).sum();
    assert!(Duration::from_secs_f64(total / 1000.0) < Duration::from_secs(300), "{output}");
    let absent = |name: &str| checks.iter().all(|check| check["name"] != name);
    assert!(absent("device-lost") && absent("vae-decoder-tf32"), "they are for CUDA devices alone");
}

#[test]
fn some_checks_are_chosen_by_name() {
    let run = coz(["selftest", "--device", "cpu", "--only", "noise,t5"]).output().unwrap();
    let output = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{output}");
    assert!(output.starts_with("coz 0.1.0, libtorch 2.11.0"), "{output}");
    assert!(output.contains("\nt5 ") && output.contains("\nnoise ") && !output.contains("\ntokens "), "{output}");
    assert!(output.contains("2 of 2 checks passed"), "{output}");

    let refused = |arguments: &[&str]| {
        let run = coz(arguments.iter().copied()).output().unwrap();
        assert_eq!(run.status.code(), Some(1));
        String::from_utf8_lossy(&run.stderr).into_owned()
    };
    assert!(refused(&["selftest", "--device", "cpu", "--only", "device-lost"]).contains("Nothing was tested"));
    assert!(refused(&["selftest", "--only", "t6"]).contains("no check \"t6\""));
    assert!(refused(&["selftest", "--device", "cuda:999"]).contains("no device cuda:999"));
}
