//! A full image enlarged: a prompt for each of its tiles first, then all tiles restored and blended.

use std::sync::Arc;
use std::time::Instant;

use super::message::{Event, Job, JobId, StepOutput};
use super::models::Opened;
use super::worker::{Worker, reporter};
use crate::base::{FullImage, Progress, Region, Stage, StepRecord, Ticket, TileProgress, joined};
use crate::document;
use crate::imaging::metrics::luma_psnr;
use crate::imaging::{Filter, Picture, colour, resize};
use crate::pipelines::caption::{CaptionInput, Captioner};
use crate::pipelines::{FullImageInput, PartialResult, PipelineError};

/// The full image is shown beside each tile with its short side of this length.
const SHOWN: u32 = 512;
/// And no picture is enlarged beyond this.
pub const LARGEST: u32 = 16384;

impl Worker {
    /// All of `source` at the job's size.
    pub(super) fn full_image(
        &mut self,
        ticket: &Ticket,
        step: usize,
        job: &Job,
        source: &Arc<Picture>,
        full_image: &FullImage,
    ) -> Result<StepOutput, PipelineError> {
        let (id, outbox) = (JobId::from(ticket), self.outbox.clone());
        let is_active = || !ticket.cancel.is_cancelled();
        let mut on_progress = reporter(&outbox, id, step, &is_active);
        let mut on_tiles = |tiles: TileProgress| outbox.send(Event::Tiles { job: id, step, tiles });
        let mut on_partial = |PartialResult { left, top, picture }: PartialResult| {
            picture.prepare_levels();
            outbox.send(Event::Partial { job: id, step, left, top, picture });
        };
        let mut progress = Progress::new(&mut on_progress).with_tiles(&mut on_tiles);
        progress.at(job.first_stage(), 0.0)?;
        let (width, height) = size_of(job, source);
        if width.max(height) > LARGEST {
            return Err(PipelineError::TooLarge { width, height, most: LARGEST });
        }
        let mut start = Instant::now();
        let enlarged = Arc::new(resize(source, width, height, Filter::Lanczos));
        enlarged.prepare_levels();
        outbox.send(Event::Enlarged { job: id, step, picture: enlarged.clone() });
        let are_open = self.models.are_for(job);
        if !are_open {
            progress.at(Stage::Loading, 0.0)?;
        }
        let Opened { captioner, loaded, .. } = self.models.open(job, &self.outbox)?;
        if loaded.resolver.plan().is_none() {
            // Models with a plan work in tiles of one size, whatever the picture's.
            loaded.check_full_image_fits((source.width(), source.height()), (width, height))?;
        }
        if !are_open {
            start = Instant::now();
        }
        let (tiling, seed) = (full_image.tiling, job.seed);
        let input = FullImageInput { source: source.clone(), enlarged: enlarged.clone(), tiling, seed };
        let mut prompts = full_image.prompts.clone();
        if let Some(captioner) = captioner.filter(|_| prompts.is_empty()) {
            let tiles = loaded.resolver.tiles(&input, &mut progress)?;
            loaded.resolver.offload(captioner.bytes_to_load());
            let mut on_text = |text: &str| outbox.send(Event::Captioning { job: id, step, text: text.to_owned() });
            prompts = captions(captioner.as_mut(), job, source, tiles, &mut progress, &mut on_text)?;
            // Eight pixels for one of the latent, as every autoencoder here has.
            let largest = tiling.encoder_tile.max(tiling.decoder_tile.saturating_mul(8));
            captioner.offload(loaded.resolver.bytes_to_load((largest, largest)));
        }
        let each_has_its_own = !prompts.is_empty();
        if !each_has_its_own {
            prompts.push(job.prompt.clone());
        }
        let restored = loaded.resolver.restore_full_image(&input, &prompts, &mut progress, &mut on_partial)?;
        let align = job.restorer.align;
        let model = loaded.model_used(align);
        let picture = Arc::new(colour::align(align, &restored, &enlarged));
        let reduced = resize(&picture, source.width(), source.height(), Filter::Bicubic);
        let record = StepRecord {
            region: Region { x: 0, y: 0, width: source.width(), height: source.height() },
            prompt: job.prompt.clone(),
            model: Some(model),
            seed,
            consistency: Some(luma_psnr(&reduced, source, 0)),
            full_image: Some(FullImage { tiling, prompts: if each_has_its_own { prompts } else { vec![] } }),
            elapsed: start.elapsed(),
        };
        Ok(StepOutput { thumbnail: Arc::new(document::thumbnail(&picture)), picture, enlarged, record })
    }
}

/// The result's size: the job's for its first picture, and in its ratio to that for those after it.
fn size_of(job: &Job, source: &Picture) -> (u32, u32) {
    let side = |length: u32, asked: u32, first: u32| {
        (u64::from(length) * u64::from(asked) / u64::from(first.max(1))).clamp(1, u32::MAX.into()) as u32
    };
    let first = &job.source;
    (side(source.width(), job.size.0, first.width()), side(source.height(), job.size.1, first.height()))
}

/// A prompt for each tile, the user's own joined to it.
fn captions(
    captioner: &mut dyn Captioner,
    job: &Job,
    source: &Picture,
    tiles: Vec<Arc<Picture>>,
    progress: &mut Progress,
    on_text: &mut dyn FnMut(&str),
) -> Result<Vec<String>, PipelineError> {
    let longest = source.width().max(source.height());
    // A stripe would become vast.
    let scale = (f64::from(SHOWN) / f64::from(source.short_side())).min(f64::from(LARGEST) / f64::from(longest));
    let side = |length: u32| ((f64::from(length) * scale) as u32).max(1);
    let parent = Arc::new(resize(source, side(source.width()), side(source.height()), Filter::Lanczos));
    let total = tiles.len();
    let mut prompts = Vec::new();
    for (n, enlarged) in tiles.into_iter().enumerate() {
        let input = CaptionInput { parent: parent.clone(), enlarged, request: job.request.clone() };
        let mut on_progress = |stage, fraction: f32| progress.at(stage, (n as f32 + fraction) / total as f32).is_ok();
        let extracted = captioner.caption(&input, &mut Progress::new(&mut on_progress), on_text)?;
        prompts.push(joined(&extracted, &job.prompt, job.restorer.backbone.spec));
        progress.tiles(n + 1, total);
    }
    Ok(prompts)
}
