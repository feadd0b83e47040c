//! The layers of torchvision's AlexNet and VGG16 before their classifiers (`models/{alexnet,vgg}.py`, `features.N`), whose
//! outputs LPIPS and DISTS compare. Widths are those of the file.

use tch::{Device, Kind, TchError, Tensor};

use super::prefix_of;
use crate::networks::layers::Conv2d;
use crate::runtime::weights::{Loader, Weights, WeightsError};

/// Of a stage, which ends where its output is looked at: whether it begins with pooling, and `(index, stride, padding)` of
/// its convolutions, each with ReLU after it.
type Stage = (bool, &'static [(i64, i64, i64)]);

/// A network's layout.
pub(super) struct Layout {
    name: &'static str,
    stages: [Stage; 5],
    /// Side of the window of its max pooling, every two pixels.
    pooling: i64,
    /// A picture with a shorter side has no pixel left in the end.
    pub(super) shortest_side: u32,
    /// Memory that a pixel of two pictures takes, about.
    pub(super) bytes_per_pixel: u64,
}

/// AlexNet: ReLU outputs 1, 4, 7, 9 and 11.
pub(super) static ALEXNET: Layout = Layout {
    name: "AlexNet",
    stages: [
        (false, &[(0, 4, 2)]),
        (true, &[(3, 1, 2)]),
        (true, &[(6, 1, 1)]),
        (false, &[(8, 1, 1)]),
        (false, &[(10, 1, 1)]),
    ],
    pooling: 3,
    shortest_side: 31,
    bytes_per_pixel: 300,
};

/// VGG16: ReLU outputs 3, 8, 15, 22 and 29.
pub(super) static VGG16: Layout = Layout {
    name: "VGG16",
    stages: [
        (false, &[(0, 1, 1), (2, 1, 1)]),
        (true, &[(5, 1, 1), (7, 1, 1)]),
        (true, &[(10, 1, 1), (12, 1, 1), (14, 1, 1)]),
        (true, &[(17, 1, 1), (19, 1, 1), (21, 1, 1)]),
        (true, &[(24, 1, 1), (26, 1, 1), (28, 1, 1)]),
    ],
    pooling: 2,
    shortest_side: 16,
    bytes_per_pixel: 2500,
};

/// The network, loaded.
pub(super) struct Features {
    layout: &'static Layout,
    convolutions: Vec<Vec<Conv2d>>,
    /// Channels of the five outputs.
    pub(super) widths: Vec<i64>,
}

impl Features {
    /// # Errors
    /// Every missing or misshapen key, all at once.
    pub(super) fn load(weights: &Weights, layout: &'static Layout, device: Device) -> Result<Self, WeightsError> {
        let prefix = prefix_of(weights, "features.0.weight");
        let mut loader = Loader::new(weights, &prefix, device, Kind::Float);
        // Classifiers, as torchvision and timm call theirs, and what LPIPS adds.
        ["classifier.", "pre_logits.", "head.", "lin", "scaling_layer."]
            .iter()
            .for_each(|name| loader.ignore_prefix(name));
        let (mut inputs, mut widths, mut convolutions) = (3, Vec::new(), Vec::new());
        for (number, (_, stage)) in (1..).zip(layout.stages) {
            let mut convolution = |&(index, stride, padding): &(i64, i64, i64)| {
                // Files of the whole LPIPS have it in slices.
                let slice = format!("net.slice{number}.{index}");
                let is_sliced = loader.has(&format!("{slice}.weight"));
                let name = if is_sliced { slice } else { format!("features.{index}") };
                let shape = loader.shape(&format!("{name}.weight")).unwrap_or_default();
                let (outputs, kernel) = (shape.first().copied().unwrap_or(0), shape.last().copied().unwrap_or(0));
                let conv = Conv2d::load(&mut loader, &name, [inputs, outputs], kernel, stride, padding)?;
                inputs = outputs;
                Ok::<Conv2d, WeightsError>(conv)
            };
            convolutions.push(stage.iter().map(&mut convolution).collect::<Result<Vec<_>, _>>()?);
            widths.push(inputs);
        }
        loader.finish(layout.name)?;
        Ok(Self { layout, convolutions, widths })
    }

    /// The five outputs of `[B, 3, H, W]`, largest first, with max pooling.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Vec<Tensor>, TchError> {
        let side = self.layout.pooling;
        self.forward_with(x, |x| x.f_max_pool2d([side; 2], [2; 2], [0; 2], [1; 2], false))
    }

    /// The same with another kind of pooling.
    pub(super) fn forward_with(
        &self,
        x: &Tensor,
        pool: impl Fn(&Tensor) -> Result<Tensor, TchError>,
    ) -> Result<Vec<Tensor>, TchError> {
        let (mut x, mut outputs) = (x.shallow_clone(), Vec::new());
        for ((is_pooled, _), convolutions) in self.layout.stages.iter().zip(&self.convolutions) {
            if *is_pooled {
                x = pool(&x)?;
            }
            for convolution in convolutions {
                x = convolution.forward(&x)?.f_relu_()?;
            }
            outputs.push(x.shallow_clone());
        }
        Ok(outputs)
    }
}
