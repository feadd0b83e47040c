//! Metrics without a network.

use tch::TchError;

use super::{Files, Metric, Opened, Score, paired};
use crate::evaluate::EvaluateError;
use crate::imaging::Picture;
use crate::imaging::metrics::{NIQE_SHORTEST_SIDE, Niqe, SSIM_SHORTEST_SIDE, psnr, psnr_y, ssim, ssim_y};

/// NIQE, by statistics of one's own where there are such.
pub(super) fn open_niqe(files: &Files) -> Opened {
    let Some(file) = files.get("niqe") else { return Ok(Box::new(Niqe::published())) };
    let failed = |found: String| EvaluateError::Statistics { file: file.clone(), found };
    let bytes = std::fs::read(file).map_err(|error| failed(error.to_string()))?;
    Ok(Box::new(Niqe::read(&bytes).map_err(failed)?))
}

impl Metric for Niqe {
    fn score(&self, picture: &Picture, _: Option<&Picture>) -> Result<Score, TchError> {
        let reason = || match picture.width().min(picture.height()) {
            0..NIQE_SHORTEST_SIDE => super::too_small(picture, NIQE_SHORTEST_SIDE),
            _ => "it is flat: nothing of it can be measured".into(),
        };
        Ok(Niqe::score(self, picture).ok_or_else(reason))
    }
}

/// A function of two pictures of one size.
struct Compared(fn(&Picture, &Picture) -> Option<f64>);

/// One that compares two pictures.
pub(super) fn open(id: &str) -> Opened {
    Ok(Box::new(Compared(match id {
        "psnr" => psnr,
        "psnr_y" => psnr_y,
        "ssim" => ssim,
        "ssim_y" => ssim_y,
        _ => return Err(EvaluateError::Unknown(id.to_owned())),
    })))
}

impl Metric for Compared {
    fn score(&self, picture: &Picture, reference: Option<&Picture>) -> Result<Score, TchError> {
        Ok(paired(picture, reference).and_then(|reference| {
            self.0(picture, reference).ok_or_else(|| super::too_small(picture, SSIM_SHORTEST_SIDE))
        }))
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::base::METRICS;

    #[test]
    fn every_metric_is_opened_or_says_what_it_lacks() {
        for spec in &METRICS {
            match super::super::open(spec, &Files::new(), Device::Cpu) {
                Ok(_) => assert!(spec.files.iter().all(|file| !file.is_required), "{}", spec.id),
                Err(EvaluateError::Missing { file }) => assert_eq!(spec.files[0].id, file),
                Err(error) => panic!("{}: {error}", spec.id),
            }
        }
    }
}
