//! What a model makes of pictures that it is not trained on: always the same crops, degradations and noise, so that the numbers of
//! two moments, or of two runs, can be compared.

use std::path::{Path, PathBuf};

use tch::{Kind, Tensor};

use super::data::{crop, degraded_pair, mixed};
use super::losses::restored;
use super::model::Model;
use crate::evaluate::Run;
use crate::imaging::Picture;
use crate::pipelines::sr::PromptEncoder;
use crate::runtime::rng;
use crate::train::TrainError;

/// What the degradations and the noise are drawn by, whatever the training's seed.
const SEED: u64 = 20_001;

struct Item {
    lq: Tensor,
    gt: Tensor,
    prompt: Tensor,
    pooled: Tensor,
    eps: Tensor,
}

/// Pictures to compare by.
pub struct Validation(Vec<Item>);

/// Means over the pictures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Mean squared error in [-1, 1].
    pub l2: f64,
    /// LPIPS by VGG16.
    pub lpips: f64,
    /// Of the colours, in dB.
    pub psnr: f64,
}

impl Validation {
    /// From the pictures in a folder, the middle of each; `caption` tells their prompts.
    ///
    /// # Errors
    /// A folder without pictures, one that cannot be read or is too small.
    pub fn open(
        folder: &Path,
        side: u32,
        model: &Model,
        prompts: &mut PromptEncoder,
        caption: &mut dyn FnMut(&Picture) -> Result<String, TrainError>,
    ) -> Result<Self, TrainError> {
        let files: Vec<PathBuf> =
            Run::of(folder).map_err(TrainError::io(folder))?.items.into_iter().map(|item| item.file).collect();
        if files.is_empty() {
            return Err(TrainError::format(folder, "it has no pictures to validate by"));
        }
        let mut items = Vec::new();
        for (i, file) in (0..).zip(&files) {
            let picture = crop(file, side, None)?;
            let mut dice = fastrand::Rng::with_seed(mixed(&[SEED, i]));
            let (gt, lq, _) = degraded_pair(&picture, &mut dice)?;
            let embeds = prompts.embeds(&[caption(&picture)?], model.device)?;
            let shape =
                [1, model.latent_channels, i64::from(side) / model.reduction, i64::from(side) / model.reduction];
            let eps = rng::randn(mixed(&[SEED, i, 1]), &shape)?.f_to_device(model.device)?;
            let (gt, lq) = (gt.f_to_device(model.device)?, lq.f_to_device(model.device)?);
            let [prompt, pooled] = embeds;
            items.push(Item { lq, gt, prompt, pooled, eps });
        }
        Ok(Self(items))
    }

    /// How well a model restores them now.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn score(&self, model: &Model) -> Result<Score, TrainError> {
        let mut sums = [0.0; 3];
        for Item { lq, gt, prompt, pooled, eps } in &self.0 {
            let pred = restored(model, lq, eps, prompt, pooled)?;
            let number = |tensor: Tensor| tensor.f_to_kind(Kind::Double)?.f_double_value(&[]);
            let l2 = number(pred.f_mse_loss(gt, tch::Reduction::Mean)?)?;
            let clamped = pred.f_clamp(-1.0, 1.0)?.f_mse_loss(gt, tch::Reduction::Mean)?;
            let lpips = number(tch::no_grad(|| model.lpips.forward(&pred, gt)?.f_mean(Kind::Float))?)?;
            // From [-1, 1] to [0, 1] it is a quarter.
            let psnr = -10.0 * (number(clamped)? / 4.0).log10();
            for (sum, value) in sums.iter_mut().zip([l2, lpips, psnr]) {
                *sum += value / self.0.len() as f64;
            }
        }
        Ok(Score { l2: sums[0], lpips: sums[1], psnr: sums[2] })
    }
}
