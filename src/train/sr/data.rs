//! Training data: lists of photos, of which each item is a random crop and what the degradation makes of it. An item follows
//! from seed, epoch and place alone: any number of workers gives the same ones.

use std::path::{Path, PathBuf};

use fastrand::Rng;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use tch::{Kind, TchError, Tensor};

use super::degradation::{Op, degraded, draw, seeded_noise};
use crate::imaging::Picture;
use crate::imaging::codec::dimensions;
use crate::runtime::tensor::levels_from_picture;
use crate::train::TrainError;
use crate::train::files::open_picture;
use crate::train::seed::derived_seed;

/// Where photos are listed, and what of them is taken.
#[derive(Clone, Debug)]
pub struct Lists {
    /// Text files with a path a line, and how often each whole list enters.
    pub files: Vec<(PathBuf, usize)>,
    /// Side of a crop: smaller photos cannot be taken.
    pub side: u32,
    /// Photos that cannot be taken are left out.
    pub skip_bad: bool,
}

/// Photos by their paths, each as often as its list enters.
pub struct Dataset {
    files: Vec<PathBuf>,
    side: u32,
    skip_bad: bool,
    /// What was left out: list, line and why.
    pub left_out: Vec<String>,
    /// The same for the same lines in the same order, wherever the lists lie.
    pub fingerprint: u64,
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

impl Dataset {
    /// Looks at the header of each photo.
    ///
    /// # Errors
    /// A list that cannot be read, or names nothing; all photos that cannot be taken.
    pub fn open(lists: &Lists) -> Result<Self, TrainError> {
        let (mut files, mut left_out, mut taken) = (Vec::new(), Vec::new(), Sha256::new());
        for (list, times) in &lists.files {
            let text = std::fs::read_to_string(list).map_err(TrainError::io(list))?;
            let lines = text.trim_start_matches('\u{feff}').lines().map(|line| line.trim().trim_matches('"'));
            let lines: Vec<(usize, &str)> = (1..).zip(lines).filter(|(_, line)| !line.is_empty()).collect();
            if lines.is_empty() {
                return Err(TrainError::format(list, "it names no photos: expected a path a line"));
            }
            let checked: Vec<Result<PathBuf, String>> = lines
                .par_iter()
                .map(|(number, line)| {
                    let file = photo(line, list);
                    let wrong = |why: String| format!("{}, line {number}: {why}", list.display());
                    match dimensions(&file) {
                        Ok((width, height)) if width.min(height) < lists.side => {
                            Err(wrong(too_small(&file, [width, height], lists.side)))
                        }
                        Ok(_) => Ok(file),
                        Err(error) => Err(wrong(error.to_string())),
                    }
                })
                .collect();
            for ((_, line), _) in lines.iter().zip(&checked).filter(|(_, file)| file.is_ok()) {
                taken.update(format!("{times} {line}\n"));
            }
            let (good, bad): (Vec<_>, Vec<_>) = checked.into_iter().partition(Result::is_ok);
            let good: Vec<PathBuf> = good.into_iter().flatten().collect();
            left_out.extend(bad.into_iter().filter_map(Result::err));
            (0..*times).for_each(|_| files.extend(good.iter().cloned()));
        }
        if files.is_empty() || !(left_out.is_empty() || lists.skip_bad) {
            return Err(TrainError::Photos(left_out));
        }
        let mut fingerprint = [0; 8];
        fingerprint.copy_from_slice(&taken.finalize()[..8]);
        let fingerprint = u64::from_le_bytes(fingerprint);
        Ok(Self { files, side: lists.side, skip_bad: lists.skip_bad, left_out, fingerprint })
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
        Rng::with_seed(derived_seed("order", &[seed, epoch])).shuffle(&mut order);
        order
    }

    /// An item. Where its photo turns out to be damaged, and such are left out, it is the one behind it.
    ///
    /// # Errors
    /// A photo that cannot be read, or is smaller than a crop.
    pub fn sample(&self, seed: u64, epoch: u64, index: usize) -> Result<Sample, TrainError> {
        let mut sample = self.sample_of(seed, epoch, index);
        for further in 1..self.files.len() {
            if !self.skip_bad || !matches!(sample, Err(TrainError::Format { .. })) {
                break;
            }
            sample = self.sample_of(seed, epoch, (index + further) % self.files.len());
        }
        sample
    }

    fn sample_of(&self, seed: u64, epoch: u64, index: usize) -> Result<Sample, TrainError> {
        let file = &self.files[index];
        let mut rng = Rng::with_seed(derived_seed("item", &[seed, epoch, index as u64]));
        let mut picture = crop(file, self.side, Some(&mut rng))?;
        if rng.bool() {
            let side = self.side;
            picture = Picture::from_fn(side, side, |x, y| picture.pixel(side - 1 - x, y));
        }
        let (gt, lq, ops) = degraded_pair(&picture, &mut rng)?;
        Ok(Sample { file: file.clone(), gt, lq, picture, ops })
    }
}

fn too_small(file: &Path, [width, height]: [u32; 2], side: u32) -> String {
    format!("{}: it is {width} x {height}: at least {side} pixels a side are needed", file.display())
}

/// The photo that a line names: as it is, from the list's folder, or with Windows's separators.
fn photo(line: &str, list: &Path) -> PathBuf {
    let beside = |line: &str| list.parent().unwrap_or(Path::new("")).join(line);
    let turned = line.replace('\\', "/");
    let places = [PathBuf::from(line), beside(line), PathBuf::from(&turned), beside(&turned)];
    places.into_iter().find(|place| place.is_file()).unwrap_or_else(|| line.into())
}

/// A square of a photo, by chance or its middle.
///
/// # Errors
/// A photo that cannot be read, or is smaller.
pub(super) fn crop(file: &Path, side: u32, rng: Option<&mut Rng>) -> Result<Picture, TrainError> {
    let photo = open_picture(file)?;
    let (width, height) = (photo.width(), photo.height());
    if photo.short_side() < side {
        return Err(TrainError::Photos(vec![too_small(file, [width, height], side)]));
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
    let ops = draw(rng, [i64::from(picture.height()), i64::from(picture.width())]);
    let gt = levels_from_picture(picture)?.f_to_kind(Kind::Float)?;
    let lq = degraded_by(&gt, &ops)?;
    Ok((signed(&gt)?, signed(&lq)?, ops))
}

/// Levels after these operators, whose noise is seeded.
///
/// # Errors
/// What libtorch says.
pub(super) fn degraded_by(gt: &Tensor, ops: &[Op]) -> Result<Tensor, TchError> {
    degraded(&gt.f_div_scalar(255.0)?, ops, &mut seeded_noise)
}

/// Levels, 0 to 255, to [-1, 1].
///
/// # Errors
/// What libtorch says.
pub(super) fn signed(levels: &Tensor) -> Result<Tensor, TchError> {
    levels.f_div_scalar(255.0)?.f_sub_scalar(0.5)?.f_div_scalar(0.5)
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
        let open = |times: usize, side: u32| {
            Dataset::open(&Lists { files: vec![(list.clone(), times)], side, skip_bad: false })
        };
        let dataset = open(3, 64).unwrap();
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
        assert!(open(1, 80).is_err_and(|error| error.to_string().contains("90 x 70")));
    }

    #[test]
    fn every_bad_line_is_named_before_anything_begins() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let save = |name: &str, side: u32| {
            std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            codec::save(&Picture::from_fn(side, side, |x, y| [x as u8, y as u8, 0]), &at(name)).unwrap();
        };
        save("good.png", 70);
        save("deep/good.png", 70);
        save("small.png", 50);
        save("cut.png", 70);
        std::fs::write(at("text.png"), "no picture").unwrap();
        let bytes = std::fs::read(at("cut.png")).unwrap();
        std::fs::write(at("cut.png"), &bytes[..bytes.len() / 2]).unwrap();
        let list = at("list.txt");
        let lines = "\u{feff}good.png\r\n\r\n\"deep\\good.png\"\r\nsmall.png\r\ntext.png\r\nnone.png\r\ncut.png\r\n";
        std::fs::write(&list, lines).unwrap();
        let open = |skip_bad: bool| Dataset::open(&Lists { files: vec![(list.clone(), 1)], side: 64, skip_bad });
        let said = open(false).err().unwrap().to_string();
        for (line, why) in [("line 4", "50 x 50"), ("line 5", "text.png"), ("line 6", "none.png")] {
            assert!(said.lines().any(|text| text.contains(line) && text.contains(why)), "{said}");
        }
        assert_eq!(said.lines().count(), 3);
        // What only decoding tells is replaced by the next one.
        let dataset = open(true).unwrap();
        assert_eq!((dataset.len(), dataset.left_out.len()), (3, 3));
        assert_eq!(dataset.sample(1, 0, 2).unwrap().file, at("good.png"));
    }
}
