//! The policy: Qwen2.5-VL, frozen, with a LoRA in its language model that is trained; and the reference, the same without it. Its
//! completions are sampled beside each other behind one prompt, and their log-probs computed in one packed sequence: the prompt
//! once, and behind it all completions, of which none sees another.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tch::{Device, Kind, TchError, Tensor};

use super::adapter::{AdapterFile, LoraInit, PeftConfig};
use crate::imaging::Picture;
use crate::networks::qwen::Qwen;
use crate::networks::qwen::adapter::Adapter;
use crate::networks::qwen::language::{LanguageModel, Sequence};
use crate::pipelines::PipelineError;
use crate::pipelines::caption::vlm::generate::{SamplingOptions, generate};
use crate::pipelines::caption::vlm::processor::{EncodedPrompt, Processor, caption_chat};
use crate::runtime::weights::lora::LoraDropout;
use crate::runtime::weights::{LoadMode, Loader, LoraMap, Weights};
use crate::runtime::{accelerator, allocator};
use crate::train::TrainError;
use crate::train::adamw::Group;
use crate::train::files::shared;
use crate::train::seed::derived_seed;
use crate::train::tape::{self, Segments};

/// Tokens whose logits are in memory at a time.
const HEAD_TOKENS: i64 = 64;

/// Gradients of less than 6e-8 are nothing in fp16.
const HALF_SCALE: f64 = 1024.0;

/// What is opened, and how.
pub struct PolicyFiles {
    /// A folder in the layout of `Qwen/Qwen2.5-VL-3B-Instruct`.
    pub model: PathBuf,
    /// Where the LoRA comes from.
    pub lora: LoraInit,
    /// The message from the system, with both pictures.
    pub message: String,
    /// Where it is to be.
    pub device: Device,
    /// Of the frozen weights.
    pub base_dtype: Kind,
}

/// The networks while they are in memory.
struct Networks {
    /// With the LoRA.
    language: LanguageModel,
    /// Without it, and the vision tower.
    base: Rc<Qwen>,
}

/// The networks, and what is trained of them.
pub struct Policy {
    /// Chats and pictures to tokens, and back.
    pub processor: Processor,
    /// One group, "policy".
    pub groups: [Group; 1],
    /// `adapter_config.json` of what is trained.
    pub adapter_config: PeftConfig,
    weights: Weights,
    networks: Option<Networks>,
    loras: LoraMap,
    /// The seed of the pass that is computed, for its dropout; 0 without.
    dropout: Arc<AtomicU64>,
    message: String,
    device: Device,
    kind: Kind,
}

/// The log-probs of completions, token after token, `[T]` in float32.
pub struct LogProbs {
    /// Of each token, by logits that are divided by the temperature.
    pub log_probs: Tensor,
    /// Of the distribution that it comes from.
    pub entropy: Tensor,
}

/// A prompt and its completions as one sequence.
struct Packed<'a> {
    network: &'a LanguageModel,
    /// Where the layers look which pass is computed, and which one this is.
    dropout: (&'a AtomicU64, u64),
    sequence: Sequence,
    /// `[1, N, D]`.
    embedded: Tensor,
    /// Where the tokens before each token of a completion are.
    rows: Tensor,
    /// The tokens.
    targets: Tensor,
}

impl Segments for Packed<'_> {
    fn count(&self) -> usize {
        self.network.layer_count()
    }

    fn run(&self, segment: usize, inputs: &[Tensor]) -> Result<Vec<Tensor>, TchError> {
        // Also where it is computed again, behind others.
        let (current, pass) = self.dropout;
        current.store(pass, Ordering::Relaxed);
        Ok(vec![self.network.layer(segment, &inputs[0], &self.sequence)?])
    }
}

impl<'a> Packed<'a> {
    fn new(
        network: &'a LanguageModel,
        dropout: (&'a AtomicU64, u64),
        prompt: &EncodedPrompt,
        completions: &[Vec<i64>],
    ) -> Result<Self, PipelineError> {
        let length = prompt.ids.len() as i64;
        // Of each token the text it belongs to, 0 for the prompt; nobody reads what follows a completion's last token.
        let (mut texts, mut ids, mut rows, mut targets) =
            (vec![0; prompt.ids.len()], Vec::new(), Vec::new(), Vec::new());
        let mut positions = vec![prompt.positions.shallow_clone()];
        for (number, completion) in (1..).zip(completions) {
            let Some((_, read)) = completion.split_last() else { continue };
            let first = length + ids.len() as i64;
            rows.push(length - 1);
            rows.extend(first..first + read.len() as i64);
            targets.extend_from_slice(completion);
            texts.extend(std::iter::repeat_n(number, read.len()));
            ids.extend_from_slice(read);
            positions.push(prompt.positions_behind(0, read.len() as i64)?);
        }
        let device = network.device();
        let here = |numbers: &[i64]| Tensor::f_from_slice(numbers)?.f_to_device(device);
        let texts: Tensor = here(&texts)?;
        let is_own = texts.f_unsqueeze(1)?.f_eq_tensor(&texts)?;
        let is_of_prompt = texts.f_eq(0)?.f_unsqueeze(0)?;
        let mask = is_own.f_logical_or(&is_of_prompt)?.f_tril(0)?;
        let embedded = Tensor::f_cat(&[&prompt.embedded, &network.embed(&here(&ids)?)?], 1)?;
        let embedded = embedded.f_to_kind(network.residual_kind())?;
        let sequence = network.sequence(&Tensor::f_cat(&positions, 1)?, mask)?;
        Ok(Self { network, dropout, sequence, embedded, rows: here(&rows)?, targets: here(&targets)? })
    }

    /// Log-probs and entropies of some tokens, from what the layers made of those before them, `[T, D]`.
    fn head(&self, hidden: &Tensor, targets: &Tensor, temperature: f64) -> Result<LogProbs, TchError> {
        let logits = self.network.logits(&hidden.f_unsqueeze(0)?)?.f_get(0)?.f_div_scalar(temperature)?;
        let total = logits.f_logsumexp([-1].as_slice(), true)?;
        let own = logits.f_gather(1, &targets.f_unsqueeze(1)?, false)?.f_sub(&total)?.f_squeeze_dim(1)?;
        let entropy = tch::no_grad(|| {
            let log_probs = logits.f_detach()?.f_sub(&total.f_detach()?)?;
            log_probs.f_exp()?.f_mul(&log_probs)?.f_sum_dim_intlist([-1].as_slice(), false, Kind::Float)?.f_neg()
        })?;
        Ok(LogProbs { log_probs: own, entropy })
    }

    /// Chunks of the tokens: of what the layers made of those before them, and themselves.
    fn chunks(&self, hidden: &Tensor) -> Result<Vec<(Tensor, Tensor)>, TchError> {
        let before = hidden.f_get(0)?.f_index_select(0, &self.rows)?;
        let count = self.rows.size1()?;
        let starts = (0..count).step_by(HEAD_TOKENS as usize);
        let chunk = |start: i64| {
            let length = HEAD_TOKENS.min(count - start);
            Ok((before.f_narrow(0, start, length)?, self.targets.f_narrow(0, start, length)?))
        };
        starts.map(chunk).collect()
    }

    fn outcome(&self, hidden: &Tensor, temperature: f64) -> Result<LogProbs, TchError> {
        let none = || Tensor::f_zeros([0], (Kind::Float, self.rows.device()));
        let (mut log_probs, mut entropy) = (vec![none()?], vec![none()?]);
        tch::no_grad(|| {
            for (before, targets) in self.chunks(hidden)? {
                let chunk = self.head(&before, &targets, temperature)?;
                log_probs.push(chunk.log_probs);
                entropy.push(chunk.entropy);
            }
            Ok(LogProbs { log_probs: Tensor::f_cat(&log_probs, 0)?, entropy: Tensor::f_cat(&entropy, 0)? })
        })
    }

    /// The gradient of what the layers made, from that of the log-probs `[T]`: logits are computed once more, some at a time.
    fn head_backward(&self, hidden: &Tensor, gradient: &Tensor, temperature: f64) -> Result<Tensor, TchError> {
        let (mut start, mut gradients) = (0, Vec::new());
        for (before, targets) in self.chunks(hidden)? {
            let before = before.f_detach()?.f_set_requires_grad(true)?;
            let log_probs = self.head(&before, &targets, temperature)?.log_probs;
            let count = targets.size1()?;
            log_probs.f_mul(&gradient.f_narrow(0, start, count)?)?.f_sum(Kind::Float)?.f_backward()?;
            gradients.push(before.f_grad()?);
            start += count;
        }
        let of_hidden = hidden.f_zeros_like()?;
        match gradients.is_empty() {
            true => Ok(of_hidden),
            false => of_hidden.f_index_add(1, &self.rows, &Tensor::f_cat(&gradients, 0)?.f_unsqueeze(0)?),
        }
    }
}

impl Policy {
    /// Opens all files and compares every name and shape; the networks are read when they are first used.
    ///
    /// # Errors
    /// What is missing, or of another model.
    pub fn open(files: PolicyFiles) -> Result<Self, TrainError> {
        let PolicyFiles { model, lora, message, device, base_dtype: kind } = files;
        let processor = Processor::open(&model)?;
        let weights = Weights::open_folder(&model, "model")?;
        let mut loader = Loader::new(&weights, "", device, kind).mode(LoadMode::ShapesOnly);
        Qwen::load(&mut loader, &processor.config, &Adapter::default())?;
        let adapter = AdapterFile::open(lora, &weights, &processor.config.language)?;
        let dropout = Arc::new(AtomicU64::new(0));
        let (mut loras, mut parameters) = (LoraMap::new(), Vec::new());
        for (number, layer) in (0..).zip(adapter.layers) {
            let mut pair = layer.pair.trainable(device)?;
            let seed = derived_seed("dropout", &[number]);
            let probability = adapter.dropout;
            pair.dropout = (probability > 0.0).then(|| LoraDropout { probability, seed, pass: dropout.clone() });
            let [down, up] = layer.keys;
            parameters.extend([(down, pair.down.shallow_clone()), (up, pair.up.shallow_clone())]);
            loras.insert(layer.weight, pair);
        }
        let scale = if kind == Kind::Half { HALF_SCALE } else { 1.0 };
        let groups = [Group::new("policy", parameters, scale)?];
        let adapter_config = adapter.config;
        Ok(Self { processor, groups, adapter_config, weights, networks: None, loras, dropout, message, device, kind })
    }

    /// Reads the networks, where they are not in memory.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn load(&mut self) -> Result<(), TrainError> {
        if self.networks.is_none() {
            let tensors = shared(&self.weights, "", self.device, self.kind)?;
            self.weights.release();
            let weights = Weights::from_tensors(tensors).called(self.weights.file());
            let config = &self.processor.config;
            let loader = || Loader::new(&weights, "", self.device, self.kind);
            let base = Rc::new(Qwen::load(&mut loader(), config, &Adapter::default())?);
            let loras = self.loras.iter().map(|(name, pair)| (name.clone(), pair.shallow_clone())).collect();
            let mut loader = loader().unmerged(loras);
            loader.ignore_prefix("visual.");
            loader.ignore_prefix("model.visual.");
            let language = LanguageModel::load(&mut loader, &config.language, &Adapter::default())?;
            loader.finish("Qwen2.5-VL")?;
            self.networks = Some(Networks { language, base });
        }
        Ok(())
    }

    /// The networks leave memory; what is trained stays.
    pub fn unload(&mut self) {
        self.networks = None;
        allocator::trim();
        accelerator::trim();
    }

    fn networks(&self) -> Result<&Networks, TrainError> {
        let missing = || PipelineError::Internal("the policy is used while it is not in memory".into());
        Ok(self.networks.as_ref().ok_or_else(missing)?)
    }

    /// Both networks without the LoRA.
    ///
    /// # Errors
    /// Where they are not in memory.
    pub fn base(&self) -> Result<Rc<Qwen>, TrainError> {
        Ok(self.networks()?.base.clone())
    }

    /// Of the frozen weights.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Bytes of the networks.
    pub fn bytes(&self) -> u64 {
        let numbers = |shape: Vec<i64>| shape.iter().product::<i64>().unsigned_abs();
        let all: u64 = self.weights.shapes().into_values().map(numbers).sum();
        all * self.kind.elt_size_in_bytes() as u64
    }

    /// The question about two pictures.
    ///
    /// # Errors
    /// A picture that is too narrow; what libtorch says.
    pub fn encode(&self, pictures: &[Picture; 2]) -> Result<EncodedPrompt, TrainError> {
        let Networks { base, .. } = self.networks()?;
        tch::no_grad(|| {
            let image =
                |picture: &Picture| self.processor.encode_image(&base.vision, picture, self.device, &mut |_| Ok(()));
            let images = [image(&pictures[0])?, image(&pictures[1])?];
            let chat = caption_chat(&self.message, 2);
            Ok(self.processor.encode_chat(&base.language, &chat, &images.each_ref())?)
        })
    }

    /// As many completions as there are seeds, token ids each with the end where it was reached. They share what is remembered of the
    /// prompt; nothing is dropped out.
    ///
    /// # Errors
    /// What libtorch says; logits that are no numbers.
    pub fn sample(
        &self,
        prompt: &EncodedPrompt,
        options: &SamplingOptions,
        seeds: &[u64],
    ) -> Result<Vec<Vec<i64>>, TrainError> {
        let language = &self.networks()?.language;
        self.dropout.store(0, Ordering::Relaxed);
        tch::no_grad(|| {
            let mut cache = language.cache(prompt.ids.len() as i64)?;
            let mut quiet = |_| Ok::<(), PipelineError>(());
            let logits = language.forward(&prompt.embedded, &prompt.positions, &mut cache, &mut quiet)?.f_get(0)?;
            if !bool::try_from(logits.f_isfinite()?.f_all()?)? {
                return Err(PipelineError::not_finite("Qwen2.5-VL", self.kind).into());
            }
            Ok(generate(language, prompt, (&cache, &logits), options, (seeds, self.processor.ends()))?)
        })
    }

    /// The log-probs of completions: by the policy with the dropout of a pass, or, without one, by the reference.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn log_probs(
        &self,
        prompt: &EncodedPrompt,
        completions: &[Vec<i64>],
        temperature: f64,
        pass: Option<u64>,
    ) -> Result<LogProbs, TrainError> {
        let Networks { language, base } = self.networks()?;
        let network = if pass.is_some() { language } else { &base.language };
        let packed = Packed::new(network, (&self.dropout, pass.unwrap_or(0)), prompt, completions)?;
        let hidden = tape::run(&packed, &[packed.embedded.shallow_clone()])?.swap_remove(0);
        Ok(packed.outcome(&hidden, temperature)?)
    }

    /// Gathers gradients in the LoRA: `loss` makes those of the log-probs, `[T]`, from what the policy says with the dropout of this
    /// pass. `checkpoints`: layers are computed again on the way back rather than kept.
    ///
    /// # Errors
    /// What libtorch says; what `loss` returns.
    pub fn backward(
        &self,
        prompt: &EncodedPrompt,
        completions: &[Vec<i64>],
        temperature: f64,
        (pass, checkpoints): (u64, bool),
        loss: impl FnOnce(LogProbs) -> Result<Tensor, TrainError>,
    ) -> Result<(), TrainError> {
        let packed = Packed::new(&self.networks()?.language, (&self.dropout, pass), prompt, completions)?;
        let (hidden, tape) = tape::forward(&packed, &[packed.embedded.shallow_clone()], checkpoints)?;
        let gradient = loss(packed.outcome(&hidden[0], temperature)?)?.f_mul_scalar(self.groups[0].scale)?;
        let of_hidden = packed.head_backward(&hidden[0], &gradient, temperature)?;
        tape.backward(vec![of_hidden])?;
        Ok(())
    }
}
