//! Tables of numbers that grow while something is trained.

use std::fmt::Display;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;

use super::TrainError;

/// A CSV file whose first column is the step. Rows that do not fit on the disk are kept, and written with the next ones.
pub(super) struct CsvLog {
    path: PathBuf,
    file: std::fs::File,
    /// Bytes of whole rows.
    length: u64,
    unwritten: String,
}

impl CsvLog {
    /// A new file; or, where a training goes on after a step, the old one with its rows up to that.
    ///
    /// # Errors
    /// Where it cannot be read or written.
    pub(super) fn open(path: PathBuf, columns: &str, after: usize) -> Result<Self, TrainError> {
        let old = match after {
            0 => String::new(),
            _ => std::fs::read_to_string(&path).unwrap_or_default(),
        };
        let is_kept = |line: &&str| {
            line.split(',').next().and_then(|cell| cell.parse().ok()).is_some_and(|step: usize| step <= after)
        };
        let rows: String = old.lines().filter(is_kept).map(|line| format!("{line}\n")).collect();
        let file = std::fs::File::create(&path).map_err(TrainError::io(&path))?;
        let mut log = Self { path, file, length: 0, unwritten: format!("{columns}\n{rows}") };
        log.write()?;
        Ok(log)
    }

    /// Another row.
    ///
    /// # Errors
    /// Where it cannot be written now.
    pub(super) fn add(&mut self, cells: &[&dyn Display]) -> Result<(), TrainError> {
        let cells: Vec<String> = cells.iter().map(ToString::to_string).collect();
        self.unwritten += &cells.join(",");
        self.unwritten.push('\n');
        self.write()
    }

    fn write(&mut self) -> Result<(), TrainError> {
        let written = self.file.write_all(self.unwritten.as_bytes()).inspect_err(|_| {
            // Half a row may be there. Where that cannot be undone either, the file is lost with its disk.
            _ = self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
        });
        written.map_err(|error| TrainError::unwritten(&self.path, error))?;
        self.length += self.unwritten.len() as u64;
        self.unwritten.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_training_that_goes_on_keeps_the_rows_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("losses.csv");
        let rows = |after: usize, steps: std::ops::Range<usize>| {
            let mut log = CsvLog::open(path.clone(), "step,loss", after).unwrap();
            steps.for_each(|step| log.add(&[&step, &(step as f64 / 2.0)]).unwrap());
            std::fs::read_to_string(&path).unwrap()
        };
        assert_eq!(rows(0, 1..5), "step,loss\n1,0.5\n2,1\n3,1.5\n4,2\n");
        assert_eq!(rows(2, 3..4), "step,loss\n1,0.5\n2,1\n3,1.5\n");
        assert_eq!(rows(0, 1..2), "step,loss\n1,0.5\n");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn rows_wait_for_room() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut log = CsvLog { path: "/dev/full".into(), file: full, length: 0, unwritten: String::new() };
        assert!(log.add(&[&1, &0.5]).is_err_and(|error| error.to_string().contains("/dev/full")));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("losses.csv");
        log.file = std::fs::File::create(&path).unwrap();
        log.add(&[&2, &0.25]).unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "1,0.5\n2,0.25\n");
    }
}
