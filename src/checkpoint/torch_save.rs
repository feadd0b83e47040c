//! The containers of `torch.save`: a zip with `data.pkl` and raw storages (since PyTorch 1.6; TorchScript's are the same,
//! with a program beside them), and before that a row
//! of pickles with the storages behind them.

use std::collections::{BTreeMap, HashMap};

use super::pickle::{TensorView, Value};
use super::zip_directory::Entry;
use super::{Notes, Stored, pickle, zip_directory};

/// Storage key -> where its bytes start and how many there are.
type Storages = HashMap<String, (usize, usize)>;

/// Whether a zip container is a program, compiled by TorchScript.
pub(super) fn is_torchscript(bytes: &[u8]) -> bool {
    let is_program = |name: &str| name.ends_with("/constants.pkl") || name.contains("/code/");
    let is_zip = bytes.starts_with(b"PK");
    is_zip && zip_directory::entries(bytes).is_ok_and(|all| all.iter().any(|entry| is_program(&entry.name)))
}

/// What was saved, and where its storages are.
type Saved = (Value, Storages);

/// The tensors of a file that starts as `torch.save` starts one; `None` of others.
pub(super) fn index(bytes: &[u8]) -> Option<Result<BTreeMap<String, Stored>, String>> {
    Some(saved(bytes)?.and_then(|(root, storages)| located(&root, &storages)))
}

/// What is beside the tensors in the dictionary that was saved.
pub(super) fn notes(bytes: &[u8]) -> Result<Notes, String> {
    let mut notes = Notes::default();
    let Some((Value::Dict(entries), _)) = saved(bytes).transpose()? else { return Ok(notes) };
    for (name, value) in entries.borrow().iter() {
        let Value::Text(name) = name else { continue };
        match value {
            Value::Int(number) => _ = notes.numbers.insert(name.clone(), *number),
            Value::List(items) => {
                let text = |item: &Value| match item {
                    Value::Text(text) => Some(text.clone()),
                    _ => None,
                };
                notes.lists.insert(name.clone(), items.borrow().iter().filter_map(text).collect());
            }
            _ => {}
        }
    }
    Ok(notes)
}

fn saved(bytes: &[u8]) -> Option<Result<Saved, String>> {
    match bytes {
        [b'P', b'K', 3, 4, ..] => Some(saved_zip(bytes)),
        [0x80, 2..=5, ..] => Some(saved_legacy(bytes)),
        _ => None,
    }
}

/// A zip container. Storages must be uncompressed, as torch writes them.
fn saved_zip(bytes: &[u8]) -> Result<Saved, String> {
    let entries = zip_directory::entries(bytes)?;
    let mut storages = Storages::new();
    let mut root = None;
    for Entry { name, is_stored, start, size } in entries {
        let data = start.checked_add(size).and_then(|end| bytes.get(start..end));
        // Everything lies in one folder, whatever its name.
        let Some((_, inside)) = name.split_once('/') else { continue };
        match (inside, data) {
            ("data.pkl" | "byteorder", Some(_)) if !is_stored => return Err(format!("{name} is compressed")),
            ("data.pkl", Some(data)) => root = Some(pickle::read(data)?.0),
            ("byteorder", Some(data)) if data != b"little" => return Err("it is big-endian".into()),
            (inside, _) if inside.starts_with("data/") => {
                if !is_stored {
                    return Err(format!("{name} is compressed"));
                }
                storages.insert(inside["data/".len()..].to_owned(), (start, size));
            }
            _ => {}
        }
    }
    Ok((root.ok_or("it is a zip archive without data.pkl: no model of torch.save")?, storages))
}

/// The format before PyTorch 1.6: magic number, protocol, system, value, storage keys, storages.
fn saved_legacy(bytes: &[u8]) -> Result<Saved, String> {
    let mut at = 0;
    let mut next = || -> Result<(Value, usize), String> {
        let (value, length) = pickle::read(bytes.get(at..).unwrap_or_default())?;
        at += length;
        Ok((value, at))
    };
    if !matches!(next()?.0, Value::Int(i64::MAX)) {
        return Err("it is a pickle, but not one of torch.save".into());
    }
    // The protocol's number and the system that wrote it.
    next()?;
    next()?;
    let root = next()?.0;
    let (keys, mut at) = next()?;
    let Value::List(keys) = keys else { return Err("it has no list of storages".into()) };
    let sizes: HashMap<String, usize> =
        root.tensors()?.into_iter().map(|(_, view)| (view.storage.key, view.storage.dtype.bitsize() / 8)).collect();
    let mut storages = Storages::new();
    for key in keys.borrow().iter() {
        let Value::Text(key) = key else { return Err("it has a storage without a name".into()) };
        let length =
            bytes.get(at..at.saturating_add(8)).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        let length = length.ok_or("it ends early (truncated?)")?;
        // A storage that no tensor uses has an unknown element size; torch does not write such.
        let element = *sizes.get(key).ok_or_else(|| format!("storage {key} belongs to no tensor"))?;
        let size = (length as usize).checked_mul(element).filter(|&size| size <= bytes.len() - at - 8);
        let size = size.ok_or("it ends early (truncated?)")?;
        storages.insert(key.clone(), (at + 8, size));
        at += 8 + size;
    }
    Ok((root, storages))
}

fn located(root: &Value, storages: &Storages) -> Result<BTreeMap<String, Stored>, String> {
    root.tensors()?.into_iter().map(|(name, view)| Ok((name.clone(), stored(&name, &view, storages)?))).collect()
}

fn stored(name: &str, view: &TensorView, storages: &Storages) -> Result<Stored, String> {
    let key = &view.storage.key;
    let &(start, size) = storages.get(key).ok_or_else(|| format!("tensor {name}: its storage {key} is missing"))?;
    let element = view.storage.dtype.bitsize() / 8;
    let offset = view.offset.checked_mul(element).ok_or_else(|| format!("tensor {name} has an absurd offset"))?;
    let stored = Stored {
        dtype: view.storage.dtype,
        shape: view.shape.clone(),
        strides: view.strides.clone(),
        start: start.saturating_add(offset),
    };
    let end = stored.span().and_then(|span| span.checked_add(offset));
    if view.storage.numel.checked_mul(element).is_none_or(|claimed| claimed > size) || end.is_none_or(|end| end > size)
    {
        return Err(format!("tensor {name} {:?} reaches beyond its storage (truncated?)", stored.shape));
    }
    Ok(stored)
}
