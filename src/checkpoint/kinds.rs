//! What people take for model files and is none, told by its first bytes.

use std::path::Path;

/// What a file is that begins so, with what to do about it; `None` where it may hold weights.
pub(super) fn other_kind(start: &[u8], file: &Path) -> Option<&'static str> {
    // The header of safetensors, JSON too, comes after its length, whatever the numbers of that look like.
    if matches!(start, [_, _, _, _, 0, 0, 0, 0, b'{', ..]) {
        return None;
    }
    let text = start.trim_ascii_start();
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text).trim_ascii_start();
    let begins = |with: &[u8]| text.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    let has_ending = |ending: &str| file.extension().is_some_and(|found| found.eq_ignore_ascii_case(ending));
    Some(match start {
        [0x1f, 0x8b, ..] => "it is packed by gzip: unpack it first",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "it is packed by xz: unpack it first",
        [b'B', b'Z', b'h', ..] => "it is packed by bzip2: unpack it first",
        [b'7', b'z', 0xbc, 0xaf, ..] | [b'R', b'a', b'r', b'!', ..] => "it is an archive: unpack it first",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "it is packed by Zstandard: unpack it first",
        [b'G', b'G', b'U', b'F', ..] => "it is a GGUF file, which is not read: get the weights as safetensors",
        [0x89, b'H', b'D', b'F', ..] => "it is an HDF5 file (Keras), which is not read: convert it to safetensors",
        // A protocol buffer that begins with its version and who wrote it.
        [0x08, 1..=30, 0x12 | 0x1a | 0x22 | 0x32 | 0x3a, ..] => ONNX,
        _ if has_ending("onnx") => ONNX,
        _ if begins(b"version https://git-lfs.github.com") => {
            "it is a Git LFS pointer, not the weights themselves: run `git lfs pull` in its folder"
        }
        _ if begins(b"<!doctype") || begins(b"<html") || begins(b"<head") || begins(b"<?xml") => {
            "it is a web page, not the file it tells of: download the file itself (its page has a link for that)"
        }
        [b'{' | b'[', ..] => "it is JSON, not the weights themselves",
        _ => return None,
    })
}

const ONNX: &str = "it is an ONNX model, which is not read: get the weights it was made from (.pth or .safetensors)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_named() {
        let kind_of = |start: &[u8]| other_kind(start, Path::new("x.pth")).unwrap_or("");
        for (start, name) in [
            (&b"<!DOCTYPE html>"[..], "web page"),
            (b"\n  <html lang=en>", "web page"),
            (b"\xef\xbb\xbf<!doctype html>", "web page"),
            (b"{\"error\": \"Not found\"}", "JSON"),
            (b"\x1f\x8b\x08\x00", "gzip"),
            (b"\x08\x07\x12\x07pytorch", "ONNX"),
            (b"GGUF\x03", "GGUF"),
            (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        ] {
            assert!(kind_of(start).contains(name), "{name}: {}", kind_of(start));
        }
        assert!(other_kind(b"anything", Path::new("x.ONNX")).is_some());
        // Those that may hold weights.
        for start in [
            &b"PK\x03\x04"[..],
            b"\x80\x02",
            b"\x7b\x00\x00\x00\x00\x00\x00\x00{\"a\"",
            b"\x08\x07\x12\x00\x00\x00\x00\x00{",
            b"7767517\n",
        ] {
            assert_eq!(kind_of(start), "");
        }
    }
}
