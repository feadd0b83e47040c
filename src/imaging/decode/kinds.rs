//! Pictures, and what people take for pictures, of kinds that are not read: told by their first bytes and named as what they
//! are.

const CONVERT: &str = "Convert it to PNG or JPEG.";

/// The kind of a file that libheif reads, with its article.
pub(super) fn heif(start: &[u8]) -> Option<&'static str> {
    // Its own brand, its version, and the brands it is compatible with.
    let length = usize::from(*start.get(3)?).min(start.len());
    let brands = start.get(8..length)?.as_chunks::<4>().0;
    let is_one_of = |known: &[&[u8; 4]]| brands.iter().any(|brand| known.contains(&brand));
    if is_one_of(&[b"avif", b"avis"]) {
        Some("an AVIF picture")
    } else if is_one_of(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"]) {
        Some("a HEIC picture")
    } else if is_one_of(&[b"mif1", b"msf1"]) {
        Some("a HEIF picture")
    } else {
        None
    }
}

/// What a file is that begins so, with its article, and what to do about it; `None` where it may be one that is read.
pub(super) fn not_read(start: &[u8]) -> Option<(&'static str, &'static str)> {
    let at = |from: usize, what: &[u8]| start.get(from..from + what.len()) == Some(what);
    if at(4, b"ftyp") {
        // The brand of an ISO base media file.
        return Some(match start.get(8..12).unwrap_or_default() {
            b"crx " => ("a camera's raw file (CR3)", "Develop it with a raw converter first."),
            b"jp2 " | b"jpx " => ("a JPEG 2000 picture", CONVERT),
            _ => ("a film", "Take a picture out of it first."),
        });
    }
    Some(match start {
        _ if at(4, b"jP  ") || at(0, &[0xff, 0x4f, 0xff, 0x51]) => ("a JPEG 2000 picture", CONVERT),
        [b'8', b'B', b'P', b'S', ..] => ("a Photoshop file", "Export it as PNG."),
        _ if at(0, b"gimp xcf") => ("a GIMP file", "Export it as PNG."),
        _ if at(0, b"FUJIFILM") || at(0, b"IIRO") => ("a camera's raw file", "Develop it with a raw converter first."),
        _ if at(0, b"%PDF") => ("a PDF", "Export the page as PNG."),
        _ if at(0, b"%!PS") => ("a PostScript file", "Export the page as PNG."),
        [b'W', b'M', b'F', ..] | [0xd7, 0xcd, 0xc6, 0x9a, ..] => ("a Windows metafile", CONVERT),
        _ => {
            let text = start.trim_ascii_start();
            let begins = |with: &[u8]| text.get(..with.len()).is_some_and(|it| it.eq_ignore_ascii_case(with));
            if begins(b"<svg") || (begins(b"<?xml") && start.windows(4).any(|it| it.eq_ignore_ascii_case(b"<svg"))) {
                ("an SVG drawing", "Export it as PNG, as large as you need it.")
            } else if begins(b"<!doctype html") || begins(b"<html") {
                ("a web page", "Download the picture itself.")
            } else {
                return None;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libheif_reads_is_known_by_its_brands() {
        assert_eq!(heif(b"\0\0\0\x18ftypavif\0\0\0\0mif1miaf"), Some("an AVIF picture"));
        assert_eq!(heif(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"), Some("a HEIC picture"));
        assert_eq!(heif(b"\0\0\0\x18ftypisom\0\0\x02\0isommp41"), None);
        assert_eq!(heif(b"\0\0\0\xffftyp"), None);
    }

    #[test]
    fn each_is_named() {
        let kind_of = |start: &[u8]| not_read(start).map(|(kind, _)| kind).unwrap_or("");
        for (start, name) in [(&b"<?xml version=\"1.0\"?><svg xmlns"[..], "SVG"), (b"8BPS\0\x01", "Photoshop")] {
            assert!(kind_of(start).contains(name), "{name}: {}", kind_of(start));
        }
        for start in
            [&b"\xff\xd8\xff\xe0"[..], b"\x89PNG\r\n", b"RIFF....WEBP", b"II*\0", b"GIF89a", b"BM", b"P6\n", b""]
        {
            assert_eq!(kind_of(start), "");
        }
    }
}
