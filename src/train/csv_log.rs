//! Tables of numbers that grow while something is trained.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::TrainError;
use super::plot::{Curve, Scale, svg, thinned};
use crate::base::write_atomic;

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
        let old = match std::fs::read_to_string(&path) {
            Ok(text) if after > 0 => text,
            Err(error) if after > 0 && error.kind() != std::io::ErrorKind::NotFound => {
                return Err(TrainError::io(&path)(error));
            }
            _ => String::new(),
        };
        let step = |line: &str| line.split(',').next().and_then(|cell| cell.parse::<usize>().ok());
        let rows = old.lines().filter(|line| step(line).is_some_and(|step| step <= after));
        let text: String = std::iter::once(columns).chain(rows).flat_map(|line| [line, "\n"]).collect();
        write_atomic(&path, |out| out.write_all(text.as_bytes()))?;
        let opened = std::fs::OpenOptions::new().read(true).append(true).open(&path);
        let file = opened.map_err(|error| TrainError::unwritten(&path, error))?;
        Ok(Self { path, file, length: text.len() as u64, unwritten: String::new() })
    }

    /// Another row.
    ///
    /// # Errors
    /// Where it cannot be written now.
    pub(super) fn add(&mut self, step: usize, numbers: impl IntoIterator<Item = f64>) -> Result<(), TrainError> {
        let cells: Vec<String> =
            std::iter::once(step.to_string()).chain(numbers.into_iter().map(|number| number.to_string())).collect();
        self.unwritten += &cells.join(",");
        self.unwritten.push('\n');
        let written = self.file.write_all(self.unwritten.as_bytes()).inspect_err(|_| {
            // Half a row may be there. Where that cannot be undone either, the file is lost with its disk.
            _ = self.file.set_len(self.length);
        });
        written.map_err(|error| TrainError::unwritten(&self.path, error))?;
        self.length += self.unwritten.len() as u64;
        self.unwritten.clear();
        Ok(())
    }

    /// Draws some columns, by their names and places behind the step, as curves; nothing before there are two rows.
    ///
    /// # Errors
    /// Where the rows cannot be read, or the file cannot be written.
    pub(super) fn draw(&self, file: &Path, y: &str, scale: Scale, columns: &[(usize, &str)]) -> Result<(), TrainError> {
        let rows = self.rows()?;
        let curve = |&(column, name): &(usize, &str)| Curve {
            name: name.into(),
            points: thinned(rows.iter().filter_map(|row| Some((*row.first()?, *row.get(column + 1)?)))),
        };
        let curves: Vec<Curve> = columns.iter().map(curve).collect();
        match svg(y, scale, &curves).map_err(|error| TrainError::unwritten(file, error))? {
            Some(text) => Ok(write_atomic(file, |out| out.write_all(text.as_bytes()))?),
            None => Ok(()),
        }
    }

    /// All rows; cells that are no numbers are NaN.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub(super) fn rows(&self) -> Result<Vec<Vec<f64>>, TrainError> {
        let text = std::fs::read_to_string(&self.path).map_err(|error| TrainError::unwritten(&self.path, error))?;
        let cells = |line: &str| line.split(',').map(|cell| cell.parse().unwrap_or(f64::NAN)).collect();
        Ok(text.lines().skip(1).map(cells).collect())
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
            steps.for_each(|step| log.add(step, [step as f64 / 2.0]).unwrap());
            assert!(log.rows().unwrap().iter().all(|row| row[1] == row[0] / 2.0));
            std::fs::read_to_string(&path).unwrap()
        };
        assert_eq!(rows(0, 1..5), "step,loss\n1,0.5\n2,1\n3,1.5\n4,2\n");
        assert_eq!(rows(2, 3..4), "step,loss\n1,0.5\n2,1\n3,1.5\n");
        assert_eq!(rows(0, 1..2), "step,loss\n1,0.5\n");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn rows_wait_for_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("losses.csv");
        let mut log = CsvLog::open(path.clone(), "step,loss", 0).unwrap();
        let file = std::mem::replace(&mut log.file, std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
        assert!(log.add(1, [0.5]).is_err_and(|error| error.to_string().contains("losses.csv")));
        log.file = file;
        log.add(2, [0.25]).unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "step,loss\n1,0.5\n2,0.25\n");
    }
}
