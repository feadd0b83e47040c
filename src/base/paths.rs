//! Paths as people hand them on: from file managers' clipboards, lists in files, quoted, as `file://`.

use std::path::PathBuf;

use url::Url;

/// A path of one line, without quotes around it; an address of this machine's files is taken for the path it names.
pub fn path_of(line: &str) -> PathBuf {
    let line = line.trim();
    let quoted = |quote: char| line.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    let line = quoted('"').or_else(|| quoted('\'')).unwrap_or(line);
    let address = if line.starts_with("file:") { Url::parse(line).ok() } else { None };
    address.and_then(|address| address.to_file_path().ok()).unwrap_or_else(|| line.into())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_addresses_are_undone() {
        for (line, path) in [
            ("/x/a b.png", "/x/a b.png"),
            (" \"/x/a b.png\"\r", "/x/a b.png"),
            ("'/x/it.png'", "/x/it.png"),
            ("file:///x/a%20b.png", "/x/a b.png"),
            ("file-of-mine.png", "file-of-mine.png"),
            ("\"", "\""),
        ] {
            assert_eq!(path_of(line), PathBuf::from(path), "{line}");
        }
    }
}
