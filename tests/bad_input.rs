//! Bad input: one clear message, no panic, nothing written, a non-zero exit code.

use std::path::Path;

use crate::samples::{Folder, coz, photo};
use chain_of_zoom::imaging::{ImageError, Picture, codec};

/// Runs `coz zoom` on a file that cannot work and returns what it says.
fn refused(folder: &Folder, input: &Path, more: &[&str]) -> String {
    let out = folder.path("out");
    let run = coz([
        "zoom",
        "-i",
        input.to_str().unwrap(),
        "-o",
        out.to_str().unwrap(),
        "--process-size",
        "64",
        "--rec-num",
        "1",
    ])
    .args(more)
    .output()
    .unwrap();
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(!run.status.success(), "it should fail: {said}");
    assert!(run.status.code().is_some_and(|code| code == 1 || code == 2), "no crash: {:?} {said}", run.status);
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn files_that_are_no_pictures() {
    let folder = Folder::new();
    let write = |name: &str, bytes: &[u8]| {
        let file = folder.path(name);
        std::fs::write(&file, bytes).unwrap();
        file
    };
    let png = std::fs::read(folder.photo("good.png", 200, 150)).unwrap();
    let jpeg = std::fs::read(folder.photo("good.jpg", 200, 150)).unwrap();
    for (file, wanted) in [
        (write("zero.png", b""), "is empty"),
        (write("text.png", b"only words here, many of them, but no picture at all"), "not a picture in a known format"),
        (write("cut.png", &png[..png.len() / 2]), "is cut short: "),
        (write("cut.jpg", &jpeg[..jpeg.len() / 2]), "is cut short: "),
        (write("header.png", &png[..20]), "damaged or cut short"),
        (folder.path("missing.png"), "cannot open"),
    ] {
        let said = refused(&folder, &file, &[]);
        assert!(said.contains(wanted), "{wanted:?} is not in {said}");
        assert!(said.contains(file.file_name().unwrap().to_str().unwrap()), "it names the file: {said}");
    }
}

#[test]
fn a_header_that_lies_is_refused_before_anything_is_allocated() {
    // A valid PNG header that claims 60,000 x 60,000 pixels.
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    png.extend(60_000u32.to_be_bytes());
    png.extend(60_000u32.to_be_bytes());
    png.extend([8, 2, 0, 0, 0]);
    let mut crc = 0xffff_ffffu32;
    for &byte in &png[12..] {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    png.extend((!crc).to_be_bytes());
    png.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e");
    let folder = Folder::new();
    let file = folder.path("huge.png");
    std::fs::write(&file, png).unwrap();
    let said = refused(&folder, &file, &[]);
    assert!(said.contains("60000 x 60000") && said.contains("too large"), "{said}");
}

#[test]
fn odd_shapes_and_kinds_of_pictures_work() {
    let folder = Folder::new();
    let mut files = vec![
        folder.photo("dot.png", 1, 1),
        folder.photo("line.png", 1, 5000),
        folder.photo("flat.png", 5000, 1),
        folder.photo("lossless.webp", 31, 77),
    ];
    let dynamic =
        image::DynamicImage::ImageRgb8(image::RgbImage::from_raw(40, 30, photo(40, 30).rgb().to_vec()).unwrap());
    for (name, image) in [
        ("deep.png", image::DynamicImage::ImageRgb16(dynamic.to_rgb16())),
        ("grey.png", image::DynamicImage::ImageLuma8(dynamic.to_luma8())),
        ("deep_grey.png", image::DynamicImage::ImageLumaA16(dynamic.to_luma_alpha16())),
        ("alpha.png", image::DynamicImage::ImageRgba8(dynamic.to_rgba8())),
        ("deep.tiff", image::DynamicImage::ImageRgb16(dynamic.to_rgb16())),
        ("plain.bmp", dynamic.clone()),
        ("first.gif", dynamic.clone()),
    ] {
        let file = folder.path(name);
        image.save(&file).unwrap();
        files.push(file);
    }
    for file in files {
        let picture = codec::open(&file).unwrap();
        assert!(picture.width() > 0);
        let out = folder.path("fine");
        let run = coz(["zoom", "-i", file.to_str().unwrap(), "-o", out.to_str().unwrap(), "--process-size", "64"])
            .args(["--rec-num", "1", "--device", "cpu"])
            .output()
            .unwrap();
        assert!(run.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&run.stderr));
    }
    // 16 bits become 8, the rest is exact.
    assert_eq!(codec::open(&folder.path("deep.png")).unwrap(), photo(40, 30));
    assert_eq!(codec::open(&folder.path("alpha.png")).unwrap(), photo(40, 30));
}

#[test]
fn cmyk_jpeg_and_exif_orientation() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    // 24 x 16, left half red, right half blue, as CMYK with Adobe's inversion.
    let cmyk = codec::open(&fixtures.join("cmyk.jpg")).unwrap();
    let near = |pixel: [u8; 3], wanted: [u8; 3]| pixel.iter().zip(wanted).all(|(a, b)| a.abs_diff(b) < 24);
    assert!(near(cmyk.pixel(4, 8), [255, 0, 0]) && near(cmyk.pixel(20, 8), [0, 0, 255]), "{:?}", cmyk.pixel(4, 8));
    // The same picture turned by its EXIF orientation 6: a quarter to the right.
    let turned = codec::open(&fixtures.join("orientation_6.jpg")).unwrap();
    assert_eq!((turned.width(), turned.height()), (16, 24));
    assert!(near(turned.pixel(8, 4), [255, 0, 0]) && near(turned.pixel(8, 20), [0, 0, 255]));
}

#[cfg(unix)]
#[test]
fn an_output_that_cannot_be_written() {
    let folder = Folder::new();
    let photo = folder.photo("photo.png", 64, 64);
    // A file where a folder should be: refused for root as well.
    std::fs::write(folder.path("taken"), b"").unwrap();
    let run = coz(["zoom", "-i", photo.to_str().unwrap(), "-o", folder.path("taken/out").to_str().unwrap()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(1));
    assert!(said.contains("output folder cannot be made") && said.contains("taken"), "{said}");
    // A state file that cannot replace a folder of its name: nothing half-written stays.
    std::fs::create_dir_all(folder.path("out/per-sample/photo/0.png")).unwrap();
    let said = refused(&folder, &photo, &[]);
    assert!(said.contains("could not be written"), "{said}");
    let left: Vec<_> =
        std::fs::read_dir(folder.path("out/per-sample/photo")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["0.png"], "no temporary file stays");
}

#[test]
fn boxes_and_options_that_make_no_sense() {
    let folder = Folder::new();
    let photo = folder.photo("photo.png", 64, 64);
    for (arguments, wanted) in [
        (&["--crop-box", "60,0,10,10"][..], "outside the picture"),
        (&["--crop-box", "1,2,3"], "expected X,Y,W,H"),
        (&["--crop-box", "1,2,0,5"], "expected X,Y,W,H"),
        (&["--process-size", "0"], "--process-size"),
        (&["--device", "cuda:99"], "cuda:99"),
        (&["--rec-type", "sideways"], "sideways"),
        (&["--backbone", "/no/such/file.pth"], "/no/such/file.pth"),
    ] {
        let said = refused(&folder, &photo, arguments);
        assert!(said.contains(wanted), "{wanted:?} is not in {said}");
    }
}

#[test]
fn model_files_that_are_none() {
    let folder = Folder::new();
    let photo = folder.photo("photo.png", 64, 64);
    let networks = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/networks");
    let write = |name: &str, bytes: &[u8]| {
        let file = folder.path(name);
        std::fs::write(&file, bytes).unwrap();
        file
    };
    let zip = std::fs::read(networks.join("rrdb_x4.pth")).unwrap();
    let legacy = std::fs::read(networks.join("compact_x4_legacy.pth")).unwrap();
    let safetensors = std::fs::read(networks.join("compact_x2_relu.safetensors")).unwrap();
    // Another shape for one tensor, of the same number of bytes.
    let header = String::from_utf8_lossy(&safetensors).into_owned();
    let at = header.rfind("[7,7,3,3]").unwrap();
    let mut misshapen = safetensors.clone();
    misshapen[at..at + 9].copy_from_slice(b"[7,7,9,1]");
    let mut not_finite = safetensors.clone();
    let end = not_finite.len();
    not_finite[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    // protocol 2, GLOBAL os.system, the argument, REDUCE, STOP: what a hostile file looks like.
    let marker = folder.path("code_ran");
    let call = format!("touch {}", marker.display());
    let mut hostile = b"\x80\x02cos\nsystem\nX".to_vec();
    hostile.extend((call.len() as u32).to_le_bytes());
    hostile.extend(call.as_bytes());
    hostile.extend(b"\x85R.");
    for (file, wanted) in [
        (write("empty.pth", b""), "is empty"),
        (write("text.safetensors", b"words, not numbers: much longer than a header"), "no model file"),
        (write("cut.pth", &zip[..zip.len() - 2000]), "no model file"),
        (write("cut_legacy.pth", &legacy[..legacy.len() - 100]), "truncated"),
        (write("cut.safetensors", &safetensors[..safetensors.len() - 100]), "no model file"),
        (write("misshapen.safetensors", &misshapen), "is [7, 7, 9, 1], expected [7, 7, 3, 3]"),
        (write("nan.safetensors", &not_finite), "NaN"),
        (write("hostile.pth", &hostile), "os.system"),
        (networks.join("views.pkl"), "no network we know"),
        (networks.to_owned(), "cannot read"),
    ] {
        let said = refused(&folder, &photo, &["--backbone", file.to_str().unwrap()]);
        assert!(said.contains(wanted), "{}: {wanted:?} is not in {said}", file.display());
    }
    assert!(!marker.exists(), "loading a pickle ran code from it");
}

#[test]
fn damaged_model_files_never_panic() {
    let networks = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/networks");
    let folder = Folder::new();
    let mut rng = fastrand::Rng::with_seed(3);
    for name in ["compact_x4.pth", "compact_x4_legacy.pth", "compact_x2_relu.safetensors", "views.pkl"] {
        let good = std::fs::read(networks.join(name)).unwrap();
        for _ in 0..300 {
            let mut bad = good.clone();
            for _ in 0..rng.usize(1..6) {
                // Headers and pickles lie at both ends; numbers in between harm nobody.
                let at = if rng.bool() {
                    rng.usize(..bad.len().min(1500))
                } else {
                    bad.len() - 1 - rng.usize(..bad.len().min(1500))
                };
                bad[at] = rng.u8(..);
            }
            bad.truncate(if rng.u8(..4) == 0 { rng.usize(1..bad.len()) } else { bad.len() });
            let file = folder.path("bad");
            std::fs::write(&file, &bad).unwrap();
            if let Ok(weights) = chain_of_zoom::runtime::weights::Weights::open(&file) {
                for prefix in ["params.", "params_ema.", ""] {
                    _ = chain_of_zoom::networks::SrvggNetCompact::load(
                        &weights,
                        prefix,
                        tch::Device::Cpu,
                        tch::Kind::Float,
                    );
                }
            }
        }
    }
}

#[test]
fn an_ending_that_says_no_format() {
    let folder = Folder::new();
    let error = codec::save(&Picture::from_fn(2, 2, |_, _| [0; 3]), &folder.path("x.xyz")).unwrap_err();
    assert!(matches!(error, ImageError::Ending { .. }));
    assert!(!folder.path("x.xyz").exists());
}
