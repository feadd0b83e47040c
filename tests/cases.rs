//! Files as users have them (`tests/cases`): colours, transparency, odd formats, files that are cut short, odd model files.

use std::path::{Path, PathBuf};

use crate::samples::{Folder, coz};
use chain_of_zoom::imaging::codec::{Alpha, Opening};
use chain_of_zoom::imaging::{ImageError, Picture, codec};

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(name)
}

fn opened(name: &str, opening: Opening) -> Result<(Picture, Vec<String>), ImageError> {
    let decoded = codec::open_watched(&case(name), &opening, &mut |_| true)?;
    Ok((decoded.picture, decoded.remarks))
}

/// The largest difference of any sample.
fn difference(a: &Picture, b: &Picture) -> u8 {
    assert_eq!((a.width(), a.height()), (b.width(), b.height()));
    a.rgb().iter().zip(b.rgb()).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
}

#[test]
fn colours_and_formats_come_out_right() {
    for (name, most, remark) in [
        ("icc-p3.png", 3, Some("sRGB")),
        ("icc-p3.webp", 3, Some("sRGB")),
        ("icc-p3.tif", 3, Some("sRGB")),
        ("icc-adobe.jpg", 3, Some("sRGB")),
        ("arithmetic.jpg", 3, None),
        ("noeoi.jpg", 3, Some("without its end marker")),
        ("float-grey.tif", 2, Some("16 bits")),
        ("bigtiff.tif", 2, None),
        ("jpeg.tif", 3, None),
    ] {
        let (picture, remarks) = opened(name, Opening::default()).unwrap();
        let expected = codec::open(&case(&format!("{name}.expected.png"))).unwrap();
        assert!(difference(&picture, &expected) <= most, "{name}: {}", difference(&picture, &expected));
        assert_eq!(remarks.len(), usize::from(remark.is_some()), "{name}: {remarks:?}");
        assert!(remark.is_none_or(|remark| remarks[0].contains(remark)), "{name}: {remarks:?}");
    }
    // By its name alone.
    let folder = Folder::new();
    let tga = folder.path("x.tga");
    let mut bytes = vec![0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0, 24, 0x20];
    bytes.extend([3, 2, 1, 6, 5, 4]);
    std::fs::write(&tga, bytes).unwrap();
    let picture = codec::open(&tga).unwrap();
    assert_eq!([picture.pixel(0, 0), picture.pixel(1, 0)], [[1, 2, 3], [4, 5, 6]]);
    let icon = opened("x.ico", Opening::default()).unwrap().0;
    assert!(icon.width() > 0);
}

#[test]
fn what_is_transparent_is_not_seen() {
    let blended =
        |name: &str, background| opened(name, Opening { alpha: Alpha::Blend(background), ..Opening::default() });
    // A black cross on nothing: on white it can be seen.
    let (logo, _) = blended("logo-black-on-transparent.png", [255; 3]).unwrap();
    assert_eq!((logo.pixel(0, 0), logo.pixel(32, 24)), ([255; 3], [0; 3]));
    // Random colours lie under the left half.
    let (hidden, _) = blended("rgba-hidden.png", [10, 200, 30]).unwrap();
    assert!((0..hidden.height()).all(|y| hidden.pixel(2, y) == [10, 200, 30]));
    let (dropped, _) = opened("rgba-hidden.png", Opening { alpha: Alpha::Drop, ..Opening::default() }).unwrap();
    assert!((0..dropped.height()).any(|y| dropped.pixel(2, y) != dropped.pixel(2, 0)), "as the reference has it");
    // Palettes too.
    let [white, black] = [[255; 3], [0; 3]].map(|background| blended("palette-trns.png", background).unwrap().0);
    assert!(white != black);
}

#[test]
fn what_is_cut_short_is_told_and_taken_where_that_will_do() {
    let error = opened("truncated.jpg", Opening::default()).unwrap_err();
    assert!(matches!(error, ImageError::CutShort { .. }), "{error}");
    let (picture, remarks) = opened("truncated.jpg", Opening { allow_truncated: true, ..Opening::default() }).unwrap();
    assert_eq!((picture.width(), picture.height(), remarks.len()), (64, 48, 1));
    assert!(remarks[0].contains("cut short"), "{remarks:?}");
    assert_ne!(picture.pixel(5, 2), picture.pixel(60, 2), "the rows that are there");
    assert_eq!(picture.pixel(5, 47), picture.pixel(6, 47), "the rest is one colour");
    // PNG: without its end, and cut in its midst.
    let folder = Folder::new();
    let bytes = std::fs::read(case("icc-p3.png")).unwrap();
    let file = folder.path("cut.png");
    std::fs::write(&file, &bytes[..bytes.len() - 12]).unwrap();
    let open = |opening: &Opening| codec::open_watched(&file, opening, &mut |_| true);
    let decoded = open(&Opening::default()).unwrap();
    assert!(decoded.picture == codec::open(&case("icc-p3.png")).unwrap());
    assert!(decoded.remarks.iter().any(|remark| remark.contains("end marker")), "{:?}", decoded.remarks);
    let large = std::fs::read(folder.photo("large.png", 200, 150)).unwrap();
    std::fs::write(&file, &large[..large.len() / 2]).unwrap();
    assert!(matches!(open(&Opening::default()), Err(ImageError::CutShort { .. })));
    let decoded = open(&Opening { allow_truncated: true, ..Opening::default() }).unwrap();
    let whole = codec::open(&folder.path("large.png")).unwrap();
    assert!(decoded.picture.crop(0, 0, 200, 40) == whole.crop(0, 0, 200, 40), "the rows that are there");
    assert_eq!(decoded.picture.pixel(199, 149), [128; 3], "the rest is grey");
}

#[test]
fn what_is_not_read_is_named_as_what_it_is() {
    for (name, kind) in [("x.avif", "AVIF"), ("x.heic", "HEIC"), ("palette.tif", "TIFF")] {
        let error = opened(name, Opening::default()).unwrap_err();
        assert!(matches!(error, ImageError::NotRead { .. }), "{name}: {error}");
        assert!(error.to_string().contains(kind), "{name}: {error}");
    }
}

/// One x4 step on a small picture with a model file.
fn zoomed(folder: &Folder, model: &Path) -> Result<Picture, String> {
    let photo = folder.photo("photo.png", 64, 64);
    let out = folder.path("out");
    let run = coz(["zoom", "-i", photo.to_str().unwrap(), "-o", out.to_str().unwrap(), "--rec-num", "1"])
        .args(["--process-size", "64", "--device", "cpu", "--backbone", model.to_str().unwrap()])
        .output()
        .unwrap();
    match run.status.success() {
        true => Ok(codec::open(&out.join("per-sample/photo/1.png")).unwrap()),
        false => Err(String::from_utf8_lossy(&run.stderr).into_owned()),
    }
}

#[test]
fn model_files_of_every_wrapping_load() {
    let folder = Folder::new();
    for name in ["stem-of-21-characters.pth", "srvgg-module-prefix.pth", "srvgg-under-model.pth"] {
        zoomed(&folder, &case(name)).unwrap_or_else(|said| panic!("{name}: {said}"));
    }
    let [module, model] =
        ["srvgg-module-prefix.pth", "srvgg-under-model.pth"].map(|name| zoomed(&folder, &case(name)).unwrap());
    assert!(module == model, "the same weights under other names");
    for (name, told) in [("html.pth", "web page"), ("torchscript.pt", "TorchScript"), ("rrdb-1ch.pth", "one-channel")] {
        let said = zoomed(&folder, &case(name)).unwrap_err();
        assert!(said.contains(told), "{name}: {said}");
    }
}

/// The picture's first state takes no more memory than a square one of its size.
#[cfg(target_os = "linux")]
#[test]
fn a_stripe_is_cut_before_it_is_enlarged() {
    let folder = Folder::new();
    let peak = |name: &str, width: u32, height: u32| {
        let photo = folder.photo(name, width, height);
        let out = folder.path("out");
        let mut child = coz(["zoom", "-i", photo.to_str().unwrap(), "-o", out.to_str().unwrap(), "--rec-num", "1"])
            .args(["--rec-type", "bicubic"])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let status = format!("/proc/{}/status", child.id());
        let mut most = 0u64;
        while child.try_wait().unwrap().is_none() {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            most = most.max(kilobytes.unwrap_or(0));
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        most / 1000
    };
    let square = peak("square.png", 512, 512);
    for (name, width, height) in [("across.png", 30000, 2), ("down.png", 2, 30000)] {
        let stripe = peak(name, width, height);
        assert!(stripe <= square + 60, "{stripe} MB, a square picture {square} MB");
    }
}

#[cfg(unix)]
#[test]
fn who_asks_twice_is_not_kept_waiting_nor_crashed_upon() {
    let folder = Folder::new();
    let photo = folder.photo("photo.png", 1500, 1000);
    for (try_, [first, second], expected) in
        [(0, ["INT", "INT"], 130), (1, ["INT", "INT"], 130), (2, ["TERM", "INT"], 143), (3, ["INT", "TERM"], 130)]
    {
        let out = folder.path(&format!("out{try_}"));
        let mut run = coz(["full", "-i", photo.to_str().unwrap(), "-o", out.to_str().unwrap()])
            .args(["--backbone", "builtin", "--device", "cpu"])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let start = std::time::Instant::now();
        while !out.join("per-sample/photo/0.png").exists() {
            assert!(start.elapsed().as_secs() < 60);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        std::thread::sleep(std::time::Duration::from_millis(100 * (1 + try_)));
        for signal in [first, second] {
            std::process::Command::new("kill").args([&format!("-{signal}"), &run.id().to_string()]).status().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(20 + 60 * try_));
        }
        assert_eq!(run.wait().unwrap().code(), Some(expected), "{first}, then {second}");
        let parts = std::fs::read_dir(out.join("per-sample/photo")).unwrap().flatten();
        let left: Vec<_> =
            parts.map(|it| it.path()).filter(|it| it.extension().is_some_and(|it| it == "part")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn strips_and_sheets_say_that_a_model_made_them() {
    let folder = Folder::new();
    let photo = folder.photo("photo.png", 100, 80);
    let out = folder.path("out");
    let run = coz(["zoom", "-i", photo.to_str().unwrap(), "-o", out.to_str().unwrap(), "--rec-num", "2"])
        .args(["--process-size", "64", "--backbone", "builtin", "--device", "cpu"])
        .output()
        .unwrap();
    assert!(run.status.success());
    let sample = out.join("per-sample/photo");
    let mut made = vec![out.join("recursive/photo.png"), sample.join("photo.png")];
    for (layout, name) in [("strip", "strip.png"), ("sheet", "sheet.jpg")] {
        let file = folder.path(name);
        let run = coz(["export", "-i", sample.to_str().unwrap(), "-o", file.to_str().unwrap(), "--layout", layout]);
        assert!({ run }.output().unwrap().status.success());
        made.push(file);
    }
    for file in made {
        let xmp = codec::xmp(&file).unwrap_or_default();
        assert!(
            xmp.contains("compositeWithTrainedAlgorithmicMedia") && xmp.contains("coz:Chain"),
            "{}",
            file.display()
        );
    }
}
