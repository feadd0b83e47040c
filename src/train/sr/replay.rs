//! Training without chance: pictures, noise, times and first values from files, to compare with another implementation step by
//! step.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use super::data::signed;
use super::losses::{Batch, Draws, LossOptions, Losses, micro_batch};
use super::model::{GEN, Initial, Model, ModelFiles, REG, VAE};
use crate::base::write_atomic;
use crate::checkpoint::sd3::Sd3;
use crate::pipelines::sr::PromptEncoder;
use crate::runtime::weights::Weights;
use crate::train::TrainError;
use crate::train::adamw::{AdamWConfig, norm};
use crate::train::files::write_safetensors;

/// A case; paths are relative to its file.
#[derive(Deserialize)]
struct Case {
    /// A folder in the layout of `stabilityai/stable-diffusion-3-medium-diffusers`.
    sd3: PathBuf,
    /// VGG16.
    lpips_vgg: PathBuf,
    /// What LPIPS adds to it.
    lpips_lin: PathBuf,
    /// Pictures, noise and times.
    replay: PathBuf,
    /// First values.
    init: PathBuf,
    #[serde(default)]
    args: Arguments,
    /// Of each micro-batch, of each picture.
    captions: Vec<Vec<String>>,
}

/// Options by the reference's names.
#[derive(Deserialize)]
#[serde(default)]
struct Arguments {
    learning_rate: f64,
    learning_rate_vae: Option<f64>,
    adam_beta1: f64,
    adam_beta2: f64,
    adam_epsilon: f64,
    adam_weight_decay: f64,
    max_grad_norm: f64,
    gradient_accumulation_steps: usize,
    lambda_l2: f64,
    lambda_lpips: f64,
    lambda_vsd: f64,
    lambda_vsd_lora: f64,
    lora_rank: i64,
}

impl Default for Arguments {
    fn default() -> Self {
        Self {
            learning_rate: 5e-5,
            learning_rate_vae: None,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            adam_weight_decay: 1e-2,
            max_grad_norm: 1.0,
            gradient_accumulation_steps: 4,
            lambda_l2: 1.0,
            lambda_lpips: 2.0,
            lambda_vsd: 1.0,
            lambda_vsd_lora: 1.0,
            lora_rank: 4,
        }
    }
}

/// Trains through a case and writes `replay/` (losses, gradients, parameters after each step) and the last checkpoints into a
/// folder. Returns how many steps were made.
///
/// # Errors
/// What cannot be read, does not fit, or cannot be computed.
pub fn replay(file: &Path, out: &Path, gradient_checkpointing: bool) -> Result<usize, TrainError> {
    let text = std::fs::read(file).map_err(TrainError::io(file))?;
    let case: Case = serde_json::from_slice(&text).map_err(|error| TrainError::format(file, error))?;
    let here = |path: &Path| file.parent().unwrap_or(Path::new("")).join(path);
    let (sd3, lpips) = (here(&case.sd3), [here(&case.lpips_vgg), here(&case.lpips_lin)]);
    let args = &case.args;
    let initial = initial(&here(&case.init))?;
    let sd3 = Sd3::open(&sd3)?;
    let files = ModelFiles {
        sd3: &sd3,
        lpips: [&lpips[0], &lpips[1]],
        initial: Some(&initial),
        rank: args.lora_rank,
        seed: 0,
        device: Device::Cpu,
        base_dtype: Kind::Float,
    };
    let mut model = Model::open(&files)?;
    let mut prompts = PromptEncoder::open(&sd3, Device::Cpu, Kind::Float)?;
    let weights = Weights::open(&here(&case.replay))?;
    let settings = AdamWConfig {
        betas: [args.adam_beta1, args.adam_beta2],
        epsilon: args.adam_epsilon,
        weight_decay: args.adam_weight_decay,
        max_grad_norm: args.max_grad_norm,
    };
    let accumulation = args.gradient_accumulation_steps.max(1);
    let options = LossOptions {
        weights: Losses {
            l2: args.lambda_l2,
            lpips: args.lambda_lpips,
            vsd: args.lambda_vsd,
            diff: args.lambda_vsd_lora,
        },
        accumulation,
        gradient_checkpointing,
        guidance: None,
    };
    let rate_of_vae = args.learning_rate_vae.unwrap_or(args.learning_rate);
    let folder = out.join("replay");
    let (mut losses, mut norms) = ("micro,l2,lpips,vsd,diff\n".to_owned(), "step,gen,vae,reg\n".to_owned());
    let mut steps = 0;
    for (micro, captions) in case.captions.iter().enumerate() {
        let batch = batch(&weights, micro, captions, &mut prompts)?;
        let Losses { l2, lpips, vsd, diff } = micro_batch(&model, &batch, &draws(&weights, micro)?, &options)?.losses;
        _ = writeln!(losses, "{micro},{l2},{lpips},{vsd},{diff}");
        if (micro + 1) % accumulation != 0 {
            continue;
        }
        steps += 1;
        let gradients = model.take_gradients()?;
        let named = model.names().zip(&gradients).map(|(name, gradient)| (name, gradient.shallow_clone()));
        write_safetensors(&folder.join(format!("grad{steps}.safetensors")), &named.collect())?;
        let gradients = model.by_group(&gradients);
        let [of_gen, of_vae, of_reg] = gradients.map(norm);
        let norms_of_step = [of_gen?, of_vae?, of_reg?];
        model.step([args.learning_rate, rate_of_vae, args.learning_rate], gradients, norms_of_step, &settings)?;
        _ = writeln!(norms, "{steps},{},{},{}", norms_of_step[GEN], norms_of_step[VAE], norms_of_step[REG]);
        write_safetensors(&folder.join(format!("step{steps}.safetensors")), &model.parameters())?;
    }
    let write = |name: &str, text: &str| {
        write_atomic(&folder.join(name), |out| std::io::Write::write_all(out, text.as_bytes()))
    };
    write("losses.csv", &losses)?;
    write("grad_norms.csv", &norms)?;
    model.save(out, steps)?;
    Ok(steps)
}

/// First values by group: `init.GROUP.NAME`.
fn initial(file: &Path) -> Result<BTreeMap<String, Initial>, TrainError> {
    let weights = Weights::open(file)?;
    let mut groups: BTreeMap<String, Initial> = BTreeMap::new();
    for name in weights.shapes().into_keys() {
        let rest = name.strip_prefix("init.").unwrap_or(name);
        if let (Some((group, own)), Some(tensor)) = (rest.split_once('.'), weights.tensor(name).transpose()?) {
            groups.entry(group.into()).or_default().insert(own.into(), tensor.f_to_kind(Kind::Float)?);
        }
    }
    Ok(groups)
}

fn tensor(weights: &Weights, micro: usize, name: &str) -> Result<Tensor, TrainError> {
    let name = format!("mb{micro}.{name}");
    let missing = || TrainError::format(weights.file(), format!("{name} is missing"));
    Ok(weights.tensor(&name).ok_or_else(missing)??.f_to_kind(Kind::Float)?)
}

fn batch(
    weights: &Weights,
    micro: usize,
    captions: &[String],
    prompts: &mut PromptEncoder,
) -> Result<Batch, TrainError> {
    let picture = |name: &str| -> Result<Tensor, TrainError> { Ok(signed(&tensor(weights, micro, name)?)?) };
    let [prompt, pooled] = prompts.embeds(captions, Device::Cpu)?;
    Ok(Batch { lq: picture("lq_u8")?, gt: picture("gt_u8")?, prompt, pooled })
}

fn draws(weights: &Weights, micro: usize) -> Result<Draws, TrainError> {
    let noise = |name: &str| tensor(weights, micro, name);
    let number = |name: &str| -> Result<f64, TrainError> { Ok(noise(name)?.f_view([-1])?.f_double_value(&[0])?) };
    Ok(Draws {
        eps_vae: noise("eps_vae")?,
        eps_vsd: noise("eps_vsd")?,
        eps_diff: noise("eps_diff")?,
        u_vsd: number("u_vsd")?,
        u_diff: number("u_diff")?,
    })
}
