//! Files as `torch.save` writes them: a zip archive of a pickle and the tensors' storages.

use std::io::{Seek, Write};
use std::path::Path;

use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::numbers::Numbers;
use super::{RandomError, Tensors};

/// A list of tensors; their names only choose the size of their numbers.
pub(super) fn list(file: &Path, tensors: &Tensors, numbers: &mut Numbers) -> Result<(), RandomError> {
    let mut pickle = b"\x80\x02](".to_vec();
    for (i, (_, shape)) in tensors.iter().enumerate() {
        tensor(&mut pickle, i, shape);
    }
    pickle.extend(b"e.");
    save(file, &pickle, tensors, numbers)
}

/// A dictionary of tensors by name; where `under` is given, as the one entry of that name in another.
pub(super) fn dictionary(
    file: &Path,
    under: Option<&str>,
    tensors: &Tensors,
    numbers: &mut Numbers,
) -> Result<(), RandomError> {
    let mut pickle = b"\x80\x02".to_vec();
    if let Some(name) = under {
        pickle.push(b'}');
        text(&mut pickle, name);
    }
    pickle.extend(b"}(");
    for (i, (name, shape)) in tensors.iter().enumerate() {
        text(&mut pickle, name);
        tensor(&mut pickle, i, shape);
    }
    pickle.push(b'u');
    if under.is_some() {
        pickle.push(b's');
    }
    pickle.push(b'.');
    save(file, &pickle, tensors, numbers)
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
fn tensor(pickle: &mut Vec<u8>, key: usize, shape: &[i64]) {
    pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(pickle, "storage");
    pickle.extend(b"ctorch\nHalfStorage\n");
    text(pickle, &key.to_string());
    text(pickle, "cpu");
    number(pickle, shape.iter().product());
    pickle.extend(b"tQ");
    number(pickle, 0);
    pickle.push(b'(');
    shape.iter().for_each(|&size| number(pickle, size));
    pickle.extend(b"t(");
    (1..=shape.len()).for_each(|i| number(pickle, shape[i..].iter().product()));
    pickle.extend(b"t\x89ccollections\nOrderedDict\n)RtR");
}

fn save(file: &Path, pickle: &[u8], tensors: &Tensors, numbers: &mut Numbers) -> Result<(), RandomError> {
    let written = super::create(file).and_then(|out| {
        let mut zip = ZipWriter::new(out);
        entry(&mut zip, "data.pkl", pickle)?;
        entry(&mut zip, "byteorder", b"little")?;
        for (i, (name, shape)) in tensors.iter().enumerate() {
            entry(&mut zip, &format!("data/{i}"), &numbers.half(name, shape))?;
        }
        entry(&mut zip, "version", b"3\n")?;
        zip.finish()?;
        Ok(())
    });
    written.map_err(|source| RandomError::Write { file: file.to_owned(), source })
}

fn entry<W: Write + Seek>(zip: &mut ZipWriter<W>, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    zip.start_file(format!("archive/{name}"), options)?;
    zip.write_all(bytes)
}
