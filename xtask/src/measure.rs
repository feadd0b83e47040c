//! `cargo xtask measure`: how soon a photo is on the screen, at what memory, what rest costs, how fast films are made.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use image::{Rgb, RgbImage};

use crate::screen::Screen;

const RUNS: usize = 4;
const COLOUR: [u8; 3] = [240, 140, 40];

/// Runs all measurements with a release build; photos are made below `root/target/measure`.
pub fn all(root: &Path) -> anyhow::Result<()> {
    let program = root.join("target/release/coz");
    let folder = root.join("target/measure");
    std::fs::create_dir_all(&folder)?;
    println!("From the start of the process, fastest to slowest of {RUNS} runs, the photo in the disk cache:\n");
    println!("| photo | window | first view | all of it | peak memory |\n|---|---:|---:|---:|---:|");
    for (name, width, height) in [
        ("JPEG, 12 megapixels", 4000, 3000),
        ("JPEG, 100 megapixels", 12_000, 8400),
        ("JPEG, 300 megapixels", 20_000, 15_000),
    ] {
        let photo = photo(&folder, width, height)?;
        println!("{}", opening(&program, &folder, name, &photo)?);
    }
    println!("\nAt rest: {:.2} % of a core over 20 s", rest(&program, &folder)?);
    film(&program, &folder)
}

/// A JPEG with detail everywhere, orange in the middle of it.
fn photo(folder: &Path, width: u32, height: u32) -> anyhow::Result<PathBuf> {
    let file = folder.join(format!("{width}x{height}.jpg"));
    if !file.exists() {
        let image = RgbImage::from_fn(width, height, |x, y| {
            let grain = (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503)).wrapping_mul(2_246_822_519) >> 27;
            let [r, g, b] = COLOUR.map(u32::from);
            let shade = (x / 97 + y / 71) % 3 * 4 + grain;
            Rgb([(r - shade) as u8, (g - shade) as u8, (b + shade / 2) as u8])
        });
        image.save(&file)?;
    }
    Ok(file)
}

fn is_orange(pixel: &Rgb<u8>) -> bool {
    pixel[0] > 170 && pixel[1].abs_diff(120) < 40 && pixel[2] < 90
}

fn opening(program: &Path, folder: &Path, name: &str, photo: &Path) -> anyhow::Result<String> {
    let screen = Screen::new(1280, 800)?;
    let (mut window, mut first, mut whole, mut memory) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..RUNS {
        let home = folder.join("home");
        _ = std::fs::remove_dir_all(&home);
        let viewer = screen.viewer(program, &home, &[photo])?;
        let lit = |seen: &RgbImage| seen.pixels().any(|pixel| pixel.0 != [0; 3]);
        window.push(screen.wait(viewer.start, lit)?);
        let orange = |seen: &RgbImage| seen.pixels().filter(|pixel| is_orange(pixel)).count() > 20_000;
        first.push(screen.wait(viewer.start, orange)?);
        // The photo's line in the history, lit because it is the state at hand.
        let line = |seen: &RgbImage| orange(seen) && seen.get_pixel(200, 84).0 == [0x24; 3];
        whole.push(screen.wait(viewer.start, line)?);
        std::thread::sleep(Duration::from_millis(500));
        memory = memory.max(viewer.kilobytes("VmHWM")?);
    }
    let range = |times: &[Duration]| {
        let seconds = |time: Option<&Duration>| time.map_or(0.0, Duration::as_secs_f64);
        format!("{:.2} to {:.2} s", seconds(times.iter().min()), seconds(times.iter().max()))
    };
    let memory = memory as f64 * 1024.0 / 1e9;
    Ok(format!("| {name} | {} | {} | {} | {memory:.2} GB |", range(&window), range(&first), range(&whole)))
}

fn rest(program: &Path, folder: &Path) -> anyhow::Result<f64> {
    let screen = Screen::new(1280, 800)?;
    let photo = photo(folder, 4000, 3000)?;
    let viewer = screen.viewer(program, &folder.join("home"), &[&photo])?;
    screen.wait(viewer.start, |seen| seen.pixels().filter(|pixel| is_orange(pixel)).count() > 20_000)?;
    std::thread::sleep(Duration::from_secs(3));
    let before = viewer.processor_seconds()?;
    std::thread::sleep(Duration::from_secs(20));
    Ok((viewer.processor_seconds()? - before) / 20.0 * 100.0)
}

fn film(program: &Path, folder: &Path) -> anyhow::Result<()> {
    let photo = photo(folder, 4000, 3000)?;
    let out = folder.join("out");
    let zoom = Command::new(program).args(["zoom", "-o"]).arg(&out).arg("-i").arg(&photo).output()?;
    if !zoom.status.success() {
        bail!("{}", String::from_utf8_lossy(&zoom.stderr));
    }
    let sample = out.join("per-sample").join(photo.file_stem().context("the photo has a name")?);
    for (file, size) in [("film.mp4", "1920x1080"), ("film.gif", "480x270")] {
        let film = Command::new(program)
            .args(["export", "--video", "--size", size, "-i"])
            .arg(&sample)
            .arg("-o")
            .arg(folder.join(file))
            // Else a layer of Mesa's looks for a Wayland server, and says that there is none.
            .env("NODEVICE_SELECT", "1")
            .output()?;
        print!("\nFilm of 4 steps at {size}: {}", String::from_utf8_lossy(&film.stderr));
    }
    Ok(())
}
