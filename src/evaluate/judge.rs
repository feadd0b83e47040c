//! Judging many pictures: one thread reads them ahead, another computes, and memory does not depend on how many there are.

use std::io;
use std::path::{Path, PathBuf};

use crossbeam_channel::bounded;
use tch::Device;

use super::EvaluateError;
use super::metrics::{Files, Metric, Score, open};
use super::scores::{Key, Known};
use crate::base::{MetricSpec, PROGRAM, sha256};
use crate::imaging::Picture;
use crate::imaging::codec::{Alpha, Opening, open_watched};

/// Pictures that wait, decoded.
const AHEAD: usize = 2;
/// Of the hash of weights, enough to tell them apart.
const DIGITS: usize = 16;

/// A metric and the weights it computes with.
#[derive(Clone, Debug)]
pub struct Version {
    /// Which metric.
    pub spec: &'static MetricSpec,
    /// Hashes of its weights.
    pub weights: Option<String>,
}

impl Version {
    /// What a score of such pictures depends on; `None` where a reference is needed and there is none.
    fn key(&self, hashes: &Hashes) -> Option<Key> {
        let reference = if self.spec.needs_reference { Some(hashes.reference.clone()?) } else { None };
        Some(Key {
            image: hashes.image.clone(),
            reference,
            metric: self.spec.id.into(),
            weights: self.weights.clone(),
            program: PROGRAM.into(),
        })
    }
}

/// A metric, ready.
pub struct Judge {
    /// Which.
    pub version: Version,
    metric: Box<dyn Metric>,
}

impl Judge {
    /// Opens a metric.
    ///
    /// # Errors
    /// A file that is damaged, or of another network.
    pub fn open(spec: &'static MetricSpec, files: &Files, device: Device) -> Result<Self, EvaluateError> {
        let metric = open(spec, files, device)?;
        let hash = |file: &PathBuf| match sha256(file) {
            Ok(hash) => Ok(hash[..DIGITS].to_owned()),
            Err(error) => Err(EvaluateError::Unreadable { file: file.clone(), found: error.to_string() }),
        };
        let hashes = files.values().map(hash).collect::<Result<Vec<_>, _>>()?;
        let weights = (!hashes.is_empty()).then(|| hashes.join("+"));
        Ok(Self { version: Version { spec, weights }, metric })
    }

    fn judge(&self, read: &Read, known: &Known) -> Judged {
        let old = |score: Score| Judged { score: Some(score), new: None };
        let ReadPictures { hashes, picture, reference } = match read {
            Ok(pictures) => pictures,
            Err(reason) => return old(Err(reason.clone())),
        };
        let Some(key) = self.version.key(hashes) else { return Judged { score: None, new: None } };
        if let Some(score) = known.get(&key) {
            return old(score.clone());
        }
        let reference = reference.as_ref().filter(|_| self.version.spec.needs_reference);
        // It is there: the reader knew that this score is wanted.
        let Some(picture) = picture else { return old(Err("it was not read".into())) };
        match self.metric.score(picture, reference) {
            Ok(score) => Judged { score: Some(score), new: Some(key) },
            // Next time there may be memory enough.
            Err(error) => old(Err(error.to_string().lines().next().unwrap_or_default().to_owned())),
        }
    }
}

/// A picture to be judged.
#[derive(Clone, Debug)]
pub struct Task {
    /// Where it is.
    pub file: PathBuf,
    /// What it is compared with.
    pub reference: Option<PathBuf>,
}

/// What a metric says of a picture.
pub struct Judged {
    /// The score; `None` where it has nothing to compare with.
    pub score: Option<Score>,
    /// What it depends on, where it was not known before and will be the same next time.
    pub new: Option<Key>,
}

struct Hashes {
    image: String,
    reference: Option<String>,
}

/// Pictures as far as they are needed.
struct ReadPictures {
    hashes: Hashes,
    picture: Option<Picture>,
    reference: Option<Picture>,
}

type Read = Result<ReadPictures, String>;

fn read(task: &Task, versions: &[Version], known: &Known, keep_going: &dyn Fn() -> bool) -> Read {
    let hash = |file: &Path| sha256(file).map_err(|error| format!("{} cannot be read: {error}", file.display()));
    let hashes = Hashes { image: hash(&task.file)?, reference: task.reference.as_deref().map(hash).transpose()? };
    let is_unknown = |version: &&Version| version.key(&hashes).is_some_and(|key| !known.contains_key(&key));
    let unknown: Vec<&Version> = versions.iter().filter(is_unknown).collect();
    let opening = Opening { alpha: Alpha::Drop, ..Opening::default() };
    let decoded = |file: &Path| match open_watched(file, &opening, &mut |_| keep_going()) {
        Ok(decoded) => Ok(decoded.picture),
        Err(error) => Err(error.to_string()),
    };
    let picture = (!unknown.is_empty()).then(|| decoded(&task.file)).transpose()?;
    let needs_reference = unknown.iter().any(|version| version.spec.needs_reference);
    let reference = task.reference.as_deref().filter(|_| needs_reference).map(decoded).transpose()?;
    Ok(ReadPictures { hashes, picture, reference })
}

/// Judges pictures one after another; `on_picture` is given the place of each and what the metrics say, in their order.
/// Returns whether all were judged: not where `keep_going` said no.
///
/// # Errors
/// Those of `on_picture`; where there is no thread to read pictures.
pub fn judge<E: From<io::Error>>(
    tasks: &[Task],
    judges: &[Judge],
    known: &Known,
    keep_going: &(dyn Fn() -> bool + Sync),
    mut on_picture: impl FnMut(usize, Vec<Judged>) -> Result<(), E>,
) -> Result<bool, E> {
    let (sender, receiver) = bounded(AHEAD);
    let versions: Vec<Version> = judges.iter().map(|judge| judge.version.clone()).collect();
    std::thread::scope(|scope| {
        std::thread::Builder::new().name("coz-pictures".into()).spawn_scoped(scope, move || {
            for task in tasks.iter().take_while(|_| keep_going()) {
                if sender.send(read(task, &versions, known, keep_going)).is_err() {
                    break;
                }
            }
        })?;
        let mut count = 0;
        for read in receiver {
            if !keep_going() {
                return Ok(false);
            }
            on_picture(count, judges.iter().map(|judge| judge.judge(&read, known)).collect())?;
            count += 1;
        }
        Ok(count == tasks.len())
    })
}
