//! Films: what players need is there, the pictures are right when decoded again, nothing jumps, nothing is left half.

use std::path::{Path, PathBuf};
use std::process::Command;

use openh264::decoder::Decoder;
use openh264::formats::YUVSource;
use shiguredo_mp4::boxes::SampleEntry;
use shiguredo_mp4::demux::{Input, Mp4FileDemuxer};

use crate::samples::{Folder, coz};
use chain_of_zoom::imaging::metrics::luma_psnr;
use chain_of_zoom::imaging::{Filter, Picture, codec, resize};

/// A sample folder with three off-centre steps.
fn sample(folder: &Folder) -> PathBuf {
    let input = folder.photo("photo.png", 256, 256);
    let out = folder.path("out");
    let run = coz(["zoom", "-i", input.to_str().unwrap(), "-o", out.to_str().unwrap(), "--process-size", "128"])
        .args(["--crop-box", "70,20,32,32", "--crop-box", "90,90,32,32", "--crop-box", "4,60,32,32"])
        .args(["--prompt", "discs & waves"])
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    out.join("per-sample/photo")
}

fn film(input: &Path, output: &Path, more: &[&str]) -> std::process::Output {
    coz(["export", "--video", "-i", input.to_str().unwrap(), "-o", output.to_str().unwrap()])
        .args(more)
        .output()
        .unwrap()
}

/// The kinds of the file's boxes, in order.
fn boxes(bytes: &[u8]) -> Vec<String> {
    let (mut at, mut kinds) = (0, Vec::new());
    while at + 8 <= bytes.len() {
        let short = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        kinds.push(String::from_utf8_lossy(&bytes[at + 4..at + 8]).into_owned());
        at += if short == 1 { u64::from_be_bytes(bytes[at + 8..at + 16].try_into().unwrap()) as usize } else { short };
    }
    assert_eq!(at, bytes.len(), "the boxes fill the file");
    kinds
}

/// All frames of a film of `width` x `height`, decoded.
fn decoded(bytes: &[u8], width: u32, height: u32) -> Vec<Picture> {
    let mut demuxer = Mp4FileDemuxer::new();
    while let Some(needed) = demuxer.required_input() {
        let start = needed.position as usize;
        let end = needed.size.map_or(bytes.len(), |size| start + size);
        demuxer.handle_input(Input { position: needed.position, data: &bytes[start..end] });
    }
    let mut decoder = Decoder::new().unwrap();
    let mut frames = Vec::new();
    while let Some(sample) = demuxer.next_sample().unwrap() {
        let mut annex_b = Vec::new();
        if let Some(SampleEntry::Avc1(avc)) = sample.sample_entry {
            assert_eq!((avc.visual.width, avc.visual.height), (width as u16, height as u16));
            for parameters in avc.avcc_box.sps_list.iter().chain(&avc.avcc_box.pps_list) {
                annex_b.extend([0, 0, 0, 1]);
                annex_b.extend(parameters);
            }
        }
        let mut data = &bytes[sample.data_offset as usize..][..sample.data_size];
        while !data.is_empty() {
            let (length, rest) = data.split_at(4);
            let (unit, rest) = rest.split_at(u32::from_be_bytes(length.try_into().unwrap()) as usize);
            annex_b.extend([0, 0, 0, 1]);
            annex_b.extend(unit);
            data = rest;
        }
        if let Some(yuv) = decoder.decode(&annex_b).unwrap() {
            assert_eq!(yuv.dimensions(), (width as usize, height as usize));
            let mut rgb = vec![0; (width * height * 3) as usize];
            yuv.write_rgb8(&mut rgb);
            frames.push(Picture::from_rgb(width, height, rgb).unwrap());
        }
    }
    frames
}

#[test]
fn an_mp4_plays_from_the_photo_into_the_state() {
    let folder = Folder::new();
    let sample = sample(&folder);
    let file = folder.path("film.mp4");
    let run = film(&sample, &file, &["--size", "256x192", "--fps", "20", "--seconds-per-4x", "1", "--hold-end", "0.5"]);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let bytes = std::fs::read(&file).unwrap();
    let kinds = boxes(&bytes);
    let place =
        |kind: &str| kinds.iter().position(|other| other == kind).unwrap_or_else(|| panic!("{kind}: {kinds:?}"));
    assert!(place("ftyp") < place("moov") && place("moov") < place("mdat"), "it starts while it loads: {kinds:?}");
    let xmp = String::from_utf8_lossy(&bytes[bytes.len() - 6000.min(bytes.len())..]).into_owned();
    assert!(xmp.contains("compositeWithTrainedAlgorithmicMedia") && xmp.contains("discs &amp; waves"));

    let frames = decoded(&bytes, 256, 192);
    // Rests, three steps and the bend from all of the photo to a state that fills the frame, easing.
    assert!((70..110).contains(&frames.len()), "{} frames", frames.len());
    // The photo, all of it, with grey at both sides.
    let photo = codec::open(&sample.join("0.png")).unwrap();
    let first = frames[0].crop(32, 0, 192, 192);
    assert!(luma_psnr(&resize(&photo, 192, 192, Filter::Bicubic), &first, 2) > 28.0);
    assert!(frames[0].pixel(8, 96).iter().all(|c| c.abs_diff(0x16) < 6));
    // The last state, filling the frame.
    let last = codec::open(&sample.join("3.png")).unwrap();
    let wanted = resize(&last, 256, 256, Filter::Bicubic).crop(0, 32, 256, 192);
    let found = luma_psnr(&wanted, frames.last().unwrap(), 2);
    assert!(found > 30.0, "{found} dB");
    // No frame differs from the one before much more than its neighbours do: nothing jumps at a change of state.
    let change = |pair: &[Picture]| {
        let sum: u64 = pair[0].rgb().iter().zip(pair[1].rgb()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        sum as f64 / pair[0].rgb().len() as f64
    };
    let changes: Vec<f64> = frames.windows(2).map(change).collect();
    for (i, window) in changes.windows(5).enumerate() {
        let around = (window[0] + window[1] + window[3] + window[4]) / 4.0;
        assert!(window[2] < 2.5 * around + 2.0, "frame {} jumps: {window:?}", i + 3);
    }
    // As others see it, where they are installed.
    if let Ok(probe) = Command::new("ffprobe").args(["-v", "error", "-show_streams"]).arg(&file).output() {
        let output = String::from_utf8_lossy(&probe.stdout).into_owned();
        for wanted in ["codec_name=h264", "pix_fmt=yuv420p", "width=256", "height=192", "avg_frame_rate=20/1"] {
            assert!(output.contains(wanted), "{wanted} in {output}");
        }
        assert!(probe.stderr.is_empty(), "{}", String::from_utf8_lossy(&probe.stderr));
    }
}

#[test]
fn a_gif_keeps_its_time_and_a_reverse_ends_at_the_photo() {
    let folder = Folder::new();
    let sample = sample(&folder);
    let file = folder.path("film.gif");
    let options = ["--size", "96x96", "--fps", "15", "--seconds-per-4x", "0.4", "--hold-end", "0.4", "--reverse"];
    let run = film(&sample, &file, &options);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let mut decoder = gif::DecodeOptions::new();
    decoder.set_color_output(gif::ColorOutput::RGBA);
    let mut decoder = decoder.read_info(std::fs::File::open(&file).unwrap()).unwrap();
    let (mut hundredths, mut frames) = (0, Vec::new());
    while let Some(frame) = decoder.read_next_frame().unwrap() {
        hundredths += u32::from(frame.delay);
        let rgb = frame.buffer.as_chunks::<4>().0.iter().flat_map(|p| [p[0], p[1], p[2]]).collect();
        frames.push(Picture::from_rgb(96, 96, rgb).unwrap());
    }
    let exact = frames.len() as f64 / 15.0 * 100.0;
    assert!((f64::from(hundredths) - exact).abs() <= 1.0, "{hundredths} hundredths for {} frames", frames.len());
    let photo = resize(&codec::open(&sample.join("0.png")).unwrap(), 96, 96, Filter::Bicubic);
    assert!(luma_psnr(&photo, frames.last().unwrap(), 2) > 22.0);
    assert!(luma_psnr(&photo, &frames[0], 2) < luma_psnr(&photo, frames.last().unwrap(), 2) - 5.0);
}

#[test]
fn the_name_alone_says_that_it_is_a_film() {
    let folder = Folder::new();
    let sample = sample(&folder);
    let export = |name: &str, more: &[&str]| {
        let file = folder.path(name);
        let run = coz(["export", "-i", sample.to_str().unwrap(), "-o", file.to_str().unwrap()]).args(more).output();
        let run = run.unwrap();
        (run.status.code(), String::from_utf8_lossy(&run.stderr).into_owned(), std::fs::read(file).unwrap_or_default())
    };
    let short = ["--fps", "10", "--seconds-per-4x", "0.1", "--hold-end", "0"];
    let (code, said, bytes) = export("f.mp4", &[&short[..], &["--size", "128x128"]].concat());
    assert!(code == Some(0) && bytes[4..8] == *b"ftyp", "{said}");
    // GIF has odd sides, H.264 has none.
    let (code, said, bytes) = export("f.gif", &[&short[..], &["--size", "65x67"]].concat());
    assert!(code == Some(0) && bytes[6..10] == [65, 0, 67, 0], "{said}");
    let (code, said, _) = export("odd.mp4", &[&short[..], &["--size", "65x67"]].concat());
    assert!(code == Some(1) && said.contains("even"), "{said}");
    for wrong in ["nan", "0", "-1", "inf", "soon"] {
        let (code, said, bytes) = export("g.mp4", &[&format!("--seconds-per-4x={wrong}")]);
        assert!(code == Some(2) && said.contains("expected a number from 0.05 to 600"), "{said}");
        assert!(bytes.is_empty());
    }
}

#[test]
fn wrong_wishes_are_told_and_a_full_disk_leaves_nothing() {
    let folder = Folder::new();
    let sample = sample(&folder);
    for (name, more, expected) in [
        ("film.avi", &[][..], "does not end in .mp4 or .gif"),
        ("film.mp4", &["--size", "255x192"], "no size for a film"),
        ("film.mp4", &["--size", "99999x100"], "no size for a film"),
        ("film.mp4", &["--size", "wide"], "WIDTHxHEIGHT"),
        ("film.mp4", &["--state", "9"], "states 0 to 3"),
        ("film.mp4", &["--state", "0"], "the photo alone makes no film"),
    ] {
        let run = film(&sample, &folder.path(name), more);
        let output = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(!run.status.success() && output.contains(expected), "{expected}: {output}");
    }
    let run = film(&folder.path("photo.png"), &folder.path("film.mp4"), &[]);
    assert!(!run.status.success());

    // A disk that takes 40 KB and no more.
    let full = folder.path("full");
    std::fs::create_dir(&full).unwrap();
    let command = format!(
        "trap '' XFSZ; ulimit -f 40; exec '{}' export --video -i '{}' -o '{}' --size 640x480 --seconds-per-4x 3",
        env!("CARGO_BIN_EXE_coz"),
        sample.display(),
        full.join("film.mp4").display()
    );
    let run = Command::new("sh").args(["-c", &command]).output().unwrap();
    let words = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(!run.status.success() && words.contains("film"), "{words}");
    assert_eq!(std::fs::read_dir(&full).unwrap().count(), 0, "nothing half-written: {words}");
}
