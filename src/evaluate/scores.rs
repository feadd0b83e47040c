//! Scores on disk: a row for each picture and metric, written as it comes, by which a later run knows what is done.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::metrics::Score;

/// What a score depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Key {
    /// SHA-256 of the picture's file.
    pub image: String,
    /// Of the reference's, where the metric needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// [`MetricSpec::id`](crate::base::MetricSpec::id).
    pub metric: String,
    /// Of the weights, where it has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// Program and version.
    pub program: String,
}

#[derive(Serialize, Deserialize)]
struct Row {
    #[serde(flatten)]
    key: Key,
    score: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Scores by what they depend on.
pub type ScoreCache = HashMap<Key, Score>;

/// All rows in the files `scores*.jsonl` of a folder; lines that are cut short are passed over.
///
/// # Errors
/// Where one cannot be read.
pub fn cached(folder: &Path) -> io::Result<ScoreCache> {
    let mut cache = ScoreCache::new();
    for entry in std::fs::read_dir(folder)? {
        let file = entry?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        if !(name.starts_with("scores") && name.ends_with(".jsonl")) {
            continue;
        }
        for line in String::from_utf8_lossy(&std::fs::read(&file)?).lines() {
            if let Ok(Row { key, score, reason }) = serde_json::from_str(line) {
                cache.insert(key, score.ok_or_else(|| reason.unwrap_or_default()));
            }
        }
    }
    Ok(cache)
}

/// A file that rows are added to.
pub struct ScoreLog(File);

impl ScoreLog {
    /// # Errors
    /// Where it cannot be opened.
    pub fn open(file: &Path) -> io::Result<Self> {
        let mut log = OpenOptions::new().create(true).read(true).append(true).open(file)?;
        // What a kill has cut short is a line of its own.
        let mut last = [b'\n'];
        if log.metadata()?.len() > 0 {
            log.seek(SeekFrom::End(-1))?;
            log.read_exact(&mut last)?;
        }
        if last != [b'\n'] {
            log.write_all(b"\n")?;
        }
        Ok(Self(log))
    }

    /// Adds a row, in one piece.
    ///
    /// # Errors
    /// Where the disk is full.
    pub fn add(&mut self, key: &Key, score: &Score) -> io::Result<()> {
        let row = Row { key: key.clone(), score: score.clone().ok(), reason: score.clone().err() };
        let mut line = serde_json::to_string(&row)?;
        line.push('\n');
        self.0.write_all(line.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_known_again_also_after_a_cut() {
        let folder = tempfile::tempdir().unwrap();
        let key = |metric: &str| Key {
            image: "a".into(),
            reference: None,
            metric: metric.into(),
            weights: Some("w".into()),
            program: "p".into(),
        };
        let file = folder.path().join("scores-1-of-2.jsonl");
        ScoreLog::open(&file).unwrap().add(&key("niqe"), &Ok(4.25)).unwrap();
        std::fs::write(&file, [std::fs::read(&file).unwrap(), b"{\"image\": \"a\", \"met".to_vec()].concat()).unwrap();
        ScoreLog::open(&file).unwrap().add(&key("musiq"), &Err("flat".into())).unwrap();
        let expected = ScoreCache::from([(key("niqe"), Ok(4.25)), (key("musiq"), Err("flat".into()))]);
        assert_eq!(cached(folder.path()).unwrap(), expected);
    }
}
