//! AdamW (arXiv 1711.05101) as PyTorch computes it, with its moments in our hands: a run can go on exactly where it stopped.

use tch::{Kind, TchError, Tensor};

/// Hyperparameters of the optimizer.
#[derive(Clone, Copy, Debug)]
pub struct AdamWConfig {
    /// Decay of the mean of gradients, and of that of their squares.
    pub betas: [f64; 2],
    /// Keeps quotients finite.
    pub epsilon: f64,
    /// Of the parameters, decoupled from the gradients.
    pub weight_decay: f64,
    /// Longer gradients are shortened to this, all of the group together; 0: none are.
    pub max_grad_norm: f64,
}

/// Length of all gradients together.
pub fn norm(gradients: &[Tensor]) -> Result<f64, TchError> {
    let square = |gradient: &Tensor| gradient.f_square()?.f_sum(Kind::Double)?.f_double_value(&[]);
    let squares = gradients.iter().map(square).collect::<Result<Vec<_>, _>>()?;
    Ok(squares.iter().sum::<f64>().sqrt())
}

/// Some parameters that are optimised together: leaves in float32.
pub struct Group {
    /// In files of parameters.
    pub name: &'static str,
    /// By the names of their layers.
    pub parameters: Vec<(String, Tensor)>,
    /// Means of the gradients and of their squares.
    pub moments: Vec<[Tensor; 2]>,
    /// How often it was moved.
    pub steps: u64,
    /// Gradients are multiplied by it on their way: in fp16 they may be too small otherwise.
    pub scale: f64,
}

impl Group {
    /// Of parameters that have not been optimised yet.
    pub fn new(name: &'static str, parameters: Vec<(String, Tensor)>, scale: f64) -> Result<Self, TchError> {
        let zeros = |(_, tensor): &(String, Tensor)| Ok([tensor.f_zeros_like()?, tensor.f_zeros_like()?]);
        let moments = tch::no_grad(|| parameters.iter().map(zeros).collect::<Result<_, TchError>>())?;
        Ok(Self { name, parameters, moments, steps: 0, scale })
    }

    /// The gradients that have come together, zeros where there is none; they are forgotten.
    pub fn take_gradients(&mut self) -> Result<Vec<Tensor>, TchError> {
        let scale = self.scale;
        let take = |(_, tensor): &mut (String, Tensor)| {
            let gradient = tensor.f_grad()?;
            if !gradient.defined() {
                return tensor.f_zeros_like();
            }
            let gradient = gradient.f_div_scalar(scale)?;
            tensor.zero_grad();
            Ok(gradient)
        };
        tch::no_grad(|| self.parameters.iter_mut().map(take).collect())
    }

    /// Moves the parameters against these gradients, of this length, which are shortened before.
    pub fn step(&mut self, rate: f64, gradients: &[Tensor], norm: f64, settings: &AdamWConfig) -> Result<(), TchError> {
        self.steps += 1;
        let [first, second] = settings.betas;
        let factor = match settings.max_grad_norm {
            0.0 => 1.0,
            most => (most / (norm + 1e-6)).min(1.0),
        };
        let correction = |beta: f64| 1.0 - beta.powf(self.steps as f64);
        let (step, root) = (rate / correction(first), correction(second).sqrt());
        tch::no_grad(|| {
            let moved = self.parameters.iter_mut().zip(&mut self.moments).zip(gradients);
            for (((_, parameter), [mean, square]), gradient) in moved {
                let gradient = gradient.f_mul_scalar(factor)?;
                _ = parameter.f_mul_scalar_(1.0 - rate * settings.weight_decay)?;
                _ = mean.f_lerp_(&gradient, 1.0 - first)?;
                let scaled = gradient.f_mul_scalar(1.0 - second)?;
                _ = square.f_mul_scalar_(second)?.f_addcmul_(&gradient, &scaled)?;
                let denominator = square.f_sqrt()?.f_div_scalar(root)?.f_add_scalar(settings.epsilon)?;
                _ = parameter.f_addcdiv_(&mean.f_mul_scalar(-step)?, &denominator)?;
            }
            Ok(())
        })
    }
}
