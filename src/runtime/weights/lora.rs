//! Low-rank adaptation (LoRA, arXiv 2106.09685): what is trained of a layer instead of its weight.
//!
//! Published files differ only in how they name the two halves of a layer's pair; a parser from key to layer and half is all
//! that [`LoraFile`] needs to know of a layout. What it reads is merged into weights as they are loaded. For training,
//! [`Loader::unmerged`] has layers keep their pairs beside the weights.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tch::{Device, Kind, TchError, Tensor};

use super::{LoadMode, Loader, Weights, WeightsError};
use crate::runtime::rng;

/// W' = W + scale * up @ down.
#[derive(Debug)]
pub struct LoraDelta {
    /// `[out, r]`; of a convolution `[out, r, 1, 1]`.
    pub up: Tensor,
    /// `[r, in]`; of a convolution `[r, in, k, k]`, as the layer's own kernel.
    pub down: Tensor,
    /// alpha / r, as a rule.
    pub scale: f64,
    /// While it is trained.
    pub dropout: Option<LoraDropout>,
}

/// What the input of a LoRA loses by chance (PEFT's `lora_dropout`), the same whenever the same pass is computed.
#[derive(Clone, Debug)]
pub struct LoraDropout {
    /// Share of the numbers that become 0; the others grow by as much.
    pub probability: f64,
    /// Of this LoRA.
    pub seed: u64,
    /// The number of the pass that is computed, of all LoRAs together; 0: nothing is lost.
    pub pass: Arc<AtomicU64>,
}

impl LoraDropout {
    fn apply(&self, x: &Tensor) -> Result<Tensor, TchError> {
        match self.pass.load(Ordering::Relaxed) {
            0 => Ok(x.shallow_clone()),
            pass => rng::seeded(pass ^ self.seed, || x.f_dropout(self.probability, true)),
        }
    }
}

impl LoraDelta {
    /// Whether halves of these shapes change a weight of this one.
    pub fn fits(up: &[i64], down: &[i64], weight: &[i64]) -> bool {
        let ([rows, columns, ones @ ..], [rank, inner @ ..], [outputs, inputs @ ..]) = (up, down, weight) else {
            return false;
        };
        let is_pair = *rank > 0 && columns == rank && rows == outputs && inner == inputs;
        is_pair && up.len() == weight.len() && ones.iter().all(|&side| side == 1)
    }

    /// Several changes to the same layer as one, of the sum of their ranks.
    pub fn sum(parts: &[Self]) -> Result<Self, TchError> {
        let wide = |half: &Tensor| half.f_to_kind(Kind::Float);
        let ups: Result<Vec<_>, _> = parts.iter().map(|part| wide(&part.up)?.f_mul_scalar(part.scale)).collect();
        let downs: Result<Vec<_>, _> = parts.iter().map(|part| wide(&part.down)).collect();
        Ok(Self { up: Tensor::f_cat(&ups?, 1)?, down: Tensor::f_cat(&downs?, 0)?, scale: 1.0, dropout: None })
    }

    /// The weight with the change in it, in float32 where the weight is.
    pub fn merge(&self, weight: &Tensor) -> Result<Tensor, TchError> {
        let flat = |half: &Tensor| half.f_to_device(weight.device())?.f_to_kind(Kind::Float)?.f_flatten(1, -1);
        let change =
            flat(&self.up)?.f_mul_scalar(self.scale)?.f_matmul(&flat(&self.down)?)?.f_reshape(weight.size())?;
        weight.f_to_kind(Kind::Float)?.f_add(&change)
    }

    /// `y + scale * up(down(x))`, computed and returned in the halves' own dtype: `y` is what the layer makes of `x` without the
    /// change, which may be too small for its dtype.
    pub fn add_to(
        &self,
        y: &Tensor,
        x: &Tensor,
        down: impl FnOnce(&Tensor, &Tensor) -> Result<Tensor, TchError>,
        up: impl FnOnce(&Tensor, &Tensor) -> Result<Tensor, TchError>,
    ) -> Result<Tensor, TchError> {
        let x = x.f_to_kind(self.down.kind())?;
        let x = self.dropout.as_ref().map_or(Ok(x.shallow_clone()), |dropout| dropout.apply(&x))?;
        let inner = down(&x, &self.down)?;
        y.f_to_kind(inner.kind())?.f_add(&up(&inner, &self.up)?.f_mul_scalar(self.scale)?)
    }

    /// For an optimiser: leaves in float32 that record gradients. Always copies, because an optimiser writes in place, and
    /// the original may be a view of a file that is mapped read-only ([`LoadMode::Mmap`]).
    pub fn trainable(&self, device: Device) -> Result<Self, TchError> {
        let own = |half: &Tensor| {
            half.f_detach()?.f_to_device_(device, Kind::Float, false, true)?.f_contiguous()?.f_set_requires_grad(true)
        };
        Ok(Self { up: own(&self.up)?, down: own(&self.down)?, scale: self.scale, dropout: self.dropout.clone() })
    }

    /// The same halves: what is optimised through one is seen through the other.
    pub fn shallow_clone(&self) -> Self {
        Self {
            up: self.up.shallow_clone(),
            down: self.down.shallow_clone(),
            scale: self.scale,
            dropout: self.dropout.clone(),
        }
    }
}

/// Pairs by the names of the layers they belong to.
pub type LoraMap = BTreeMap<String, LoraDelta>;

/// Which of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// `lora_B` in most layouts.
    Up,
    /// `lora_A` in most layouts.
    Down,
}

/// A file of pairs, by the names of the layers they belong to. Nothing is read before a layer asks for its pair.
#[derive(Clone)]
pub struct LoraFile {
    weights: Weights,
    /// The keys of up and down.
    pairs: BTreeMap<String, [Option<String>; 2]>,
}

impl LoraFile {
    /// `parse`: the layer and the half that a key stands for; `None` of other keys.
    pub fn new(weights: &Weights, parse: impl Fn(&str) -> Option<(String, Half)>) -> Self {
        let mut pairs = BTreeMap::<String, [Option<String>; 2]>::new();
        for key in weights.shapes().into_keys() {
            if let Some((layer, half)) = parse(key) {
                pairs.entry(layer).or_default()[half as usize].get_or_insert_with(|| key.to_owned());
            }
        }
        Self { weights: weights.clone(), pairs }
    }

    /// The file, for messages.
    pub fn file(&self) -> std::path::Display<'_> {
        self.weights.file().display()
    }

    /// The names of all layers of which there is at least half a pair.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = &str> {
        self.pairs.keys().map(String::as_str)
    }

    /// The keys of a layer's halves, up first, as far as they are there.
    pub fn keys(&self, layer: &str) -> [Option<&str>; 2] {
        self.pairs.get(layer).map_or([None; 2], |pair| pair.each_ref().map(Option::as_deref))
    }

    /// The shapes of a layer's up and down; `None` without a whole pair.
    pub fn shapes(&self, layer: &str) -> Option<[Vec<i64>; 2]> {
        let [up, down] = self.keys(layer);
        Some([self.weights.shape(up?)?, self.weights.shape(down?)?])
    }

    /// A layer's pair, in memory of its own where it is in a file; `None` without a whole one.
    pub fn read(&self, layer: &str, scale: f64) -> Result<Option<LoraDelta>, TchError> {
        let tensor = |key: Option<&str>| key.and_then(|key| self.weights.tensor(key)).transpose();
        let [up, down] = self.keys(layer).map(tensor);
        Ok(up?.zip(down?).map(|(up, down)| LoraDelta { up, down, scale, dropout: None }))
    }

    /// The pair of `layer`, whose weight has the shape `weight`, with a scale by its rank. `None` without a pair, where
    /// only shapes are compared, and where the pair does not fit: that is reported as `misfit` puts it for up and down.
    pub fn delta(
        &self,
        loader: &mut Loader,
        layer: &str,
        weight: &[i64],
        scale: impl FnOnce(i64) -> f64,
        misfit: impl FnOnce(&[i64], &[i64]) -> String,
    ) -> Result<Option<LoraDelta>, WeightsError> {
        let Some([up, down]) = self.shapes(layer) else { return Ok(None) };
        if !LoraDelta::fits(&up, &down, weight) {
            loader.report(format!("{}: {}", self.file(), misfit(&up, &down)));
            return Ok(None);
        }
        if loader.load_mode() == LoadMode::ShapesOnly {
            return Ok(None);
        }
        Ok(self.read(layer, scale(down[0]))?)
    }
}

/// What a file of PEFT adapters changes of a network: pairs, of which several of one layer add up, and tensors that replace those of
/// the network's own file. [`Loader::merging`] hands out the sum.
pub struct LoraSet {
    weights: Weights,
    alpha: f64,
    /// One an adapter.
    adapters: Vec<LoraFile>,
    /// Keys in the file by those of the network.
    replaced: BTreeMap<String, String>,
    /// Of adapters of other names.
    unknown: Vec<String>,
}

/// What PEFT puts before the own tensors of a layer that carries a LoRA.
pub const BASE: &str = ".base_layer.";

impl LoraSet {
    /// What is below `prefix` in the file, of adapters of these names, each with PEFT's `lora_alpha`.
    pub fn new(weights: &Weights, prefix: &str, adapters: &[&str], alpha: f64) -> Self {
        let layer = |key: &str, adapter: &str| {
            // A pair of no adapter by name would be one of each.
            let key = key.strip_prefix(prefix)?.strip_suffix(".weight")?.strip_suffix(adapter)?.strip_suffix('.')?;
            loralib_half(key).map(|(layer, half)| (layer.to_owned(), half))
        };
        let files = adapters.iter().map(|adapter| LoraFile::new(weights, |key| layer(key, adapter))).collect();
        let (mut replaced, mut unknown) = (BTreeMap::new(), Vec::new());
        for key in weights.shapes().into_keys() {
            let Some(name) = key.strip_prefix(prefix) else { continue };
            if !name.contains(".lora_A.") && !name.contains(".lora_B.") {
                replaced.insert(name.replacen(BASE, ".", 1), key.to_owned());
            } else if !adapters.iter().any(|adapter| layer(key, adapter).is_some()) {
                unknown.push(name.to_owned());
            }
        }
        Self { weights: weights.clone(), alpha, adapters: files, replaced, unknown }
    }

    /// Whether an adapter has a whole pair for a layer.
    pub fn has_pair(&self, adapter: usize, layer: &str) -> bool {
        self.adapters.get(adapter).is_some_and(|pairs| pairs.shapes(layer).is_some())
    }

    /// Whether a tensor of the network is replaced.
    pub fn replaces(&self, key: &str) -> bool {
        self.replaced.contains_key(key)
    }

    /// The ranks of its pairs.
    pub fn ranks(&self) -> BTreeSet<i64> {
        let shapes = self.adapters.iter().flat_map(|pairs| pairs.layers().filter_map(|layer| pairs.shapes(layer)));
        shapes.filter_map(|[_, down]| down.first().copied()).collect()
    }

    /// What replaces the network's tensor of this name: the file and the key there.
    pub(super) fn replacement(&self, key: &str) -> Option<(&Weights, &str)> {
        Some((&self.weights, self.replaced.get(key)?))
    }

    /// What is added to a weight. Pairs that do not fit are reported.
    pub(super) fn delta(
        &self,
        loader: &mut Loader,
        key: &str,
        shape: &[i64],
    ) -> Result<Option<LoraDelta>, WeightsError> {
        let Some(layer) = key.strip_suffix(".weight") else { return Ok(None) };
        let mut deltas = Vec::new();
        for pairs in &self.adapters {
            if let [Some(key), None] | [None, Some(key)] = pairs.keys(layer) {
                loader.report(format!("{}: {key} is only half of a pair", pairs.file()));
            }
            let misfit = |up: &[i64], down: &[i64]| format!("{layer} is {shape:?}, its LoRA {up:?} and {down:?}");
            deltas.extend(pairs.delta(loader, layer, shape, |rank| self.alpha / rank as f64, misfit)?);
        }
        match deltas.len() {
            0 | 1 => Ok(deltas.pop()),
            _ => Ok(Some(LoraDelta::sum(&deltas)?)),
        }
    }

    /// What belongs to no tensor of the network, in words.
    pub(super) fn strangers(&self, is_asked_for: impl Fn(&str) -> bool) -> Vec<String> {
        let stranger = |name: &str| format!("{}: {name} belongs to no layer", self.weights.file().display());
        let pairs = self.adapters.iter().flat_map(LoraFile::layers);
        let pairs = pairs.filter(|layer| !is_asked_for(&format!("{layer}.weight")));
        let replaced = self.replaced.keys().filter(|key| !is_asked_for(key)).map(String::as_str);
        pairs.chain(replaced).chain(self.unknown.iter().map(String::as_str)).map(stranger).collect()
    }
}

/// The layer and the half of a key as PEFT writes it: `{layer}.lora_A.weight` is down, `lora_B` up; its older releases, and
/// models that carry an adapter inside, put the adapter's name before `weight`.
pub fn peft_half<'a>(key: &'a str, adapter: &str) -> Option<(&'a str, Half)> {
    let key = key.strip_suffix(".weight")?;
    loralib_half(key.strip_suffix(adapter).and_then(|key| key.strip_suffix('.')).unwrap_or(key))
}

/// The same of a key as loralib writes it: `{layer}.lora_A` is down, `{layer}.lora_B` up.
pub fn loralib_half(key: &str) -> Option<(&str, Half)> {
    let down = key.strip_suffix(".lora_A").map(|layer| (layer, Half::Down));
    down.or_else(|| key.strip_suffix(".lora_B").map(|layer| (layer, Half::Up)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::rng::noise;

    fn difference(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    #[test]
    fn halves_fit_their_own_layer_only() {
        assert!(LoraDelta::fits(&[6, 2], &[2, 5], &[6, 5]));
        assert!(LoraDelta::fits(&[6, 2, 1, 1], &[2, 5, 3, 3], &[6, 5, 3, 3]));
        for [up, down, weight] in [
            [[6, 2].as_slice(), [3, 5].as_slice(), [6, 5].as_slice()],
            [&[6, 2], &[2, 4], &[6, 5]],
            [&[5, 2], &[2, 5], &[6, 5]],
            [&[6, 0], &[0, 5], &[6, 5]],
            [&[6, 2], &[2, 5, 3, 3], &[6, 5, 3, 3]],
            [&[6, 2, 3, 3], &[2, 5, 1, 1], &[6, 5, 1, 1]],
            [&[6, 2, 1, 1], &[2, 5, 1, 1], &[6, 5, 3, 3]],
            [&[], &[], &[]],
        ] {
            assert!(!LoraDelta::fits(up, down, weight), "{up:?} {down:?} {weight:?}");
        }
    }

    #[test]
    fn merging_is_the_formula() {
        let number =
            |tensor: &Tensor, at: &[i64]| at.iter().fold(tensor.shallow_clone(), |t, &i| t.get(i)).double_value(&[]);
        let (weight, up, down) = (noise(&[3, 2, 3, 3]), noise(&[3, 4, 1, 1]), noise(&[4, 2, 3, 3]));
        let delta = LoraDelta { up, down, scale: 2.5, dropout: None };
        let merged = delta.merge(&weight).unwrap();
        assert_eq!(merged.size(), weight.size());
        for at in [[0, 0, 0, 0], [2, 1, 0, 2], [1, 1, 2, 1]] {
            let [o, i, y, x] = at;
            let sum: f64 = (0..4).map(|r| number(&delta.up, &[o, r, 0, 0]) * number(&delta.down, &[r, i, y, x])).sum();
            assert!((number(&merged, &at) - number(&weight, &at) - 2.5 * sum).abs() < 1e-5);
        }
        // In float32, whatever it comes in.
        let half = delta.merge(&weight.to_kind(Kind::Half)).unwrap();
        assert_eq!(half.kind(), Kind::Float);
        assert!(difference(&half, &merged) < 2e-3);
        let none = LoraDelta { scale: 0.0, ..delta }.merge(&weight).unwrap();
        assert!(none.equal(&weight));
    }

    #[test]
    fn keys_of_each_layout_name_a_layer_and_a_half() {
        assert_eq!(peft_half("a.b.lora_A.weight", "default"), Some(("a.b", Half::Down)));
        assert_eq!(peft_half("a.b.lora_B.default.weight", "default"), Some(("a.b", Half::Up)));
        assert_eq!(peft_half("a.lora_A.default_encoder.weight", "default_encoder"), Some(("a", Half::Down)));
        assert_eq!(loralib_half("a.b.lora_B"), Some(("a.b", Half::Up)));
        for key in ["a.lora_A", "a.weight", "a.lora_C.weight", "a.lora_A.other.weight", "a.lora_Adefault.weight"] {
            assert_eq!(peft_half(key, "default"), None, "{key}");
        }
    }

    /// A map may only be read: writing into it in place would end the program.
    #[test]
    fn what_is_trained_is_a_copy_of_what_is_mapped() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pairs.safetensors");
        let (up, down) = (noise(&[6, 2]), noise(&[2, 5]));
        Tensor::write_safetensors(&[("layer.lora_A.weight", &down), ("layer.lora_B.weight", &up)], &file).unwrap();
        let weights = Weights::open(&file).unwrap();
        let mut loader = Loader::new(&weights, "", Device::Cpu, Kind::Float).mode(LoadMode::Mmap);
        let view = |loader: &mut Loader, key: &str, shape: &[i64]| loader.tensor(key, shape).unwrap();
        let (a, b) =
            (view(&mut loader, "layer.lora_A.weight", &[2, 5]), view(&mut loader, "layer.lora_B.weight", &[6, 2]));
        let again = view(&mut loader, "layer.lora_B.weight", &[6, 2]);
        assert_eq!(again.data_ptr(), b.data_ptr(), "it lends the file's own memory");

        let lent = LoraDelta { up: b, down: a, scale: 1.0, dropout: None };
        let pairs =
            LoraFile::new(&weights, |key| peft_half(key, "default").map(|(layer, half)| (layer.to_owned(), half)));
        let read = pairs.read("layer", 1.0).unwrap().unwrap();
        for (mapped, delta) in [(&lent, lent.trainable(Device::Cpu).unwrap()), (&lent, read)] {
            for (mut half, mapped) in [(delta.up, &mapped.up), (delta.down, &mapped.down)] {
                assert_ne!(half.data_ptr(), mapped.data_ptr());
                tch::no_grad(|| _ = half.f_add_scalar_(1.0).unwrap());
            }
        }
        let trained = lent.trainable(Device::Cpu).unwrap();
        assert!(trained.up.requires_grad() && trained.down.is_leaf() && !lent.up.requires_grad());
        assert!(lent.up.equal(&up) && lent.down.equal(&down), "the file is as it was");
    }
}
