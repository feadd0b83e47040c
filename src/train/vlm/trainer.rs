//! The trainer's loop: pairs to groups of completions, ratings to advantages, groups to steps, and the files of some of them
//! (Chain-of-Zoom, algorithm 2; TRL's `GRPOTrainer`).

use std::collections::VecDeque;
use std::path::Path;
use std::time::Instant;

use tch::{Kind, Tensor};

use super::adapter::LoraInit;
use super::logs::Logs;
use super::loss::{LossType, token_loss, token_weights};
use super::options::{Event, Options, RewardStatistics, Sample, Step};
use super::pairs::{Pair, Pairs};
use super::policy::{Policy, PolicyFiles, SamplingOptions};
use super::replay::spread;
use super::rewards::critic::{self, Critic};
use super::rewards::{Reward, TERMS};
use super::rollout::{CompletionGroup, Rollout, Row, statistics, sums};
use super::{checkpoint, memory};
use crate::base::MemoryPlan;
use crate::runtime::memory::free_memory;
use crate::runtime::weights::Weights;
use crate::runtime::{accelerator, precision};
use crate::train::TrainError;
use crate::train::adamw::norm;
use crate::train::distributed::{Share, World};
use crate::train::seed::derived_seed;
use crate::train::state::{self, Position};
use crate::train::warnings::{RETRY, Warnings};

/// Steps in a row whose gradients are not finite, or without any rating, after which it ends.
const MOST_SKIPPED: usize = 20;
/// The KL of one step may be far off by one unlikely token: so many are looked at together.
const KL_STEPS: usize = 10;

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
            let has_diverged = matches!(error, TrainError::Infinite(_) | TrainError::Collapsed { .. });
            let is_new = training.position.step > training.saved && training.may_save();
            if is_new
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

struct Training<'a> {
    options: &'a Options,
    world: &'a mut World,
    /// Somebody has asked this process to stop; or any of them.
    is_stopped: bool,
    all_stop: bool,
    policy: Policy,
    critic: Box<dyn Critic>,
    plan: MemoryPlan,
    pairs: Pairs,
    rollout: Rollout,
    position: Position,
    /// What must not change within a training.
    fixed: Vec<(&'static str, u64)>,
    /// The step that was saved last, and when another could not be.
    saved: usize,
    unsaved_since: Option<Instant>,
    /// The first process's alone.
    logs: Option<Logs>,
    warnings: Warnings,
}

/// Sums over the tokens, completions and groups of a step, to which those of other processes can be added.
#[derive(Default)]
struct Sums {
    loss: f64,
    kl: f64,
    entropy: f64,
    clipped: f64,
    tokens: f64,
    groups: f64,
    zero_std: f64,
    skipped: f64,
    completions: f64,
    truncated: f64,
    length: f64,
    unrated: f64,
    rewards: [f64; 1 + 2 * (TERMS.len() + 1)],
}

impl Sums {
    fn numbers(&mut self) -> Vec<&mut f64> {
        let Self { loss, kl, entropy, clipped, tokens, groups, zero_std, skipped, .. } = self;
        let mut all = vec![loss, kl, entropy, clipped, tokens, groups, zero_std, skipped];
        all.extend([&mut self.completions, &mut self.truncated, &mut self.length, &mut self.unrated]);
        all.extend(&mut self.rewards);
        all
    }

    fn add_group(&mut self, group: &CompletionGroup) {
        self.groups += 1.0;
        self.zero_std += f64::from(u8::from(group.has_zero_std()));
        self.skipped += f64::from(u8::from(group.is_skipped()));
        self.completions += group.completions.len() as f64;
        self.truncated += group.is_truncated.iter().filter(|&&is| is).count() as f64;
        self.length += group.completions.iter().map(Vec::len).sum::<usize>() as f64;
        self.unrated += (group.rewards.len() - group.rated()) as f64;
        for (sum, number) in self.rewards.iter_mut().zip(sums(group.rewards.iter())) {
            *sum += number;
        }
    }
}

impl<'a> Training<'a> {
    fn open(
        options: &'a Options,
        world: &'a mut World,
        on_event: &mut dyn FnMut(Event) -> bool,
    ) -> Result<Self, TrainError> {
        let out = &options.output;
        let pairs = Pairs::open(&options.pairs)?;
        let mut critic = critic::open(&options.critic)?;
        std::fs::create_dir_all(out).map_err(|error| TrainError::unwritten(out, error))?;
        let weights = Weights::open_folder(&options.model, "model")?;
        let base_dtype = precision::for_weights(options.precision, &weights, options.device);
        let lora = match &options.adapter {
            Some(folder) => LoraInit::Folder(folder.clone(), Some(options.lora.dropout)),
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
        let (position, rollout) = match &options.resume {
            Some(folder) => {
                let file = checkpoint::state(folder);
                let position = state::load(&mut policy.groups, &fixed, &file)?;
                (position, Rollout::load(&Weights::open(&file)?)?)
            }
            None => (Position::default(), Rollout::default()),
        };
        let is_spent = rollout.used >= options.steps_of_rollout() || rollout.groups.is_empty();
        if !is_spent && (rollout.groups.len() != options.groups_of_rollout() || world.size() > 1) {
            let found = "it lies between the steps of one generation; go on with the same batch, in one process";
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
        let place = |folder: &Path| folder.canonicalize().ok();
        let is_same = critic.folder().and_then(place).is_some_and(|folder| Some(folder) == place(&options.model));
        let is_shared = is_same && options.critic.device == options.device;
        let tokens = options.num_generations * options.sampling.max_completion_length;
        let step = memory::step_bytes(&policy.processor.config.language, tokens, options.gradient_checkpointing);
        let needed = policy.bytes() + critic.bytes() + step;
        let plan = match (options.memory, free_memory(options.device)) {
            _ if is_shared || critic.bytes() == 0 || options.critic.device != options.device => MemoryPlan::Resident,
            (MemoryPlan::Auto, Some(free)) if free < needed => MemoryPlan::Staged,
            (MemoryPlan::Auto | MemoryPlan::Resident, _) => MemoryPlan::Resident,
            _ => MemoryPlan::Staged,
        };
        let is_stopped = !on_event(Event::Begins(position.step, plan));
        policy.load()?;
        if is_shared {
            critic.share(Some(policy.base()?));
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
            position,
            fixed,
            saved: position.step,
            unsaved_since: None,
            logs,
            warnings,
        })
    }

    /// Several processes have a rollout each, of which the first one's alone would be saved.
    fn may_save(&self) -> bool {
        self.world.size() == 1 || self.is_spent()
    }

    fn is_spent(&self) -> bool {
        self.rollout.groups.is_empty() || self.rollout.used >= self.options.steps_of_rollout()
    }

    fn run(&mut self, on_event: &mut dyn FnMut(Event) -> bool) -> Result<usize, TrainError> {
        let options = self.options;
        let (mut infinite, mut unrated, mut without_difference, mut recent) = (0, 0, 0, VecDeque::new());
        if self.position.step == 0 {
            self.validate(false, on_event)?;
        }
        while self.position.step < options.steps {
            if self.is_stopped && self.world.size() == 1 {
                break;
            }
            let Some(step) = self.step(on_event)? else { break };
            self.is_stopped |= !on_event(Event::Step(&step));
            let counted = |count: usize, is: bool| if is { count + 1 } else { 0 };
            infinite = counted(infinite, !step.norm.is_finite());
            unrated = counted(unrated, step.rewards.mean[0].is_nan());
            without_difference = counted(without_difference, step.zero_std_share == 1.0);
            if infinite >= MOST_SKIPPED {
                return Err(TrainError::Infinite(infinite));
            }
            if unrated >= MOST_SKIPPED {
                return Err(TrainError::Unrated(unrated));
            }
            if recent.len() == KL_STEPS {
                recent.pop_front();
            }
            recent.push_back(step.kl);
            let kl = recent.iter().sum::<f64>() / recent.len() as f64;
            if recent.len() == KL_STEPS && kl > options.max_kl {
                return Err(TrainError::Collapsed { kl, limit: options.max_kl });
            }
            let is_flat = without_difference >= options.early_stopping_steps;
            if is_flat {
                let why = format!("all rewards of each group were equal, {without_difference} steps in a row");
                on_event(Event::Stops(&why));
            }
            // Several processes stop together, one step after one of them was asked to.
            let stops = is_flat || if self.world.size() == 1 { self.is_stopped } else { self.all_stop };
            let is_last = step.number == options.steps || (stops && self.may_save());
            self.validate(is_last && !stops, on_event)?;
            // What could not be saved is tried again: a disk that is full may be cleared.
            let is_retried = self.unsaved_since.is_some_and(|since| since.elapsed() >= RETRY);
            let is_due = step.number.is_multiple_of(options.checkpointing_steps);
            if !is_last && (is_due || is_retried) && self.may_save() {
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
        if self.position.step > self.saved {
            self.save()?;
        }
        for warning in self.warnings.new_ones() {
            on_event(Event::Warning(&warning));
        }
        Ok(self.position.step)
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
        // Without any gradient there is nothing to be learned, and decay alone would wear off what was.
        let is_skipped = !norm.is_finite() || norm == 0.0;
        let group = &mut self.policy.groups[0];
        match is_skipped {
            false => group.step(rate, &gradients, norm, &options.settings)?,
            true if norm == 0.0 => (),
            true => group.scale = (group.scale / 2.0).max(1.0),
        }
        self.rollout.used += 1;
        self.position.step += 1;
        let peak_memory = match accelerator::memory(options.device) {
            Some(memory) => Some(memory.peak),
            None => crate::base::memory::peak_resident(),
        };
        let step = Step {
            number: self.position.step,
            loss: sums.loss,
            rewards: statistics(&sums.rewards),
            zero_std_share: sums.zero_std / sums.groups,
            kl: sums.kl / sums.tokens.max(1.0 / size),
            entropy: sums.entropy / sums.tokens.max(1.0 / size),
            clipped_share: sums.clipped / sums.tokens.max(1.0 / size),
            length: sums.length / sums.completions,
            truncated_share: sums.truncated / sums.completions,
            unrated: sums.unrated * size,
            skipped_groups: sums.skipped * size,
            norm,
            is_skipped,
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

    fn rows<'g>(&self, group: &'g CompletionGroup) -> Vec<Row<'g>> {
        group.rows(self.options.loss.scale_rewards, self.options.mask_truncated)
    }

    /// Makes the questions of groups that come from a checkpoint.
    fn prepare(&mut self, groups: std::ops::Range<usize>) -> Result<(), TrainError> {
        for group in &mut self.rollout.groups[groups] {
            if group.prompt.is_none() {
                let pair = self.pairs.pair(self.options.seed, group.item)?;
                group.prompt = Some(self.policy.encode(&pair.pictures)?.0);
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
        self.policy.backward(prompt, &completions, temperature, pass, |found| {
            let log_probs = found.log_probs.f_set_requires_grad(true)?;
            let [old, reference] = match &group.log_probs {
                Some(known) => known.each_ref().map(|tensor| tensor.to_device(options.device)),
                // One step is made of it: the policy is the one that has sampled.
                None => {
                    let reference = self.policy.log_probs(prompt, &completions, temperature, None)?.log_probs;
                    [log_probs.f_detach()?, reference]
                }
            };
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
    fn pass(&self, group: &CompletionGroup) -> u64 {
        derived_seed("pass", &[self.options.seed, group.item]).max(1)
    }

    /// Samples and rates the next groups. Returns the seconds of both; `None` where it was asked to stop meanwhile.
    fn roll_out(&mut self, on_event: &mut dyn FnMut(Event) -> bool) -> Result<Option<[f64; 2]>, TrainError> {
        let options = self.options;
        let count = options.groups_of_rollout();
        let [batch, rank, size] = [options.batch, self.world.rank(), self.world.size()].map(|number| number as u64);
        let share = Share { first: self.position.items, batch, rank, size };
        let (start, mut groups, mut pairs) = (Instant::now(), Vec::new(), Vec::new());
        let mut asked = Vec::new();
        for i in 0..count {
            if !self.goes_on(Event::Rollout("sampling", i, count), on_event) {
                return Ok(None);
            }
            let item = share.item(i as u64);
            let pair = self.pairs.pair(options.seed, item)?;
            let seeds: Vec<u64> = (0..options.num_generations as u64)
                .map(|i| derived_seed("completion", &[options.seed, item, i]))
                .collect();
            let (prompt, _) = self.policy.encode(&pair.pictures)?;
            let completions = self.policy.sample(&prompt, &options.sampling, &seeds)?;
            asked.push(self.texts(&completions)?);
            let ends = self.policy.processor.ends();
            let is_truncated = completions.iter().map(|ids| ids.last().is_none_or(|id| !ends.contains(id))).collect();
            let prompt = Some(prompt);
            groups.push(CompletionGroup {
                item,
                prompt,
                completions,
                is_truncated,
                rewards: Vec::new(),
                log_probs: None,
            });
            pairs.push(pair);
        }
        let sampling = start.elapsed().as_secs_f64();
        let start = Instant::now();
        self.swap_in_critic();
        for (i, ((group, pair), texts)) in groups.iter_mut().zip(&pairs).zip(&asked).enumerate() {
            if !self.goes_on(Event::Rollout("rating", i, count), on_event) {
                self.swap_in_policy()?;
                return Ok(None);
            }
            group.rewards = self.rewards(pair, texts)?;
            let reward = |reward: &Reward| std::array::from_fn(|i| *reward.terms.get(i).unwrap_or(&reward.total));
            let samples = texts.iter().zip(&group.rewards);
            let samples = samples.map(|(text, found)| Sample {
                file: pair.file.clone(),
                text: text.clone(),
                reward: reward(found),
            });
            self.is_stopped |= !on_event(Event::Samples(&samples.collect::<Vec<_>>()));
        }
        self.swap_in_policy()?;
        let rating = start.elapsed().as_secs_f64();
        if options.steps_of_rollout() > 1 {
            // Parameters change between the steps: what has sampled is remembered.
            for group in &mut groups {
                let pass = derived_seed("pass", &[options.seed, group.item]).max(1);
                let rows = group.rows(options.loss.scale_rewards, options.mask_truncated);
                let completions: Vec<Vec<i64>> = rows.iter().map(|row| row.ids.to_vec()).collect();
                let Some(prompt) = group.prompt.as_ref().filter(|_| completions.iter().any(|ids| !ids.is_empty()))
                else {
                    continue;
                };
                let log_probs = |pass: Option<u64>| {
                    let found = self.policy.log_probs(prompt, &completions, options.sampling.temperature, pass)?;
                    Ok::<_, TrainError>(found.log_probs)
                };
                group.log_probs = Some([log_probs(Some(pass))?, log_probs(None)?]);
            }
        }
        self.rollout = Rollout { groups, used: 0 };
        self.position.items += (count as u64) * size;
        Ok(Some([sampling, rating]))
    }

    /// Says something; where it is asked to stop and nobody waits for this process, it does at once.
    fn goes_on(&mut self, event: Event, on_event: &mut dyn FnMut(Event) -> bool) -> bool {
        self.is_stopped |= !on_event(event);
        !self.is_stopped || self.world.size() > 1
    }

    fn texts(&self, completions: &[Vec<i64>]) -> Result<Vec<String>, TrainError> {
        let texts = completions.iter().map(|ids| Ok(self.policy.processor.text(ids)?.trim().to_owned()));
        texts.collect()
    }

    fn rewards(&mut self, pair: &Pair, texts: &[String]) -> Result<Vec<Reward>, TrainError> {
        let options = &self.options.rewards;
        let ratings = match options.needs_critic() {
            true => critic::ratings(&mut *self.critic, &pair.pictures, texts)?,
            false => vec![None; texts.len()],
        };
        Ok(texts.iter().zip(ratings).map(|(text, rating)| options.reward(text, rating)).collect())
    }

    fn swap_in_critic(&mut self) {
        if self.plan == MemoryPlan::Staged {
            self.policy.unload();
        }
    }

    fn swap_in_policy(&mut self) -> Result<(), TrainError> {
        if self.plan == MemoryPlan::Staged {
            self.critic.unload();
            self.policy.load()?;
        }
        Ok(())
    }

    fn save(&mut self) -> Result<(), TrainError> {
        if !self.world.is_first() {
            return Ok(());
        }
        let (out, options) = (&self.options.output, self.options);
        let spent = Rollout::default();
        let rollout = if self.is_spent() { &spent } else { &self.rollout };
        checkpoint::save(out, &self.policy, &self.position, &self.fixed, rollout, options.steps)?;
        self.saved = self.position.step;
        let pruned = options.checkpoints_total_limit.map_or(Ok(()), |limit| checkpoint::prune(out, limit));
        self.warnings.unless_written(pruned)?;
        let drawn = self.logs.as_ref().map_or(Ok(()), Logs::draw);
        self.warnings.unless_written(drawn)
    }

    /// Where it is time for that: held-out pairs, always the same, by the likeliest words.
    fn validate(&mut self, is_last: bool, on_event: &mut dyn FnMut(Event) -> bool) -> Result<(), TrainError> {
        let (Some((steps, most)), step) = (self.options.validation, self.position.step) else { return Ok(()) };
        let count = most.min(self.pairs.held_out_len());
        if !self.world.is_first() || count == 0 || (!step.is_multiple_of(steps) && !is_last) {
            return Ok(());
        }
        let sampling = SamplingOptions { temperature: 0.0, ..self.options.sampling };
        let (mut pairs, mut texts, mut length) = (Vec::new(), Vec::new(), 0);
        for i in 0..count {
            if !self.goes_on(Event::Rollout("validation", i, count), on_event) {
                return Ok(());
            }
            let pair = self.pairs.held_out(i)?;
            let (prompt, _) = self.policy.encode(&pair.pictures)?;
            let completions = self.policy.sample(&prompt, &sampling, &[0])?;
            length += completions.iter().map(Vec::len).sum::<usize>();
            texts.extend(self.texts(&completions)?);
            pairs.push(pair);
        }
        self.swap_in_critic();
        let mut rewards = Vec::new();
        for (pair, text) in pairs.iter().zip(&texts) {
            rewards.extend(self.rewards(pair, std::slice::from_ref(text))?);
        }
        self.swap_in_policy()?;
        let found: RewardStatistics = statistics(&sums(rewards.iter()));
        let length = length as f64 / count as f64;
        let lines = pairs.iter().zip(&texts).zip(&rewards).map(|((pair, text), reward)| {
            let name = pair.file.file_name().unwrap_or_default().to_string_lossy();
            format!("{name}\t{:.3}\t{}\n", reward.total, text.replace(['\n', '\t'], " "))
        });
        let text: String = lines.collect();
        let file = self.options.output.join(format!("validation/{step}.tsv"));
        let written = crate::base::write_atomic(&file, |out| std::io::Write::write_all(out, text.as_bytes()));
        self.warnings.unless_written(written.map_err(TrainError::from))?;
        if let Some(logs) = &mut self.logs {
            let written = logs.validation(step, &found, length);
            self.warnings.unless_written(written)?;
        }
        self.is_stopped |= !on_event(Event::Validation(step, &found, length));
        Ok(())
    }
}
