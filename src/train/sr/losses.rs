//! One micro-batch: four losses, and their gradients (osediff_sd3.py and train_osediff_sd3.py of the reference).

use tch::{Kind, TchError, Tensor};

use super::model::{Conditioned, GEN, Model, REG};
use crate::networks::vae::moments;
use crate::train::tape;
use crate::train::tape::Tape;

/// Pictures and prompts.
pub struct Batch {
    /// Low-quality pictures, `[B, 3, H, W]` in [-1, 1].
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

/// The four losses before they are weighed, or what each of them weighs.
#[derive(Clone, Copy, Debug, PartialEq)]
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

impl Losses {
    /// Of some micro-batches.
    pub fn mean(all: &[Self]) -> Self {
        let mean = |of: fn(&Self) -> f64| all.iter().map(of).sum::<f64>() / all.len() as f64;
        Self { l2: mean(|it| it.l2), lpips: mean(|it| it.lpips), vsd: mean(|it| it.vsd), diff: mean(|it| it.diff) }
    }
}

/// How micro-batches are computed.
pub struct LossOptions {
    /// What the losses weigh.
    pub weights: Losses,
    /// Gradients are divided by it: micro-batches of a step.
    pub accumulation: usize,
    /// Little memory, and one more pass through each network.
    pub gradient_checkpointing: bool,
    /// Of the teacher; none in the reference.
    pub guidance: Option<Guidance>,
}

/// Classifier-free guidance of the teacher (OSEDiff's `cfg_vsd`): the velocity is `v_neg + scale (v - v_neg)`.
pub struct Guidance {
    /// 1 is none.
    pub scale: f64,
    /// Embeds of the negative prompt, `[1, T, joint]` and `[1, pooled]`.
    pub negative: [Tensor; 2],
}

/// What a micro-batch has come to.
pub struct Outcome {
    /// Before they are weighed.
    pub losses: Losses,
    /// The restored pictures `[B, 3, H, W]`, not clamped.
    pub pred: Tensor,
    /// Latents of the distillation `[B, C, h, w]`: the generator's, with noise, and what regulariser and teacher restore of that.
    pub latents: [Tensor; 4],
}

/// Of one step: where the generator stands in time.
const ONE_STEP: f64 = 1000.0;
/// Times that noise is added for, and where the last of them lies before it is shifted.
const TIMES: usize = 1000;
const LAST: f64 = 0.003 / 1.002;
/// Keeps a quotient finite where the teacher agrees with the generator.
const SMALLEST: f64 = 1e-8;

/// The place in time that a number in [0, 1) stands for, 0 to 1000: shifted twice, as the reference's scheduler does.
pub fn timestep(u: f64) -> f64 {
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

/// A sample of what the encoder says of pictures, as the transformer takes it; `encoded`: mean and log variance together.
fn latent_of(model: &Model, encoded: &Tensor, eps: &Tensor) -> Result<Tensor, TchError> {
    let (mean, log_variance) = moments(encoded)?;
    let sampled = mean.f_add(&log_variance.f_mul_scalar(0.5)?.f_exp()?.f_mul(eps)?)?;
    sampled.f_sub_scalar(model.encode_shift)?.f_mul_scalar(model.scaling_factor)
}

/// What the decoder makes of latents as the transformer has them, not clamped; nothing is recorded.
pub fn decoded(model: &Model, z: &Tensor) -> Result<Tensor, TchError> {
    Ok(tape::run(model.decoder.ops(), &[unscaled(model, z)?])?.swap_remove(0))
}

/// Latents as the decoder takes them.
fn unscaled(model: &Model, z: &Tensor) -> Result<Tensor, TchError> {
    z.f_div_scalar(model.scaling_factor)?.f_add_scalar(model.shift_factor)
}

/// What the model makes of low-quality pictures `[B, 3, H, W]` in [-1, 1], not clamped; nothing is recorded.
pub fn predict(model: &Model, lq: &Tensor, eps: &Tensor, prompt: &Tensor, pooled: &Tensor) -> Result<Tensor, TchError> {
    let only = |mut outputs: Vec<Tensor>| outputs.swap_remove(0);
    let moments = only(tape::run(model.encoder.ops(), &[lq.shallow_clone()])?);
    let z_in = tch::no_grad(|| latent_of(model, &moments, eps))?;
    let (_, _, height, width) = z_in.size4()?;
    let generator = Conditioned::new(&model.generator, ONE_STEP, prompt, pooled, [height, width])?;
    let velocity = only(tape::run(&generator, &[z_in.shallow_clone()])?);
    decoded(model, &z_in.f_sub(&velocity)?)
}

/// Computes the losses of a micro-batch, and adds their gradients to those of the model's parameters.
///
/// # Errors
/// What libtorch says.
pub fn micro_batch(model: &Model, batch: &Batch, draws: &Draws, options: &LossOptions) -> Result<Outcome, TchError> {
    let Batch { lq, gt, prompt, pooled } = batch;
    let (weights, accumulation, checkpoints) =
        (&options.weights, options.accumulation as f64, options.gradient_checkpointing);
    // The encoder, and a sample of what it says.
    let (moments, encoder_tape) = tape::forward(model.encoder.ops(), &[lq.shallow_clone()], checkpoints)?;
    let moments = moments[0].f_set_requires_grad(true)?;
    let z_in = latent_of(model, &moments, &draws.eps_vae)?;
    let (_, _, height, width) = z_in.size4()?;
    let conditioned = |network, t: f64| Conditioned::new(network, t, prompt, pooled, [height, width]);
    let backward = |tape: Tape, group: usize, gradient: Tensor| -> Result<Tensor, TchError> {
        let scale = model.groups[group].scale;
        tape.backward(vec![gradient.f_mul_scalar(scale)?])?.swap_remove(0).f_div_scalar(scale)
    };
    // The generator's one step.
    let generator = conditioned(&model.generator, ONE_STEP)?;
    let (velocity, generator_tape) = tape::forward(&generator, &[z_in.f_detach()?], checkpoints)?;
    let z0 = z_in.f_detach()?.f_sub(&velocity[0])?;
    let (pictures, decoder_tape) = tape::forward(model.decoder.ops(), &[unscaled(model, &z0)?], checkpoints)?;
    // What is seen.
    let pred = pictures[0].f_set_requires_grad(true)?;
    let l2 = pred.f_mse_loss(gt, tch::Reduction::Mean)?;
    let lpips = model.lpips.forward(&pred, gt)?.f_mean(Kind::Float)?;
    let seen = l2.f_mul_scalar(weights.l2)?.f_add(&lpips.f_mul_scalar(weights.lpips)?)?.f_div_scalar(accumulation)?;
    seen.f_backward()?;
    let (l2, lpips) = (number(&l2)?, number(&lpips)?);
    let of_latent = decoder_tape.backward(vec![pred.f_grad()?])?.swap_remove(0);
    let pred = pred.f_detach()?;
    drop((seen, pictures));
    // What the two diffusion models say of it.
    let (vsd, of_vsd, latents) = tch::no_grad(|| {
        let t = timestep(draws.u_vsd);
        let sigma = t / 1000.0;
        let zt = noised(&z0, &draws.eps_vsd, sigma)?;
        let velocity = |network: Conditioned| -> Result<Tensor, TchError> {
            Ok(tape::run(&network, &[zt.shallow_clone()])?.swap_remove(0))
        };
        let restored = |velocity: Tensor| zt.f_sub(&velocity.f_mul_scalar(sigma)?);
        let x_reg = restored(velocity(conditioned(&model.regulariser, t)?)?)?;
        let mut of_teacher = velocity(conditioned(&model.teacher, t)?)?;
        if let Some(Guidance { scale, negative }) = &options.guidance {
            let count = lq.size()[0];
            let [prompt, pooled] =
                [&negative[0].f_expand([count, -1, -1], false)?, &negative[1].f_expand([count, -1], false)?];
            let without = velocity(Conditioned::new(&model.teacher, t, prompt, pooled, [height, width])?)?;
            of_teacher = without.f_add(&of_teacher.f_sub(&without)?.f_mul_scalar(*scale)?)?;
        }
        let x_teacher = restored(of_teacher)?;
        let weight = z0.f_sub(&x_teacher)?.f_abs()?.f_mean_dim([1, 2, 3].as_slice(), true, None::<Kind>)?;
        let g = x_reg.f_sub(&x_teacher)?.f_div(&weight.f_clamp_min(SMALLEST)?)?;
        let loss = number(&g.f_square()?.f_mean(None::<Kind>)?)?;
        let latents = [z0.shallow_clone(), zt, x_reg, x_teacher];
        Ok::<_, TchError>((loss, g.f_mul_scalar(2.0 / g.numel() as f64)?, latents))
    })?;
    // Back through the generator and the encoder.
    let of_z0 =
        of_latent.f_div_scalar(model.scaling_factor)?.f_add(&of_vsd.f_mul_scalar(weights.vsd / accumulation)?)?;
    let of_z_in = of_z0.f_add(&backward(generator_tape, GEN, of_z0.f_neg()?)?)?;
    z_in.f_mul(&of_z_in)?.f_sum(Kind::Float)?.f_backward()?;
    encoder_tape.backward(vec![moments.f_grad()?])?;
    // The regulariser learns what the generator makes.
    let t = timestep(draws.u_diff);
    let sigma = t / 1000.0;
    let zt = noised(&z0, &draws.eps_diff, sigma)?;
    let regulariser = conditioned(&model.regulariser, t)?;
    let (velocity, regulariser_tape) = tape::forward(&regulariser, &[zt.shallow_clone()], checkpoints)?;
    let apart = zt.f_sub(&velocity[0].f_mul_scalar(sigma)?)?.f_sub(&z0)?;
    let diff = number(&apart.f_square()?.f_mean(None::<Kind>)?)?;
    let of_velocity = apart.f_mul_scalar(-2.0 * sigma * weights.diff / accumulation / apart.numel() as f64)?;
    _ = backward(regulariser_tape, REG, of_velocity)?;
    Ok(Outcome { losses: Losses { l2, lpips, vsd, diff }, pred, latents })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shifted_twice() {
        assert_eq!(timestep(0.0), 1000.0);
        assert!((timestep(0.5) - 750.75).abs() < 0.01 && (timestep(0.9999) - 8.929).abs() < 0.001);
    }
}
