//! Files as users have them (`tests/cases`): colours, transparency, odd formats, files that are cut short, odd model files.

use std::path::{Path, PathBuf};

use crate::samples::{Folder, coz};
use chain_of_zoom::base::Exif;
use chain_of_zoom::imaging::codec::{Alpha, Opening};
use chain_of_zoom::imaging::{ImageError, Metadata, Picture, codec};

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
        ("palette.tif", 2, None),
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

/// Each is the same picture (`tests/cases/make.py`).
#[test]
fn other_formats_and_odd_kinds_of_tiff_come_out_right() {
    let expected = codec::open(&case("gradient.expected.png")).unwrap();
    for (name, most, remark) in [
        ("lzma.tif", 0, None),
        ("lzma16.tif", 0, Some("16 bits")),
        ("planar16.tif", 0, Some("16 bits")),
        ("int16.tif", 0, Some("16 bits")),
        ("half.tif", 1, Some("16 bits")),
        ("thumbnail.tif", 0, None),
        // What 8 bits of L*a*b* leave.
        ("lab.tif", 5, Some("sRGB")),
        ("x.jxl", 0, None),
        ("x.qoi", 0, None),
        ("x.dds", 0, None),
        ("x.exr", 1, Some("linear light")),
        // Its bits are shared by the three colours.
        ("x.hdr", 8, Some("linear light")),
    ] {
        let (picture, remarks) = opened(name, Opening::default()).unwrap_or_else(|error| panic!("{error}"));
        assert!(difference(&picture, &expected) <= most, "{name}: {}", difference(&picture, &expected));
        assert_eq!(remarks.len(), usize::from(remark.is_some()), "{name}: {remarks:?}");
        assert!(remark.is_none_or(|remark| remarks[0].contains(remark)), "{name}: {remarks:?}");
    }
    let (bright, remarks) = opened("bright.exr", Opening::default()).unwrap();
    assert!(remarks.iter().any(|remark| remark.contains("tone-mapped")), "{remarks:?}");
    assert!(bright.pixel(63, 47)[0] > bright.pixel(20, 47)[0], "brighter stays brighter: {:?}", bright.pixel(63, 47));
    // These need libheif.
    for (name, kind) in [("444.avif", "AVIF"), ("x.avif", "AVIF"), ("x.heic", "HEIC")] {
        match opened(name, Opening::default()) {
            Ok((picture, _)) if name == "444.avif" => assert!(difference(&picture, &expected) <= 4),
            Ok((picture, _)) => assert_eq!((picture.width(), picture.height()), (64, 48)),
            Err(error) => {
                assert!(matches!(error, ImageError::NotRead { .. }) && error.to_string().contains(kind), "{error}");
            }
        }
    }
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
    let folder = Folder::new();
    for (start, kind) in [
        (&b"8BPS\0\x01 and more of it"[..], "Photoshop"),
        (b"%PDF-1.7 and more of it", "PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<!DOCTYPE html><html><body>not found", "web page"),
    ] {
        let file = folder.path("x.png");
        std::fs::write(&file, start).unwrap();
        let error = codec::open(&file).unwrap_err();
        assert!(matches!(error, ImageError::NotRead { .. }), "{kind}: {error}");
        assert!(error.to_string().contains(kind), "{kind}: {error}");
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

/// `coz full` without a model.
fn full(input: &Path, out: &Path, more: &[&str]) -> (bool, String) {
    let run = coz(["full", "-i", input.to_str().unwrap(), "-o", out.to_str().unwrap(), "--rec-type", "nearest"])
        .args(["--device", "cpu"])
        .args(more)
        .output()
        .unwrap();
    (run.status.success(), String::from_utf8_lossy(&run.stderr).into_owned())
}

/// Maker, date and place, as a camera writes them.
fn exif_with_place() -> Vec<u8> {
    let mut exif = b"MM\0*\0\0\0\x08\0\x03".to_vec();
    let mut entry = |tag: u16, kind: u16, count: u32, value: [u8; 4]| {
        exif.extend([&tag.to_be_bytes()[..], &kind.to_be_bytes(), &count.to_be_bytes(), &value].concat());
    };
    entry(0x010f, 2, 4, *b"\xc3\xa9c\0");
    entry(0x0112, 3, 1, [0, 6, 0, 0]);
    entry(0x8825, 4, 1, 50u32.to_be_bytes());
    exif.extend(b"\0\0\0\0\0\x01\0\x01\0\x02\0\0\0\x02N\0\0\0\0\0\0\0");
    exif
}

#[test]
fn what_the_camera_wrote_is_in_every_result() {
    let folder = Folder::new();
    for format in ["png", "jpg", "webp", "tif"] {
        let out = folder.path(format);
        let (done, said) = full(&case("exif6.jpg"), &out, &["--format", format]);
        assert!(done, "{said}");
        let sample = out.join("per-sample/exif6");
        for file in [sample.join(format!("0.{format}")), sample.join(format!("1.{format}"))] {
            let exif = codec::exif(&file).unwrap_or_else(|| panic!("{} has none", file.display())).0;
            let has = |text: &[u8]| exif.windows(text.len()).any(|window| window == text);
            assert!(has(b"Acme") && has(b"Cam 1"), "{}", file.display());
            // Upright already.
            let picture = codec::open(&file).unwrap();
            let original = codec::open(&case("exif6.jpg")).unwrap();
            assert_eq!(picture.width() * original.height(), picture.height() * original.width());
        }
        let xmp = codec::xmp(&sample.join(format!("1.{format}")));
        // The library that reads TIFF here has none of its XMP.
        assert!(format == "tif" || xmp.is_some_and(|xmp| xmp.contains("<tiff:Make>Acme<")), "{format}");
    }
    // Where a photo was taken stays untold.
    let photo = folder.path("photo.jpg");
    let metadata = Metadata { xmp: None, exif: Some(Exif(exif_with_place())) };
    codec::save_with(&Picture::from_fn(20, 10, |_, _| [90; 3]), &photo, &metadata).unwrap();
    for (format, tells) in [("png", false), ("png", true), ("tif", false), ("tif", true), ("jpg", true)] {
        let out = folder.path("place");
        let location = if tells { &["--keep-location"][..] } else { &[] };
        let (done, said) = full(&photo, &out, &[&["--format", format], location].concat());
        assert!(done, "{said}");
        let exif = codec::exif(&out.join(format!("per-sample/photo/1.{format}"))).unwrap().0;
        assert!(exif.windows(4).any(|window| window == b"\xc3\xa9c\0"), "{format}");
        assert_eq!(exif.windows(2).any(|window| window == [0x88, 0x25]), tells, "{format}");
    }
}

#[test]
fn no_result_tells_where_files_lie() {
    let folder = Folder::new();
    let photo = folder.photo("photo.png", 100, 80);
    let (out, model) = (folder.path("out"), folder.path("some-model.pth"));
    std::fs::copy(case("srvgg-under-model.pth"), &model).unwrap();
    let run = coz(["zoom", "-i", photo.to_str().unwrap(), "-o", out.to_str().unwrap(), "--rec-num", "2"])
        .args(["--process-size", "64", "--device", "cpu", "--backbone", model.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let place = folder.path("");
    let place = place.to_str().unwrap().trim_end_matches('/').as_bytes();
    let mut folders = vec![out.clone()];
    let mut count = 0;
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            count += 1;
            let bytes = std::fs::read(&path).unwrap();
            assert!(!bytes.windows(place.len()).any(|window| window == place), "{}", path.display());
        }
    }
    assert!(count > 8);
    let xmp = codec::xmp(&out.join("per-sample/photo/2.png")).unwrap();
    assert!(xmp.contains("some-model.pth") && xmp.contains("sha256"), "{xmp}");
}

#[test]
fn transparency_is_kept_where_it_is_asked_for() {
    let folder = Folder::new();
    let logo = case("logo-black-on-transparent.png");
    for (backbone, format) in [("builtin", "png"), ("builtin", "webp"), ("bicubic", "tif")] {
        let out = folder.path(format);
        let run = coz(["full", "-i", logo.to_str().unwrap(), "-o", out.to_str().unwrap(), "--keep-alpha"])
            .args(["--backbone", backbone, "--device", "cpu", "--format", format])
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let sample = out.join("per-sample/logo-black-on-transparent");
        let file = sample.join(format!("1.{format}"));
        let opening = Opening { alpha: Alpha::Drop, keep_alpha: true, ..Opening::default() };
        let decoded = codec::open_watched(&file, &opening, &mut |_| true).unwrap();
        let alpha = decoded.alpha.unwrap_or_else(|| panic!("{format} has lost it"));
        assert_eq!((alpha.width(), alpha.height()), (256, 192));
        assert!(alpha.pixel(2, 2)[0] < 4 && alpha.pixel(128, 96)[0] > 250, "{format}: {alpha:?}");
        assert_eq!(decoded.picture.pixel(2, 2), [255; 3], "the background, where nothing can be seen");
        assert!(decoded.picture.pixel(128, 96).iter().all(|&level| level < 12));
        // Laid over white, it is what the model made of the picture on white.
        let on_white = codec::open(&file).unwrap();
        let plain = folder.path(&format!("plain-{format}"));
        let run = coz(["full", "-i", logo.to_str().unwrap(), "-o", plain.to_str().unwrap()])
            .args(["--backbone", backbone, "--device", "cpu"])
            .output()
            .unwrap();
        assert!(run.status.success());
        let expected = codec::open(&plain.join("per-sample/logo-black-on-transparent/1.png")).unwrap();
        let far = on_white.rgb().iter().zip(expected.rgb()).filter(|(a, b)| a.abs_diff(**b) > 24).count();
        assert!(far * 100 < on_white.rgb().len(), "{format}: {far} of {}", on_white.rgb().len());
        // The first state is opaque.
        let first = codec::open_watched(&sample.join(format!("0.{format}")), &opening, &mut |_| true).unwrap();
        assert!(first.alpha.is_none() && first.picture.pixel(0, 0) == [255; 3]);
    }
    let (done, said) = full(&logo, &folder.path("jpg"), &["--keep-alpha", "--format", "jpg"]);
    assert!(!done && said.contains("transparency") && !folder.path("jpg").exists(), "{said}");
}

#[test]
fn resume_knows_its_work() {
    let folder = Folder::new();
    let (a, b) = (folder.path("a"), folder.path("b"));
    let picture = |folder: &Path, level: u8| {
        std::fs::create_dir_all(folder).unwrap();
        let file = folder.join("pic.png");
        codec::save(&Picture::from_fn(30, 20, |x, _| [level, x as u8, 9]), &file).unwrap();
        file
    };
    let (first, second) = (picture(&a, 10), picture(&b, 200));
    let out = folder.path("out");
    let resumed = |file: &Path, more: &[&str]| {
        let (done, said) = full(file, &out, &[more, &["--resume"]].concat());
        assert!(done, "{said}");
        said
    };
    assert!(full(&first, &out, &[]).0);
    let result = out.join("per-sample/pic/1.png");
    let red = || codec::open(&result).unwrap().pixel(0, 0)[0];
    assert!(resumed(&first, &[]).contains("1 of 1 pictures were finished before"));
    let said = resumed(&second, &[]);
    assert!(said.contains("another one") && red() == 200, "{said}");
    let said = resumed(&second, &["--upscale", "2"]);
    assert!(said.contains("--upscale was 4, it is 2 now"), "{said}");
    assert_eq!(codec::open(&result).unwrap().width(), 60);
    assert!(resumed(&second, &["--upscale", "2", "--jobs", "2"]).contains("finished before"), "that changes nothing");
    // Fewer steps than there were: none of the others stays.
    assert!(full(&second, &out, &["--upscale", "2", "--rec-num", "2"]).0);
    assert!(out.join("per-sample/pic/2.png").exists() && out.join("per-scale/scale2/pic.png").exists());
    assert!(full(&second, &out, &["--upscale", "2"]).0);
    assert!(!out.join("per-sample/pic/2.png").exists() && !out.join("per-scale/scale2/pic.png").exists());
    // What cannot be done leaves what is there.
    let zoomed = coz(["zoom", "-i", first.to_str().unwrap(), "-o", out.to_str().unwrap(), "--device", "cpu"])
        .args(["--crop-box", "600,0,100,100"])
        .output()
        .unwrap();
    assert!(!zoomed.status.success() && result.exists());
    // Nor is a result its own photo.
    let scale = out.join("per-scale/scale1/pic.png");
    let (done, said) = full(&scale, &out, &[]);
    assert!(!done && said.contains("would be replaced") && scale.exists(), "{said}");
    std::fs::remove_file(out.join("per-sample/pic/run.json")).unwrap();
    assert!(
        resumed(&second, &["--upscale", "2"]).contains("pictures were finished before"),
        "as earlier versions left it"
    );
}

#[test]
fn results_never_collide_nor_leave_their_folder() {
    let folder = Folder::new();
    let photos = folder.path("photos");
    std::fs::create_dir_all(photos.join("deeper")).unwrap();
    let photo = folder.photo("photo.png", 20, 10);
    for name in ["a.png", "a.png.png", "...png", "-dash.png", "deeper/a.png"] {
        std::fs::copy(&photo, photos.join(name)).unwrap();
    }
    codec::save(&codec::open(&photo).unwrap(), &photos.join("a.jpg")).unwrap();
    std::fs::write(photos.join("notes.txt"), "no picture").unwrap();
    let out = folder.path("out");
    let (done, said) = full(&photos, &out, &["--subfolders"]);
    assert!(done && said.contains("passed over: 1 .txt"), "{said}");
    let mut names: Vec<String> = std::fs::read_dir(out.join("per-sample"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["-dash", "...png", "a.jpg", "a.png.png", "deeper_a.png", "photos_a.png"]);
    let mut outside: Vec<_> = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    outside.sort();
    assert_eq!(outside, ["per-sample", "per-scale", "recursive"]);
    let (done, said) = full(&photos, &out, &[]);
    assert!(done && said.contains("1 folders (--subfolders"), "{said}");

    // Paths in all ways.
    let run = |arguments: &[&str], list: &str| {
        let to = folder.path("listed");
        _ = std::fs::remove_dir_all(&to);
        let mut child = coz(["full", "-o", to.to_str().unwrap(), "--rec-type", "nearest", "--device", "cpu"])
            .args(arguments)
            .current_dir(&photos)
            .stdin(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), list.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read_dir(to.join("per-sample")).unwrap().count()
    };
    let uri = format!("file://{}", photos.join("a.jpg").display());
    assert_eq!(run(&["-i", "-dash.png", "-i", &uri], ""), 2);
    assert_eq!(run(&["-i", "-"], &format!("a.png\n\n\"{}\"\n{uri}\n", photos.join("...png").display())), 3);
}

#[cfg(unix)]
#[test]
fn what_cannot_be_done_is_refused_at_once() {
    let folder = Folder::new();
    let pipe = folder.path("pipe.png");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let out = folder.path("out");
    let (done, said) = full(&pipe, &out, &[]);
    assert!(!done && said.contains("a pipe"), "{said}");
    assert!(matches!(codec::open(&pipe), Err(ImageError::NoFile { .. })));
    // What nobody could open is not begun.
    let photo = folder.photo("photo.png", 300, 200);
    let (done, said) = full(&photo, &out, &["--upscale", "16", "--rec-num", "3"]);
    assert!(!done && said.contains("too large"), "{said}");
    assert!(!out.join("per-sample").exists(), "nothing is written");
    // Two runs into one folder.
    let large = folder.photo("large.png", 1500, 1000);
    let mut first = coz(["full", "-i", large.to_str().unwrap(), "-o", out.to_str().unwrap()])
        .args(["--backbone", "builtin", "--device", "cpu"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let start = std::time::Instant::now();
    while !out.join("per-sample/large/0.png").exists() {
        assert!(start.elapsed().as_secs() < 60);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let (done, said) = full(&large, &out, &[]);
    assert!(!done && said.contains("another run"), "{said}");
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(full(&large, &out, &[]).0, "which is over now");
}
