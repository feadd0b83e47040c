//! What is trained: one transformer, frozen, with the generator's LoRA, with the regulariser's, and without any (the teacher);
//! the VAE, frozen, with a LoRA in its encoder; LPIPS to compare by (OSEDiff, arXiv 2406.08177, on Stable Diffusion 3).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use tch::{Device, Kind, TchError, Tensor};

use crate::checkpoint::sd3::{Part, Sd3};
use crate::evaluate::metrics::Lpips;
use crate::networks::sd3::lora::ENCODER;
use crate::networks::sd3::mmdit;
use crate::networks::sd3::mmdit::Mmdit;
use crate::networks::vae;
use crate::networks::vae::{Decoder, Encoder, Ops};
use crate::runtime::weights::{Loader, LoraDelta, LoraMap, Weights};
use crate::train::TrainError;
use crate::train::adamw::{AdamWConfig, Group};
use crate::train::files::{shared, write_torch_dictionary, write_torch_list};
use crate::train::seed::derived_seed;
use crate::train::tape::Segments;

/// alpha of the encoder's LoRA; its scale is that by the rank.
const ENCODER_ALPHA: f64 = 8.0;

/// First values of what is trained, by names as in the files: `transformer_blocks.0.norm1.linear.lora_down.weight`,
/// `conv_in.lora_A.default_encoder.weight`.
pub type Initial = BTreeMap<String, Tensor>;

/// The networks, and the groups of parameters that are trained.
pub struct Model {
    /// With the generator's LoRA.
    pub generator: Mmdit,
    /// With the regulariser's.
    pub regulariser: Mmdit,
    /// Without any.
    pub teacher: Mmdit,
    /// With a LoRA of its own.
    pub encoder: Encoder,
    /// Frozen.
    pub decoder: Decoder,
    /// Frozen too.
    pub lpips: Lpips,
    /// Latents are multiplied by the one after the other was taken off.
    pub scaling_factor: f64,
    /// See above.
    pub shift_factor: f64,
    /// What is taken off behind the encoder: the same in the reference's training, nothing in its inference.
    pub encode_shift: f64,
    /// Where it is.
    pub device: Device,
    /// Of the latents.
    pub latent_channels: i64,
    /// How many times smaller their sides are than a picture's.
    pub reduction: i64,
    /// gen, vae, reg: in the order in which they are moved.
    pub groups: [Group; 3],
    /// Of the transformer.
    pub mmdit_config: mmdit::Config,
    /// Of the VAE.
    pub vae_config: vae::Config,
    /// The encoder's weights without the LoRA, for the file that replaces it.
    encoder_weights: BTreeMap<String, Tensor>,
    /// Layers that carry the transformer's LoRAs, in the order of the file.
    layers: Vec<String>,
}

/// Places of the groups.
pub const GEN: usize = 0;
pub const VAE: usize = 1;
pub const REG: usize = 2;

fn config<C: DeserializeOwned>(part: &Part) -> Result<C, TrainError> {
    let (json, file) = part.config()?;
    C::deserialize(json).map_err(|error| TrainError::format(&file, error))
}

/// Pairs of LoRA halves with the values of `initial`; without that down is drawn and up is zero.
struct Pairs<'a> {
    initial: Option<&'a Initial>,
    group: &'static str,
    rank: i64,
    seed: u64,
    device: Device,
    /// Behind a layer's name in files.
    names: [&'a str; 2],
}

impl Pairs<'_> {
    /// The pair of a layer whose weight has this shape, with its parameters by name.
    fn pair(
        &self,
        number: u64,
        layer: &str,
        weight: &[i64],
        scale: impl Fn(i64) -> f64,
    ) -> Result<(LoraDelta, [(String, Tensor); 2]), TrainError> {
        let [down_name, up_name] = self.names.map(|name| format!("{layer}.{name}"));
        let (mut down_shape, mut up_shape) = (weight.to_vec(), vec![1; weight.len()]);
        (down_shape[0], up_shape[0], up_shape[1]) = (self.rank, weight[0], self.rank);
        let given = |name: &str| -> Result<Option<Tensor>, TrainError> {
            let Some(initial) = self.initial else { return Ok(None) };
            let missing =
                || TrainError::Misfit(format!("{}.{name} is missing among the initial LoRA weights", self.group));
            Ok(Some(initial.get(name).ok_or_else(missing)?.shallow_clone()))
        };
        let down = match given(&down_name)? {
            Some(down) => down,
            None => {
                let seed = derived_seed(self.group, &[self.seed, number]);
                crate::runtime::rng::randn(seed, &down_shape)?.f_div_scalar(self.rank)?
            }
        };
        let up = match given(&up_name)? {
            Some(up) => up,
            None => Tensor::f_zeros(&up_shape, (Kind::Float, Device::Cpu))?,
        };
        if !LoraDelta::fits(&up.size(), &down.size(), weight) {
            let (up, down) = (up.size(), down.size());
            return Err(TrainError::Misfit(format!("{layer}: {down:?} and {up:?} do not fit a weight of {weight:?}")));
        }
        let scale = scale(down.size()[0]);
        let pair = LoraDelta { up, down, scale, dropout: None }.trainable(self.device)?;
        let parameters = [(down_name, pair.down.shallow_clone()), (up_name, pair.up.shallow_clone())];
        Ok((pair, parameters))
    }
}

/// Files and first values, and how they are opened.
pub struct ModelFiles<'a> {
    /// Stable Diffusion 3.
    pub sd3: &'a Sd3,
    /// VGG16, and what LPIPS adds.
    pub lpips: [&'a Path; 2],
    /// By group, all of them; without it they are drawn.
    pub initial: Option<&'a BTreeMap<String, Initial>>,
    /// Of the LoRAs.
    pub rank: i64,
    /// Of what is drawn.
    pub seed: u64,
    /// Where it is to be.
    pub device: Device,
    /// Of the frozen transformer; all else is float32.
    pub base_dtype: Kind,
}

/// Gradients of less than 6e-8 are nothing in fp16; those of a velocity are near that.
const HALF_SCALE: f64 = 1024.0;

impl Model {
    /// Opens all of it.
    ///
    /// # Errors
    /// A file that is missing or of another model.
    pub fn open(files: &ModelFiles) -> Result<Self, TrainError> {
        let &ModelFiles { rank, seed, device, base_dtype: base, .. } = files;
        let gradient_scale = if base == Kind::Half { HALF_SCALE } else { 1.0 };
        let nothing = Initial::new();
        let initial = |group: &str| files.initial.map(|groups| groups.get(group).unwrap_or(&nothing));
        let mmdit_config: mmdit::Config = config(&files.sd3.transformer)?;
        let weights = Weights::open_part(&files.sd3.transformer)?;
        let transformer = Weights::from_tensors(shared(&weights, "", device, base)?).called(weights.file());
        let layers = mmdit_config.adaptable_layers();
        let mmdit = |loras: LoraMap| {
            let mut loader = Loader::new(&transformer, "", device, base).unmerged(loras);
            Mmdit::load(&mut loader, &mmdit_config, Default::default())
        };
        let transformer_group = |group: &'static str| -> Result<(LoraMap, Group), TrainError> {
            let names = ["lora_down.weight", "lora_up.weight"];
            let pairs = Pairs { initial: initial(group), group, rank, seed, device, names };
            let (mut loras, mut parameters) = (LoraMap::new(), Vec::new());
            for (number, layer) in (0..).zip(&layers) {
                let Some(shape) = transformer.shape(&format!("{layer}.weight")) else { continue };
                let (pair, named) = pairs.pair(number, layer, &shape, |_| 1.0)?;
                parameters.extend(named);
                loras.insert(layer.clone(), pair);
            }
            Ok((loras, Group::new(group, parameters, gradient_scale)?))
        };
        // In another dtype than the file's they are copies.
        weights.release();
        let (gen_loras, gen_group) = transformer_group("gen")?;
        let (reg_loras, reg_group) = transformer_group("reg")?;

        let vae_config: vae::Config = config(&files.sd3.vae)?;
        let weights = Weights::open_part(&files.sd3.vae)?;
        let encoder_weights = shared(&weights, "encoder.", device, Kind::Float)?;
        let decoder_weights = Weights::from_tensors(shared(&weights, "", device, Kind::Float)?).called(weights.file());
        let (mut loras, mut parameters) = (LoraMap::new(), Vec::new());
        let (down, up) = (format!("lora_A.{ENCODER}.weight"), format!("lora_B.{ENCODER}.weight"));
        let pairs = Pairs { initial: initial("vae"), group: "vae", rank, seed, device, names: [&down, &up] };
        let adaptable = encoder_weights.iter().filter(|(name, tensor)| name.ends_with(".weight") && tensor.dim() > 1);
        for (number, (name, tensor)) in (0..).zip(adaptable) {
            let layer = name.trim_end_matches(".weight");
            let (pair, named) = pairs.pair(number, layer, &tensor.size(), |rank| ENCODER_ALPHA / rank as f64)?;
            parameters.extend(named);
            loras.insert(layer.to_owned(), pair);
        }
        let named = encoder_weights.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
        let own = Weights::from_tensors(named).called(weights.file());
        let mut loader = Loader::new(&own, "", device, Kind::Float).unmerged(loras);
        let encoder = Encoder::load(&mut loader, "", &vae_config)?;
        loader.finish("VAE encoder")?;
        let mut loader = Loader::new(&decoder_weights, "", device, Kind::Float);
        loader.ignore_prefix("encoder.");
        loader.ignore_prefix("quant_conv.");
        let decoder = Decoder::load(&mut loader, &vae_config)?;
        loader.finish("VAE decoder")?;
        Ok(Self {
            generator: mmdit(gen_loras)?,
            regulariser: mmdit(reg_loras)?,
            teacher: mmdit(LoraMap::new())?,
            encoder,
            decoder,
            lpips: Lpips::vgg(files.lpips[0], files.lpips[1], device)?,
            scaling_factor: vae_config.scaling_factor,
            shift_factor: vae_config.shift_factor.unwrap_or(0.0),
            encode_shift: vae_config.shift_factor.unwrap_or(0.0),
            device,
            latent_channels: vae_config.latent_channels,
            reduction: 1 << vae_config.halvings(),
            groups: [gen_group, Group::new("vae", parameters, 1.0)?, reg_group],
            mmdit_config,
            vae_config,
            encoder_weights,
            layers,
        })
    }

    /// Pictures of this side can be trained on.
    ///
    /// # Errors
    /// Where they cannot.
    pub fn check_side(&self, side: u32) -> Result<(), TrainError> {
        let multiple = self.reduction * self.mmdit_config.patch_size;
        let most = multiple * self.mmdit_config.pos_embed_max_size;
        match i64::from(side) % multiple == 0 && i64::from(side) <= most {
            true => Ok(()),
            false => Err(TrainError::Side { side, multiple, most }),
        }
    }

    /// After gradients that were not finite: in fp16 they may have been scaled too much.
    pub fn lower_gradient_scale(&mut self) {
        for group in &mut self.groups {
            group.scale = (group.scale / 2.0).max(1.0);
        }
    }

    /// The gradients that have come together, those of all groups in a row; they are forgotten.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn take_gradients(&mut self) -> Result<Vec<Tensor>, TchError> {
        let mut gradients = Vec::new();
        for group in &mut self.groups {
            gradients.extend(group.take_gradients()?);
        }
        Ok(gradients)
    }

    /// Such a row by groups: gen, vae, reg.
    pub fn by_group<'a>(&self, gradients: &'a [Tensor]) -> [&'a [Tensor]; 3] {
        let [generator, vae, _] = self.groups.each_ref().map(|group| group.parameters.len());
        let (of_gen, rest) = gradients.split_at(generator);
        let (of_vae, of_reg) = rest.split_at(vae);
        [of_gen, of_vae, of_reg]
    }

    /// Moves what is trained, each group by its own learning rate, gradients and length of those.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn step(
        &mut self,
        rates: [f64; 3],
        gradients: [&[Tensor]; 3],
        norms: [f64; 3],
        settings: &AdamWConfig,
    ) -> Result<(), TchError> {
        let mut groups = self.groups.iter_mut().zip(rates).zip(gradients).zip(norms);
        groups.try_for_each(|(((group, rate), gradients), norm)| group.step(rate, gradients, norm, settings))
    }

    /// `GROUP.NAME` of all that is trained, in the order of its gradients.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.groups.iter().flat_map(|group| group.parameters.iter().map(|(name, _)| format!("{}.{name}", group.name)))
    }

    /// What is trained, by those names.
    pub fn parameters(&self) -> BTreeMap<String, Tensor> {
        let tensors = self.groups.iter().flat_map(|group| &group.parameters).map(|(_, tensor)| tensor.detach());
        self.names().zip(tensors).collect()
    }

    /// The files of a step, as the reference names them: gen, vae, reg.
    pub fn files(out: &Path, step: usize) -> [PathBuf; 3] {
        [
            out.join(format!("checkpoints/model_{step}.pkl")),
            out.join(format!("checkpoints_vae/vae_encoder_{step}.pt")),
            out.join(format!("checkpoints_reg/model_{step}.pkl")),
        ]
    }

    /// Writes them.
    ///
    /// # Errors
    /// Where one cannot be written.
    pub fn save(&self, out: &Path, step: usize) -> Result<(), TrainError> {
        let [generator, encoder, regulariser] = Self::files(out, step);
        write_torch_list(&generator, &self.lora_list(GEN))?;
        write_torch_list(&regulariser, &self.lora_list(REG))?;
        write_torch_dictionary(&encoder, &self.encoder_state()?)
    }

    /// The transformer's LoRA of a group as its file holds it: up, down, up, down, ... in the order of the layers.
    fn lora_list(&self, group: usize) -> Vec<Tensor> {
        let parameters: BTreeMap<&str, &Tensor> =
            self.groups[group].parameters.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let half = |layer: &String, half: &str| parameters.get(format!("{layer}.{half}.weight").as_str()).copied();
        let pairs = self.layers.iter().flat_map(|layer| [half(layer, "lora_up"), half(layer, "lora_down")]);
        pairs.flatten().map(Tensor::detach).collect()
    }

    /// The encoder's whole state in half precision, with keys as PEFT writes them.
    ///
    /// # Errors
    /// What libtorch says.
    fn encoder_state(&self) -> Result<BTreeMap<String, Tensor>, TchError> {
        let group = &self.groups[VAE];
        let adapted =
            |layer: &str| group.parameters.iter().any(|(name, _)| name.starts_with(&format!("{layer}.lora_A.")));
        let mut state = BTreeMap::new();
        for (name, tensor) in &self.encoder_weights {
            let (layer, rest) = name.rsplit_once('.').unwrap_or((name, ""));
            let name = if adapted(layer) { format!("{layer}.base_layer.{rest}") } else { name.clone() };
            state.insert(name, tensor.f_to_kind(Kind::Half)?);
        }
        for (name, tensor) in &group.parameters {
            state.insert(name.clone(), tensor.f_detach()?.f_to_kind(Kind::Half)?);
        }
        Ok(state)
    }
}

/// The transformer conditioned on prompts and the time.
pub struct Conditioned<'a> {
    network: &'a Mmdit,
    /// In the network's dtype, as all that is within.
    prompt: Tensor,
    /// After SiLU, `[B, D]`.
    emb: Tensor,
    /// Height and width of the latent.
    size: [i64; 2],
}

impl<'a> Conditioned<'a> {
    /// Of a latent of this size; prompt embeds `[B, T, joint]` and `[B, pooled]`.
    pub fn new(network: &'a Mmdit, t: f64, prompt: &Tensor, pooled: &Tensor, size: [i64; 2]) -> Result<Self, TchError> {
        let (prompt, pooled) = (prompt.f_to_kind(network.kind())?, pooled.f_to_kind(network.kind())?);
        let emb = tch::no_grad(|| network.conditioning(t, &pooled)?.f_silu())?;
        Ok(Self { network, prompt, emb, size })
    }
}

impl Segments for Conditioned<'_> {
    fn count(&self) -> usize {
        self.network.block_count() + 2
    }

    fn run(&self, segment: usize, inputs: &[Tensor]) -> Result<Vec<Tensor>, TchError> {
        let last = self.count() - 1;
        match (segment, inputs) {
            (0, [latent]) => {
                let (x, text) = self.network.begin(&latent.f_to_kind(self.network.kind())?, &self.prompt)?;
                Ok(vec![x, text])
            }
            (segment, [x, ..]) if segment == last => {
                Ok(vec![self.network.end(x, &self.emb, self.size)?.f_to_kind(Kind::Float)?])
            }
            (segment, [x, text]) => {
                let (x, text) = self.network.block(segment - 1, x, text, &self.emb)?;
                Ok(std::iter::once(x).chain(text).collect())
            }
            _ => Err(TchError::Torch("a segment was given other inputs than it takes".into())),
        }
    }
}

impl Segments for Ops {
    fn count(&self) -> usize {
        self.segments().len()
    }

    fn run(&self, segment: usize, inputs: &[Tensor]) -> Result<Vec<Tensor>, TchError> {
        Ok(vec![self.run_segment(segment, &inputs[0])?])
    }
}
