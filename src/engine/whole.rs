//! A whole picture enlarged: words for each of its tiles first, then all tiles restored and blended.

use std::sync::Arc;
use std::time::Instant;

use super::message::{Event, Job, JobId, Made};
use super::models::Opened;
use super::worker::{Worker, telling};
use crate::history::{self, Making};
use crate::image::psnr::luma_psnr;
use crate::image::{Filter, Picture, colour, resize};
use crate::prompt::{PromptInput, Prompter, joined};
use crate::region::Region;
use crate::step::{ModelUsed, Progress, Seen, Stage, StepError, Whole, WholeInput};

/// The whole picture is shown beside each tile with its short side of this length.
const SHOWN: u32 = 512;
/// And no picture is enlarged beyond this.
const LARGEST: u32 = 16384;

impl Worker {
    /// The whole of `source` at the job's size.
    pub(super) fn whole(
        &mut self,
        id: JobId,
        step: usize,
        job: &Job,
        source: &Arc<Picture>,
        whole: &Whole,
    ) -> Result<Made, StepError> {
        let (wanted, outbox) = (self.wanted.clone(), self.outbox.clone());
        let is_wanted = || wanted.load(std::sync::atomic::Ordering::Acquire) == id.0;
        let mut told = telling(&outbox, id, step, &is_wanted);
        let mut seen = |seen: Seen| outbox.send(Event::Seen { job: id, step, seen });
        let mut progress = Progress::new(&mut told).seeing(&mut seen);
        progress.at(Stage::Prompting, 0.0)?;
        let (width, height) = size_of(job, source);
        if width.max(height) > LARGEST {
            return Err(StepError::TooLarge { width, height, most: LARGEST });
        }
        let mut start = Instant::now();
        let enlarged = Arc::new(resize(source, width, height, Filter::Lanczos));
        outbox.send(Event::Enlarged { job: id, step, picture: enlarged.clone() });
        let are_open = self.models.are_for(job);
        if !are_open {
            progress.at(Stage::Loading, 0.0)?;
        }
        let Opened { prompter, loaded, .. } = self.models.open(job, &self.outbox)?;
        if !are_open {
            start = Instant::now();
        }
        let input =
            WholeInput { source: source.clone(), enlarged: enlarged.clone(), tiling: whole.tiling, seed: job.seed };
        let mut prompts = whole.prompts.clone();
        if let Some(prompter) = prompter.filter(|_| prompts.is_empty()) {
            let tiles = loaded.resolver.tiles(&input, &mut progress)?;
            loaded.resolver.rest();
            let mut written = |found: &str| outbox.send(Event::Wording { job: id, step, found: found.to_owned() });
            prompts = words(prompter.as_mut(), job, source, tiles, &mut progress, &mut written)?;
            prompter.rest();
        }
        let each_has_its_own = !prompts.is_empty();
        if !each_has_its_own {
            prompts.push(job.prompt.clone());
        }
        let restored = loaded.resolver.restore_whole(&input, &prompts, &mut progress)?;
        let align = job.restorer.align;
        let model = ModelUsed { backbone: loaded.settled.clone(), align, sha256: loaded.sha256.clone() };
        let picture = Arc::new(colour::align(align, &restored, &enlarged));
        let reduced = resize(&picture, source.width(), source.height(), Filter::Bicubic);
        let making = Making {
            region: Region { x: 0, y: 0, width: source.width(), height: source.height() },
            prompt: job.prompt.clone(),
            model: Some(model),
            seed: job.seed,
            agreement: Some(luma_psnr(&reduced, source, 0)),
            whole: Some(Whole { tiling: whole.tiling, prompts: if each_has_its_own { prompts } else { vec![] } }),
            elapsed: start.elapsed(),
        };
        Ok(Made { thumbnail: Arc::new(history::thumbnail(&picture)), picture, enlarged, making })
    }
}

/// The result's size: the job's for its first picture, and in its ratio to that for those after it.
fn size_of(job: &Job, source: &Picture) -> (u32, u32) {
    let side = |length: u32, wanted: u32, first: u32| {
        (u64::from(length) * u64::from(wanted) / u64::from(first.max(1))).clamp(1, u32::MAX.into()) as u32
    };
    let first = &job.source;
    (side(source.width(), job.size.0, first.width()), side(source.height(), job.size.1, first.height()))
}

/// Words for each tile, the user's own with them.
fn words(
    prompter: &mut dyn Prompter,
    job: &Job,
    source: &Picture,
    tiles: Vec<Arc<Picture>>,
    progress: &mut Progress,
    written: &mut dyn FnMut(&str),
) -> Result<Vec<String>, StepError> {
    let longest = source.width().max(source.height());
    // A stripe would become vast.
    let scale = (f64::from(SHOWN) / f64::from(source.short_side())).min(f64::from(LARGEST) / f64::from(longest));
    let side = |length: u32| ((f64::from(length) * scale) as u32).max(1);
    let previous = Arc::new(resize(source, side(source.width()), side(source.height()), Filter::Lanczos));
    let of = tiles.len();
    let mut prompts = Vec::new();
    for (n, enlarged) in tiles.into_iter().enumerate() {
        let input = PromptInput { previous: previous.clone(), enlarged, asking: job.asking.clone() };
        let mut told = |stage, fraction: f32| progress.at(stage, (n as f32 + fraction) / of as f32).is_ok();
        let found = prompter.propose(&input, &mut Progress::new(&mut told), written)?;
        prompts.push(joined(&found, &job.prompt));
        progress.seen(Seen::Tiles { done: n + 1, of });
    }
    Ok(prompts)
}
