//! Degradations without chance: operators, parameters and noise from a file, to compare with another implementation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tch::{Kind, Tensor};

use super::{Drawn, Expected, Op, degraded};
use crate::runtime::weights::Weights;
use crate::train::TrainError;

#[derive(Deserialize)]
struct File {
    traces: Vec<Trace>,
}

/// What is done to one picture: `NAME.gt_u8` of the tensors, `[1, 3, H, W]`.
#[derive(Deserialize)]
struct Trace {
    name: String,
    ops: Vec<Op>,
}

/// Replays all traces of a JSON file, whose tensors lie in a safetensors file beside it, and writes `lq.safetensors` into a
/// folder: `NAME.lq_u8`, `[1, 3, H, W]`.
///
/// # Errors
/// What cannot be read, is missing, or cannot be computed.
pub fn replay(file: &Path, out: &Path) -> Result<PathBuf, TrainError> {
    let text = std::fs::read(file).map_err(TrainError::io(file))?;
    let File { traces } = serde_json::from_slice(&text).map_err(|error| TrainError::format(file, error))?;
    let weights = Weights::open(&beside(file)?)?;
    let tensor = |name: &str| -> Result<Tensor, TrainError> {
        let missing = || TrainError::format(weights.file(), format!("{name} is missing"));
        Ok(weights.tensor(name).ok_or_else(missing)??)
    };
    let mut results = BTreeMap::new();
    for Trace { name, ops } in &traces {
        let sharp = tensor(&format!("{name}.gt_u8"))?;
        let (_, _, height, width) = sharp.size4()?;
        let x = sharp.f_to_kind(Kind::Float)?.f_div_scalar(255.0)?;
        let result = degraded(&x, ops, &mut |drawn, is_grey, expected| {
            let Drawn::Named { gray, color } = drawn else {
                return Err(TrainError::format(file, format!("the noise of {name} has no tensors")));
            };
            let drawn = if is_grey { gray } else { color };
            let drawn =
                drawn.as_ref().ok_or_else(|| TrainError::format(file, format!("{name} lacks a drawn tensor")))?;
            let noise = tensor(&format!("{name}.{drawn}"))?.f_to_kind(Kind::Float)?;
            let wanted = match expected {
                Expected::Normal(shape) => shape,
                Expected::Counts(rates) => rates.size(),
            };
            // Batch and channel of what is one plane may be left out.
            Ok(if noise.numel() as i64 == wanted.iter().product::<i64>() { noise.f_reshape(&wanted)? } else { noise })
        })?;
        if result.size()[2..] != [height, width] {
            tracing::warn!("{name} ends as {:?}, from {height} x {width}", result.size());
        }
        results.insert(format!("{name}.lq_u8"), result.f_to_kind(Kind::Uint8)?);
    }
    let to = out.join("lq.safetensors");
    crate::train::files::write_safetensors(&to, &results)?;
    Ok(to)
}

/// The safetensors file of the same name, else the only one in the folder.
fn beside(file: &Path) -> Result<PathBuf, TrainError> {
    let same = file.with_extension("safetensors");
    if same.is_file() {
        return Ok(same);
    }
    let folder = file.parent().unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(folder).map_err(TrainError::io(folder))?;
    let files = entries.flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = files.filter(|file| file.extension().is_some_and(|it| it == "safetensors")).collect();
    match (files.pop(), files.is_empty()) {
        (Some(only), true) => Ok(only),
        _ => Err(TrainError::format(file, format!("its tensors, {}, are not there", same.display()))),
    }
}
