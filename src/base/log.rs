//! The log: what was odd and went on, in a file in the data folder that starts anew before it is large (`tracing`). What
//! libraries tell through `log`, wgpu among them, is in it too.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;

use tracing_rolling_file::{RollingConditionBase, RollingFileAppenderBase};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::Folders;

/// Size of a file, and how many older ones are kept beside it.
const BYTES: u64 = 1_000_000;
const OLDER: usize = 4;

/// Every record is in the file as soon as it is written: a crash loses none.
struct Unbuffered(RollingFileAppenderBase);

impl Write for Unbuffered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.write(bytes)?;
        self.0.flush()?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Begins to write the log of this process, panics included. Processes may share the file.
///
/// # Errors
/// Where there is no place for it, or it cannot be written; the program runs without.
pub fn start() -> io::Result<()> {
    let file = Folders::of_user().ok_or_else(|| io::Error::other("this user has no home"))?.log_file();
    write_to(&file)?.try_init().map_err(io::Error::other)?;
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or("unknown");
        let place = panic.location().map(|place| format!("{}:{}", within_crate(place.file()), place.line()));
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        tracing::error!("panicked at {} in thread {thread}: {text}", place.unwrap_or_default());
        eprintln!("internal error: {text}; `coz doctor` shows what a bug report needs");
    }));
    Ok(())
}

/// A source file, from its crate's folder on: where it lay when it was compiled helps nobody.
fn within_crate(file: &str) -> &str {
    let starts = |part: &str| file.rfind(part).map(|at| at + 1);
    let source = ["/src/", "\\src\\", "/library/", "\\library\\"].into_iter().filter_map(starts).max();
    let Some(source) = source else { return file };
    &file[file[..source - 1].rfind(['/', '\\']).map_or(0, |at| at + 1)..]
}

fn write_to(file: &Path) -> io::Result<impl SubscriberInitExt + tracing::Subscriber> {
    let name = file.to_str().ok_or_else(|| io::Error::other(format!("{} is not UTF-8", file.display())))?;
    let appender = RollingFileAppenderBase::new(name, RollingConditionBase::new().max_size(BYTES), OLDER)?;
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Mutex::new(Unbuffered(appender)));
    // Libraries tell much that is odd only to them.
    let levels =
        Targets::new().with_default(LevelFilter::WARN).with_target(env!("CARGO_CRATE_NAME"), LevelFilter::INFO);
    Ok(tracing_subscriber::registry().with(levels).with(lines))
}

/// The last lines of the log, at most so many, the oldest first.
pub fn tail(file: &Path, count: usize) -> Vec<String> {
    let older = file.with_extension("txt.1");
    let texts = [older.as_path(), file].map(|file| std::fs::read(file).unwrap_or_default());
    let text = texts.iter().map(|bytes| String::from_utf8_lossy(bytes)).collect::<String>();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_begin_with_the_crate() {
        assert_eq!(within_crate("src/base/log.rs"), "src/base/log.rs");
        assert_eq!(
            within_crate("/home/x/src/registry/src/index-1949/tiff-0.11.3/src/decoder/mod.rs"),
            "tiff-0.11.3/src/decoder/mod.rs"
        );
        assert_eq!(within_crate("C:\\x\\png-0.18\\src\\a.rs"), "png-0.18\\src\\a.rs");
    }

    #[test]
    fn files_are_few_and_small() {
        let folder = tempfile::tempdir().expect("there is room");
        let file = folder.path().join("data/log.txt");
        let log = write_to(&file).expect("it can be written");
        tracing::subscriber::with_default(log, || {
            for i in 0..70_000 {
                tracing::warn!("{i}: {}", "as long as a line is, more or less, and a little longer");
                tracing::info!(target: "wgpu_hal", "nobody needs to know");
            }
        });
        let files: Vec<_> = std::fs::read_dir(file.parent().expect("it has one")).expect("it is there").collect();
        assert_eq!(files.len(), 1 + OLDER);
        for file in files {
            let bytes = file.and_then(|file| file.metadata()).expect("it is there").len();
            assert!(bytes < BYTES + 1000, "{bytes}");
        }
        let lines = tail(&file, 50);
        assert_eq!(lines.len(), 50);
        assert!(lines[0].contains("WARN") && lines[0].contains(": 69950: as long"), "{}", lines[0]);
        assert!(lines[49].contains(": 69999: "));
        assert_eq!(tail(&file, usize::MAX).iter().filter(|line| line.contains("nobody")).count(), 0);
    }
}
