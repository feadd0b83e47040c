//! The policy by itself: log-probs, gradients, completions.

use tch::{Device, Kind, Tensor};

use super::model;
use crate::samples::photo;
use chain_of_zoom::pipelines::caption::vlm::generate::SamplingOptions;
use chain_of_zoom::pipelines::caption::vlm::processor::EncodedPrompt;
use chain_of_zoom::runtime::compute_alone;
use chain_of_zoom::runtime::rng::randn;
use chain_of_zoom::train::vlm::adapter::{LoraConfig, LoraInit};
use chain_of_zoom::train::vlm::policy::{Policy, PolicyFiles};

/// A LoRA that changes something: what is up is zero at first.
fn policy(base_dtype: Kind, dropout: f64) -> Policy {
    // Others compute beside it.
    compute_alone();
    let lora = LoraInit::New(LoraConfig { rank: 4, alpha: 8.0, dropout }, 1);
    let files = PolicyFiles { model: model(), lora, message: "What is it?".into(), device: Device::Cpu, base_dtype };
    let mut policy = Policy::open(files).unwrap();
    policy.load().unwrap();
    for (i, (_, parameter)) in (0..).zip(&policy.groups[0].parameters) {
        let noise = randn(i, &parameter.size()).unwrap() * 0.05;
        tch::no_grad(|| _ = parameter.shallow_clone().f_add_(&noise).unwrap());
    }
    policy
}

fn prompt(policy: &Policy) -> EncodedPrompt {
    policy.encode(&[photo(64, 60), photo(50, 70)]).unwrap()
}

const COMPLETIONS: [&[i64]; 3] = [&[5, 80, 200, 7], &[9], &[300, 2, 2]];

fn completions() -> Vec<Vec<i64>> {
    COMPLETIONS.map(<[i64]>::to_vec).to_vec()
}

fn largest(x: &Tensor) -> f64 {
    x.abs().max().double_value(&[])
}

#[test]
fn completions_do_not_see_each_other() {
    let policy = policy(Kind::Float, 0.0);
    let prompt = prompt(&policy);
    for pass in [Some(1), None] {
        let all = policy.log_probs(&prompt, &completions(), 0.7, pass).unwrap();
        let apart =
            completions().into_iter().map(|ids| policy.log_probs(&prompt, &[ids], 0.7, pass).unwrap().log_probs);
        let apart = Tensor::cat(&apart.collect::<Vec<_>>(), 0);
        assert_eq!(all.log_probs.size(), [8]);
        assert!(largest(&(all.log_probs - apart)) < 2e-5);
        assert!(all.entropy.min().double_value(&[]) > 0.0);
    }
}

/// The gradient of the sum of some log-probs, by parameters.
fn gradients(policy: &mut Policy, pass: u64, checkpoints: bool) -> Vec<Tensor> {
    let prompt = prompt(policy);
    policy
        .backward(&prompt, &completions(), 1.0, (pass, checkpoints), |found| {
            // Somebody else computes meanwhile.
            policy.log_probs(&prompt, &completions(), 1.0, None)?;
            Ok(Tensor::arange(found.log_probs.size1()?, (Kind::Float, Device::Cpu)) - 2.5)
        })
        .unwrap();
    policy.groups[0].take_gradients().unwrap()
}

#[test]
fn gradients_are_the_same_with_checkpoints_and_follow_the_pass() {
    let mut policy = policy(Kind::Float, 0.3);
    let kept = gradients(&mut policy, 7, false);
    let again = gradients(&mut policy, 7, true);
    let other = gradients(&mut policy, 8, false);
    let differs = |a: &[Tensor], b: &[Tensor]| {
        a.iter().zip(b).map(|(a, b)| largest(&(a - b)) / largest(a).max(1e-9)).fold(0.0, f64::max)
    };
    assert!(kept.iter().all(|gradient| largest(gradient) > 0.0), "all layers learn");
    assert!(differs(&kept, &again) < 1e-4, "{}", differs(&kept, &again));
    assert!(differs(&kept, &other) > 0.1, "another pass drops other inputs");
}

#[test]
fn half_precision_bases_have_gradients_in_float32() {
    let exact = gradients(&mut policy(Kind::Float, 0.0), 0, false);
    for kind in [Kind::BFloat16, Kind::Half] {
        let rounded = gradients(&mut policy(kind, 0.0), 0, false);
        let length =
            |all: &[Tensor]| all.iter().map(|x| x.square().sum(Kind::Double).double_value(&[])).sum::<f64>().sqrt();
        let difference: Vec<Tensor> = exact.iter().zip(&rounded).map(|(a, b)| a - b).collect();
        assert!(rounded.iter().all(|gradient| gradient.kind() == Kind::Float));
        let off = length(&difference) / length(&exact);
        println!("{kind:?}: {off:.3}");
        assert!(off < 0.3, "{kind:?}: {off}");
    }
}

#[test]
fn sampling_follows_its_seeds_and_the_probabilities() {
    let policy = policy(Kind::Float, 0.5);
    let prompt = prompt(&policy);
    let sampled = |temperature: f64, seeds: &[u64]| {
        policy.sample(&prompt, &SamplingOptions { temperature, max_completion_length: 6 }, seeds).unwrap()
    };
    let all = sampled(1.0, &[1, 2, 3, 4]);
    assert_eq!(all, sampled(1.0, &[1, 2, 3, 4]));
    assert_eq!(all[2..], sampled(1.0, &[3, 4]), "whoever is beside it");
    assert!(all[0] != all[1] && all.iter().all(|ids| (1..=6).contains(&ids.len())));
    let ends = policy.processor.ends();
    assert!(all.iter().all(|ids| ids[..ids.len() - 1].iter().all(|id| !ends.contains(id))), "nothing behind an end");
    // The likeliest token of each place is the one whose log-prob is highest, and those agree with the cache.
    let greedy = sampled(0.0, &[0]).swap_remove(0);
    let own = policy.log_probs(&prompt, std::slice::from_ref(&greedy), 1.0, Some(0)).unwrap().log_probs;
    for token in 0..policy.processor.config.language.vocab_size {
        let mut other = greedy.clone();
        *other.last_mut().unwrap() = token;
        let found = policy.log_probs(&prompt, &[other], 1.0, Some(0)).unwrap().log_probs;
        let last = own.size1().unwrap() - 1;
        assert!(found.double_value(&[last]) <= own.double_value(&[last]) + 1e-5);
    }
}
