//! Whether the trainers learn, with three seeds, on scenes that the program draws. `sr`: the tiny SD3 of the tests; writes the
//! validation's l2 + lpips over the steps as an SVG. `vlm`: the tiny Qwen2.5-VL, by a critic that likes four letters; writes the
//! mean rewards.
//!
//!     cargo bench --bench learning -- sr docs/learning.svg [LEARNING_RATE STEPS]
//!     cargo bench --bench learning -- vlm docs/learning_vlm.svg

#![allow(clippy::expect_used, reason = "what cannot be measured is not")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use chain_of_zoom::base::{CaptionRequest, MemoryPlan, Precision};
use chain_of_zoom::imaging::codec;
use chain_of_zoom::pipelines::caption::vlm::generate::SamplingOptions;
use chain_of_zoom::train::adamw::AdamWConfig;
use chain_of_zoom::train::distributed::World;
use chain_of_zoom::train::plot::{Curve, Scale, svg};
use chain_of_zoom::train::scenes;
use chain_of_zoom::train::schedule::{LrSchedule, LrScheduler};
use chain_of_zoom::train::sr::data::Lists;
use chain_of_zoom::train::sr::losses::Losses;
use chain_of_zoom::train::sr::options::Options;
use chain_of_zoom::train::sr::trainer::train;
use chain_of_zoom::train::vlm;
use tch::Device;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let trainer = arguments.first().map_or("sr", String::as_str);
    let file = PathBuf::from(arguments.get(1).map_or("learning.svg", String::as_str));
    let number = |i: usize, otherwise: f64| arguments.get(i).map_or(otherwise, |text| text.parse().expect("a number"));
    let folder = tempfile::tempdir().expect("there is room");
    let (what, curves) = match trainer {
        "vlm" => ("mean reward", vlm(folder.path())),
        _ => ("validation: l2 + lpips", sr(folder.path(), number(2, 1e-3), number(3, 60.0) as usize)),
    };
    let text = svg(what, Scale::Linear, &curves).expect("it can be drawn").expect("there are steps");
    std::fs::write(&file, text).expect("there is room");
}

/// With the KL that holds it, and, as the paper's algorithm, without and without scaling.
fn vlm(folder: &Path) -> Vec<Curve> {
    drawn(folder, "photos", 8, 2);
    let settings = [("beta 0.1", 0.1, true, 0.002, 60), ("beta 0, not scaled", 0.0, false, 0.004, 40)];
    let runs = settings.iter().flat_map(|setting| (1..=3).map(move |seed| (seed, *setting)));
    runs.map(|(seed, (name, beta, scale_rewards, rate, steps))| {
        let output = folder.join(format!("{name} {seed}"));
        let options = vlm_options(folder.join("photos"), output, seed, (beta, scale_rewards, rate, steps));
        let (start, mut points, mut kl) = (Instant::now(), Vec::new(), Vec::new());
        let mut on_event = |event: vlm::options::Event| {
            if let vlm::options::Event::Step(step) = event {
                points.push((step.number as f64, step.rewards.mean[3]));
                kl.push(step.kl);
            }
            true
        };
        vlm::trainer::train(&options, &mut World::alone(), &mut on_event).expect("it trains");
        let last = |numbers: &mut dyn DoubleEndedIterator<Item = f64>| numbers.rev().take(10).sum::<f64>() / 10.0;
        let (first, reward) = (points[0].1, last(&mut points.iter().map(|(_, reward)| *reward)));
        let kl = last(&mut kl.iter().copied());
        let share = 100.0 * (reward - first) / (1.5 - first);
        println!("{name}, seed {seed}: {first:.3} to {reward:.3} ({share:.0} %), KL {kl:.2}, in {:?}", start.elapsed());
        Curve { name: format!("{name}, seed {seed}"), points }
    })
    .collect()
}

fn vlm_options(
    photos: PathBuf,
    output: PathBuf,
    seed: u64,
    (beta, scale_rewards, learning_rate, steps): (f64, bool, f64, usize),
) -> vlm::options::Options {
    let pairs = vlm::pairs::PairOptions {
        photos: vec![photos],
        chains: Vec::new(),
        side: 64,
        deeper: 0.5,
        held_out: 0.0,
        skip_bad: false,
    };
    vlm::options::Options {
        model: Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/qwen/untied"),
        adapter: None,
        lora: vlm::adapter::LoraConfig { rank: 8, alpha: 32.0, dropout: 0.05 },
        message: CaptionRequest::default_message(true).to_owned(),
        critic: vlm::rewards::critic::CriticOptions {
            key: chain_of_zoom::base::ServerKey::default(),
            name: "words:e,a,i,o".to_owned(),
            is_expected: false,
            model: None,
            device: Device::Cpu,
            precision: Precision::Fp32,
        },
        pairs,
        output,
        resume: None,
        batch: 1,
        num_generations: 16,
        accumulation: 4,
        steps_per_generation: 1,
        num_iterations: 1,
        steps,
        checkpointing_steps: steps,
        checkpoints_total_limit: None,
        seed,
        learning_rate,
        schedule: constant(steps),
        settings: AdamWConfig { betas: [0.9, 0.95], epsilon: 1e-8, weight_decay: 0.1, max_grad_norm: 1.0 },
        loss: vlm::loss::LossOptions {
            loss_type: vlm::loss::LossType::Grpo,
            scale_rewards,
            beta,
            epsilon_low: 0.2,
            epsilon_high: 0.2,
        },
        sampling: SamplingOptions { temperature: 1.0, max_completion_length: 8 },
        mask_truncated: false,
        rewards: vlm::rewards::RewardOptions::default(),
        early_stopping_steps: steps,
        max_kl: f64::INFINITY,
        precision: Precision::Fp32,
        gradient_checkpointing: false,
        memory: MemoryPlan::Resident,
        device: Device::Cpu,
        validation: None,
        tensorboard: None,
    }
}

fn constant(steps: usize) -> LrSchedule {
    LrSchedule { scheduler: LrScheduler::Constant, warmup_steps: 0, steps, cycles: 1, power: 1.0 }
}

fn sr(folder: &Path, rate: f64, steps: usize) -> Vec<Curve> {
    let photos = drawn(folder, "photos", 24, 2);
    drawn(folder, "validation", 8, 3);
    let run = |seed: u64| {
        let output = folder.join(seed.to_string());
        let start = Instant::now();
        let options = options(&photos, folder.join("validation"), output.clone(), seed, rate, steps);
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
    };
    (1..=3).map(run).collect()
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
        schedule: constant(steps),
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
