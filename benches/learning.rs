//! Whether `coz train sr` learns: the tiny SD3 of the tests, on scenes that the program draws, with three seeds. Writes the
//! validation's l2 + lpips over the steps as an SVG.
//!
//!     cargo bench --bench learning -- docs/learning.svg [LEARNING_RATE STEPS]

#![allow(clippy::expect_used, reason = "what cannot be measured is not")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use chain_of_zoom::base::{MemoryPlan, Precision};
use chain_of_zoom::imaging::codec;
use chain_of_zoom::train::adamw::AdamWConfig;
use chain_of_zoom::train::distributed::World;
use chain_of_zoom::train::plot::{Curve, Scale, svg};
use chain_of_zoom::train::scenes;
use chain_of_zoom::train::schedule::{LrSchedule, LrScheduler};
use chain_of_zoom::train::sr::data::Lists;
use chain_of_zoom::train::sr::losses::Losses;
use chain_of_zoom::train::sr::options::Options;
use chain_of_zoom::train::sr::trainer::train;
use tch::Device;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let file = PathBuf::from(arguments.first().map_or("learning.svg", String::as_str));
    let number = |i: usize, otherwise: f64| arguments.get(i).map_or(otherwise, |text| text.parse().expect("a number"));
    let (rate, steps) = (number(1, 1e-3), number(2, 60.0) as usize);
    let folder = tempfile::tempdir().expect("there is room");
    let photos = drawn(folder.path(), "photos", 24, 2);
    drawn(folder.path(), "validation", 8, 3);
    let curves: Vec<Curve> = (1..=3)
        .map(|seed| {
            let output = folder.path().join(seed.to_string());
            let start = Instant::now();
            let options = options(&photos, folder.path().join("validation"), output.clone(), seed, rate, steps);
            train(&options, &mut World::alone(), None, &mut |_| true).expect("it trains");
            let text = std::fs::read_to_string(output.join("validation.csv")).expect("it validates");
            let points: Vec<(f64, f64)> = text.lines().skip(1).map(point).collect();
            let (first, last) = (points[0].1, points[points.len() - 1].1);
            println!(
                "seed {seed}: {first:.4} to {last:.4}, {:.1} %, in {:?}",
                100.0 * (last / first - 1.0),
                start.elapsed()
            );
            Curve { name: format!("seed {seed}"), points }
        })
        .collect();
    let text =
        svg("validation: l2 + lpips", Scale::Linear, &curves).expect("it can be drawn").expect("there are steps");
    std::fs::write(&file, text).expect("there is room");
}

/// A list of scenes.
fn drawn(folder: &Path, name: &str, count: usize, seed: u64) -> PathBuf {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut list = String::new();
    for i in 0..count {
        let file = folder.join(format!("{name}/{i:03}.png"));
        codec::save(&scenes::scene(&mut rng, 96), &file).expect("there is room");
        list += &format!("{}\n", file.display());
    }
    let file = folder.join(format!("{name}.txt"));
    std::fs::write(&file, list).expect("there is room");
    file
}

fn point(line: &str) -> (f64, f64) {
    let cells: Vec<f64> = line.split(',').map(|cell| cell.parse().expect("a number")).collect();
    (cells[0], cells[1] + cells[2])
}

fn options(photos: &Path, validation: PathBuf, output: PathBuf, seed: u64, rate: f64, steps: usize) -> Options {
    let parity = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity");
    Options {
        sd3: parity.join("sd3"),
        lpips: [parity.join("train/vgg16.pth"), parity.join("train/lpips.pth")],
        lists: Lists { files: vec![(photos.to_owned(), 1)], side: 64, skip_bad: false },
        output,
        resume: None,
        batch: 2,
        accumulation: 2,
        steps,
        checkpointing_steps: steps,
        checkpoints_total_limit: None,
        rank: 4,
        seed,
        learning_rates: [rate, rate],
        schedule: LrSchedule { scheduler: LrScheduler::Constant, warmup_steps: 0, steps, cycles: 1, power: 1.0 },
        settings: AdamWConfig { betas: [0.9, 0.999], epsilon: 1e-8, weight_decay: 1e-2, max_grad_norm: 1.0 },
        weights: Losses { l2: 1.0, lpips: 2.0, vsd: 1.0, diff: 1.0 },
        guidance: None,
        subtract_shift: true,
        precision: Precision::Fp32,
        gradient_checkpointing: false,
        memory: MemoryPlan::Resident,
        tensorboard: None,
        workers: 2,
        device: Device::Cpu,
        validation: Some((validation, 5)),
    }
}
