//! The trainer's loop: epochs of items, micro-batches, steps, files.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, bounded};
use tch::{Device, Kind, Tensor};

use super::adamw::Settings;
use super::data::{Dataset, Sample, mixed};
use super::losses::{Batch, Draws, Losses, Weights, micro_batch};
use super::model::{Model, ModelFiles, VAE};
use super::replay::save;
use super::validation::{Score, Validation};
use crate::base::{CaptionRequest, Progress};
use crate::imaging::Picture;
use crate::pipelines::caption::tags::Tagger;
use crate::pipelines::caption::{CaptionInput, Captioner};
use crate::pipelines::sr::PromptEncoder;
use crate::runtime::rng;
use crate::train::TrainError;

/// Samples that each worker has ready.
const PREFETCH: usize = 2;
/// Steps in a row whose numbers are none, after which it ends.
const MOST_SKIPPED: usize = 20;

/// What to train, on what, and for how long.
pub struct Options {
    /// A folder in the layout of `stabilityai/stable-diffusion-3-medium-diffusers`.
    pub sd3: PathBuf,
    /// VGG16, and what LPIPS adds to it.
    pub lpips: [PathBuf; 2],
    /// Lists of photos, and how often each enters an epoch.
    pub lists: Vec<(PathBuf, usize)>,
    /// Where files go.
    pub output: PathBuf,
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
    /// Of the LoRAs.
    pub rank: i64,
    /// Of everything that is drawn.
    pub seed: u64,
    /// Of the transformer's LoRAs, and of the encoder's.
    pub rates: [f64; 2],
    /// Of the optimizers.
    pub settings: Settings,
    /// Of the losses.
    pub weights: Weights,
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
    /// Its numbers were none: nothing was moved.
    pub is_skipped: bool,
}

/// Trains; `on_step` says after each step whether to go on. What is there then is saved in any case. Returns the number of
/// steps.
///
/// # Errors
/// Photos that cannot be read, weights of another model, files that cannot be written, numbers that stay none.
pub fn train(
    options: &Options,
    mut tagger: Option<Tagger>,
    on_step: &mut dyn FnMut(&Step) -> bool,
) -> Result<usize, TrainError> {
    let dataset = Arc::new(Dataset::open(&options.lists, options.resolution)?);
    let files =
        ModelFiles { sd3: &options.sd3, lpips: [&options.lpips[0], &options.lpips[1]], initial: Default::default() };
    let mut model = Model::open(&files, options.rank, options.seed, options.device)?;
    let mut prompts = PromptEncoder::open(&options.sd3, options.device, Kind::Float)?;
    std::fs::create_dir_all(&options.output).map_err(TrainError::io(&options.output))?;
    let columns = "step,l2,lpips,vsd,diff,norm_gen,norm_vae,norm_reg";
    let mut log = CsvLog::create(&options.output, "losses.csv", columns)?;
    let mut validation = match &options.validation {
        None => None,
        Some((folder, steps)) => {
            let mut caption = |picture: &Picture| caption(&mut tagger, picture);
            let pictures = Validation::open(folder, options.resolution, &model, &mut prompts, &mut caption)?;
            Some((pictures, *steps, CsvLog::create(&options.output, "validation.csv", "step,l2,lpips,psnr")?))
        }
    };
    let mut validate = |model: &Model, number: usize, is_last: bool| -> Result<(), TrainError> {
        match &mut validation {
            Some((pictures, steps, log)) if number.is_multiple_of(*steps) || is_last => {
                let Score { l2, lpips, psnr } = pictures.score(model)?;
                log.add(format_args!("{number},{l2},{lpips},{psnr}"))
            }
            _ => Ok(()),
        }
    };
    validate(&model, 0, false)?;
    let mut samples = Samples::start(dataset, options)?;
    let (mut skipped, mut saved) = (0, 0);
    for number in 1..=options.steps {
        let mut all = Vec::new();
        for micro in 0..options.accumulation {
            let batch = batch(&mut samples, &mut tagger, &mut prompts, options)?;
            let draws = draws(&model, &batch, options, (number * options.accumulation + micro) as u64)?;
            let accumulation = options.accumulation as f64;
            all.push(micro_batch(
                &model,
                &batch,
                &draws,
                &options.weights,
                accumulation,
                options.gradient_checkpointing,
            )?);
        }
        let mut norms = [0.0; 3];
        for (norm, group) in norms.iter_mut().zip(&model.groups) {
            *norm = group.gradient_norm()?;
        }
        let is_skipped = !norms.iter().all(|norm| norm.is_finite());
        for (i, group) in model.groups.iter_mut().enumerate() {
            match is_skipped {
                true => group.zero_gradients(),
                false => group.step(options.rates[usize::from(i == VAE)], norms[i], &options.settings)?,
            }
        }
        skipped = if is_skipped { skipped + 1 } else { 0 };
        if skipped >= MOST_SKIPPED {
            let found = format!("{skipped} steps in a row have gradients that are no numbers");
            return Err(TrainError::Stopped(found));
        }
        let mean = |of: fn(&Losses) -> f64| all.iter().map(of).sum::<f64>() / all.len() as f64;
        let step = Step {
            number,
            losses: Losses {
                l2: mean(|it| it.l2),
                lpips: mean(|it| it.lpips),
                vsd: mean(|it| it.vsd),
                diff: mean(|it| it.diff),
            },
            norms,
            is_skipped,
        };
        let Losses { l2, lpips, vsd, diff } = step.losses;
        let [of_gen, of_vae, of_reg] = norms;
        log.add(format_args!("{number},{l2},{lpips},{vsd},{diff},{of_gen},{of_vae},{of_reg}"))?;
        let goes_on = on_step(&step);
        if number % options.checkpointing_steps == 1 || number == options.steps || !goes_on {
            save(&model, &options.output, number)?;
            saved = number;
        }
        validate(&model, number, number == options.steps || !goes_on)?;
        if !goes_on {
            break;
        }
    }
    Ok(saved)
}

/// Numbers of each step, written as they come.
struct CsvLog {
    path: PathBuf,
    file: std::fs::File,
}

impl CsvLog {
    fn create(folder: &Path, name: &str, columns: &str) -> Result<Self, TrainError> {
        let path = folder.join(name);
        let file = std::fs::File::create(&path).map_err(TrainError::io(&path))?;
        let mut log = Self { path, file };
        log.add(format_args!("{columns}"))?;
        Ok(log)
    }

    fn add(&mut self, line: std::fmt::Arguments) -> Result<(), TrainError> {
        writeln!(self.file, "{line}").map_err(TrainError::io(&self.path))
    }
}

type SampleReceiver = Receiver<Result<Sample, TrainError>>;

/// Items in their order, from threads that work ahead.
struct Samples {
    workers: Vec<(SampleReceiver, JoinHandle<()>)>,
    next: usize,
}

impl Drop for Samples {
    /// Nobody computes any more when the program ends.
    fn drop(&mut self) {
        let threads: Vec<JoinHandle<()>> = self.workers.drain(..).map(|(_, thread)| thread).collect();
        for thread in threads {
            // What panicked there was reported where its samples did not come.
            _ = thread.join();
        }
    }
}

impl Samples {
    fn start(dataset: Arc<Dataset>, options: &Options) -> Result<Self, TrainError> {
        let (count, seed) = (options.workers.max(1), options.seed);
        let mut workers = Vec::new();
        for worker in 0..count {
            let (sender, receiver) = bounded(PREFETCH);
            let dataset = dataset.clone();
            let work = move || {
                let all =
                    (0u64..).flat_map(|epoch| dataset.order(seed, epoch).into_iter().map(move |index| (epoch, index)));
                for (epoch, index) in all.skip(worker).step_by(count) {
                    if sender.send(dataset.sample(seed, epoch, index)).is_err() {
                        return;
                    }
                }
            };
            let thread = std::thread::Builder::new().name(format!("coz-data-{worker}")).spawn(work);
            workers.push((receiver, thread.map_err(TrainError::io(&options.output))?));
        }
        Ok(Self { workers, next: 0 })
    }

    fn next(&mut self) -> Result<Sample, TrainError> {
        let (receiver, _) = &self.workers[self.next % self.workers.len()];
        self.next += 1;
        receiver.recv().unwrap_or_else(|_| Err(TrainError::Stopped("a thread that reads photos has ended".into())))
    }
}

fn batch(
    samples: &mut Samples,
    tagger: &mut Option<Tagger>,
    prompts: &mut PromptEncoder,
    options: &Options,
) -> Result<Batch, TrainError> {
    let samples = (0..options.batch).map(|_| samples.next()).collect::<Result<Vec<_>, _>>()?;
    let captions = samples.iter().map(|sample| caption(tagger, &sample.picture)).collect::<Result<Vec<_>, _>>()?;
    let [prompt, pooled] = prompts.embeds(&captions, options.device)?;
    let joined = |of: Vec<&Tensor>| Tensor::f_cat(&of, 0)?.f_to_device(options.device);
    Ok(Batch {
        lq: joined(samples.iter().map(|sample| &sample.lq).collect())?,
        gt: joined(samples.iter().map(|sample| &sample.gt).collect())?,
        prompt,
        pooled,
    })
}

/// What the tagger says of a picture; nothing without one.
fn caption(tagger: &mut Option<Tagger>, picture: &Picture) -> Result<String, TrainError> {
    let Some(tagger) = tagger else { return Ok(String::new()) };
    let picture = Arc::new(picture.clone());
    let input = CaptionInput { parent: picture.clone(), enlarged: picture, request: CaptionRequest::default() };
    Ok(tagger.caption(&input, &mut Progress::new(&mut |_, _| true), &mut |_| ())?)
}

fn draws(model: &Model, batch: &Batch, options: &Options, micro: u64) -> Result<Draws, TrainError> {
    let (count, _, height, width) = batch.lq.size4()?;
    let shape = [count, model.latent_channels, height / model.reduction, width / model.reduction];
    let seed = |which: u64| mixed(&[options.seed, micro, which]);
    let noise = |which: u64| -> Result<Tensor, TrainError> {
        Ok(rng::randn(seed(which), &shape)?.f_to_device(options.device)?)
    };
    let number = |which: u64| fastrand::Rng::with_seed(seed(which)).f64();
    Ok(Draws { eps_vae: noise(0)?, eps_vsd: noise(1)?, eps_diff: noise(2)?, u_vsd: number(3), u_diff: number(4) })
}
