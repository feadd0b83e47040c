//! RAM, the Recognize Anything Model (arXiv 2306.03514, `ram/models/ram.py`), as far as it tags: a Swin tower, a projection,
//! and a Query2Label head in which every label asks the picture whether it is there. All sizes come from the tensors.

pub mod lora;
mod swin;
mod tagging;

use tch::{TchError, Tensor};

use self::lora::RamLora;
use self::swin::Swin;
use self::tagging::Layer;
use super::layers::Linear;
use crate::runtime::weights::{Loader, WeightsError};

/// A picture's side where the file does not tell.
const SIDE: i64 = 384;

/// The tagger.
pub struct Ram {
    swin: Swin,
    image: Linear,
    /// What the labels ask with, `[1, labels, D]`.
    labels: Tensor,
    layers: Vec<Layer>,
    output: Linear,
}

impl Ram {
    /// Reads what tagging needs; the rest of the file, which writes sentences, is left alone. DAPE's changes are merged.
    pub fn load(loader: &mut Loader, changes: &RamLora) -> Result<Self, WeightsError> {
        loader.ignore_prefix("");
        let of = |loader: &Loader, key: &str, axis: usize| loader.shape(key).and_then(|shape| shape.get(axis).copied());
        let swin = Swin::load(loader, "visual_encoder", SIDE, changes)?;
        let between = of(loader, "image_proj.weight", 0).unwrap_or(0);
        let image = Linear::load(loader, "image_proj", swin.width(), between)?;
        let [count, word] = [0, 1].map(|axis| of(loader, "label_embed", axis).unwrap_or(0));
        let words = loader.tensor("label_embed", &[count, word])?;
        let words = match of(loader, "wordvec_proj.weight", 0) {
            Some(width) => Linear::load(loader, "wordvec_proj", word, width)?.forward(&words)?,
            None => words,
        };
        let labels = words.f_relu()?.f_unsqueeze(0)?;
        let width = labels.size()[2];
        let name = |i: usize| format!("encoder.layer.{i}");
        let is_there = |i: &usize| loader.has(&format!("tagging_head.{}.crossattention.self.query.weight", name(*i)));
        let there: Vec<usize> = (0..).take_while(is_there).collect();
        if there.is_empty() {
            loader.report("it has no layers of a tagging_head".into());
        }
        let layers = there.into_iter().map(|i| Layer::load(loader, &name(i), [width, between], changes));
        let layers = layers.collect::<Result<_, _>>()?;
        let output = Linear::load(loader, "fc", width, 1)?;
        changes.check(loader);
        loader.finish("RAM")?;
        Ok(Self { swin, image, labels, layers, output })
    }

    /// Side of the pictures it takes.
    pub fn side(&self) -> i64 {
        self.swin.side()
    }

    /// Normalised pixels `[1, 3, side, side]` -> a logit for each label, `[labels]`.
    pub fn forward<E: From<TchError>>(
        &self,
        pixels: &Tensor,
        on_progress: &mut dyn FnMut(f32) -> Result<(), E>,
    ) -> Result<Tensor, E> {
        // A mean of all tokens is the first.
        let image = self.image.forward(&self.swin.forward(pixels, on_progress)?)?;
        let mut x = self.labels.shallow_clone();
        for layer in &self.layers {
            x = layer.forward(&x, &image)?;
        }
        Ok(self.output.forward(&x)?.f_view([-1])?)
    }
}
