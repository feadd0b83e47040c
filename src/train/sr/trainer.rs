//! The trainer's loop: items to micro-batches, micro-batches to steps, and the files of some of them.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tch::Tensor;

use super::data::Dataset;
use super::logs::Logs;
use super::losses::{Batch, Draws, Guidance, LossOptions, Losses, micro_batch};
use super::memory::step_bytes;
use super::model::{Model, ModelFiles};
use super::options::{Event, Options, Step};
use super::prompts::{Item, Prompts};
use super::samples::Samples;
use super::validation::Validation;
use super::{memory, state, visualization};
use crate::checkpoint::sd3::Sd3;
use crate::pipelines::caption::tags::Tagger;
use crate::runtime::memory::peak;
use crate::runtime::{precision, rng};
use crate::train::TrainError;
use crate::train::adamw::norm;
use crate::train::distributed::{Share, World};
use crate::train::seed::derived_seed;
use crate::train::state::Position;
use crate::train::warnings::{RETRY, Warnings};

/// Steps in a row whose gradients are not finite, after which it ends.
const MOST_SKIPPED: usize = 20;
/// Steps between the pictures of `visualization/`.
const VISUALIZATION_STEPS: usize = 100;

/// Trains; `on_event` answers whether to go on. What there is then is saved in any case. Returns the number of steps.
///
/// # Errors
/// Photos that cannot be read, weights of another model, files that cannot be written to the end, gradients that stay infinite.
/// What was reached is saved before, unless it has diverged. [`World::fail`] says it to the other processes.
pub fn train(
    options: &Options,
    world: &mut World,
    tagger: Option<Tagger>,
    on_event: &mut dyn FnMut(Event) -> bool,
) -> Result<usize, TrainError> {
    let trained = Training::open(options, world, tagger, on_event).and_then(|mut training| {
        training.run(on_event).inspect_err(|error| {
            // What has diverged is not to take the place of what was saved before.
            let is_new = training.position.step > training.saved && !matches!(error, TrainError::Infinite(_));
            if is_new && let Err(unsaved) = training.save() {
                on_event(Event::Warning(&unsaved));
            }
        })
    });
    let trained = trained?;
    world.finish()?;
    Ok(trained)
}

struct Training<'a> {
    options: &'a Options,
    world: &'a mut World,
    /// Somebody has asked this process to stop; or any of them.
    is_stopped: bool,
    all_stop: bool,
    model: Model,
    prompts: Prompts,
    samples: Samples,
    losses: LossOptions,
    position: Position,
    /// What must not change within a training.
    fixed: Vec<(&'static str, u64)>,
    /// The step that was saved last, and when another could not be.
    saved: usize,
    unsaved_since: Option<Instant>,
    /// The first process's alone.
    logs: Option<Logs>,
    validation: Option<(Validation, usize)>,
    /// What could not be written now.
    warnings: Warnings,
}

impl<'a> Training<'a> {
    fn open(
        options: &'a Options,
        world: &'a mut World,
        tagger: Option<Tagger>,
        on_event: &mut dyn FnMut(Event) -> bool,
    ) -> Result<Self, TrainError> {
        let out = &options.output;
        let (base_dtype, _) = precision::kinds(options.precision);
        let dataset = Arc::new(Dataset::open(&options.lists)?);
        std::fs::create_dir_all(out).map_err(|error| TrainError::unwritten(out, error))?;
        let is_first = world.is_first();
        let pictures = options.validation.as_ref().filter(|_| is_first);
        let pictures = pictures.map(|(folder, _)| Validation::files(folder)).transpose()?;
        let sd3 = Sd3::open(&options.sd3)?;
        let mut prompts = Prompts::open(&sd3, options.device, base_dtype, tagger)?;
        let mut model = Model::open(&ModelFiles {
            sd3: &sd3,
            lpips: [&options.lpips[0], &options.lpips[1]],
            initial: None,
            rank: options.rank,
            seed: options.seed,
            device: options.device,
            base_dtype,
        })?;
        model.check_side(options.lists.side)?;
        if !options.subtract_shift {
            model.encode_shift = 0.0;
        }
        let fixed = vec![
            ("seed", options.seed),
            ("resolution", options.lists.side.into()),
            ("shift_as_inference", (!options.subtract_shift).into()),
            ("dataset_txt_paths_list", dataset.fingerprint),
        ];
        let position = match &options.resume {
            Some(file) => crate::train::state::load(&mut model.groups, &fixed, file)?,
            None => Position::default(),
        };
        if is_first {
            state::check_unused(out, position.step)?;
        }
        let numbers = [position.step as u64, position.items, options.steps as u64, options.accumulation as u64];
        let numbers = numbers.into_iter().chain([options.batch as u64]).chain(fixed.iter().map(|(_, value)| *value));
        let number = derived_seed("processes", &numbers.collect::<Vec<_>>());
        world.check_same(number, "state, lists, seed, batch or number of steps")?;
        let step = memory::StepShape {
            batch: options.batch,
            side: options.lists.side,
            element_size: base_dtype.elt_size_in_bytes(),
            gradient_checkpointing: options.gradient_checkpointing,
        };
        let plan = prompts.set_plan(options.memory, step_bytes(&model.mmdit_config, &model.vae_config, &step));
        let is_stopped = !on_event(Event::Begins(position.step, plan));
        let guidance = match &options.guidance {
            Some((scale, prompt)) => {
                let negative = prompts.embeds(prompt.clone())?;
                let [prompt, pooled] = negative.map(|embeds| embeds.f_to_device(options.device));
                Some(Guidance { scale: *scale, negative: [prompt?, pooled?] })
            }
            None => None,
        };
        let side = options.lists.side;
        let validation = match (&options.validation, pictures) {
            (Some((_, steps)), Some(files)) => Some((Validation::open(&files, side, &model, &mut prompts)?, *steps)),
            _ => None,
        };
        prompts.offload();
        let losses = LossOptions {
            weights: options.weights,
            accumulation: options.accumulation,
            gradient_checkpointing: options.gradient_checkpointing,
            guidance,
        };
        let logs = is_first.then(|| Logs::open(options, position.step)).transpose()?;
        let [batch, rank, size] = [options.batch, world.rank(), world.size()].map(|number| number as u64);
        let share = Share { first: position.items, batch, rank, size };
        let samples = Samples::start(&dataset, options.seed, share, options.workers)
            .map_err(|error| TrainError::Stopped(format!("no thread could be started: {error}")))?;
        let mut warnings = Warnings::default();
        if !dataset.left_out.is_empty() {
            warnings.add(TrainError::Photos(dataset.left_out.clone()));
        }
        Ok(Self {
            options,
            world,
            is_stopped,
            all_stop: false,
            model,
            prompts,
            samples,
            losses,
            position,
            fixed,
            saved: position.step,
            unsaved_since: None,
            logs,
            validation,
            warnings,
        })
    }

    fn run(&mut self, on_event: &mut dyn FnMut(Event) -> bool) -> Result<usize, TrainError> {
        let options = self.options;
        let mut skipped = 0;
        if self.position.step == 0 {
            self.validate(false, on_event)?;
        }
        while self.position.step < options.steps {
            if self.is_stopped && self.world.size() == 1 {
                break;
            }
            let step = self.step()?;
            self.is_stopped |= !on_event(Event::Step(&step));
            skipped = if step.is_skipped { skipped + 1 } else { 0 };
            if skipped >= MOST_SKIPPED {
                return Err(TrainError::Infinite(skipped));
            }
            // Several processes stop together, one step after one of them was asked to.
            let stops = if self.world.size() == 1 { self.is_stopped } else { self.all_stop };
            let is_last = step.number == options.steps || stops;
            self.validate(is_last && !stops, on_event)?;
            let every = options.checkpointing_steps;
            // What could not be saved is tried again: a disk that is full may be cleared.
            let is_retried = self.unsaved_since.is_some_and(|since| since.elapsed() >= RETRY);
            if is_last {
                self.save()?;
            } else if step.number % every == 1 % every || is_retried {
                let saved = self.save();
                self.unsaved_since = saved.is_err().then(Instant::now);
                self.warnings.unless_written(saved)?;
            }
            for warning in self.warnings.new_ones() {
                self.is_stopped |= !on_event(Event::Warning(&warning));
            }
            if is_last {
                break;
            }
        }
        Ok(self.position.step)
    }

    fn step(&mut self) -> Result<Step, TrainError> {
        let start = Instant::now();
        let options = self.options;
        let Position { step, items } = self.position;
        let of_micro_batch = options.batch * self.world.size();
        let (mut losses, mut prompt_seconds) = (Vec::new(), 0.0);
        for micro in 0..options.accumulation {
            let first = items + (micro * of_micro_batch) as u64;
            let rest = (options.steps - step) * options.accumulation - micro;
            let start = Instant::now();
            let items = self.prompts.next(&mut self.samples, options.batch, rest * options.batch)?;
            prompt_seconds += start.elapsed().as_secs_f64();
            let batch = self.batch(&items)?;
            let draws = self.draws(&batch, first)?;
            let outcome = micro_batch(&self.model, &batch, &draws, &self.losses)?;
            losses.push(outcome.losses);
            let is_shown = (step + 1) % VISUALIZATION_STEPS == 1 && micro + 1 == options.accumulation;
            if is_shown && self.world.is_first() {
                let out = options.output.join("visualization");
                let written = visualization::write(&self.model, &batch, &draws, &outcome, &out, step + 1);
                self.warnings.unless_written(written)?;
            }
        }
        let mut gradients = self.model.take_gradients()?;
        let Losses { l2, lpips, vsd, diff } = Losses::mean(&losses);
        let mut beside = [l2, lpips, vsd, diff, f64::from(u8::from(self.is_stopped))];
        self.world.all_reduce_mean_tensors(&mut gradients, &mut beside)?;
        let [l2, lpips, vsd, diff, stopped] = beside;
        self.all_stop = stopped > 0.0;
        let gradients = self.model.by_group(&gradients);
        let [of_gen, of_vae, of_reg] = gradients.map(norm);
        let norms = [of_gen?, of_vae?, of_reg?];
        let is_skipped = !norms.iter().all(|norm| norm.is_finite());
        let [rate, rate_vae] = options.learning_rates.map(|rate| options.schedule.rate(rate, step));
        match is_skipped {
            true => self.model.lower_gradient_scale(),
            false => self.model.step([rate, rate_vae, rate], gradients, norms, &options.settings)?,
        }
        self.position = Position { step: step + 1, items: items + (options.accumulation * of_micro_batch) as u64 };
        let (losses, seconds) = (Losses { l2, lpips, vsd, diff }, start.elapsed().as_secs_f64());
        let peak_memory = peak(options.device);
        let step = Step { number: step + 1, losses, norms, is_skipped, seconds, prompt_seconds, peak_memory };
        if let Some(logs) = &mut self.logs {
            let written = logs.step(&step, rate);
            self.warnings.unless_written(written)?;
        }
        Ok(step)
    }

    fn batch(&self, items: &[Item]) -> Result<Batch, TrainError> {
        let joined = |of: fn(&Item) -> &Tensor| -> Result<Tensor, TrainError> {
            let parts: Vec<&Tensor> = items.iter().map(of).collect();
            Ok(Tensor::f_cat(&parts, 0)?.f_to_device(self.options.device)?)
        };
        Ok(Batch {
            lq: joined(|item| &item.lq)?,
            gt: joined(|item| &item.gt)?,
            prompt: joined(|item| &item.embeds[0])?,
            pooled: joined(|item| &item.embeds[1])?,
        })
    }

    /// Noise of each item by its number, times by that of the first one of all processes.
    fn draws(&self, batch: &Batch, first: u64) -> Result<Draws, TrainError> {
        let model = &self.model;
        let own = first + (self.options.batch * self.world.rank()) as u64;
        let (count, _, height, width) = batch.lq.size4()?;
        let shape = [1, model.latent_channels, height / model.reduction, width / model.reduction];
        let seed = |item: u64, which: &str| derived_seed(which, &[self.options.seed, item]);
        let noise = |which: &str| -> Result<Tensor, TrainError> {
            let items = own..own + count.unsigned_abs();
            let noise = items.map(|item| rng::randn(seed(item, which), &shape)).collect::<Result<Vec<_>, _>>()?;
            Ok(Tensor::f_cat(&noise, 0)?.f_to_device(model.device)?)
        };
        let number = |which: &str| fastrand::Rng::with_seed(seed(first, which)).f64();
        Ok(Draws {
            eps_vae: noise("eps_vae")?,
            eps_vsd: noise("eps_vsd")?,
            eps_diff: noise("eps_diff")?,
            u_vsd: number("u_vsd"),
            u_diff: number("u_diff"),
        })
    }

    /// All files of this step, or none.
    fn save(&mut self) -> Result<(), TrainError> {
        let (out, step): (&Path, usize) = (&self.options.output, self.position.step);
        if !self.world.is_first() {
            return Ok(());
        }
        let saved = self.model.save(out, step);
        saved.and_then(|()| state::save(&self.model, &self.position, &self.fixed, out)).inspect_err(|_| {
            // What is left of it only takes room; where that cannot be deleted either, the first error says why.
            _ = state::delete(out, step);
        })?;
        self.saved = step;
        let pruned = self.options.checkpoints_total_limit.map_or(Ok(()), |limit| state::prune(out, limit));
        self.warnings.unless_written(pruned)?;
        let drawn = self.logs.as_ref().map_or(Ok(()), Logs::draw);
        self.warnings.unless_written(drawn)
    }

    /// Where it is time for that.
    fn validate(&mut self, is_last: bool, on_event: &mut dyn FnMut(Event) -> bool) -> Result<(), TrainError> {
        let (Some((validation, steps)), step) = (&self.validation, self.position.step) else { return Ok(()) };
        if !step.is_multiple_of(*steps) && !is_last {
            return Ok(());
        }
        let sheet = self.options.output.join(format!("validation/{step}.png"));
        let (scores, written) = validation.run(&self.model, &sheet)?;
        self.warnings.unless_written(written)?;
        if let Some(logs) = &mut self.logs {
            let written = logs.validation(step, scores);
            self.warnings.unless_written(written)?;
        }
        self.is_stopped |= !on_event(Event::Validation(step, scores));
        Ok(())
    }
}
