//! `checkpoint-S/`: the PEFT folder of a step, and beside it what the training needs to go on. A folder is there whole or not at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;
use tch::Tensor;

use super::adapter;
use super::limits::Limits;
use super::policy::Policy;
use super::rollout::Rollout;
use crate::base::write_atomic;
use crate::train::TrainError;
use crate::train::files::write_safetensors;
use crate::train::state::{Fixed, Position, tensors};

/// The state within.
const STATE: &str = "state.safetensors";
const START: &str = "checkpoint-";

/// The folder of a step.
pub fn folder(out: &Path, step: usize) -> PathBuf {
    out.join(format!("{START}{step}"))
}

/// The state in a checkpoint's folder.
pub fn state(checkpoint: &Path) -> PathBuf {
    checkpoint.join(STATE)
}

/// Writes the folder of a step: in another place first, from which it is renamed.
///
/// # Errors
/// Where it cannot be written.
pub(super) fn save(
    out: &Path,
    policy: &Policy,
    position: &Position,
    fixed: &Fixed,
    (rollout, limits): (&Rollout, &Limits),
    steps: usize,
) -> Result<(), TrainError> {
    let (to, part) = (folder(out, position.step), out.join(format!(".{START}{}.part", position.step)));
    let written = fill(&part, policy, position, fixed, (rollout, limits), steps).and_then(|()| {
        // Where a training was begun again from an earlier step.
        remove(&to)?;
        std::fs::rename(&part, &to).map_err(|error| TrainError::unwritten(&to, error))
    });
    written.inspect_err(|_| {
        // What is left of it only takes room; where that cannot be deleted either, the first error says why.
        _ = remove(&part);
    })?;
    if cfg!(unix) {
        let synced = std::fs::File::open(out).and_then(|folder| folder.sync_all());
        _ = synced.inspect_err(|error| tracing::warn!("{} could not be synced: {error}", out.display()));
    }
    Ok(())
}

fn fill(
    part: &Path,
    policy: &Policy,
    position: &Position,
    fixed: &Fixed,
    (rollout, limits): (&Rollout, &Limits),
    steps: usize,
) -> Result<(), TrainError> {
    remove(part)?;
    adapter::write(part, &policy.adapter_config, &policy.groups[0])?;
    let mut all: BTreeMap<String, Tensor> = tensors(&policy.groups, position, fixed)?;
    rollout.save(&mut all)?;
    limits.save(&mut all)?;
    write_safetensors(&part.join(STATE), &all)?;
    let about = json!({ "global_step": position.step, "max_steps": steps, "num_groups": position.items });
    let file = part.join("trainer_state.json");
    Ok(write_atomic(&file, |out| std::io::Write::write_all(out, format!("{about:#}\n").as_bytes()))?)
}

fn remove(folder: &Path) -> Result<(), TrainError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(TrainError::unwritten(folder, error)),
        _ => Ok(()),
    }
}

/// Steps of the checkpoints in a folder of results, in their order.
fn steps(out: &Path) -> Vec<usize> {
    let entries = std::fs::read_dir(out).into_iter().flatten().flatten();
    let step = |name: &str| name.strip_prefix(START)?.parse().ok();
    let mut steps: Vec<usize> = entries.filter_map(|entry| step(entry.file_name().to_str()?)).collect();
    steps.retain(|&step| state(&folder(out, step)).is_file());
    steps.sort_unstable();
    steps
}

/// The checkpoint of the most steps.
pub fn latest(out: &Path) -> Option<PathBuf> {
    steps(out).last().map(|&step| folder(out, step))
}

/// Refuses a folder that holds checkpoints of later steps than a training begins with.
///
/// # Errors
/// Where there are such.
pub(super) fn check_unused(out: &Path, first: usize) -> Result<(), TrainError> {
    match steps(out).last() {
        Some(&step) if step > first => Err(TrainError::InUse { folder: out.to_owned(), step }),
        _ => Ok(()),
    }
}

/// Deletes all but the `limit` newest ones.
///
/// # Errors
/// What cannot be deleted.
pub(super) fn prune(out: &Path, limit: usize) -> Result<(), TrainError> {
    let steps = steps(out);
    steps[..steps.len().saturating_sub(limit)].iter().try_for_each(|&step| remove(&folder(out, step)))
}
