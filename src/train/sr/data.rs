//! Training data: lists of photos, of which each item is a random crop and what the degradation makes of it. An item follows
//! from seed, epoch and place alone: any number of workers gives the same ones.

use std::path::{Path, PathBuf};

use fastrand::Rng;
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use super::degradation::{Op, degraded, draw, seeded_noise};
use crate::imaging::Picture;
use crate::imaging::codec::{Alpha, Opening, open_watched};
use crate::runtime::tensor::levels_from_picture;
use crate::train::TrainError;

/// Photos by their paths, each as often as its list enters.
pub struct Dataset {
    files: Vec<PathBuf>,
    /// Side of a crop.
    side: u32,
}

/// A pair to learn from.
pub struct Sample {
    /// The photo.
    pub file: PathBuf,
    /// A crop of it.
    pub picture: Picture,
    /// The same as a tensor `[1, 3, S, S]` in [-1, 1].
    pub gt: Tensor,
    /// What the degradation has left of it.
    pub lq: Tensor,
    /// How.
    pub ops: Vec<Op>,
}

/// A seed for one thing among many, by all of these numbers.
pub fn mixed(parts: &[u64]) -> u64 {
    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.to_le_bytes()).collect();
    let mut seed = [0; 8];
    seed.copy_from_slice(&Sha256::digest(&bytes)[..8]);
    u64::from_le_bytes(seed)
}

impl Dataset {
    /// From text files with a path a line, each of which enters so many times.
    ///
    /// # Errors
    /// A list that cannot be read, or names nothing.
    pub fn open(lists: &[(PathBuf, usize)], side: u32) -> Result<Self, TrainError> {
        let mut files = Vec::new();
        for (list, times) in lists {
            let text = std::fs::read_to_string(list).map_err(TrainError::io(list))?;
            let paths: Vec<PathBuf> =
                text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Into::into).collect();
            if paths.is_empty() {
                return Err(TrainError::format(list, "it names no photos: expected a path a line"));
            }
            (0..*times).for_each(|_| files.extend(paths.iter().cloned()));
        }
        Ok(Self { files, side })
    }

    /// How many items an epoch has.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is nothing to learn from.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The order of an epoch.
    pub fn order(&self, seed: u64, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.files.len()).collect();
        Rng::with_seed(mixed(&[seed, epoch])).shuffle(&mut order);
        order
    }

    /// An item.
    ///
    /// # Errors
    /// A photo that cannot be read, or is smaller than a crop.
    pub fn sample(&self, seed: u64, epoch: u64, index: usize) -> Result<Sample, TrainError> {
        let file = &self.files[index];
        let mut rng = Rng::with_seed(mixed(&[seed, epoch, index as u64]));
        let mut picture = crop(file, self.side, Some(&mut rng))?;
        if rng.bool() {
            let side = self.side;
            picture = Picture::from_fn(side, side, |x, y| picture.pixel(side - 1 - x, y));
        }
        let (gt, lq, ops) = degraded_pair(&picture, &mut rng)?;
        Ok(Sample { file: file.clone(), gt, lq, picture, ops })
    }
}

/// A square of a photo, by chance or its middle.
///
/// # Errors
/// A photo that cannot be read, or is smaller.
pub(super) fn crop(file: &Path, side: u32, rng: Option<&mut Rng>) -> Result<Picture, TrainError> {
    let photo = open(file)?;
    let (width, height) = (photo.width(), photo.height());
    if photo.short_side() < side {
        let found = format!("it is {width} x {height}: at least {side} pixels a side are needed");
        return Err(TrainError::format(file, found));
    }
    let (left, top) = match rng {
        Some(rng) => (rng.u32(0..=width - side), rng.u32(0..=height - side)),
        None => ((width - side) / 2, (height - side) / 2),
    };
    Ok(photo.crop(left.into(), top.into(), side, side))
}

/// A picture and what a degradation leaves of it, `[1, 3, S, S]` in [-1, 1], and which one it was.
///
/// # Errors
/// What libtorch says.
pub(super) fn degraded_pair(picture: &Picture, rng: &mut Rng) -> Result<(Tensor, Tensor, Vec<Op>), TrainError> {
    let sharp = levels_from_picture(picture)?.f_to_kind(Kind::Float)?;
    let ops = draw(rng, [i64::from(picture.height()), i64::from(picture.width())]);
    let poor = degraded::<TrainError>(&sharp.f_div_scalar(255.0)?, &ops, &mut |drawn, is_grey, expected| {
        Ok(seeded_noise(drawn, is_grey, expected)?)
    })?;
    let signed = |levels: &Tensor| levels.f_div_scalar(255.0)?.f_sub_scalar(0.5)?.f_div_scalar(0.5);
    Ok((signed(&sharp)?, signed(&poor)?, ops))
}

fn open(file: &Path) -> Result<Picture, TrainError> {
    let opening = Opening { alpha: Alpha::Drop, ..Opening::default() };
    match open_watched(file, &opening, &mut |_| true) {
        Ok(decoded) => Ok(decoded.picture),
        Err(error) => Err(TrainError::format(file, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imaging::codec;

    #[test]
    fn items_follow_from_seed_epoch_and_place_alone() {
        let folder = tempfile::tempdir().unwrap();
        let photo = Picture::from_fn(90, 70, |x, y| [(x * 2) as u8, (y * 3) as u8, (x * y % 251) as u8]);
        codec::save(&photo, &folder.path().join("a.png")).unwrap();
        let list = folder.path().join("list.txt");
        std::fs::write(&list, format!("{}\n\n", folder.path().join("a.png").display())).unwrap();
        let dataset = Dataset::open(&[(list.clone(), 3)], 64).unwrap();
        assert_eq!((dataset.len(), dataset.order(1, 0).len()), (3, 3));
        let sample = |seed, epoch, index| dataset.sample(seed, epoch, index).unwrap();
        let (a, b) = (sample(7, 2, 1), sample(7, 2, 1));
        assert!(a.gt.equal(&b.gt) && a.lq.equal(&b.lq) && a.ops == b.ops);
        assert_eq!((a.gt.size(), a.lq.size()), (vec![1, 3, 64, 64], vec![1, 3, 64, 64]));
        for other in [sample(8, 2, 1), sample(7, 3, 1), sample(7, 2, 2)] {
            assert!(other.ops != a.ops);
        }
        let levels = (&a.lq * 0.5 + 0.5) * 255.0;
        assert!((&levels - levels.round()).abs().max().double_value(&[]) < 1e-3, "whole levels");
        let large = Dataset::open(&[(list, 1)], 80).unwrap();
        assert!(large.sample(0, 0, 0).is_err_and(|error| error.to_string().contains("90 x 70")));
    }
}
