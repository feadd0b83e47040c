//! Pairs to be asked about: a picture and its enlarged middle, as the chain shows them to the prompt extractor. A pair follows from
//! seed, epoch and place alone.

use std::path::{Path, PathBuf};

use fastrand::Rng;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use crate::base::Region;
use crate::evaluate::Run;
use crate::imaging::codec::dimensions;
use crate::imaging::formats::readable;
use crate::imaging::{Filter, Picture, resize};
use crate::train::TrainError;
use crate::train::files::open_picture;
use crate::train::seed::derived_seed;

/// The enlargement of a step.
const UPSCALE: u32 = 4;
/// Pairs of photos are made at most so many steps deep.
const DEEPEST: usize = 2;
/// What the choice of held-out pictures is drawn by, whatever the training's seed.
const SEED: u64 = 849;

/// Where pairs come from.
#[derive(Clone, Debug)]
pub struct PairOptions {
    /// Folders of photos, with all folders in them.
    pub photos: Vec<PathBuf>,
    /// Folders of chains that were made before: their states are the first pictures.
    pub chains: Vec<PathBuf>,
    /// Side of the pictures.
    pub side: u32,
    /// Share of the photos' pairs that are taken one or two steps deeper, where the first picture is blurred already.
    pub deeper: f64,
    /// Share of all pictures that are held out for validation.
    pub held_out: f64,
    /// What cannot be read is left out.
    pub skip_bad: bool,
}

/// A picture that pairs are made of.
#[derive(Clone, Debug)]
enum Source {
    Photo(PathBuf),
    State(PathBuf),
}

impl Source {
    fn file(&self) -> &Path {
        let (Self::Photo(file) | Self::State(file)) = self;
        file
    }
}

/// All of them.
pub struct Pairs {
    training: Vec<Source>,
    held_out: Vec<Source>,
    options: PairOptions,
    /// What cannot be read, and why.
    pub left_out: Vec<String>,
    /// The same for the same pairs: files that can be read, wherever their folders lie, and how pairs are made of them.
    pub fingerprint: u64,
}

/// What is shown.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Where it comes from.
    pub file: PathBuf,
    /// The picture, and its middle enlarged to the same size.
    pub pictures: [Picture; 2],
}

/// The middle of a picture, as large as that.
fn enlarged(picture: &Picture) -> Picture {
    let Region { x, y, width, height } = Region::central(picture.width(), picture.height(), UPSCALE);
    let crop = picture.crop(x.into(), y.into(), width, height);
    resize(&crop, picture.width(), picture.height(), Filter::Bicubic)
}

fn is_picture(file: &Path) -> bool {
    let ending = file.extension().unwrap_or_default();
    readable().any(|known| ending.eq_ignore_ascii_case(known))
}

impl Pairs {
    /// Looks at the header of each file.
    ///
    /// # Errors
    /// Folders that cannot be read or have no pictures; pictures that cannot be read.
    pub fn open(options: &PairOptions) -> Result<Self, TrainError> {
        let (mut sources, mut names) = (Vec::new(), Sha256::new());
        for folder in &options.photos {
            let before = sources.len();
            for entry in WalkDir::new(folder).follow_links(true).sort_by_file_name() {
                let failed = |error: walkdir::Error| TrainError::io(folder)(error.into());
                let entry = entry.map_err(failed)?;
                if entry.file_type().is_file() && is_picture(entry.path()) {
                    let name = entry.path().strip_prefix(folder).unwrap_or(folder).to_string_lossy().into_owned();
                    sources.push((name, Source::Photo(entry.into_path())));
                }
            }
            if sources.len() == before {
                return Err(TrainError::format(folder, "it has no pictures"));
            }
        }
        for folder in &options.chains {
            let items = Run::of(folder).map_err(TrainError::io(folder))?.items;
            if items.is_empty() {
                return Err(TrainError::format(folder, "it has no pictures: expected results of `coz zoom`"));
            }
            for item in items {
                sources.push((format!("{:?} {}", item.scale, item.stem), Source::State(item.file)));
            }
        }
        let checked: Vec<Result<(String, Source), String>> = sources
            .into_par_iter()
            .map(|(name, source)| match dimensions(source.file()) {
                Ok(_) => Ok((name, source)),
                Err(error) => Err(format!("{}: {error}", source.file().display())),
            })
            .collect();
        let (good, bad): (Vec<_>, Vec<_>) = checked.into_iter().partition(Result::is_ok);
        let left_out: Vec<String> = bad.into_iter().filter_map(Result::err).collect();
        let mut training = Vec::new();
        for (name, source) in good.into_iter().flatten() {
            names.update(format!("{name}\n"));
            training.push(source);
        }
        names.update(format!("{} {}", options.deeper, options.held_out));
        if training.is_empty() || !(left_out.is_empty() || options.skip_bad) {
            return Err(TrainError::Photos(left_out));
        }
        let mut fingerprint = [0; 8];
        fingerprint.copy_from_slice(&names.finalize()[..8]);
        let held = match training.len() {
            _ if options.held_out <= 0.0 => 0,
            1 => 0,
            all => ((all as f64 * options.held_out).round() as usize).clamp(1, all - 1),
        };
        let mut order: Vec<usize> = (0..training.len()).collect();
        Rng::with_seed(derived_seed("held out", &[SEED])).shuffle(&mut order);
        let held_out = order[..held].iter().map(|&i| training[i].clone()).collect();
        let mut is_held = vec![false; training.len()];
        order[..held].iter().for_each(|&i| is_held[i] = true);
        let mut is_held = is_held.into_iter();
        training.retain(|_| is_held.next() != Some(true));
        let fingerprint = u64::from_le_bytes(fingerprint);
        Ok(Self { training, held_out, options: options.clone(), left_out, fingerprint })
    }

    /// Pairs of an epoch.
    pub fn len(&self) -> usize {
        self.training.len()
    }

    /// Whether there is nothing to learn from.
    pub fn is_empty(&self) -> bool {
        self.training.is_empty()
    }

    /// Pairs for validation.
    pub fn held_out_len(&self) -> usize {
        self.held_out.len()
    }

    /// The pair of an item: all pictures in another order in each epoch, and what of them is shown.
    ///
    /// # Errors
    /// A picture that cannot be read; where such are left out, only if none can.
    pub fn pair(&self, seed: u64, item: u64) -> Result<Pair, TrainError> {
        let count = self.training.len();
        let (epoch, place) = (item / count as u64, (item % count as u64) as usize);
        let mut order: Vec<usize> = (0..count).collect();
        Rng::with_seed(derived_seed("order", &[seed, epoch])).shuffle(&mut order);
        let pair = |place: usize| {
            let index = order[place % count];
            self.made(&self.training[index], derived_seed("pair", &[seed, epoch, index as u64]))
        };
        let mut made = pair(place);
        for further in 1..count {
            if !self.options.skip_bad || !matches!(made, Err(TrainError::Format { .. })) {
                break;
            }
            made = pair(place + further);
        }
        made
    }

    /// A pair for validation, always the same.
    ///
    /// # Errors
    /// A picture that cannot be read.
    pub fn held_out(&self, index: usize) -> Result<Pair, TrainError> {
        self.made(&self.held_out[index], derived_seed("held-out pair", &[SEED, index as u64]))
    }

    fn made(&self, source: &Source, seed: u64) -> Result<Pair, TrainError> {
        let (side, mut rng) = (self.options.side, Rng::with_seed(seed));
        let picture = open_picture(source.file())?;
        let mut first = match source {
            Source::State(_) => resize(&picture, side, side, Filter::Bicubic),
            Source::Photo(_) => {
                // A random square, resized: photos that are smaller are enlarged.
                let short = picture.short_side();
                let cut = rng.u32(side.min(short)..=short);
                let (left, top) = (rng.u32(0..=picture.width() - cut), rng.u32(0..=picture.height() - cut));
                resize(&picture.crop(left.into(), top.into(), cut, cut), side, side, Filter::Bicubic)
            }
        };
        let is_deeper = matches!(source, Source::Photo(_)) && rng.f64() < self.options.deeper;
        for _ in 0..if is_deeper { rng.usize(1..=DEEPEST) } else { 0 } {
            first = enlarged(&first);
        }
        let second = enlarged(&first);
        Ok(Pair { file: source.file().to_owned(), pictures: [first, second] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imaging::codec;

    fn options(folder: &Path) -> PairOptions {
        PairOptions {
            photos: vec![folder.to_owned()],
            chains: Vec::new(),
            side: 32,
            deeper: 0.0,
            held_out: 0.01,
            skip_bad: false,
        }
    }

    fn saved(folder: &Path, name: &str, [width, height]: [u32; 2]) {
        let photo = Picture::from_fn(width, height, |x, y| [(x * 3) as u8, (y * 5) as u8, (x * y % 251) as u8]);
        codec::save(&photo, &folder.join(name)).unwrap();
    }

    #[test]
    fn pairs_follow_from_seed_epoch_and_place_alone() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.png", "deep/b.jpg", "c.png", "small.png"] {
            std::fs::create_dir_all(folder.path().join("deep")).unwrap();
            saved(folder.path(), name, if name == "small.png" { [20, 24] } else { [70, 50] });
        }
        std::fs::write(folder.path().join("notes.txt"), "no picture").unwrap();
        let pairs = Pairs::open(&options(folder.path())).unwrap();
        assert_eq!((pairs.len(), pairs.held_out_len()), (3, 1));
        let pair = |seed, item| pairs.pair(seed, item).unwrap();
        let (a, b) = (pair(1, 4), pair(1, 4));
        assert_eq!((&a.file, &a.pictures), (&b.file, &b.pictures));
        assert!(pair(2, 4).pictures != a.pictures && pair(1, 7).pictures != a.pictures);
        let mut files: Vec<PathBuf> = (3..6).map(|item| pair(1, item).file).collect();
        files.sort();
        files.dedup();
        assert_eq!(files.len(), 3, "an epoch shows all");
        assert!(!files.contains(&pairs.held_out(0).unwrap().file));
        for Pair { pictures: [first, second], .. } in [a, pairs.held_out(0).unwrap()] {
            assert_eq!([first.width(), first.height(), second.width(), second.height()], [32; 4]);
            assert_eq!(second, resize(&first.crop(12, 12, 8, 8), 32, 32, Filter::Bicubic));
        }
        // Deeper pairs begin with what others end with.
        let deeper = Pairs::open(&PairOptions { deeper: 1.0, ..options(folder.path()) }).unwrap().pair(1, 4).unwrap();
        assert!(deeper.pictures != pair(1, 4).pictures);
    }

    #[test]
    fn states_of_chains_are_first_pictures_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        saved(folder.path(), "per-sample/fox/0.png", [32, 32]);
        saved(folder.path(), "per-sample/fox/1.png", [32, 32]);
        let pairs = Pairs::open(&PairOptions {
            photos: Vec::new(),
            chains: vec![folder.path().to_owned()],
            held_out: 0.0,
            ..options(folder.path())
        });
        let pairs = pairs.unwrap();
        assert_eq!((pairs.len(), pairs.held_out_len()), (2, 0));
        let Pair { file, pictures: [first, second] } = pairs.pair(1, 0).unwrap();
        assert_eq!((first.clone(), enlarged(&first)), (open_picture(&file).unwrap(), second));
    }

    #[test]
    fn what_cannot_be_read_is_named_or_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let open = |skip_bad| Pairs::open(&PairOptions { skip_bad, ..options(folder.path()) });
        assert!(open(false).is_err_and(|error| error.to_string().contains("no pictures")));
        saved(folder.path(), "a.png", [40, 40]);
        std::fs::write(folder.path().join("b.png"), "no picture").unwrap();
        assert!(open(false).is_err_and(|error| error.to_string().contains("b.png")));
        let pairs = open(true).unwrap();
        assert_eq!((pairs.len(), pairs.held_out_len(), pairs.left_out.len()), (1, 0, 1));
    }
}
