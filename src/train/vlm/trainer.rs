//! The trainer's loop: pairs to groups of completions, ratings to advantages, groups to steps, and the files of some of them
//! (Chain-of-Zoom, algorithm 2; TRL's `GRPOTrainer`).

use std::path::Path;
use std::time::Instant;

use tch::{Kind, Tensor};

use super::adapter::LoraInit;
use super::generation::of_rollout;
use super::limits::Limits;
use super::logs::Logs;
use super::loss::{LossType, spread, token_loss, token_weights};
use super::options::{Event, Options, Step};
use super::pairs::Pairs;
use super::policy::{Policy, PolicyFiles};
use super::rewards::critic::{self, Critic};
use super::rollout::{CompletionGroup, Rollout, Row};
use super::statistics::{Sums, statistics};
use super::{checkpoint, memory};
use crate::base::MemoryPlan;
use crate::pipelines::PipelineError;
use crate::runtime::memory::{free_memory, peak};
use crate::runtime::precision;
use crate::runtime::weights::Weights;
use crate::train::TrainError;
use crate::train::adamw::norm;
use crate::train::distributed::World;
use crate::train::seed::derived_seed;
use crate::train::state::{self, Position};
use crate::train::warnings::{RETRY, Warnings};

/// Trains; `on_event` answers whether to go on. What there is then is saved in any case. Returns the number of steps.
///
/// # Errors
/// Pictures that cannot be read, weights of another model, files that cannot be written to the end, a critic that cannot be asked,
/// a policy that collapses. What was reached is saved before, unless it has diverged.
pub fn train(
    options: &Options,
    world: &mut World,
    on_event: &mut dyn FnMut(Event) -> bool,
) -> Result<usize, TrainError> {
    let trained = Training::open(options, world, on_event).and_then(|mut training| {
        training.run(on_event).inspect_err(|error| {
            // What has diverged is not to take the place of what was saved before.
            let has_diverged = matches!(
                error,
                TrainError::Infinite(_)
                    | TrainError::Collapsed { .. }
                    | TrainError::Network(PipelineError::NotFinite { .. } | PipelineError::Overflow { .. })
            );
            if training.position.step > training.saved
                && !has_diverged
                && let Err(unsaved) = training.save()
            {
                on_event(Event::Warning(&unsaved));
            }
        })
    });
    let trained = trained?;
    world.finish()?;
    Ok(trained)
}

pub(super) struct Training<'a> {
    pub(super) options: &'a Options,
    pub(super) world: &'a mut World,
    /// Somebody has asked this process to stop; or any of them.
    pub(super) is_stopped: bool,
    all_stop: bool,
    pub(super) policy: Policy,
    /// `None` where its rating weighs nothing.
    pub(super) critic: Option<Box<dyn Critic>>,
    pub(super) plan: MemoryPlan,
    pub(super) pairs: Pairs,
    pub(super) rollout: Rollout,
    limits: Limits,
    pub(super) position: Position,
    /// What must not change within a training.
    fixed: Vec<(&'static str, u64)>,
    /// The step that was saved last, and when another could not be.
    saved: usize,
    unsaved_since: Option<Instant>,
    /// The first process's alone.
    pub(super) logs: Option<Logs>,
    pub(super) warnings: Warnings,
}

impl<'a> Training<'a> {
    fn open(
        options: &'a Options,
        world: &'a mut World,
        on_event: &mut dyn FnMut(Event) -> bool,
    ) -> Result<Self, TrainError> {
        let out = &options.output;
        let pairs = Pairs::open(&options.pairs)?;
        let mut critic = options.rewards.needs_critic().then(|| critic::open(&options.critic)).transpose()?;
        std::fs::create_dir_all(out).map_err(|error| TrainError::unwritten(out, error))?;
        let weights = Weights::open_folder(&options.model, "model")?;
        let base_dtype = precision::for_weights(options.precision, &weights, options.device);
        let lora = match options.resume.as_ref().or(options.adapter.as_ref()) {
            Some(folder) => LoraInit::Folder(folder.clone(), options.lora.dropout),
            None => LoraInit::New(options.lora, options.seed),
        };
        let model = options.model.clone();
        let message = options.message.clone();
        let mut policy = Policy::open(PolicyFiles { model, lora, message, device: options.device, base_dtype })?;
        let fixed = vec![
            ("seed", options.seed),
            ("process_size", options.pairs.side.into()),
            ("num_generations", options.num_generations as u64),
            ("data", pairs.fingerprint),
        ];
        let (position, rollout, limits) = match &options.resume {
            Some(folder) => {
                let file = checkpoint::state(folder);
                let position = state::load(&mut policy.groups, &fixed, &file)?;
                let weights = Weights::open(&file)?;
                (position, Rollout::load(&weights)?, Limits::load(&weights)?)
            }
            None => Default::default(),
        };
        if !rollout.groups.is_empty() && (rollout.options != of_rollout(options, policy.kind()) || world.size() > 1) {
            let found = "it lies between the steps of one generation: go on in one process, with the same batch, message, \
                         temperature, --max_completion_length, --steps_per_generation, --num_iterations, \
                         --mask_truncated_completions, --lora_dropout and --mixed_precision";
            let file = options.resume.clone().unwrap_or_default();
            return Err(TrainError::format(&file, found));
        }
        if world.is_first() {
            checkpoint::check_unused(out, position.step)?;
        }
        let groups = [options.groups_of_step(), options.steps_per_generation, options.num_iterations, options.steps];
        let numbers = [position.step as u64, position.items].into_iter().chain(groups.map(|number| number as u64));
        let numbers = numbers.chain(fixed.iter().map(|(_, value)| *value)).collect::<Vec<_>>();
        world.check_same(derived_seed("processes", &numbers), "state, data, seed, batch or number of steps")?;
        let (is_shared, plan) = plan(options, &policy, critic.as_deref());
        let is_stopped = !on_event(Event::Begins(position.step, plan));
        policy.load()?;
        if let Some(critic) = critic.as_mut().filter(|_| is_shared) {
            critic.share(policy.base()?);
        }
        let logs = world.is_first().then(|| Logs::open(options, position.step)).transpose()?;
        let mut warnings = Warnings::default();
        if !pairs.left_out.is_empty() {
            warnings.add(TrainError::Photos(pairs.left_out.clone()));
        }
        Ok(Self {
            options,
            world,
            is_stopped,
            all_stop: false,
            policy,
            critic,
            plan,
            pairs,
            rollout,
            limits,
            position,
            fixed,
            saved: position.step,
            unsaved_since: None,
            logs,
            warnings,
        })
    }

    fn is_spent(&self) -> bool {
        self.rollout.groups.is_empty() || self.rollout.used >= self.options.steps_of_rollout()
    }

    fn run(&mut self, on_event: &mut dyn FnMut(Event) -> bool) -> Result<usize, TrainError> {
        let options = self.options;
        let is_validated = self.logs.as_ref().map_or(Ok(true), |logs| logs.is_validated(self.position.step))?;
        if !is_validated {
            self.validate(false, on_event)?;
        }
        let mut ends_early = false;
        while self.position.step < options.steps && !ends_early {
            if self.is_stopped && self.world.size() == 1 {
                break;
            }
            let Some(step) = self.step(on_event)? else { break };
            self.is_stopped |= !on_event(Event::Step(&step));
            let reason = self.limits.check(&step, options)?;
            ends_early = reason.is_some();
            if let Some(reason) = reason {
                on_event(Event::Stops(&reason));
            }
            // Several processes stop together, one step after one of them was asked to.
            let is_asked = if self.world.size() == 1 { self.is_stopped } else { self.all_stop };
            let is_last = step.number == options.steps || ends_early;
            if !is_asked {
                self.validate(is_last, on_event)?;
            }
            if !(is_last || is_asked) && self.is_save_due() {
                let saved = self.save();
                self.unsaved_since = saved.is_err().then(Instant::now);
                self.warnings.unless_written(saved)?;
            }
            for warning in self.warnings.new_ones() {
                self.is_stopped |= !on_event(Event::Warning(&warning));
            }
            if is_asked {
                break;
            }
        }
        if self.position.step > self.saved {
            self.save()?;
        }
        for warning in self.warnings.new_ones() {
            on_event(Event::Warning(&warning));
        }
        Ok(self.saved)
    }

    /// Where several processes have a rollout each, only the first one's could be saved: they wait until it is spent.
    fn is_save_due(&self) -> bool {
        let (step, every) = (self.position.step, self.options.checkpointing_steps);
        // What could not be saved is tried again: a disk that is full may be cleared.
        let is_retried = self.unsaved_since.is_some_and(|since| since.elapsed() >= RETRY);
        match self.world.size() {
            1 => step.is_multiple_of(every) || is_retried,
            _ if !self.is_spent() => false,
            _ if self.unsaved_since.is_some() => is_retried,
            _ => step / every > self.saved / every,
        }
    }

    /// `None` where it was asked to stop before the step had begun.
    fn step(&mut self, on_event: &mut dyn FnMut(Event) -> bool) -> Result<Option<Step>, TrainError> {
        let start = Instant::now();
        let (options, size) = (self.options, self.world.size() as f64);
        let mut phases = [0.0; 2];
        if self.is_spent() {
            match self.roll_out(on_event)? {
                Some(seconds) => phases = seconds,
                None => return Ok(None),
            }
        }
        let first = self.rollout.used % options.steps_per_generation * options.groups_of_step();
        let chosen = first..first + options.groups_of_step();
        let mut sums = Sums::default();
        for group in &self.rollout.groups[chosen.clone()] {
            sums.add_group(group);
        }
        let mut step_tokens = [0.0_f32];
        if options.loss.loss_type == LossType::Dapo {
            let rows = self.rollout.groups[chosen.clone()].iter().flat_map(|group| self.rows(group));
            step_tokens[0] = rows.map(|row| row.ids.len() as f32).sum();
            self.world.all_reduce_mean(&mut step_tokens)?;
        }
        for micro in chosen.step_by(options.batch) {
            let groups = micro..micro + options.batch;
            self.prepare(groups.clone())?;
            let rows: Vec<Vec<Row>> =
                self.rollout.groups[groups.clone()].iter().map(|group| self.rows(group)).collect();
            let lengths: Vec<usize> = rows.iter().flatten().map(|row| row.ids.len()).collect();
            let most = options.sampling.max_completion_length;
            let kind = options.loss.loss_type;
            let weights = token_weights(kind, &lengths, most, step_tokens[0].into(), options.accumulation);
            let mut rest = weights.as_slice();
            for (i, rows) in groups.zip(&rows) {
                let (own, others) = rest.split_at(rows.len());
                rest = others;
                self.backward(i, rows, own, &mut sums)?;
            }
        }
        let mut gradients = self.policy.groups[0].take_gradients()?;
        let stopped = f64::from(u8::from(self.is_stopped));
        let mut beside: Vec<f64> = sums.numbers().into_iter().map(|number| *number).collect();
        beside.extend([stopped, phases[0], phases[1]]);
        self.world.all_reduce_mean_tensors(&mut gradients, &mut beside)?;
        let count = beside.len() - 3;
        sums.numbers().into_iter().zip(&beside[..count]).for_each(|(number, mean)| *number = *mean);
        let [stopped, sampling, rating] = [beside[count], beside[count + 1], beside[count + 2]];
        self.all_stop = stopped > 0.0;
        let (norm, rate) = (norm(&gradients)?, options.schedule.rate(options.learning_rate, self.position.step));
        let group = &mut self.policy.groups[0];
        // Without any gradient there is nothing to be learned, and decay alone would wear off what was.
        if !norm.is_finite() {
            group.scale = (group.scale / 2.0).max(1.0);
        } else if norm > 0.0 {
            group.step(rate, &gradients, norm, &options.settings)?;
        }
        self.rollout.used += 1;
        self.position.step += 1;
        let peak_memory = peak(options.device);
        let step = Step {
            number: self.position.step,
            loss: sums.loss,
            rewards: statistics(&sums.rewards),
            groups: sums.groups * size,
            zero_std_groups: sums.zero_std * size,
            kl: sums.kl / sums.tokens.max(1.0 / size),
            entropy: sums.entropy / sums.tokens.max(1.0 / size),
            clipped_share: sums.clipped / sums.tokens.max(1.0 / size),
            length: sums.length / sums.completions,
            truncated_share: sums.truncated / sums.completions,
            unrated: sums.unrated * size,
            skipped_groups: sums.skipped * size,
            norm,
            rate,
            seconds: [start.elapsed().as_secs_f64(), sampling, rating],
            peak_memory,
        };
        if let Some(logs) = &mut self.logs {
            let written = logs.step(&step);
            self.warnings.unless_written(written)?;
        }
        Ok(Some(step))
    }

    pub(super) fn rows<'g>(&self, group: &'g CompletionGroup) -> Vec<Row<'g>> {
        group.rows(self.options.loss.scale_rewards, self.options.mask_truncated)
    }

    /// Makes the questions of groups that come from a checkpoint.
    fn prepare(&mut self, groups: std::ops::Range<usize>) -> Result<(), TrainError> {
        for group in &mut self.rollout.groups[groups] {
            if group.prompt.is_none() {
                let pair = self.pairs.pair(self.options.seed, group.item)?;
                group.prompt = Some(self.policy.encode(&pair.pictures)?);
            }
        }
        Ok(())
    }

    /// Gathers the gradients of a group.
    fn backward(&self, number: usize, rows: &[Row], weights: &[f64], sums: &mut Sums) -> Result<(), TrainError> {
        let (options, group) = (self.options, &self.rollout.groups[number]);
        let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
        let tokens: usize = lengths.iter().sum();
        let Some(prompt) = group.prompt.as_ref().filter(|_| tokens > 0) else { return Ok(()) };
        let completions: Vec<Vec<i64>> = rows.iter().map(|row| row.ids.to_vec()).collect();
        let here = |numbers: &[f64]| spread(numbers, &lengths)?.f_to_device(options.device).map_err(TrainError::from);
        let advantages = here(&rows.iter().map(|row| row.advantage).collect::<Vec<_>>())?;
        let (weights, temperature) = (here(weights)?, options.sampling.temperature);
        let pass = (self.pass(group), options.gradient_checkpointing);
        // Where one step is made of it, the policy is the one that has sampled.
        let (old, reference) = match &group.log_probs {
            Some([old, reference]) => (Some(old.f_to_device(options.device)?), reference.f_to_device(options.device)?),
            None => (None, self.policy.log_probs(prompt, &completions, temperature, None)?.log_probs),
        };
        self.policy.backward(prompt, &completions, temperature, pass, |found| {
            let log_probs = found.log_probs.f_set_requires_grad(true)?;
            let old = old.map_or_else(|| log_probs.f_detach(), Ok)?;
            let found_loss = token_loss(&log_probs, &old, &reference, &advantages, &options.loss)?;
            let loss = found_loss.loss.f_mul(&weights)?.f_sum(Kind::Float)?;
            loss.f_backward()?;
            let total = |tensor: &Tensor| tensor.f_sum(Kind::Double)?.f_double_value(&[]);
            sums.loss += total(&loss.f_detach()?)?;
            sums.kl += total(&found_loss.kl)?;
            sums.entropy += total(&found.entropy)?;
            sums.clipped += total(&found_loss.is_clipped)?;
            sums.tokens += tokens as f64;
            Ok(log_probs.f_grad()?)
        })
    }

    /// The number by which a group's dropout is drawn: the same whenever it is computed.
    pub(super) fn pass(&self, group: &CompletionGroup) -> u64 {
        derived_seed("pass", &[self.options.seed, group.item]).max(1)
    }

    fn save(&mut self) -> Result<(), TrainError> {
        if !self.world.is_first() {
            return Ok(());
        }
        let (out, options) = (&self.options.output, self.options);
        // Nothing is lost of a rollout before its first step: it is sampled again. What is left of one after that is saved where
        // this process has all of it.
        let (none, is_begun) = (Rollout::default(), self.rollout.used > 0);
        let is_kept = is_begun && !self.is_spent() && self.world.size() == 1;
        let mut position = self.position;
        if is_begun && !is_kept {
            position.items = self.next_items();
        }
        let rollout = if is_kept { &self.rollout } else { &none };
        checkpoint::save(out, &self.policy, &position, &self.fixed, (rollout, &self.limits), options.steps)?;
        self.saved = self.position.step;
        let pruned = options.checkpoints_total_limit.map_or(Ok(()), |limit| checkpoint::prune(out, limit));
        self.warnings.unless_written(pruned)?;
        let drawn = self.logs.as_ref().map_or(Ok(()), Logs::draw);
        self.warnings.unless_written(drawn)
    }
}

/// Whether the critic is the policy's own base, and what is in memory together.
fn plan(options: &Options, policy: &Policy, critic: Option<&dyn Critic>) -> (bool, MemoryPlan) {
    let Some(critic) = critic else { return (false, MemoryPlan::Resident) };
    let is_beside = critic.bytes() > 0 && options.critic.device == options.device;
    let place = |folder: &Path| folder.canonicalize().ok();
    let is_same = critic.folder().and_then(place).is_some_and(|folder| Some(folder) == place(&options.model));
    if is_same || !is_beside {
        return (is_same && is_beside, MemoryPlan::Resident);
    }
    let tokens = options.num_generations * options.sampling.max_completion_length;
    let step = memory::step_bytes(&policy.processor.config.language, tokens, options.gradient_checkpointing);
    let needed = policy.bytes() + critic.bytes() + step;
    let plan = match (options.memory, free_memory(options.device)) {
        (MemoryPlan::Auto, Some(free)) if free < needed => MemoryPlan::Staged,
        (MemoryPlan::Auto | MemoryPlan::Resident, _) => MemoryPlan::Resident,
        _ => MemoryPlan::Staged,
    };
    (false, plan)
}
