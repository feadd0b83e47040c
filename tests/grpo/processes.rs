//! Several processes that share the groups.

use std::path::Path;
use std::process::Stdio;

use tch::Kind;

use super::{checkpoint, command, log, photos, said, train};
use crate::samples::Folder;
use chain_of_zoom::runtime::weights::Weights;

fn together(folder: &Folder, out: &Path, more: &[&str]) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let start = |rank: usize| {
        let mut command = command(folder, out, more);
        command.env("RANK", rank.to_string()).env("WORLD_SIZE", "2").env("LOCAL_RANK", rank.to_string());
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", &port).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children = [start(0), start(1)];
    for (rank, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "rank {rank}: {}", said(&output));
    }
}

#[test]
fn two_processes_equal_one_of_twice_the_batch() {
    let folder = Folder::new();
    photos(&folder, 5);
    for loss in ["grpo", "dapo"] {
        let (one, two) = (folder.path(&format!("{loss}/one")), folder.path(&format!("{loss}/two")));
        let options = ["--max_train_steps", "3", "--gradient_accumulation_steps", "2", "--loss_type", loss];
        let output = train(&folder, &one, &[&options[..], &["--train_batch_size", "2"]].concat());
        assert!(output.status.success(), "{}", said(&output));
        together(&folder, &two, &options);
        for (a, b) in log(&one).iter().flatten().zip(log(&two).iter().flatten()) {
            assert!((a - b).abs() <= 1e-3 * a.abs() + 1e-6, "{loss}: {a} {b}");
        }
        let open = |out: &Path| Weights::open(&checkpoint(out, 3).join("adapter_model.safetensors")).unwrap();
        let (a, b) = (open(&one), open(&two));
        let tensor = |weights: &Weights, name: &str| weights.tensor(name).unwrap().unwrap().to_kind(Kind::Double);
        for name in a.shapes().into_keys() {
            let (a, b) = (tensor(&a, name), tensor(&b, name));
            let apart = (&a - &b).norm().double_value(&[]) / a.norm().double_value(&[]);
            assert!(apart < 2e-2, "{loss} {name}: {apart}");
        }
    }
}
