//! Gradients through networks that are too large to remember: a network is run in segments without recording, and only the
//! segments' inputs are kept; on the way back each segment is run again, this time recorded, and gives its gradients
//! (gradient checkpointing, arXiv 1604.06174).

use tch::{Kind, TchError, Tensor};

/// A network that can be run in parts. Everything that has a gradient goes through the parts' inputs and outputs, or is a
/// leaf inside them.
pub trait Segments {
    /// How many parts there are.
    fn count(&self) -> usize;

    /// Runs one; its outputs are the next one's inputs.
    fn run(&self, segment: usize, inputs: &[Tensor]) -> Result<Vec<Tensor>, TchError>;
}

/// What is needed to go back through a network.
pub struct Tape<'a> {
    network: &'a dyn Segments,
    /// Of each segment; of all of them as one where everything was recorded.
    inputs: Vec<Vec<Tensor>>,
    recorded: Option<Vec<Tensor>>,
}

fn leaves(tensors: &[Tensor]) -> Result<Vec<Tensor>, TchError> {
    tensors.iter().map(|tensor| tensor.f_detach()?.f_set_requires_grad(true)).collect()
}

/// Runs the network. `checkpoints`: what is between is computed again on the way back, rather than kept.
pub fn forward<'a>(
    network: &'a dyn Segments,
    inputs: &[Tensor],
    checkpoints: bool,
) -> Result<(Vec<Tensor>, Tape<'a>), TchError> {
    if !checkpoints {
        let first = leaves(inputs)?;
        let mut x: Vec<Tensor> = first.iter().map(Tensor::shallow_clone).collect();
        for segment in 0..network.count() {
            x = network.run(segment, &x)?;
        }
        let outputs = x.iter().map(Tensor::f_detach).collect::<Result<_, _>>()?;
        return Ok((outputs, Tape { network, inputs: vec![first], recorded: Some(x) }));
    }
    let mut x = inputs.iter().map(Tensor::f_detach).collect::<Result<Vec<_>, _>>()?;
    let mut kept = Vec::new();
    tch::no_grad(|| {
        for segment in 0..network.count() {
            let next = network.run(segment, &x)?;
            kept.push(std::mem::replace(&mut x, next));
        }
        Ok::<(), TchError>(())
    })?;
    Ok((x, Tape { network, inputs: kept, recorded: None }))
}

/// Runs the network and keeps nothing.
pub fn run(network: &dyn Segments, inputs: &[Tensor]) -> Result<Vec<Tensor>, TchError> {
    let mut x = inputs.iter().map(Tensor::f_detach).collect::<Result<Vec<_>, _>>()?;
    tch::no_grad(|| {
        for segment in 0..network.count() {
            x = network.run(segment, &x)?;
        }
        Ok(x)
    })
}

impl Tape<'_> {
    /// The gradients of the inputs, from those of the outputs; leaves inside gather theirs.
    pub fn backward(self, gradients: Vec<Tensor>) -> Result<Vec<Tensor>, TchError> {
        if let (Some(outputs), Some(inputs)) = (&self.recorded, self.inputs.first()) {
            return back(outputs, inputs, &gradients);
        }
        let mut gradients = gradients;
        for (segment, inputs) in self.inputs.into_iter().enumerate().rev() {
            let inputs = leaves(&inputs)?;
            let outputs = self.network.run(segment, &inputs)?;
            gradients = back(&outputs, &inputs, &gradients)?;
        }
        Ok(gradients)
    }
}

/// One segment back.
fn back(outputs: &[Tensor], inputs: &[Tensor], gradients: &[Tensor]) -> Result<Vec<Tensor>, TchError> {
    let mut sum: Option<Tensor> = None;
    for (output, gradient) in outputs.iter().zip(gradients).filter(|(output, _)| output.requires_grad()) {
        let product = output.f_mul(gradient)?.f_sum(Kind::Float)?;
        sum = Some(match sum {
            Some(sum) => sum.f_add(&product)?,
            None => product,
        });
    }
    if let Some(sum) = sum {
        sum.f_backward()?;
    }
    inputs
        .iter()
        .map(|input| {
            let gradient = input.f_grad()?;
            if gradient.defined() { Ok(gradient) } else { input.f_zeros_like() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::rng::noise;

    struct Layers(Vec<Tensor>);

    impl Segments for Layers {
        fn count(&self) -> usize {
            self.0.len()
        }

        fn run(&self, segment: usize, inputs: &[Tensor]) -> Result<Vec<Tensor>, TchError> {
            let [x, y] = inputs else { return Err(TchError::Torch("two are needed".into())) };
            let h = x.f_matmul(&self.0[segment])?.f_tanh()?;
            Ok(vec![h.f_add(y)?, y.f_mul(&h)?])
        }
    }

    #[test]
    fn gradients_are_the_same_with_and_without_checkpoints() {
        let layers = Layers((0..4).map(|_| noise(&[5, 5]).set_requires_grad(true)).collect());
        let (inputs, gradients) = ([noise(&[3, 5]), noise(&[3, 5])], [noise(&[3, 5]), noise(&[3, 5])]);
        let run = |checkpoints: bool| {
            let (outputs, tape) = forward(&layers, &inputs, checkpoints).unwrap();
            let back = tape.backward(gradients.iter().map(Tensor::shallow_clone).collect()).unwrap();
            let own: Vec<Tensor> = layers.0.iter().map(|layer| layer.grad().copy()).collect();
            layers.0.iter().for_each(|layer| layer.shallow_clone().zero_grad());
            (outputs, back, own)
        };
        let (kept, again) = (run(false), run(true));
        let pairs = kept.0.iter().zip(&again.0).chain(kept.1.iter().zip(&again.1)).chain(kept.2.iter().zip(&again.2));
        for (a, b) in pairs {
            assert!((a - b).abs().max().double_value(&[]) < 1e-6 && a.abs().max().double_value(&[]) > 0.0);
        }
    }
}
