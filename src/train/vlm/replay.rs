//! Training without chance: pairs, completions and rewards from files, to compare log-probs, losses, gradients and steps with
//! another implementation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use super::adapter::{self, LoraConfig, LoraInit};
use super::loss::{LossOptions, LossType, TokenLoss, advantages, spread, token_loss, token_weights};
use super::policy::{Policy, PolicyFiles};
use crate::base::{CaptionRequest, write_atomic};
use crate::pipelines::caption::vlm::processor::EncodedPrompt;
use crate::runtime::weights::Weights;
use crate::train::TrainError;
use crate::train::adamw::{AdamWConfig, norm};
use crate::train::files::{open_picture, write_safetensors};

/// What a case holds; paths are relative to its folder, else to the folder above.
#[derive(Deserialize)]
struct Case {
    /// A folder in the layout of `Qwen/Qwen2.5-VL-3B-Instruct`.
    model: PathBuf,
    /// Pairs by the names of the prompts.
    images: IndexMap<String, [PathBuf; 2]>,
    system_text: Option<String>,
    max_new_tokens: usize,
    #[serde(rename = "A")]
    one: Option<One>,
    #[serde(rename = "B")]
    several: Option<Several>,
}

/// By prompts: in their order, or by their names.
#[derive(Deserialize)]
#[serde(untagged)]
enum ByPrompt<T> {
    List(Vec<Vec<T>>),
    Named(IndexMap<String, Vec<T>>),
}

/// One loss of a policy with an adapter.
#[derive(Deserialize)]
struct One {
    adapter: PathBuf,
    #[serde(default = "one")]
    temperature: f64,
    #[serde(default)]
    beta: f64,
    #[serde(default = "clip")]
    epsilon: f64,
    completions: ByPrompt<Vec<i64>>,
    rewards: ByPrompt<f64>,
}

/// Optimizer steps from a new LoRA.
#[derive(Deserialize)]
struct Several {
    lora: Lora,
    #[serde(default = "one")]
    temperature: f64,
    #[serde(default)]
    beta: f64,
    #[serde(default = "clip")]
    epsilon_low: f64,
    #[serde(default = "clip")]
    epsilon_high: f64,
    loss_type: String,
    completions: ByPrompt<Vec<i64>>,
    rewards: ByPrompt<f64>,
    max_grad_norm: f64,
    adamw: AdamW,
    steps: Vec<Value>,
}

#[derive(Deserialize)]
struct Lora {
    r: i64,
    lora_alpha: f64,
    /// `FILE.safetensors, PREFIX`.
    init: String,
}

#[derive(Deserialize)]
struct AdamW {
    lr: f64,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
}

fn one() -> f64 {
    1.0
}

fn clip() -> f64 {
    0.2
}

impl<T> ByPrompt<T> {
    fn in_order(self, names: &[String], what: &str, file: &Path) -> Result<Vec<Vec<T>>, TrainError> {
        let found = match self {
            Self::List(list) => list,
            Self::Named(mut map) => names.iter().filter_map(|name| map.swap_remove(name)).collect(),
        };
        match found.len() == names.len() {
            true => Ok(found),
            false => {
                Err(TrainError::format(file, format!("{} prompts and {} lists of {what}", names.len(), found.len())))
            }
        }
    }
}

/// Prompts with their completions.
struct Rollouts {
    prompts: Vec<EncodedPrompt>,
    completions: Vec<Vec<Vec<i64>>>,
    rewards: Vec<Vec<f64>>,
    max_new_tokens: usize,
}

impl Rollouts {
    fn new(
        policy: &Policy,
        pictures: &[(String, [crate::imaging::Picture; 2])],
        completions: ByPrompt<Vec<i64>>,
        rewards: ByPrompt<f64>,
        max_new_tokens: usize,
        file: &Path,
    ) -> Result<Self, TrainError> {
        let names: Vec<String> = pictures.iter().map(|(name, _)| name.clone()).collect();
        let completions = completions.in_order(&names, "completions", file)?;
        let rewards = rewards.in_order(&names, "rewards", file)?;
        let fit = |(completions, rewards): (&Vec<Vec<i64>>, &Vec<f64>)| {
            completions.len() == rewards.len()
                && completions.iter().all(|completion| completion.len() <= max_new_tokens)
        };
        if !completions.iter().zip(&rewards).all(fit) {
            let found = "each completion needs a reward, and at most max_new_tokens tokens";
            return Err(TrainError::format(file, found));
        }
        let prompts = pictures.iter().map(|(_, pair)| policy.encode(pair)).collect::<Result<_, TrainError>>()?;
        Ok(Self { prompts, completions, rewards, max_new_tokens })
    }

    fn groups(&self) -> impl Iterator<Item = (&EncodedPrompt, &Vec<Vec<i64>>, &Vec<f64>)> {
        self.prompts
            .iter()
            .zip(&self.completions)
            .zip(&self.rewards)
            .map(|((prompt, ids), rewards)| (prompt, ids, rewards))
    }

    fn lengths(&self) -> Vec<usize> {
        self.completions.iter().flatten().map(Vec::len).collect()
    }

    /// Tokens of all completions, one after the other, as rows that are filled up with zeros: `[rows, max_new_tokens]`.
    fn rows(&self, tokens: &Tensor) -> Result<Tensor, TrainError> {
        let mut rows = Vec::new();
        let mut start = 0;
        for length in self.lengths() {
            let length = length as i64;
            let room = self.max_new_tokens as i64 - length;
            rows.push(tokens.f_narrow(0, start, length)?.f_constant_pad_nd([0, room])?);
            start += length;
        }
        Ok(Tensor::f_stack(&rows, 0)?)
    }

    /// A number of each completion for each of its tokens.
    fn spread(&self, numbers: &[f64]) -> Result<Tensor, TrainError> {
        Ok(spread(numbers, &self.lengths())?)
    }

    fn log_probs(&self, policy: &Policy, temperature: f64, pass: Option<u64>) -> Result<[Tensor; 2], TrainError> {
        let (mut log_probs, mut entropy) = (Vec::new(), Vec::new());
        for (prompt, ids, _) in self.groups() {
            let found = policy.log_probs(prompt, ids, temperature, pass)?;
            log_probs.push(found.log_probs);
            entropy.push(found.entropy);
        }
        Ok([Tensor::f_cat(&log_probs, 0)?, Tensor::f_cat(&entropy, 0)?])
    }

    /// Gathers the gradients of a loss whose tokens weigh so much.
    fn backward(
        &self,
        policy: &Policy,
        temperature: f64,
        [old, reference]: [&Tensor; 2],
        weights: &[f64],
        options: &LossOptions,
    ) -> Result<(), TrainError> {
        let (advantages, weights) =
            (self.spread(&self.advantages(options.scale_rewards).concat())?, self.spread(weights)?);
        let mut start = 0;
        for (prompt, ids, _) in self.groups() {
            let count = ids.iter().map(Vec::len).sum::<usize>() as i64;
            let own = |tensor: &Tensor| tensor.f_narrow(0, start, count);
            policy.backward(prompt, ids, temperature, (0, false), |found| {
                let log_probs = found.log_probs.f_set_requires_grad(true)?;
                let loss = token_loss(&log_probs, &own(old)?, &own(reference)?, &own(&advantages)?, options)?.loss;
                loss.f_mul(&own(&weights)?)?.f_sum(Kind::Float)?.f_backward()?;
                Ok(log_probs.f_grad()?)
            })?;
            start += count;
        }
        Ok(())
    }

    fn advantages(&self, scale: bool) -> Vec<Vec<f64>> {
        self.rewards.iter().map(|rewards| advantages(rewards, scale)).collect()
    }
}

fn mean(tokens: &Tensor) -> Result<f64, TrainError> {
    Ok(tokens.f_mean(Kind::Double)?.f_double_value(&[])?)
}

/// Computes a case and writes `replay.json`, `replay.safetensors` and `B_adapter/` into a folder.
///
/// # Errors
/// What cannot be read, does not fit, or cannot be computed.
pub fn replay(file: &Path, out: &Path) -> Result<(), TrainError> {
    let text = std::fs::read(file).map_err(TrainError::io(file))?;
    let case: Case = serde_json::from_slice(&text).map_err(|error| TrainError::format(file, error))?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let here = |path: &Path| {
        let places = [folder.join(path), folder.join("..").join(path)];
        places.iter().find(|place| place.exists()).unwrap_or(&places[0]).clone()
    };
    let pictures = case
        .images
        .iter()
        .map(|(name, [first, second])| Ok((name.clone(), [open_picture(&here(first))?, open_picture(&here(second))?])));
    let pictures = pictures.collect::<Result<Vec<_>, TrainError>>()?;
    let message = case.system_text.unwrap_or_else(|| CaptionRequest::default_message(true).to_owned());
    let open = |lora: LoraInit| -> Result<Policy, TrainError> {
        let files = PolicyFiles {
            model: here(&case.model),
            lora,
            message: message.clone(),
            device: Device::Cpu,
            base_dtype: Kind::Float,
        };
        let mut policy = Policy::open(files)?;
        policy.load()?;
        Ok(policy)
    };
    let (mut summary, mut tensors) = (serde_json::Map::new(), BTreeMap::new());
    if let Some(one) = case.one {
        let mut policy = open(LoraInit::Folder(here(&one.adapter), 0.0))?;
        let One { temperature, beta, epsilon, completions, rewards, .. } = one;
        let rollouts = Rollouts::new(&policy, &pictures, completions, rewards, case.max_new_tokens, file)?;
        let options = LossOptions {
            loss_type: LossType::Grpo,
            scale_rewards: true,
            beta,
            epsilon_low: epsilon,
            epsilon_high: epsilon,
        };
        summary.insert("A".into(), one_loss(&mut policy, &rollouts, temperature, &options, &mut tensors)?);
    }
    if let Some(several) = case.several {
        let (init, prefix) = several.lora.init.split_once(',').unwrap_or((&several.lora.init, ""));
        let prefix = match prefix.trim() {
            "" => String::new(),
            prefix => format!("{}.", prefix.trim_end_matches('.')),
        };
        let weights = Weights::open(&here(Path::new(init.trim())))?;
        let mut initial = Vec::new();
        for name in weights.shapes().into_keys() {
            if let Some(tensor) = weights.tensor(name).filter(|_| name.starts_with(&prefix)) {
                initial.push((name[prefix.len()..].to_owned(), tensor?.f_to_kind(Kind::Float)?));
            }
        }
        let lora = LoraConfig { rank: several.lora.r, alpha: several.lora.lora_alpha, dropout: 0.0 };
        let mut policy = open(LoraInit::Tensors(lora, initial))?;
        summary.insert("B".into(), steps(&mut policy, several, &pictures, case.max_new_tokens, file, &mut tensors)?);
        adapter::write(&out.join("B_adapter"), &policy.adapter_config, &policy.groups[0])?;
    }
    write_safetensors(&out.join("replay.safetensors"), &tensors)?;
    let (file, text) = (out.join("replay.json"), Value::from(summary).to_string());
    Ok(write_atomic(&file, |out| std::io::Write::write_all(out, text.as_bytes()))?)
}

/// Log-probs and losses of one policy, without a step.
fn one_loss(
    policy: &mut Policy,
    rollouts: &Rollouts,
    temperature: f64,
    options: &LossOptions,
    tensors: &mut BTreeMap<String, Tensor>,
) -> Result<Value, TrainError> {
    let [log_probs, entropy] = rollouts.log_probs(policy, temperature, Some(0))?;
    let [reference, _] = rollouts.log_probs(policy, temperature, None)?;
    let scaled = rollouts.advantages(true);
    let by_token = rollouts.spread(&scaled.concat())?;
    let TokenLoss { loss, kl, .. } = token_loss(&log_probs, &log_probs, &reference, &by_token, options)?;
    let named = [("logps", &log_probs), ("ref_logps", &reference), ("kl", &kl), ("per_token_loss", &loss)];
    for (name, tokens) in named {
        tensors.insert(format!("A.{name}"), rollouts.rows(tokens)?);
    }
    let (mut losses, mut norms) = (serde_json::Map::new(), serde_json::Map::new());
    for loss_type in [LossType::Grpo, LossType::Bnpo, LossType::DrGrpo] {
        let weights = token_weights(loss_type, &rollouts.lengths(), rollouts.max_new_tokens, 0.0, 1);
        let total = loss.f_mul(&rollouts.spread(&weights)?)?.f_sum(Kind::Double)?.f_double_value(&[])?;
        rollouts.backward(policy, temperature, [&log_probs, &reference], &weights, options)?;
        let gradients = policy.groups[0].take_gradients()?;
        losses.insert(loss_type.to_string(), total.into());
        norms.insert(loss_type.to_string(), norm(&gradients)?.into());
        if loss_type == LossType::Grpo {
            let keys = policy.groups[0].parameters.iter().map(|(key, _)| format!("A.grad.{key}"));
            tensors.extend(keys.zip(gradients));
        }
    }
    Ok(json!({
        "advantages": scaled,
        "advantages_unscaled": rollouts.advantages(false),
        "loss": losses,
        "grad_norm": norms,
        "kl_mean_over_tokens": mean(&kl)?,
        "entropy_mean_over_tokens": mean(&entropy)?,
    }))
}

/// Steps over the same completions, whose old log-probs are those before the first.
fn steps(
    policy: &mut Policy,
    case: Several,
    pictures: &[(String, [crate::imaging::Picture; 2])],
    max_new_tokens: usize,
    file: &Path,
    tensors: &mut BTreeMap<String, Tensor>,
) -> Result<Value, TrainError> {
    let Several { temperature, beta, epsilon_low, epsilon_high, completions, rewards, adamw, .. } = case;
    let rollouts = Rollouts::new(policy, pictures, completions, rewards, max_new_tokens, file)?;
    let loss_type: LossType = case
        .loss_type
        .parse()
        .map_err(|_| TrainError::format(file, format!("loss_type {} is not known", case.loss_type)))?;
    let options = LossOptions { loss_type, scale_rewards: true, beta, epsilon_low, epsilon_high };
    let settings = AdamWConfig {
        betas: adamw.betas,
        epsilon: adamw.eps,
        weight_decay: adamw.weight_decay,
        max_grad_norm: case.max_grad_norm,
    };
    let lengths = rollouts.lengths();
    let weights = token_weights(loss_type, &lengths, max_new_tokens, lengths.iter().sum::<usize>() as f64, 1);
    let by_token = rollouts.spread(&rollouts.advantages(true).concat())?;
    let [old, _] = rollouts.log_probs(policy, temperature, Some(0))?;
    let [reference, _] = rollouts.log_probs(policy, temperature, None)?;
    let mut lines = Vec::new();
    for number in 1..=case.steps.len() {
        let [log_probs, _] = rollouts.log_probs(policy, temperature, Some(0))?;
        let found = token_loss(&log_probs, &old, &reference, &by_token, &options)?;
        let loss = found.loss.f_mul(&rollouts.spread(&weights)?)?.f_sum(Kind::Double)?.f_double_value(&[])?;
        rollouts.backward(policy, temperature, [&old, &reference], &weights, &options)?;
        let group = &mut policy.groups[0];
        let gradients = group.take_gradients()?;
        let norm = norm(&gradients)?;
        group.step(adamw.lr, &gradients, norm, &settings)?;
        for (name, tokens) in [("logps", &log_probs), ("ratio", &found.ratio)] {
            tensors.insert(format!("B.step{number}.{name}"), rollouts.rows(tokens)?);
        }
        for (key, tensor) in &group.parameters {
            tensors.insert(format!("step{number}.{key}"), tensor.detach().copy());
        }
        lines.push(json!({
            "loss": loss,
            "grad_norm_before_clipping": norm,
            "clipped_share": mean(&found.is_clipped)?,
            "kl_mean_over_tokens": mean(&found.kl)?,
        }));
    }
    Ok(json!({ "steps": lines }))
}
