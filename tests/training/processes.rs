//! Several processes that train together, started as a launcher would.

use std::path::Path;
use std::process::{Child, Output, Stdio};

use tch::{Kind, Tensor};

use super::{command, drawn, losses, said, train};
use crate::samples::Folder;
use chain_of_zoom::runtime::weights::Weights;
use chain_of_zoom::train::sr::state;

const OPTIONS: [&str; 4] = ["--learning_rate", "0.003", "--gradient_accumulation_steps", "2"];

/// Nobody else has it for now.
fn free_port() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string()
}

/// One for each rank.
fn start(folder: &Folder, list: &Path, out: &Path, size: usize, options: &[&str]) -> Vec<Child> {
    let port = free_port();
    let start = |rank: usize| {
        command(folder, list, out, &[&OPTIONS[..], options].concat())
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", size.to_string())
            .env("LOCAL_RANK", rank.to_string())
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", &port)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    (0..size).map(start).collect()
}

fn finish(children: Vec<Child>) -> Vec<Output> {
    children.into_iter().map(|child| child.wait_with_output().unwrap()).collect()
}

fn run(folder: &Folder, list: &Path, out: &Path, size: usize, options: &[&str]) {
    for (rank, output) in finish(start(folder, list, out, size, options)).iter().enumerate() {
        assert!(output.status.success(), "rank {rank}: {}", said(output));
        assert!(rank == 0 || said(output).lines().count() == 1, "rank {rank}: {}", said(output));
    }
}

/// The largest difference of what is trained, by the largest number of it.
fn apart(a: &Path, b: &Path, step: usize) -> f64 {
    let [a, b] = [a, b].map(|out| Weights::open(&state::files(out, step)[3]).unwrap());
    let tensor = |weights: &Weights, name: &str| weights.tensor(name).unwrap().unwrap().to_kind(Kind::Double);
    let largest = |tensor: Tensor| tensor.abs().max().double_value(&[]);
    let names = a.shapes().into_keys().filter(|name| name.contains(".lora_") && !name.contains("exp_avg"));
    let pairs = names.map(|name| (tensor(&a, name), tensor(&b, name)));
    pairs.map(|(a, b)| largest(&a - &b) / largest(a)).fold(0.0, f64::max)
}

#[test]
fn two_processes_equal_one_of_twice_the_batch_and_go_on_as_one() {
    let folder = Folder::new();
    let list = drawn(&folder, "scenes", 7, 1);
    let (one, two) = (folder.path("one"), folder.path("two"));
    let alone = |out: &Path, steps: &str, more: &[&str]| {
        let options = [&OPTIONS[..], &["--train_batch_size", "2", "--max_train_steps", steps], more].concat();
        let output = train(&folder, &list, out, &options);
        assert!(output.status.success(), "{}", said(&output));
    };
    alone(&one, "3", &[]);
    run(&folder, &list, &two, 2, &["--train_batch_size", "1", "--max_train_steps", "3"]);
    let numbers = |out: &Path| -> Vec<f64> {
        losses(out)
            .iter()
            .skip(1)
            .flat_map(|row| row.split(',').map(|cell| cell.parse::<f64>().unwrap()).collect::<Vec<_>>())
            .collect()
    };
    for (a, b) in numbers(&one).iter().zip(numbers(&two)) {
        assert!((a - b).abs() <= 1e-3 * a.abs() + 1e-9, "{a} {b}");
    }
    let difference = apart(&one, &two, 3);
    println!("{difference:.1e}");
    assert!(difference < 1e-3, "{difference}");
    alone(&one, "5", &["--resume_from_checkpoint", "latest"]);
    alone(&two, "5", &["--resume_from_checkpoint", "latest"]);
    let difference = apart(&one, &two, 5);
    assert!(difference < 5e-3, "{difference}");
    assert_eq!(losses(&two).len(), 6);
}

#[test]
fn a_killed_process_ends_the_others() {
    let folder = Folder::new();
    let (list, out) = (drawn(&folder, "scenes", 4, 1), folder.path("out"));
    let options = ["--train_batch_size", "1", "--max_train_steps", "100000", "--ddp_timeout", "5"];
    for victim in [1, 0] {
        let out = out.join(victim.to_string());
        let mut children = start(&folder, &list, &out, 2, &options);
        while !out.join("losses.csv").is_file() || losses(&out).len() < 3 {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        children[victim].kill().unwrap();
        let other = &finish(children)[1 - victim];
        let said = said(other);
        assert!(!other.status.success() && said.contains("The processes have lost each other"), "{said}");
        assert!(said.contains(&format!("waited for rank {victim}")), "{said}");
        if victim == 1 {
            let step = losses(&out).len() - 1;
            assert!(state::files(&out, step)[3].is_file(), "what was reached is saved");
        }
    }
}

#[test]
fn the_others_hear_why_one_has_stopped() {
    let folder = Folder::new();
    let (list, out) = (drawn(&folder, "scenes", 4, 1), folder.path("out"));
    // Only the first process looks for the pictures to validate by.
    let missing = folder.path("nothing");
    let options = ["--max_train_steps", "5", "--validation_dir", missing.to_str().unwrap()];
    let outputs = finish(start(&folder, &list, &out, 2, &options));
    assert!(outputs.iter().all(|output| !output.status.success()));
    assert!(
        said(&outputs[1]).contains("rank 0 has stopped") && said(&outputs[1]).contains("nothing"),
        "{}",
        said(&outputs[1])
    );
}
