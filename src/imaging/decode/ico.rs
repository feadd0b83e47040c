//! Windows icons: the largest of their pictures, which is a PNG in most.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek};

use super::{ImageError, Job, Picture, other, png};

/// Icons are small.
const LARGEST: u64 = 64 << 20;

pub(super) fn read(job: &mut Job, mut file: BufReader<File>) -> Result<Picture, ImageError> {
    let io = |source| ImageError::Open { file: job.file.to_owned(), source };
    let mut bytes = Vec::new();
    file.by_ref().take(LARGEST).read_to_end(&mut bytes).map_err(io)?;
    match largest(&bytes).filter(|picture| picture.starts_with(b"\x89PNG")) {
        Some(picture) => png::read(job, Cursor::new(picture)),
        None => {
            file.rewind().map_err(io)?;
            other::read(job, file)
        }
    }
}

/// The bytes of the picture with the most pixels.
fn largest(bytes: &[u8]) -> Option<&[u8]> {
    let count = u16::from_le_bytes([*bytes.get(4)?, *bytes.get(5)?]);
    let entries = bytes.get(6..)?.as_chunks::<16>().0.iter().take(count.into());
    // 0 is 256.
    let side = |length: u8| if length == 0 { 256 } else { u32::from(length) };
    let entry = entries.max_by_key(|entry| side(entry[0]) * side(entry[1]))?;
    let number = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]) as usize;
    bytes.get(number(12)..number(12).checked_add(number(8))?)
}
