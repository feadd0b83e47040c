//! The trainer's loop: items to micro-batches, micro-batches to steps, and the files of some of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tch::{Device, Kind, Tensor};

use super::adamw::{Group, Settings};
use super::data::{Dataset, mixed};
use super::losses::{Batch, Draws, Guidance, LossOptions, Losses, micro_batch};
use super::model::{Model, ModelFiles};
use super::samples::Samples;
use super::schedule::Schedule;
use super::state::Position;
use super::validation::{Score, Validation};
use super::{state, visualization};
use crate::base::{CaptionRequest, Progress};
use crate::imaging::Picture;
use crate::pipelines::caption::tags::Tagger;
use crate::pipelines::caption::{CaptionInput, Captioner};
use crate::pipelines::sr::PromptEncoder;
use crate::runtime::rng;
use crate::train::TrainError;
use crate::train::csv_log::CsvLog;

/// Steps in a row whose gradients are no numbers, after which it ends.
const MOST_SKIPPED: usize = 20;
/// Steps between the pictures of `visualization/`.
const VISUALIZATION_STEPS: usize = 100;

/// What to train, on what, and for how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// A folder in the layout of `stabilityai/stable-diffusion-3-medium-diffusers`.
    pub sd3: PathBuf,
    /// VGG16, and what LPIPS adds to it.
    pub lpips: [PathBuf; 2],
    /// Lists of photos, and how often each enters an epoch.
    pub lists: Vec<(PathBuf, usize)>,
    /// Where files go.
    pub output: PathBuf,
    /// A state to go on from.
    pub resume: Option<PathBuf>,
    /// Side of a picture.
    pub resolution: u32,
    /// Pictures of a micro-batch.
    pub batch: usize,
    /// Micro-batches of a step.
    pub accumulation: usize,
    /// Steps.
    pub steps: usize,
    /// Steps between files.
    pub checkpointing_steps: usize,
    /// States that are kept; all of them without it.
    pub checkpoints_total_limit: Option<usize>,
    /// Of the LoRAs.
    pub rank: i64,
    /// Of everything that is drawn.
    pub seed: u64,
    /// Learning rates of the transformer's LoRAs, and of the encoder's.
    pub rates: [f64; 2],
    /// How they change.
    pub schedule: Schedule,
    /// Of the optimizers.
    pub settings: Settings,
    /// Of the losses.
    pub weights: Losses,
    /// Scale of the teacher's guidance and its negative prompt; the reference has none.
    pub guidance: Option<(f64, String)>,
    /// The shift is taken off behind the encoder: as the reference trains, not as it infers.
    pub subtract_shift: bool,
    /// Of the frozen transformer and the text encoders.
    pub base: Kind,
    /// Little memory, more time.
    pub gradient_checkpointing: bool,
    /// Threads that read and degrade photos.
    pub workers: usize,
    /// Where the model is.
    pub device: Device,
    /// Pictures to validate by, and how many steps lie between two times.
    pub validation: Option<(PathBuf, usize)>,
}

/// A step that was made.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Its number, from 1.
    pub number: usize,
    /// Means over its micro-batches.
    pub losses: Losses,
    /// Lengths of the gradients before they are shortened: gen, vae, reg.
    pub norms: [f64; 3],
    /// Its gradients were no numbers: nothing was moved.
    pub is_skipped: bool,
    /// How long it took.
    pub seconds: f64,
}

/// What a training says.
pub enum Event<'a> {
    /// A step was made.
    Step(&'a Step),
    /// Something is odd, and it goes on.
    Warning(&'a TrainError),
}

/// Trains; `on_event` answers whether to go on. What there is then is saved in any case. Returns the number of steps.
///
/// # Errors
/// Photos that cannot be read, weights of another model, files that cannot be written to the end, gradients that stay no numbers.
pub fn train(
    options: &Options,
    tagger: Option<Tagger>,
    on_event: &mut dyn FnMut(Event) -> bool,
) -> Result<usize, TrainError> {
    let mut training = Training::open(options, tagger)?;
    let (mut skipped, mut is_saved) = (0, true);
    while training.position.step < options.steps {
        let step = training.step()?;
        let mut goes_on = on_event(Event::Step(&step));
        skipped = if step.is_skipped { skipped + 1 } else { 0 };
        if skipped >= MOST_SKIPPED {
            let found = format!("{skipped} steps in a row have gradients that are no numbers");
            return Err(TrainError::Stopped(found));
        }
        let is_last = step.number == options.steps || !goes_on;
        // What could not be saved is tried again after each step: a disk that is full may be cleared.
        if step.number % options.checkpointing_steps == 1 || is_last || !is_saved {
            let saved = training.save();
            if is_last {
                saved?;
            } else {
                is_saved = saved.is_ok();
                training.unless_unwritten(saved)?;
            }
        }
        training.validate(is_last)?;
        for warning in training.new_warnings() {
            goes_on &= on_event(Event::Warning(&warning));
        }
        if !goes_on {
            break;
        }
    }
    Ok(training.position.step)
}

struct Training<'a> {
    options: &'a Options,
    model: Model,
    prompts: PromptEncoder,
    /// The last captions and their embeds.
    encoded: (Vec<String>, [Tensor; 2]),
    tagger: Option<Tagger>,
    samples: Samples,
    losses: LossOptions,
    position: Position,
    log: CsvLog,
    validation: Option<(Validation, usize, CsvLog)>,
    /// What could not be written now, and the last that was said of that.
    warnings: Vec<TrainError>,
    last_warning: String,
}

impl<'a> Training<'a> {
    fn open(options: &'a Options, mut tagger: Option<Tagger>) -> Result<Self, TrainError> {
        let dataset = Arc::new(Dataset::open(&options.lists, options.resolution)?);
        let mut model = Model::open(&ModelFiles {
            sd3: &options.sd3,
            lpips: [&options.lpips[0], &options.lpips[1]],
            initial: Default::default(),
            rank: options.rank,
            seed: options.seed,
            device: options.device,
            base: options.base,
        })?;
        if !options.subtract_shift {
            model.encode_shift = 0.0;
        }
        let mut prompts = PromptEncoder::open(&options.sd3, options.device, options.base)?;
        // Without a tagger there is one prompt, and nothing of what encoded it is needed again.
        prompts.set_keep(tagger.is_some());
        let out = &options.output;
        std::fs::create_dir_all(out).map_err(TrainError::io(out))?;
        let position = match &options.resume {
            Some(file) => state::load(&mut model, file)?,
            None => Position::default(),
        };
        let columns = "step,l2,lpips,vsd,diff,norm_gen,norm_vae,norm_reg";
        let log = CsvLog::open(out.join("losses.csv"), columns, position.step)?;
        let validation = match &options.validation {
            None => None,
            Some((folder, steps)) => {
                let mut caption = |picture: &Picture| caption(&mut tagger, picture);
                let pictures = Validation::open(folder, options.resolution, &model, &mut prompts, &mut caption)?;
                let log = CsvLog::open(out.join("validation.csv"), "step,l2,lpips,psnr", position.step)?;
                Some((pictures, *steps, log))
            }
        };
        let guidance = match &options.guidance {
            None => None,
            Some((scale, prompt)) => {
                let negative = prompts.embeds(std::slice::from_ref(prompt), options.device)?;
                Some(Guidance { scale: *scale, negative })
            }
        };
        let losses = LossOptions {
            weights: options.weights,
            accumulation: options.accumulation,
            gradient_checkpointing: options.gradient_checkpointing,
            guidance,
        };
        let samples =
            Samples::start(&dataset, options.seed, position.items, options.workers).map_err(TrainError::io(out))?;
        let encoded = (Vec::new(), [Tensor::new(), Tensor::new()]);
        let (warnings, last_warning) = (Vec::new(), String::new());
        let mut training = Self {
            options,
            model,
            prompts,
            encoded,
            tagger,
            samples,
            losses,
            position,
            log,
            validation,
            warnings,
            last_warning,
        };
        if position.step == 0 {
            training.validate(false)?;
        }
        Ok(training)
    }

    fn step(&mut self) -> Result<Step, TrainError> {
        let start = Instant::now();
        let options = self.options;
        let number = self.position.step + 1;
        let mut losses = Vec::new();
        for micro in 1..=options.accumulation {
            let batch = self.batch()?;
            let draws = self.draws(&batch)?;
            let outcome = micro_batch(&self.model, &batch, &draws, &self.losses)?;
            losses.push(outcome.losses);
            self.position.items += options.batch as u64;
            if number % VISUALIZATION_STEPS == 1 && micro == options.accumulation {
                let out = options.output.join("visualization");
                let written = visualization::write(&self.model, &batch, &draws, &outcome, &out, number);
                self.unless_unwritten(written)?;
            }
        }
        let norms = self.model.gradient_norms()?;
        let is_skipped = !norms.iter().all(|norm| norm.is_finite());
        match is_skipped {
            true => self.model.groups.iter_mut().for_each(Group::zero_gradients),
            false => {
                let [rate, rate_vae] = options.rates.map(|rate| options.schedule.rate(rate, self.position.step));
                self.model.step([rate, rate_vae, rate], norms, &options.settings)?;
            }
        }
        self.position.step = number;
        let losses @ Losses { l2, lpips, vsd, diff } = Losses::mean(&losses);
        let [of_gen, of_vae, of_reg] = norms;
        let written = self.log.add(&[&number, &l2, &lpips, &vsd, &diff, &of_gen, &of_vae, &of_reg]);
        self.unless_unwritten(written)?;
        Ok(Step { number, losses, norms, is_skipped, seconds: start.elapsed().as_secs_f64() })
    }

    /// A training goes on where a file cannot be written; that is said later.
    fn unless_unwritten(&mut self, result: Result<(), TrainError>) -> Result<(), TrainError> {
        match result {
            Err(error @ TrainError::Write(_)) => {
                self.warnings.push(error);
                Ok(())
            }
            other => other,
        }
    }

    /// The same again and again is said once.
    fn new_warnings(&mut self) -> Vec<TrainError> {
        let mut warnings = std::mem::take(&mut self.warnings);
        warnings.retain(|warning| {
            let text = warning.to_string();
            let is_new = text != self.last_warning;
            self.last_warning = text;
            is_new
        });
        warnings
    }

    /// The state comes last: where it is, all is.
    fn save(&self) -> Result<(), TrainError> {
        let out: &Path = &self.options.output;
        self.model.save(out, self.position.step)?;
        state::save(&self.model, &self.position, out)?;
        self.options.checkpoints_total_limit.map_or(Ok(()), |limit| state::prune(out, limit))
    }

    /// Where it is time for that.
    fn validate(&mut self, is_last: bool) -> Result<(), TrainError> {
        match &mut self.validation {
            Some((pictures, steps, log)) if self.position.step.is_multiple_of(*steps) || is_last => {
                let Score { l2, lpips, psnr } = pictures.score(&self.model)?;
                let written = log.add(&[&self.position.step, &l2, &lpips, &psnr]);
                self.unless_unwritten(written)
            }
            _ => Ok(()),
        }
    }

    fn batch(&mut self) -> Result<Batch, TrainError> {
        let device = self.options.device;
        let samples = self.samples.by_ref().take(self.options.batch).collect::<Result<Vec<_>, _>>()?;
        let captions =
            samples.iter().map(|sample| caption(&mut self.tagger, &sample.picture)).collect::<Result<Vec<_>, _>>()?;
        if self.encoded.0 != captions {
            let embeds = self.prompts.embeds(&captions, device)?;
            self.encoded = (captions, embeds);
        }
        let [prompt, pooled] = self.encoded.1.each_ref().map(Tensor::shallow_clone);
        let joined = |of: Vec<&Tensor>| Tensor::f_cat(&of, 0)?.f_to_device(device);
        Ok(Batch {
            lq: joined(samples.iter().map(|sample| &sample.lq).collect())?,
            gt: joined(samples.iter().map(|sample| &sample.gt).collect())?,
            prompt,
            pooled,
        })
    }

    /// Noise of each item by its number, times by that of the first.
    fn draws(&self, batch: &Batch) -> Result<Draws, TrainError> {
        let (model, first) = (&self.model, self.position.items);
        let (count, _, height, width) = batch.lq.size4()?;
        let shape = [1, model.latent_channels, height / model.reduction, width / model.reduction];
        let seed = |item: u64, which: u64| mixed(&[self.options.seed, item, which]);
        let noise = |which: u64| -> Result<Tensor, TrainError> {
            let items = first..first + count.unsigned_abs();
            let noise = items.map(|item| rng::randn(seed(item, which), &shape)).collect::<Result<Vec<_>, _>>()?;
            Ok(Tensor::f_cat(&noise, 0)?.f_to_device(model.device)?)
        };
        let number = |which: u64| fastrand::Rng::with_seed(seed(first, which)).f64();
        Ok(Draws { eps_vae: noise(0)?, eps_vsd: noise(1)?, eps_diff: noise(2)?, u_vsd: number(3), u_diff: number(4) })
    }
}

/// What the tagger says of a picture; nothing without one.
fn caption(tagger: &mut Option<Tagger>, picture: &Picture) -> Result<String, TrainError> {
    let Some(tagger) = tagger else { return Ok(String::new()) };
    let picture = Arc::new(picture.clone());
    let input = CaptionInput { parent: picture.clone(), enlarged: picture, request: CaptionRequest::default() };
    Ok(tagger.caption(&input, &mut Progress::new(&mut |_, _| true), &mut |_| ())?)
}
