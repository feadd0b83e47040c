//! Pictures of what a training is at, of the first item of a step (`visualization/` of the reference).

use std::path::Path;

use tch::{TchError, Tensor};

use super::losses::{Batch, Draws, Outcome, decoded};
use super::model::Model;
use crate::imaging::codec;
use crate::runtime::tensor::picture_from_tensor;
use crate::train::TrainError;

/// Writes `restoration/S.png` (what it should be, the LQ picture, what is made of it) and `vsd/S.png` (what the decoder makes of
/// the generator's latent, the noise, both together, and what regulariser and teacher restore of that), side by side.
///
/// # Errors
/// What libtorch says; files that cannot be written.
pub fn write(
    model: &Model,
    batch: &Batch,
    draws: &Draws,
    outcome: &Outcome,
    out: &Path,
    step: usize,
) -> Result<(), TrainError> {
    let first = |tensor: &Tensor| tensor.f_narrow(0, 0, 1);
    let restoration = [&batch.gt, &batch.lq, &outcome.pred].map(first);
    save(restoration, &out.join(format!("restoration/{step}.png")))?;
    let [z0, zt, x_reg, x_teacher] = &outcome.latents;
    let latents = [z0, &draws.eps_vsd, zt, x_reg, x_teacher];
    save(latents.map(|latent| decoded(model, &first(latent)?)), &out.join(format!("vsd/{step}.png")))
}

/// Pictures `[1, 3, H, W]` in [-1, 1], what is beyond cut off, side by side.
fn save<const N: usize>(pictures: [Result<Tensor, TchError>; N], file: &Path) -> Result<(), TrainError> {
    let pictures = pictures.into_iter().collect::<Result<Vec<_>, _>>()?;
    let sheet = Tensor::f_cat(&pictures, 3)?.f_mul_scalar(0.5)?.f_add_scalar(0.5)?.f_clamp(0.0, 1.0)?;
    codec::save(&picture_from_tensor(&sheet)?, file).map_err(|error| TrainError::unwritten(file, error))
}
