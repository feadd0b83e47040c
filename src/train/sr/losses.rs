//! One micro-batch: four losses, and their gradients (osediff_sd3.py and train_osediff_sd3.py of the reference).

use tch::{Kind, TchError, Tensor};

use super::model::{Conditioned, Model};
use super::tape;

/// Pictures and prompts.
pub struct Batch {
    /// The poor pictures, `[B, 3, H, W]` in [-1, 1].
    pub lq: Tensor,
    /// What they should be.
    pub gt: Tensor,
    /// Prompt embeds `[B, T, joint]`.
    pub prompt: Tensor,
    /// `[B, pooled]`.
    pub pooled: Tensor,
}

/// What is drawn for a micro-batch: noise like the latents, normally distributed; and two places in time, in [0, 1).
pub struct Draws {
    /// Of the encoder's sample.
    pub eps_vae: Tensor,
    /// Added for the distillation.
    pub eps_vsd: Tensor,
    /// Added for the regulariser.
    pub eps_diff: Tensor,
    /// Of the distillation.
    pub u_vsd: f64,
    /// Of the regulariser.
    pub u_diff: f64,
}

/// What the losses weigh.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    /// Mean squared error.
    pub l2: f64,
    /// LPIPS by VGG16.
    pub lpips: f64,
    /// Variational score distillation.
    pub vsd: f64,
    /// The regulariser's own.
    pub diff: f64,
}

/// As they are, before they are weighed.
#[derive(Clone, Copy, Debug)]
pub struct Losses {
    /// Mean squared error.
    pub l2: f64,
    /// LPIPS by VGG16.
    pub lpips: f64,
    /// Variational score distillation.
    pub vsd: f64,
    /// The regulariser's own.
    pub diff: f64,
}

/// Of one step: where the generator stands in time.
const ONE_STEP: f64 = 1000.0;
/// Times that noise is added for, and where the last of them lies before it is shifted.
const TIMES: usize = 1000;
const LAST: f64 = 0.003 / 1.002;
/// Keeps a quotient finite where the teacher agrees with the generator.
const SMALLEST: f64 = 1e-8;

/// The place in time that a number in [0, 1) stands for, 0 to 1000: shifted twice, as the reference's scheduler does.
pub fn time(u: f64) -> f64 {
    let i = ((u * TIMES as f64).floor() as usize).min(TIMES - 1);
    let s = 1.0 + (LAST - 1.0) * i as f64 / (TIMES - 1) as f64;
    3000.0 * s / (1.0 + 2.0 * s)
}

/// Noise in the latent, as much as belongs to the time.
fn noised(z: &Tensor, noise: &Tensor, sigma: f64) -> Result<Tensor, TchError> {
    z.f_mul_scalar(1.0 - sigma)?.f_add(&noise.f_mul_scalar(sigma)?)
}

fn number(tensor: &Tensor) -> Result<f64, TchError> {
    tensor.f_to_kind(Kind::Double)?.f_double_value(&[])
}

/// A sample of what the encoder says of pictures, as the transformer takes it; `moments`: mean and log variance together.
fn latent_of(model: &Model, moments: &Tensor, eps: &Tensor) -> Result<Tensor, TchError> {
    let parts = moments.f_chunk(2, 1)?;
    let deviation = parts[1].f_clamp(-30.0, 20.0)?.f_mul_scalar(0.5)?.f_exp()?;
    let sampled = parts[0].f_add(&deviation.f_mul(eps)?)?;
    sampled.f_sub_scalar(model.shift_factor)?.f_mul_scalar(model.scaling_factor)
}

/// What the model makes of poor pictures `[B, 3, H, W]` in [-1, 1], not clamped; nothing is recorded.
pub fn restored(
    model: &Model,
    lq: &Tensor,
    eps: &Tensor,
    prompt: &Tensor,
    pooled: &Tensor,
) -> Result<Tensor, TchError> {
    let only = |mut outputs: Vec<Tensor>| outputs.swap_remove(0);
    let moments = only(tape::run(&model.encoder, &[lq.shallow_clone()])?);
    let z_in = tch::no_grad(|| latent_of(model, &moments, eps))?;
    let (_, _, height, width) = z_in.size4()?;
    let generator = Conditioned::new(&model.generator, ONE_STEP, prompt, pooled, [height, width])?;
    let velocity = only(tape::run(&generator, &[z_in.shallow_clone()])?);
    let z0 = z_in.f_sub(&velocity)?;
    let latent = z0.f_div_scalar(model.scaling_factor)?.f_add_scalar(model.shift_factor)?;
    Ok(only(tape::run(&model.decoder, &[latent])?))
}

/// Computes the losses of a micro-batch, and adds the gradients, each divided by `accumulation`, to those of the model's
/// parameters. `checkpoints`: little memory, and one more pass through each network.
pub fn micro_batch(
    model: &Model,
    batch: &Batch,
    draws: &Draws,
    weights: &Weights,
    accumulation: f64,
    checkpoints: bool,
) -> Result<Losses, TchError> {
    let Batch { lq, gt, prompt, pooled } = batch;
    let (scaling, shift) = (model.scaling_factor, model.shift_factor);
    // The encoder, and a sample of what it says.
    let (moments, encoder_tape) = tape::forward(&model.encoder, &[lq.shallow_clone()], checkpoints)?;
    let moments = moments[0].f_set_requires_grad(true)?;
    let z_in = latent_of(model, &moments, &draws.eps_vae)?;
    let (_, _, height, width) = z_in.size4()?;
    let conditioned = |network, t: f64| Conditioned::new(network, t, prompt, pooled, [height, width]);
    // The generator's one step.
    let generator = conditioned(&model.generator, ONE_STEP)?;
    let (velocity, generator_tape) = tape::forward(&generator, &[z_in.f_detach()?], checkpoints)?;
    let z0 = z_in.f_detach()?.f_sub(&velocity[0])?;
    let latent = z0.f_div_scalar(scaling)?.f_add_scalar(shift)?;
    let (decoded, decoder_tape) = tape::forward(&model.decoder, &[latent], checkpoints)?;
    // What is seen.
    let pred = decoded[0].f_set_requires_grad(true)?;
    let l2 = pred.f_mse_loss(gt, tch::Reduction::Mean)?;
    let lpips = model.lpips.forward(&pred, gt)?.f_mean(Kind::Float)?;
    let seen = l2.f_mul_scalar(weights.l2)?.f_add(&lpips.f_mul_scalar(weights.lpips)?)?.f_div_scalar(accumulation)?;
    seen.f_backward()?;
    let (l2, lpips) = (number(&l2)?, number(&lpips)?);
    let of_pred = pred.f_grad()?;
    drop((pred, seen, decoded));
    let of_latent = decoder_tape.backward(vec![of_pred])?.swap_remove(0);
    // What the two diffusion models say of it.
    let (vsd, of_vsd) = tch::no_grad(|| {
        let t = time(draws.u_vsd);
        let sigma = t / 1000.0;
        let zt = noised(&z0, &draws.eps_vsd, sigma)?;
        let restored = |network| {
            let velocity = tape::run(&conditioned(network, t)?, &[zt.shallow_clone()])?;
            zt.f_sub(&velocity[0].f_mul_scalar(sigma)?)
        };
        let (by_regulariser, by_teacher) = (restored(&model.regulariser)?, restored(&model.teacher)?);
        let weight = z0.f_sub(&by_teacher)?.f_abs()?.f_mean_dim([1, 2, 3].as_slice(), true, None::<Kind>)?;
        let g = by_regulariser.f_sub(&by_teacher)?.f_div(&weight.f_clamp_min(SMALLEST)?)?;
        let loss = number(&g.f_square()?.f_mean(None::<Kind>)?)?;
        Ok::<_, TchError>((loss, g.f_mul_scalar(2.0 / g.numel() as f64)?))
    })?;
    // Back through the generator and the encoder.
    let of_z0 = of_latent.f_div_scalar(scaling)?.f_add(&of_vsd.f_mul_scalar(weights.vsd / accumulation)?)?;
    let through = generator_tape.backward(vec![of_z0.f_neg()?])?.swap_remove(0);
    let of_z_in = of_z0.f_add(&through)?;
    z_in.f_mul(&of_z_in)?.f_sum(Kind::Float)?.f_backward()?;
    encoder_tape.backward(vec![moments.f_grad()?])?;
    // The regulariser learns what the generator makes.
    let t = time(draws.u_diff);
    let sigma = t / 1000.0;
    let zt = noised(&z0, &draws.eps_diff, sigma)?;
    let regulariser = conditioned(&model.regulariser, t)?;
    let (velocity, regulariser_tape) = tape::forward(&regulariser, &[zt.shallow_clone()], checkpoints)?;
    let apart = zt.f_sub(&velocity[0].f_mul_scalar(sigma)?)?.f_sub(&z0)?;
    let diff = number(&apart.f_square()?.f_mean(None::<Kind>)?)?;
    let of_velocity = apart.f_mul_scalar(-2.0 * sigma * weights.diff / accumulation / apart.numel() as f64)?;
    regulariser_tape.backward(vec![of_velocity])?;
    Ok(Losses { l2, lpips, vsd, diff })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shifted_twice() {
        assert_eq!(time(0.0), 1000.0);
        assert!((time(0.5) - 750.75).abs() < 0.01 && (time(0.9999) - 8.929).abs() < 0.001);
    }
}
