//! Pictures, and what people take for pictures, of kinds that are not read: told by their first bytes and named as what they
//! are.

const CONVERT: &str = "Convert it to PNG or JPEG.";

/// What a file is that begins so, with its article, and what to do about it; `None` where it may be one that is read.
pub(super) fn not_read(start: &[u8]) -> Option<(&'static str, &'static str)> {
    let at = |from: usize, what: &[u8]| start.get(from..from + what.len()) == Some(what);
    if at(4, b"ftyp") {
        // The brand of an ISO base media file.
        return Some(match start.get(8..12).unwrap_or_default() {
            b"avif" | b"avis" => ("an AVIF picture", CONVERT),
            b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1" => {
                ("a HEIC picture", CONVERT)
            }
            b"crx " => ("a camera's raw file (CR3)", "Develop it with a raw converter first."),
            b"jxl " => ("a JPEG XL picture", CONVERT),
            b"jp2 " | b"jpx " => ("a JPEG 2000 picture", CONVERT),
            _ => ("a film", "Take a picture out of it first."),
        });
    }
    Some(match start {
        [0xff, 0x0a, ..] => ("a JPEG XL picture", CONVERT),
        _ if at(4, b"JXL ") => ("a JPEG XL picture", CONVERT),
        _ if at(4, b"jP  ") || at(0, &[0xff, 0x4f, 0xff, 0x51]) => ("a JPEG 2000 picture", CONVERT),
        [b'D', b'D', b'S', b' ', ..] => ("a DDS texture", CONVERT),
        [0x76, 0x2f, 0x31, 0x01, ..] => ("an OpenEXR picture", "Tone-map it and save it as PNG."),
        _ if at(0, b"#?RADIANCE") || at(0, b"#?RGBE") => ("a Radiance HDR picture", "Tone-map it and save it as PNG."),
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
    fn each_is_named() {
        let kind_of = |start: &[u8]| not_read(start).map(|(kind, _)| kind).unwrap_or("");
        for (start, name) in [
            (&b"\0\0\0\x20ftypavif"[..], "AVIF"),
            (b"\0\0\0\x18ftypheic", "HEIC"),
            (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
            (b"\xff\x0a\x00", "JPEG XL"),
            (b"<?xml version=\"1.0\"?><svg xmlns", "SVG"),
            (b"8BPS\0\x01", "Photoshop"),
        ] {
            assert!(kind_of(start).contains(name), "{name}: {}", kind_of(start));
        }
        for start in
            [&b"\xff\xd8\xff\xe0"[..], b"\x89PNG\r\n", b"RIFF....WEBP", b"II*\0", b"GIF89a", b"BM", b"P6\n", b""]
        {
            assert_eq!(kind_of(start), "");
        }
    }
}
