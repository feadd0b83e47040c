//! SHA-256 of files: tells whether a photo or a model is still the one that was used.

use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

/// In hexadecimal.
pub fn sha256(file: &Path) -> std::io::Result<String> {
    let mut opened = std::fs::File::open(file)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match opened.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// Of bytes in memory.
pub fn sha256_of(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    #[test]
    fn is_the_standard_one() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), "abc").expect("it can be written");
        let digest = super::sha256(file.path()).expect("it can be read");
        assert_eq!(digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
