//! Scores of many pictures: one thread reads them ahead, another computes, and memory does not depend on how many there are.

use std::io;
use std::path::{Path, PathBuf};

use crossbeam_channel::bounded;
use tch::Device;

use super::EvaluateError;
use super::metrics::{Files, Metric, Score, open};
use super::scores::{Key, ScoreCache};
use crate::base::{MetricSpec, PROGRAM, bytes_label, memory, sha256};
use crate::imaging::Picture;
use crate::imaging::codec::{Alpha, Opening, open_watched};

/// Pictures that are read ahead.
const PREFETCH: usize = 2;

/// The system is asked for its memory before so many bytes are taken.
const WORTH_ASKING: u64 = 1 << 28;

/// A metric and the weights it computes with.
#[derive(Clone, Debug)]
pub struct MetricVersion {
    /// Which metric.
    pub spec: &'static MetricSpec,
    /// SHA-256 of its weights' files, joined by `+`.
    pub weights: Option<String>,
}

impl MetricVersion {
    /// What a score of such pictures depends on; `None` where a reference is needed and cannot be had.
    fn key(&self, hashes: &Hashes) -> Option<Key> {
        let reference = match self.spec.needs_reference {
            true => Some(hashes.reference.as_ref()?.as_ref().ok()?.clone()),
            false => None,
        };
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
pub struct Evaluator {
    /// Which.
    pub version: MetricVersion,
    metric: Box<dyn Metric>,
    device: Device,
}

/// What a metric says of a picture.
pub enum Evaluation {
    /// It has a score, or none; what that depends on, where it was not known before.
    Scored(Score, Option<Key>),
    /// There is nothing to compare with.
    NoReference,
    /// It could not be found out here and now, for want of memory for example.
    Failed(String),
}

impl Evaluator {
    /// Opens a metric.
    ///
    /// # Errors
    /// A file that is damaged, or of another network.
    pub fn open(spec: &'static MetricSpec, files: &Files, device: Device) -> Result<Self, EvaluateError> {
        let metric = open(spec, files, device)?;
        let hash = |file: &PathBuf| match sha256(file) {
            Ok(hash) => Ok(hash),
            Err(error) => Err(EvaluateError::Unreadable { file: file.clone(), found: error.to_string() }),
        };
        let hashes = files.values().map(hash).collect::<Result<Vec<_>, _>>()?;
        let weights = (!hashes.is_empty()).then(|| hashes.join("+"));
        Ok(Self { version: MetricVersion { spec, weights }, metric, device })
    }

    fn evaluate(&self, read: &Read, cache: &ScoreCache) -> Evaluation {
        let PictureRead { hashes, picture, reference } = match read {
            Ok(pictures) => pictures,
            Err(reason) => return Evaluation::Scored(Err(reason.clone()), None),
        };
        if self.version.spec.needs_reference
            && let Some(Err(reason)) = &hashes.reference
        {
            return Evaluation::Scored(Err(reason.clone()), None);
        }
        let Some(key) = self.version.key(hashes) else { return Evaluation::NoReference };
        if let Some(score) = cache.get(&key) {
            return Evaluation::Scored(score.clone(), None);
        }
        let reference = match reference.as_ref().filter(|_| self.version.spec.needs_reference) {
            Some(Err(reason)) => return Evaluation::Scored(Err(reason.clone()), None),
            Some(Ok(reference)) => Some(reference),
            None => None,
        };
        // It is there: the reader knew that this score is wanted.
        let Some(picture) = picture else { return Evaluation::Failed("it was not read".into()) };
        if let Some(problem) = self.needs_too_much(picture) {
            return Evaluation::Failed(problem);
        }
        match self.metric.score(picture, reference) {
            Ok(score) => Evaluation::Scored(score, Some(key)),
            Err(error) => Evaluation::Failed(error.to_string().lines().next().unwrap_or_default().to_owned()),
        }
    }

    /// What a picture lacks of memory; a graphics card says so itself.
    fn needs_too_much(&self, picture: &Picture) -> Option<String> {
        let pixels = u64::from(picture.width()) * u64::from(picture.height());
        let needed = pixels * self.metric.bytes_per_pixel();
        if needed < WORTH_ASKING || self.device != Device::Cpu {
            return None;
        }
        let free = memory::available()?;
        (needed > free)
            .then(|| format!("it needs {} of memory, and {} are free", bytes_label(needed), bytes_label(free)))
    }
}

/// A picture to be scored.
#[derive(Clone, Debug)]
pub struct Task {
    /// Where it is.
    pub file: PathBuf,
    /// What it is compared with.
    pub reference: Option<PathBuf>,
}

struct Hashes {
    image: String,
    reference: Option<Result<String, String>>,
}

/// Pictures as far as they are needed.
struct PictureRead {
    hashes: Hashes,
    picture: Option<Picture>,
    reference: Option<Result<Picture, String>>,
}

type Read = Result<PictureRead, String>;

fn read(task: &Task, versions: &[MetricVersion], cache: &ScoreCache, keep_going: &dyn Fn() -> bool) -> Read {
    let hash = |file: &Path| sha256(file).map_err(|error| format!("{} cannot be read: {error}", file.display()));
    let hashes = Hashes { image: hash(&task.file)?, reference: task.reference.as_deref().map(hash) };
    let is_unknown = |version: &&MetricVersion| version.key(&hashes).is_some_and(|key| !cache.contains_key(&key));
    let unknown: Vec<&MetricVersion> = versions.iter().filter(is_unknown).collect();
    let opening = Opening { alpha: Alpha::Drop, ..Opening::default() };
    let decoded = |file: &Path| match open_watched(file, &opening, &mut |_| keep_going()) {
        Ok(decoded) => Ok(decoded.picture),
        Err(error) => Err(error.to_string()),
    };
    let picture = (!unknown.is_empty()).then(|| decoded(&task.file)).transpose()?;
    let needs_reference = unknown.iter().any(|version| version.spec.needs_reference);
    let reference = task.reference.as_deref().filter(|_| needs_reference).map(decoded);
    Ok(PictureRead { hashes, picture, reference })
}

/// Scores pictures one after another by all metrics. `on_evaluation` is given the places of picture and metric, and what the
/// metric says; scores that come in go into the cache. Returns whether all were scored: not where `keep_going` said no.
///
/// # Errors
/// Those of `on_evaluation`; where there is no thread to read pictures.
pub fn evaluate<E: From<io::Error>>(
    tasks: &[Task],
    evaluators: &[Evaluator],
    mut cache: ScoreCache,
    keep_going: &(dyn Fn() -> bool + Sync),
    mut on_evaluation: impl FnMut(usize, usize, Evaluation) -> Result<(), E>,
) -> Result<bool, E> {
    let (sender, receiver) = bounded(PREFETCH);
    let versions: Vec<MetricVersion> = evaluators.iter().map(|evaluator| evaluator.version.clone()).collect();
    // What was known at the start is enough to leave out pictures.
    let known = cache.clone();
    std::thread::scope(|scope| {
        std::thread::Builder::new().name("coz-pictures".into()).spawn_scoped(scope, move || {
            for task in tasks.iter().take_while(|_| keep_going()) {
                if sender.send(read(task, &versions, &known, keep_going)).is_err() {
                    break;
                }
            }
        })?;
        let mut count = 0;
        for (i, read) in receiver.iter().enumerate() {
            for (metric, evaluator) in evaluators.iter().enumerate() {
                if !keep_going() {
                    return Ok(false);
                }
                let evaluation = evaluator.evaluate(&read, &cache);
                if let Evaluation::Scored(score, Some(key)) = &evaluation {
                    cache.insert(key.clone(), score.clone());
                }
                on_evaluation(i, metric, evaluation)?;
            }
            count += 1;
        }
        Ok(count == tasks.len())
    })
}
