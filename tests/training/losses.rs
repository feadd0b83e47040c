//! What the losses of the training do beyond the reference's own case, which `parity/train.rs` replays.

use tch::{Device, Kind, Tensor};

use super::fixture;
use chain_of_zoom::checkpoint::sd3::Sd3;
use chain_of_zoom::pipelines::sr::PromptEncoder;
use chain_of_zoom::runtime::compute_alone;
use chain_of_zoom::runtime::rng::randn;
use chain_of_zoom::train::sr::losses::{Batch, Draws, Guidance, LossOptions, Losses, Outcome, micro_batch};
use chain_of_zoom::train::sr::model::{Model, ModelFiles};

const ALL: Losses = Losses { l2: 1.0, lpips: 2.0, vsd: 1.0, diff: 1.0 };

fn model(base_dtype: Kind) -> Model {
    // Others compute beside it.
    compute_alone();
    let path = |name: &str| fixture(name).into();
    let lpips: [std::path::PathBuf; 2] = [path("train/vgg16.pth"), path("train/lpips.pth")];
    let sd3 = Sd3::open(fixture("sd3").as_ref()).unwrap();
    let files = ModelFiles {
        sd3: &sd3,
        lpips: [&lpips[0], &lpips[1]],
        initial: None,
        rank: 4,
        seed: 1,
        device: Device::Cpu,
        base_dtype,
    };
    let model = Model::open(&files).unwrap();
    // What is up is zero at first, and then what is down has no gradient.
    for group in &model.groups {
        for (i, (_, parameter)) in (100..).zip(&group.parameters) {
            let noise = randn(i, &parameter.size()).unwrap() * 0.05;
            tch::no_grad(|| _ = parameter.shallow_clone().f_add_(&noise).unwrap());
        }
    }
    model
}

fn embeds(prompts: &[&str]) -> [Tensor; 2] {
    let mut encoder =
        PromptEncoder::open(&Sd3::open(fixture("sd3").as_ref()).unwrap(), Device::Cpu, Kind::Float).unwrap();
    let prompts: Vec<String> = prompts.iter().map(ToString::to_string).collect();
    encoder.embeds(&prompts, Device::Cpu).unwrap()
}

fn options(weights: Losses, guidance: Option<Guidance>) -> LossOptions {
    LossOptions { weights, accumulation: 1, gradient_checkpointing: false, guidance }
}

/// A micro-batch of two, always the same.
fn run(model: &Model, options: &LossOptions) -> Outcome {
    let picture = |seed: u64| randn(seed, &[2, 3, 64, 64]).unwrap().clamp(-1.0, 1.0);
    let [prompt, pooled] = embeds(&["an old fox", "snow"]);
    let batch = Batch { lq: picture(1), gt: picture(2), prompt, pooled };
    let noise =
        |seed: u64| randn(seed, &[2, model.latent_channels, 64 / model.reduction, 64 / model.reduction]).unwrap();
    let draws = Draws { eps_vae: noise(3), eps_vsd: noise(4), eps_diff: noise(5), u_vsd: 0.3, u_diff: 0.6 };
    micro_batch(model, &batch, &draws, options).unwrap()
}

/// All gradients of each group in a row: gen, vae, reg.
fn gradients(model: &mut Model) -> [Tensor; 3] {
    let gradients = model.take_gradients().unwrap();
    let flat = |group: &[Tensor]| group.iter().map(|gradient| gradient.flatten(0, -1)).collect::<Vec<_>>();
    model.by_group(&gradients).map(|group| Tensor::cat(&flat(group), 0))
}

fn length(tensor: &Tensor) -> f64 {
    tensor.norm().double_value(&[])
}

#[test]
fn the_distillation_alone_moves_the_generator_and_the_encoder() {
    let nothing = Losses { l2: 0.0, lpips: 0.0, vsd: 0.0, diff: 0.0 };
    for (weights, moved) in [
        (Losses { vsd: 1.0, ..nothing }, [true, true, false]),
        (Losses { diff: 1.0, ..nothing }, [false, false, true]),
        (Losses { l2: 1.0, ..nothing }, [true, true, false]),
        (Losses { lpips: 1.0, ..nothing }, [true, true, false]),
    ] {
        let mut model = model(Kind::Float);
        let losses = run(&model, &options(weights, None)).losses;
        assert_eq!(gradients(&mut model).map(|group| length(&group) > 1e-9), moved, "{weights:?}");
        assert!([losses.l2, losses.lpips, losses.vsd, losses.diff].iter().all(|loss| *loss > 0.0), "{losses:?}");
    }
}

#[test]
fn guidance_goes_from_the_negative_prompt_towards_and_beyond_the_prompt() {
    let model = model(Kind::Float);
    let teacher = |guidance: Option<Guidance>| {
        let [_, _, _, x_teacher] = run(&model, &options(ALL, guidance)).latents;
        x_teacher
    };
    let guided = |scale: f64| teacher(Some(Guidance { scale, negative: embeds(&["blurry"]) }));
    let apart = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
    let (plain, negative) = (teacher(None), guided(0.0));
    assert!(apart(&plain, &negative) > 1e-5);
    assert!(apart(&guided(1.0), &plain) < 1e-6);
    let expected = &negative + 7.5 * (&plain - &negative);
    assert!(apart(&guided(7.5), &expected) < 1e-5);
}

#[test]
fn the_shift_is_taken_off_or_not() {
    let mut model = model(Kind::Float);
    let difference = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
    assert!(model.shift_factor > 0.0 && model.encode_shift == model.shift_factor);
    let as_in_training = run(&model, &options(ALL, None)).pred;
    model.encode_shift = 0.0;
    let as_in_inference = run(&model, &options(ALL, None)).pred;
    assert!(difference(&as_in_training, &as_in_inference) > 1e-3);
}

#[test]
fn gradients_in_16_bits_point_where_those_in_32_do() {
    let mut exact = model(Kind::Float);
    run(&exact, &options(ALL, None));
    let exact = gradients(&mut exact);
    for kind in [Kind::BFloat16, Kind::Half] {
        let mut rounded = model(kind);
        let outcome = run(&rounded, &options(ALL, None));
        assert_eq!(outcome.latents[0].kind(), Kind::Float);
        for (group, (a, b)) in ["gen", "vae", "reg"].iter().zip(exact.iter().zip(&gradients(&mut rounded))) {
            let cosine = a.dot(b).double_value(&[]) / (length(a) * length(b));
            let ratio = length(b) / length(a);
            println!("{kind:?}, {group}: cosine {cosine:.5}, ratio of lengths {ratio:.4}");
            assert!(cosine > 0.99 && (0.95..1.05).contains(&ratio), "{kind:?}, {group}: {cosine}, {ratio}");
        }
    }
}
