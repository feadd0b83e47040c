//! DISTS (arXiv 2004.07728; `DISTS_pytorch/DISTS_pt.py`): structure and texture of two pictures as VGG16 sees them, with
//! pooling that aliases nothing.

use tch::{Device, Kind, TchError, Tensor};

use super::features::{Features, VGG16};
use super::{Files, Metric, Opened, Score, compared, normalised, open_file, prefix_of};
use crate::imaging::Picture;
use crate::runtime::tensor::tensor_from_picture;
use crate::runtime::weights::Loader;

/// Mean and deviation of ImageNet's colours.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];
/// `hanning(5)` without its ends, by itself: what [`pooled`] weighs neighbours by, normalised.
const HANNING: [f32; 3] = [0.25, 0.5, 0.25];
const POOL_EPSILON: f64 = 1e-12;
/// Keeps quotients of nothing at one.
const EPSILON: f64 = 1e-6;

struct Dists {
    features: Features,
    /// Of texture and of structure, `[C]` for the picture itself and each output; all of them together make one.
    alpha: Vec<Tensor>,
    beta: Vec<Tensor>,
    device: Device,
}

pub(super) fn open(files: &Files, device: Device) -> Opened {
    let features = Features::load(&open_file(files, "vgg16")?, &VGG16, device)?;
    let weights = open_file(files, "dists")?;
    let prefix = prefix_of(&weights, "alpha");
    let mut loader = Loader::new(&weights, &prefix, device, Kind::Float);
    let widths: Vec<i64> = std::iter::once(3).chain(features.widths.iter().copied()).collect();
    let all = [1, widths.iter().sum(), 1, 1];
    let (alpha, beta) = (loader.tensor("alpha", &all)?, loader.tensor("beta", &all)?);
    // Files of whole modules hold VGG16 too, and what is constant.
    ["stage", "mean", "std"].iter().for_each(|name| loader.ignore_prefix(name));
    loader.finish("DISTS")?;
    let sum = alpha.f_sum(Kind::Float)?.f_add(&beta.f_sum(Kind::Float)?)?;
    let split = |weights: &Tensor| weights.f_div(&sum)?.f_view([-1])?.f_split_with_sizes(widths.as_slice(), 0);
    let (alpha, beta) = (split(&alpha)?, split(&beta)?);
    Ok(Box::new(Dists { features, alpha, beta, device }))
}

/// The root of the mean square of what lies around each second pixel.
fn pooled(x: &Tensor) -> Result<Tensor, TchError> {
    let channels = x.size()[1];
    let row = Tensor::f_from_slice(&HANNING)?.f_to_device(x.device())?;
    let window = row.f_view([3, 1])?.f_mul(&row)?.f_expand([channels, 1, 3, 3], false)?.f_contiguous()?;
    let mean = x.f_square()?.f_conv2d(&window, None::<&Tensor>, [2, 2], [1, 1], [1, 1], channels)?;
    mean.f_add_scalar(POOL_EPSILON)?.f_sqrt()
}

impl Dists {
    /// The picture `[1, 3, H, W]` in [0, 1] itself, then the network's outputs.
    fn maps(&self, picture: &Picture) -> Result<Vec<Tensor>, TchError> {
        let x = tensor_from_picture(picture, self.device)?;
        let outputs = self.features.forward_with(&normalised(&x, MEAN, DEVIATION)?, pooled)?;
        Ok(std::iter::once(x).chain(outputs).collect())
    }
}

impl Metric for Dists {
    fn bytes_per_pixel(&self) -> u64 {
        VGG16.bytes_per_pixel
    }

    fn score(&self, picture: &Picture, reference: Option<&Picture>) -> Result<Score, TchError> {
        // Its pooling pads: a single pixel will do.
        compared(picture, reference, 1, |picture, reference| {
            let (a, b) = (self.maps(reference)?, self.maps(picture)?);
            let mean = |x: &Tensor| x.f_mean_dim([-2, -1].as_slice(), true, None::<Kind>);
            let mut alike = Tensor::f_zeros([1], (Kind::Float, self.device))?;
            for (i, (mut a, mut b)) in a.into_iter().zip(b).enumerate() {
                let (ma, mb) = (mean(&a)?, mean(&b)?);
                // Centred first: of flat pictures the difference of two large numbers would be left. In place: the maps are
                // large, and not needed again.
                (a, b) = (a.f_sub_(&ma)?, b.f_sub_(&mb)?);
                let covariance = mean(&a.f_mul(&b)?)?;
                let (va, vb) = (mean(&a.f_square_()?)?, mean(&b.f_square_()?)?);
                // (2 p + c) / (q + r + c)
                let quotient = |p: &Tensor, q: &Tensor, r: &Tensor| {
                    let above = p.f_mul_scalar(2.0)?.f_add_scalar(EPSILON)?;
                    above.f_div(&q.f_add(r)?.f_add_scalar(EPSILON)?)?.f_view([-1])
                };
                let texture = quotient(&ma.f_mul(&mb)?, &ma.f_square()?, &mb.f_square()?)?;
                let structure = quotient(&covariance, &va, &vb)?;
                let of = |weights: &Tensor, quotient: &Tensor| weights.f_mul(quotient)?.f_sum(Kind::Float);
                alike = alike.f_add(&of(&self.alpha[i], &texture)?)?.f_add(&of(&self.beta[i], &structure)?)?;
            }
            Ok(1.0 - alike.f_double_value(&[0])?)
        })
    }
}
