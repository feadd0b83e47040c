//! Files as `torch.save` writes them: a zip archive of a pickle and the tensors' storages, on the CPU, so that
//! `torch.load(weights_only=True)` reads them anywhere.

use std::io::{Seek, Write};

use safetensors::Dtype;
use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

/// What holds the tensors.
#[derive(Clone, Copy, Debug)]
pub enum Container<'a> {
    /// A list; names are not kept.
    List,
    /// A dictionary by name; where a name is given, as the one entry of that name in another.
    Dictionary(Option<&'a str>),
}

/// A tensor that is to be written.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its key.
    pub name: String,
    /// F32, F16 or BF16.
    pub dtype: Dtype,
    /// As torch counts it.
    pub shape: Vec<i64>,
}

/// Writes the tensors; `numbers` is asked for the bytes of each, little-endian and row by row, in their order.
///
/// # Errors
/// Those of the file.
pub fn write<W: Write + Seek>(
    out: W,
    container: Container,
    entries: &[Entry],
    numbers: &mut dyn FnMut(usize) -> Vec<u8>,
) -> std::io::Result<()> {
    let mut zip = ZipWriter::new(out);
    let mut fill = || {
        put(&mut zip, "data.pkl", &pickle(container, entries))?;
        put(&mut zip, "byteorder", b"little")?;
        for i in 0..entries.len() {
            put(&mut zip, &format!("data/{i}"), &numbers(i))?;
        }
        put(&mut zip, "version", b"3\n")
    };
    if let Err(error) = fill() {
        // It would try to finish the archive, and say on stderr that it cannot.
        std::mem::forget(zip);
        return Err(error);
    }
    zip.finish()?;
    Ok(())
}

fn put<W: Write + Seek>(zip: &mut ZipWriter<W>, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let options =
        SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(bytes.len() > 1 << 31);
    zip.start_file(format!("archive/{name}"), options)?;
    zip.write_all(bytes)
}

fn pickle(container: Container, entries: &[Entry]) -> Vec<u8> {
    let mut pickle = b"\x80\x02".to_vec();
    match container {
        Container::List => {
            pickle.extend(b"](");
            entries.iter().enumerate().for_each(|(i, entry)| tensor(&mut pickle, i, entry));
            pickle.push(b'e');
        }
        Container::Dictionary(under) => {
            if let Some(name) = under {
                pickle.push(b'}');
                text(&mut pickle, name);
            }
            pickle.extend(b"}(");
            for (i, entry) in entries.iter().enumerate() {
                text(&mut pickle, &entry.name);
                tensor(&mut pickle, i, entry);
            }
            pickle.push(b'u');
            if under.is_some() {
                pickle.push(b's');
            }
        }
    }
    pickle.push(b'.');
    pickle
}

fn text(pickle: &mut Vec<u8>, text: &str) {
    pickle.push(b'X');
    pickle.extend((text.len() as u32).to_le_bytes());
    pickle.extend(text.as_bytes());
}

fn number(pickle: &mut Vec<u8>, number: i64) {
    pickle.push(b'J');
    pickle.extend((number as i32).to_le_bytes());
}

/// `_rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())`.
fn tensor(pickle: &mut Vec<u8>, key: usize, entry: &Entry) {
    let storage = match entry.dtype {
        Dtype::F16 => "HalfStorage",
        Dtype::BF16 => "BFloat16Storage",
        _ => "FloatStorage",
    };
    pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(pickle, "storage");
    pickle.extend(format!("ctorch\n{storage}\n").as_bytes());
    text(pickle, &key.to_string());
    text(pickle, "cpu");
    number(pickle, entry.shape.iter().product());
    pickle.extend(b"tQ");
    number(pickle, 0);
    pickle.push(b'(');
    entry.shape.iter().for_each(|&size| number(pickle, size));
    pickle.extend(b"t(");
    (1..=entry.shape.len()).for_each(|i| number(pickle, entry.shape[i..].iter().product()));
    pickle.extend(b"t\x89ccollections\nOrderedDict\n)RtR");
}
