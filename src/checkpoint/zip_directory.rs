//! The directory of a zip archive whose files are stored as they are, as `torch.save` writes them (APPNOTE 6.3, sections 4.3
//! and 4.5.3). The zip crate refuses archives that PyTorch wrote and reads, by the length of the name they were saved under.

/// A file in the archive.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    /// It is not compressed.
    pub(super) is_stored: bool,
    /// Where its bytes start.
    pub(super) start: usize,
    /// How many there are in the archive.
    pub(super) size: usize,
}

const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const LOCATOR_64: &[u8] = b"PK\x06\x07";
const CENTRAL: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";
/// An end with the longest comment there can be.
const LONGEST_END: usize = 22 + 65535;

/// Numbers at a place; `None` beyond the end.
struct At<'a>(&'a [u8], usize);

impl At<'_> {
    fn is(&self, magic: &[u8]) -> bool {
        self.0.get(self.1..).is_some_and(|rest| rest.starts_with(magic))
    }

    fn number<const N: usize>(&self, offset: usize) -> Option<u64> {
        let from = self.1.checked_add(offset)?;
        let bytes = self.0.get(from..from.checked_add(N)?)?;
        Some(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }
}

/// All files, in the order of the directory.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn entries(bytes: &[u8]) -> Result<Vec<Entry>, String> {
    let broken = || "its zip directory is broken".to_owned();
    let (mut at, count) = directory(bytes).ok_or("it has no zip directory (cut short?)")?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let (entry, next) = entry(bytes, at).ok_or_else(broken)?;
        entries.push(entry);
        at = next;
    }
    Ok(entries)
}

/// Where the directory starts, and how many files it names.
fn directory(bytes: &[u8]) -> Option<(usize, u64)> {
    let earliest = bytes.len().saturating_sub(LONGEST_END);
    let end = (earliest..bytes.len().checked_sub(21)?).rev().find(|&at| bytes[at..].starts_with(END))?;
    let end_at = At(bytes, end);
    let (count, start) = (end_at.number::<2>(10)?, end_at.number::<4>(16)?);
    if count != 0xffff && start != 0xffff_ffff {
        return Some((usize::try_from(start).ok()?, count));
    }
    let locator = At(bytes, end.checked_sub(20)?);
    let end_64 = At(bytes, usize::try_from(locator.number::<8>(8)?).ok()?);
    if !locator.is(LOCATOR_64) || !end_64.is(END_64) {
        return None;
    }
    Some((usize::try_from(end_64.number::<8>(48)?).ok()?, end_64.number::<8>(32)?))
}

/// The file that the directory names at a place, and where the next one is named.
fn entry(bytes: &[u8], at: usize) -> Option<(Entry, usize)> {
    let central = At(bytes, at);
    if !central.is(CENTRAL) {
        return None;
    }
    let [name_length, extra_length, comment_length] =
        [28, 30, 32].map(|offset| central.number::<2>(offset).map(|length| length as usize));
    let (name_length, extra_length) = (name_length?, extra_length?);
    let name = bytes.get(at + 46..at + 46 + name_length)?;
    let extra = bytes.get(at + 46 + name_length..at + 46 + name_length + extra_length)?;
    let (mut size, mut header) = (central.number::<4>(20)?, central.number::<4>(42)?);
    // What does not fit into 32 bits is in an extra field: both sizes, then the place, as far as each is needed.
    let mut wide = field_64(extra).chunks_exact(8).map(|bytes| At(bytes, 0).number::<8>(0));
    if central.number::<4>(24)? == 0xffff_ffff {
        wide.next()?;
    }
    for number in [&mut size, &mut header] {
        if *number == 0xffff_ffff {
            *number = wide.next()??;
        }
    }
    let header = usize::try_from(header).ok()?;
    let local = At(bytes, header);
    if !local.is(LOCAL) {
        return None;
    }
    let start = header + 30 + local.number::<2>(26)? as usize + local.number::<2>(28)? as usize;
    let entry = Entry {
        name: String::from_utf8_lossy(name).into_owned(),
        is_stored: central.number::<2>(10)? == 0,
        start,
        size: usize::try_from(size).ok()?,
    };
    Some((entry, at + 46 + name_length + extra_length + comment_length?))
}

/// The numbers of the zip64 field; empty where there is none.
fn field_64(mut extra: &[u8]) -> &[u8] {
    while let [id, high, length, length_high, rest @ ..] = extra {
        let length = usize::from(*length) | usize::from(*length_high) << 8;
        let Some((field, others)) = rest.split_at_checked(length) else { return &[] };
        if (*id, *high) == (1, 0) {
            return field;
        }
        extra = others;
    }
    &[]
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use proptest::prelude::*;
    use zip::write::SimpleFileOptions;
    use zip::{CompressionMethod, ZipWriter};

    use super::*;

    fn archive(large: bool) -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(large);
        for (name, bytes) in [("x/data.pkl", &b"pickle"[..]), ("x/data/0", &[7; 100])] {
            zip.start_file(name, options).expect("in memory");
            zip.write_all(bytes).expect("in memory");
        }
        zip.finish().expect("in memory").into_inner()
    }

    #[test]
    fn files_are_found() {
        for large in [false, true] {
            let bytes = archive(large);
            let entries = entries(&bytes).expect("it is whole");
            let of = |entry: &Entry| bytes[entry.start..entry.start + entry.size].to_vec();
            assert_eq!(entries.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["x/data.pkl", "x/data/0"]);
            assert_eq!((of(&entries[0]), of(&entries[1])), (b"pickle".to_vec(), vec![7; 100]));
            assert!(entries.iter().all(|entry| entry.is_stored));
        }
        assert!(entries(b"PK\x03\x04").is_err());
    }

    proptest! {
        #[test]
        fn damage_never_panics(at in 0usize..400, value: u8, cut in 0usize..400) {
            let mut bytes = archive(false);
            let length = bytes.len();
            bytes[at % length] = value;
            bytes.truncate(length - cut % length);
            // Whatever comes of it.
            drop(entries(&bytes));
        }
    }
}
