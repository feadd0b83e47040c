//! LPIPS (arXiv 1801.03924, version 0.1; `lpips/lpips.py`): how far apart two pictures are for a network that recognises
//! objects, in five of its layers.

use std::path::Path;

use tch::{Device, Kind, TchError, Tensor};

use super::features::{ALEXNET, Features, Layout, VGG16};
use super::{Files, Metric, Opened, Score, compared, open_file, prefix_of};
use crate::evaluate::EvaluateError;
use crate::imaging::Picture;
use crate::runtime::tensor::tensor_from_picture;
use crate::runtime::weights::{Loader, WeightsError};

/// `ScalingLayer`.
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];
/// Keeps vectors of nothing from being divided by nothing.
const EPSILON: f64 = 1e-10;

/// The metric; 0 for equal pictures.
pub struct Lpips {
    features: Features,
    /// What each channel's difference counts, `[1, C, 1, 1]` of each output.
    weights: Vec<Tensor>,
    shift: Tensor,
    scale: Tensor,
    device: Device,
    layout: &'static Layout,
}

/// By AlexNet, as it is usually reported.
pub(super) fn open_alex(files: &Files, device: Device) -> Opened {
    Ok(Box::new(Lpips::load(files, ["alexnet", "lpips-alex"], &ALEXNET, device)?))
}

/// By VGG16.
pub(super) fn open_vgg(files: &Files, device: Device) -> Opened {
    Ok(Box::new(Lpips::load(files, ["vgg16", "lpips-vgg"], &VGG16, device)?))
}

impl Lpips {
    fn load(
        files: &Files,
        [network, layers]: [&'static str; 2],
        layout: &'static Layout,
        device: Device,
    ) -> Result<Self, EvaluateError> {
        let features = Features::load(&open_file(files, network)?, layout, device)?;
        let weights = open_file(files, layers)?;
        let prefix = prefix_of(&weights, "lin0.model.1.weight");
        let mut loader = Loader::new(&weights, &prefix, device, Kind::Float);
        let layer = |(k, &width): (usize, &i64)| loader.tensor(&format!("lin{k}.model.1.weight"), &[1, width, 1, 1]);
        let weights = features.widths.iter().enumerate().map(layer).collect::<Result<Vec<_>, WeightsError>>()?;
        // Files of whole modules repeat them, and carry the scaling that is the same everywhere.
        ["lins.", "net.", "scaling_layer."].iter().for_each(|name| loader.ignore_prefix(name));
        loader.finish("LPIPS")?;
        let constant = |numbers: [f32; 3]| Tensor::f_from_slice(&numbers)?.f_view([1, 3, 1, 1])?.f_to_device(device);
        let (shift, scale) = (constant(SHIFT)?, constant(SCALE)?);
        Ok(Self { features, weights, shift, scale, device, layout })
    }

    /// By VGG16, from the files of the two networks: torchvision's, and what LPIPS adds; or one that holds both, twice.
    ///
    /// # Errors
    /// A file that is damaged, or of another network.
    pub fn vgg(network: &Path, layers: &Path, device: Device) -> Result<Self, EvaluateError> {
        let files = Files::from([("vgg16", network.to_owned()), ("lpips-vgg", layers.to_owned())]);
        Self::load(&files, ["vgg16", "lpips-vgg"], &VGG16, device)
    }

    /// `[B, 3, H, W]` in [-1, 1], twice -> `[B]`.
    pub fn forward(&self, a: &Tensor, b: &Tensor) -> Result<Tensor, TchError> {
        let seen = |x: &Tensor| self.features.forward(&x.f_sub(&self.shift)?.f_div(&self.scale)?);
        let unit = |x: &Tensor| x.f_div(&x.f_norm_scalaropt_dim(2, [1], true)?.f_add_scalar(EPSILON)?);
        let mut distance = Tensor::f_zeros([1], (Kind::Float, self.device))?;
        for ((a, b), weights) in seen(a)?.iter().zip(seen(b)?).zip(&self.weights) {
            let apart = unit(a)?.f_sub(&unit(&b)?)?.f_square()?.f_mul(weights)?;
            let sum = apart.f_sum_dim_intlist([1].as_slice(), false, None::<Kind>)?;
            distance = distance.f_add(&sum.f_mean_dim([1, 2].as_slice(), false, None::<Kind>)?)?;
        }
        Ok(distance)
    }
}

impl Metric for Lpips {
    fn bytes_per_pixel(&self) -> u64 {
        self.layout.bytes_per_pixel
    }

    fn score(&self, picture: &Picture, reference: Option<&Picture>) -> Result<Score, TchError> {
        compared(picture, reference, self.layout.shortest_side, |picture, reference| {
            let tensor =
                |picture: &Picture| tensor_from_picture(picture, self.device)?.f_mul_scalar(2.0)?.f_sub_scalar(1.0);
            self.forward(&tensor(picture)?, &tensor(reference)?)?.f_double_value(&[0])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::rng::noise;
    use crate::runtime::weights::Weights;

    #[test]
    fn gradients_are_numbers_where_all_channels_are_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let fixture = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/train").join(name);
        let network = Weights::open(&fixture("vgg16.pth")).unwrap();
        let silent = network.shapes().into_iter().filter(|(name, _)| name.starts_with("features."));
        let silent: Vec<(&str, Tensor)> = silent
            .map(|(name, shape)| {
                (name, Tensor::full(shape, if name.ends_with("bias") { -1.0 } else { 0.0 }, (Kind::Float, Device::Cpu)))
            })
            .collect();
        let file = folder.path().join("silent.safetensors");
        Tensor::write_safetensors(&silent, &file).unwrap();
        for (network, is_silent) in [(file, true), (fixture("vgg16.pth"), false)] {
            let lpips = Lpips::vgg(&network, &fixture("lpips.pth"), Device::Cpu).unwrap();
            let picture = noise(&[2, 3, 32, 32]).clamp(-1.0, 1.0).set_requires_grad(true);
            let distance = lpips.forward(&picture, &noise(&[2, 3, 32, 32])).unwrap().sum(Kind::Float);
            distance.backward();
            let gradient = picture.grad();
            assert!(bool::try_from(gradient.isfinite().all()).unwrap());
            assert_eq!(distance.double_value(&[]) == 0.0, is_silent);
        }
    }
}
