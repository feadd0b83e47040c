//! Numbers for TensorBoard: its event files (`tensorboard/compat/proto/event.proto`), each record framed as in TFRecord files.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::TrainError;

/// A file of events.
pub(super) struct EventFile {
    path: PathBuf,
    file: File,
    /// Bytes of whole records.
    length: u64,
}

fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl EventFile {
    /// A new one in a folder of logs.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub(super) fn create(folder: &Path) -> Result<Self, TrainError> {
        let name = format!("events.out.tfevents.{:.0}.coz.{}", seconds(), std::process::id());
        let path = folder.join(name);
        let file = std::fs::create_dir_all(folder).and_then(|()| File::create(&path));
        let mut events = Self { file: file.map_err(|error| TrainError::unwritten(&path, error))?, path, length: 0 };
        let version = bytes_field(3, b"brain.Event:2");
        events.write(&[number_field(1, seconds()), version].concat())?;
        Ok(events)
    }

    /// The numbers of a step by their names.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub(super) fn add(&mut self, step: usize, numbers: &[(&str, f64)]) -> Result<(), TrainError> {
        let value = |(name, number): &(&str, f64)| {
            let mut value = bytes_field(1, name.as_bytes());
            value.push(2 << 3 | 5);
            value.extend((*number as f32).to_le_bytes());
            bytes_field(1, &value)
        };
        let summary: Vec<u8> = numbers.iter().flat_map(value).collect();
        let mut event = number_field(1, seconds());
        event.push(2 << 3);
        event.extend(varint(step as u64));
        event.extend(bytes_field(5, &summary));
        self.write(&event)
    }

    fn write(&mut self, event: &[u8]) -> Result<(), TrainError> {
        let record = record(event);
        let written = self.file.write_all(&record).inspect_err(|_| {
            // Behind half a record nothing is read.
            _ = self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
        });
        written.map_err(|error| TrainError::unwritten(&self.path, error))?;
        self.length += record.len() as u64;
        Ok(())
    }
}

/// As TFRecord files have it: length, its checksum, the data, its checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &checksum(&length), data, &checksum(data)].concat()
}

/// CRC-32C, turned and shifted: checksums of data that holds checksums are weak otherwise.
fn checksum(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn bytes_field(field: u8, bytes: &[u8]) -> Vec<u8> {
    let mut all = vec![field << 3 | 2];
    all.extend(varint(bytes.len() as u64));
    all.extend(bytes);
    all
}

fn number_field(field: u8, number: f64) -> Vec<u8> {
    let mut all = vec![field << 3 | 1];
    all.extend(number.to_le_bytes());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The record that TensorBoard 2.21's own writer makes of this event.
    #[test]
    fn records_equal_tensorboards() {
        let mut event = number_field(1, 1.5);
        event.push(2 << 3);
        event.extend(varint(300));
        let mut value = bytes_field(1, b"loss/l2");
        value.push(2 << 3 | 5);
        value.extend(0.25_f32.to_le_bytes());
        event.extend(bytes_field(5, &bytes_field(1, &value)));
        assert_eq!(hex::encode(record(&event)), RECORD);
    }

    const RECORD: &str = "1e00000000000000d9dc123209000000000000f83f10ac022a100a0e0a076c6f73732f6c32150000803eb71f1c85";
}
