//! Metrics, opened. A new one is a row of [`METRICS`](crate::base::METRICS), a file here (in `imaging::metrics` where it needs
//! no network), and a line in [`open`].

mod clipiqa;
mod dists;
mod features;
mod lpips;
mod maniqa;
mod musiq;
mod plain;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use lpips::Lpips;
use tch::{Device, TchError, Tensor};

use super::EvaluateError;
use crate::base::MetricSpec;
use crate::imaging::Picture;
use crate::runtime::allocator;
use crate::runtime::weights::Weights;

/// A score, or why a picture has none.
pub type Score = Result<f64, String>;

/// A metric that can be computed.
pub trait Metric: Send {
    /// The score of a picture; `reference` is there where the metric needs one.
    ///
    /// # Errors
    /// What libtorch says: memory that ran out, a device that has gone.
    fn score(&self, picture: &Picture, reference: Option<&Picture>) -> Result<Score, TchError>;

    /// Memory that a pixel of the picture takes while it is scored, about.
    fn bytes_per_pixel(&self) -> u64 {
        100
    }
}

/// Where weights of metrics lie, by [`MetricFile::id`](crate::base::MetricFile::id).
pub type Files = BTreeMap<&'static str, PathBuf>;

type Opened = Result<Box<dyn Metric>, EvaluateError>;

/// Opens a metric.
///
/// # Errors
/// A file that is missing, damaged, or of another network.
pub fn open(spec: &MetricSpec, files: &Files, device: Device) -> Opened {
    match spec.id {
        "niqe" => plain::open_niqe(files),
        "musiq" => musiq::open(files, device),
        "maniqa" => maniqa::open(files, device),
        "clipiqa" => clipiqa::open(files, device),
        "lpips_alex" => lpips::open_alex(files, device),
        "lpips_vgg" => lpips::open_vgg(files, device),
        "dists" => dists::open(files, device),
        id => plain::open(id),
    }
}

fn open_file(files: &Files, id: &'static str) -> Result<Weights, EvaluateError> {
    let file = files.get(id).ok_or(EvaluateError::Missing { file: id })?;
    Ok(Weights::open_any(file)?)
}

/// What stands before the names of a network's tensors, one of which ends in `key`: a dictionary around them, or what
/// parallel training leaves.
fn prefix_of(weights: &Weights, key: &str) -> String {
    let names = weights.shapes();
    let prefixes = names.keys().filter_map(|name| name.strip_suffix(key));
    prefixes.into_iter().find(|rest| rest.is_empty() || rest.ends_with('.')).unwrap_or_default().to_owned()
}

/// Heads of a transformer: as many as the published network has, where its width allows; else one for each 64.
fn heads(width: i64, published: i64) -> i64 {
    if width % published == 0 { published } else { (width / 64).max(1) }
}

/// `[1, 3, H, W]` less the mean, divided by the deviation.
fn normalised(x: &Tensor, mean: [f32; 3], deviation: [f32; 3]) -> Result<Tensor, TchError> {
    let constant = |numbers: [f32; 3]| Tensor::f_from_slice(&numbers)?.f_view([1, 3, 1, 1])?.f_to_device(x.device());
    x.f_sub(&constant(mean)?)?.f_div(&constant(deviation)?)
}

/// A score that is a number, without keeping what training would need.
fn judged(score: impl FnOnce() -> Result<f64, TchError>) -> Result<Score, TchError> {
    let _kept = allocator::keep_blocks();
    let score = tch::no_grad(score)?;
    Ok(if score.is_finite() { Ok(score) } else { Err("what comes out is no number".into()) })
}

/// The same of two pictures, which must be of one size, and not too small.
fn compared(
    picture: &Picture,
    reference: Option<&Picture>,
    shortest_side: u32,
    score: impl FnOnce(&Picture, &Picture) -> Result<f64, TchError>,
) -> Result<Score, TchError> {
    let reference = match paired(picture, reference) {
        Ok(reference) => reference,
        Err(reason) => return Ok(Err(reason)),
    };
    if picture.width().min(picture.height()) < shortest_side {
        return Ok(Err(too_small(picture, shortest_side)));
    }
    judged(|| score(picture, reference))
}

fn paired<'a>(picture: &Picture, reference: Option<&'a Picture>) -> Result<&'a Picture, String> {
    let reference = reference.ok_or("there is no reference")?;
    let size = |picture: &Picture| format!("{} x {}", picture.width(), picture.height());
    if (picture.width(), picture.height()) != (reference.width(), reference.height()) {
        return Err(format!("the reference is {}, the picture {}", size(reference), size(picture)));
    }
    Ok(reference)
}

fn too_small(picture: &Picture, shortest_side: u32) -> String {
    let (width, height) = (picture.width(), picture.height());
    format!("{width} x {height} is too small: at least {shortest_side} pixels a side are needed")
}
