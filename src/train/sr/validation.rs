//! What a model makes of pictures that it is not trained on: always the same crops, degradations and noise, so that the numbers of
//! two moments, or of two runs, can be compared.

use std::path::{Path, PathBuf};

use tch::{Kind, TchError, Tensor};

use super::data::{crop, degraded_by, degraded_pair, signed};
use super::degradation::{Op, Resize};
use super::losses::predict;
use super::model::Model;
use super::prompts::{Item, Prompts};
use crate::evaluate::Run;
use crate::imaging::codec;
use crate::imaging::metrics::Niqe;
use crate::runtime::rng;
use crate::runtime::tensor::{levels_from_picture, picture_from_tensor};
use crate::train::TrainError;
use crate::train::seed::derived_seed;

/// What the degradations and the noise are drawn by, whatever the training's seed.
const SEED: u64 = 20_001;
/// Rows of a sheet.
const MOST_ROWS: usize = 4;

/// Pictures to compare by.
pub struct Validation {
    items: Vec<Example>,
    niqe: Niqe,
}

struct Example {
    item: Item,
    /// LQ where its last resize, back to its size, is bicubic.
    bicubic: Tensor,
    eps: Tensor,
}

impl Validation {
    /// The pictures of a folder.
    ///
    /// # Errors
    /// A folder that cannot be read, or has none.
    pub fn files(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
        let run = Run::of(folder).map_err(TrainError::io(folder))?;
        match run.items.is_empty() {
            true => Err(TrainError::format(folder, "it has no pictures to validate by")),
            false => Ok(run.items.into_iter().map(|item| item.file).collect()),
        }
    }

    /// The middle of each of these.
    ///
    /// # Errors
    /// A picture that cannot be read or is too small.
    pub fn open(files: &[PathBuf], side: u32, model: &Model, prompts: &mut Prompts) -> Result<Self, TrainError> {
        let pictures = files.iter().map(|file| crop(file, side, None)).collect::<Result<Vec<_>, _>>()?;
        let captions = pictures.iter().map(|picture| prompts.caption(picture)).collect::<Result<Vec<_>, _>>()?;
        prompts.load();
        let side = i64::from(side) / model.reduction;
        let shape = [1, model.latent_channels, side, side];
        let mut items = Vec::new();
        for (i, (picture, caption)) in (0..).zip(pictures.iter().zip(captions)) {
            let (gt, lq, mut ops) =
                degraded_pair(picture, &mut fastrand::Rng::with_seed(derived_seed("pair", &[SEED, i])))?;
            if let Some(Op::Resize { mode, .. }) = ops.last_mut() {
                *mode = Resize::Bicubic;
            }
            let levels = levels_from_picture(picture)?.f_to_kind(Kind::Float)?;
            let bicubic = signed(&degraded_by(&levels, &ops)?)?;
            let eps = rng::randn(derived_seed("eps_vae", &[SEED, i]), &shape)?;
            let embeds = prompts.embeds(caption)?.map(|embeds| embeds.f_to_device(tch::Device::Cpu));
            let [prompt, pooled] = embeds;
            items.push(Example { item: Item { lq, gt, embeds: [prompt?, pooled?] }, bicubic, eps });
        }
        Ok(Self { items, niqe: Niqe::published() })
    }

    /// Restores them; means of mean squared error and LPIPS by VGG16 in [-1, 1], of the colours' PSNR in dB, and of NIQE (NaN where
    /// pictures are too small for it). And how the sheet was written: the first ones as LQ, by bicubic, restored, and as
    /// they should be.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn run(&self, model: &Model, sheet: &Path) -> Result<([f64; 4], Result<(), TrainError>), TrainError> {
        let (mut sums, mut rows) = ([0.0; 4], Vec::new());
        for Example { item, bicubic, eps } in &self.items {
            let here = |tensor: &Tensor| tensor.f_to_device(model.device);
            let (lq, gt, [prompt, pooled]) = (here(&item.lq)?, here(&item.gt)?, item.embeds.each_ref().map(here));
            let pred = predict(model, &lq, &here(eps)?, &prompt?, &pooled?)?;
            let number = |tensor: Tensor| tensor.f_to_kind(Kind::Double)?.f_double_value(&[]);
            let clamped = pred.f_clamp(-1.0, 1.0)?;
            let l2 = number(pred.f_mse_loss(&gt, tch::Reduction::Mean)?)?;
            let lpips = number(tch::no_grad(|| model.lpips.forward(&pred, &gt)?.f_mean(Kind::Float))?)?;
            // From [-1, 1] to [0, 1] it is a quarter.
            let psnr = -10.0 * (number(clamped.f_mse_loss(&gt, tch::Reduction::Mean)?)? / 4.0).log10();
            let niqe = self.niqe.score(&picture_from_tensor(&unsigned(&clamped)?)?).unwrap_or(f64::NAN);
            for (sum, value) in sums.iter_mut().zip([l2, lpips, psnr, niqe]) {
                *sum += value / self.items.len() as f64;
            }
            if rows.len() < MOST_ROWS {
                let pictures = [&item.lq, bicubic, &clamped.f_to_device(tch::Device::Cpu)?, &item.gt];
                rows.push(Tensor::f_cat(&pictures, 3)?);
            }
        }
        let picture = picture_from_tensor(&unsigned(&Tensor::f_cat(&rows, 2)?)?)?;
        Ok((sums, codec::save(&picture, sheet).map_err(|error| TrainError::unwritten(sheet, error))))
    }
}

/// [-1, 1] to [0, 1].
fn unsigned(x: &Tensor) -> Result<Tensor, TchError> {
    x.f_mul_scalar(0.5)?.f_add_scalar(0.5)
}
