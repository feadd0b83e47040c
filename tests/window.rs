//! A real window on a real (virtual) screen: it opens, shows the photo, and then rests.

#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::samples::{Folder, coz};

/// Ends the process with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn screen() -> (Running, String) {
    let mut server = Command::new("Xvfb")
        .args(["-displayfd", "1", "-screen", "0", "1280x800x24", "-nolisten", "tcp"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("Xvfb: `cargo xtask test` installs it");
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (Running(server), format!(":{}", line.trim()))
}

/// What is on the screen, as `[B, G, R, _]`, from an XWD dump.
fn pixels(display: &str) -> Vec<[u8; 4]> {
    let dump =
        Command::new("xwd").args(["-silent", "-root", "-display", display]).output().expect("xwd is installed").stdout;
    let number = |i: usize| u32::from_be_bytes(dump[i * 4..i * 4 + 4].try_into().unwrap()) as usize;
    // Header size, then at fixed places bits per pixel (11) and the number of colours (19), 12 bytes each.
    assert_eq!(number(11), 32, "a 24-bit screen has 32 bits a pixel");
    dump[number(0) + number(19) * 12..].as_chunks::<4>().0.to_vec()
}

/// Clock ticks the process has used.
fn ticks(process: &Running) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.0.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn opens_shows_the_photo_and_rests() {
    let folder = Folder::new();
    let photo = folder.photo("photo.png", 600, 400);
    let (_server, display) = screen();
    let mut viewer = Running(
        coz([photo.to_str().unwrap()])
            .env("DISPLAY", &display)
            .env_remove("WAYLAND_DISPLAY")
            .env("XDG_RUNTIME_DIR", folder.root())
            .env("XDG_CONFIG_HOME", folder.path("config"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    // The discs of the sample photo, which nothing else on the window looks like.
    let orange =
        |pixel: &&[u8; 4]| pixel[2].abs_diff(240) < 4 && pixel[1].abs_diff(160) < 4 && pixel[0].abs_diff(40) < 4;
    let start = Instant::now();
    loop {
        assert!(viewer.0.try_wait().unwrap().is_none(), "the viewer ended by itself");
        if pixels(&display).iter().filter(orange).count() > 5000 {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "the photo did not appear");
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(Duration::from_secs(2));
    let before = ticks(&viewer);
    std::thread::sleep(Duration::from_secs(3));
    let used = ticks(&viewer) - before;
    assert!(used <= 15, "{used} ticks of 300 used while nothing happens");
    let settings = folder.path("config/chain-of-zoom/settings.toml");
    assert!(std::fs::read_to_string(settings).unwrap().contains("photo.png"), "the photo is among the recent ones");
}
