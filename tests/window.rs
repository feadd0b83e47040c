//! A real window on a real (virtual) screen: it opens, shows the photo, and then rests.

#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::samples::{Folder, coz};
use chain_of_zoom::document::session;

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
        // Else it starts anew whenever its last client leaves, and drops who comes in that moment.
        .args(["-displayfd", "1", "-screen", "0", "1280x800x24", "-nolisten", "tcp", "-noreset"])
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

/// The viewer on a display, with its settings and data below `folder`.
fn viewer(folder: &Folder, display: &str, photo: Option<&std::path::Path>) -> Running {
    let mut command = coz(photo.map(|photo| photo.to_str().unwrap()));
    command
        .env("DISPLAY", display)
        .env_remove("WAYLAND_DISPLAY")
        .env("XDG_RUNTIME_DIR", folder.root())
        .env("XDG_CONFIG_HOME", folder.path("config"))
        .env("XDG_DATA_HOME", folder.path("data"))
        .stderr(std::fs::File::create(folder.path("stderr.txt")).unwrap());
    Running(command.spawn().unwrap())
}

/// The discs of the sample photo, which nothing else on the window looks like.
fn orange(display: &str) -> usize {
    let is_orange =
        |pixel: &&[u8; 4]| pixel[2].abs_diff(240) < 4 && pixel[1].abs_diff(160) < 4 && pixel[0].abs_diff(40) < 4;
    pixels(display).iter().filter(is_orange).count()
}

fn still_runs(viewer: &mut Running, folder: &Folder) {
    let ended = viewer.0.try_wait().unwrap();
    let said = || std::fs::read_to_string(folder.path("stderr.txt")).unwrap_or_default();
    assert!(ended.is_none(), "the viewer ended by itself ({ended:?}): {}", said());
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn kill_9_loses_nothing_that_was_made() {
    let folder = Folder::new();
    let photo = folder.photo("photo.png", 600, 400);
    let (_server, display) = screen();
    let mut killed = viewer(&folder, &display, Some(&photo));
    wait_for("the photo", || {
        still_runs(&mut killed, &folder);
        orange(&display) > 5000
    });
    // Enter, as a hand presses it: a step in the middle of the view.
    let keys = |keys: &[&str]| {
        let window =
            ["search", "--onlyvisible", "--name", "Chain-of-Zoom", "windowfocus", "--sync", "key", "--delay", "50"];
        let run = Command::new("xdotool").env("DISPLAY", &display).args(window).args(keys).output();
        assert!(run.expect("xdotool: `cargo xtask test` installs it").status.success());
    };
    keys(&["Return"]);
    let autosave = folder.path("data/chain-of-zoom/autosave");
    let states = || {
        let sessions = std::fs::read_dir(&autosave).into_iter().flatten().flatten();
        let texts = sessions.filter_map(|entry| std::fs::read_to_string(entry.path().join("chain.json")).ok());
        texts.map(|text| text.matches("\"picture\"").count()).max().unwrap_or(0)
    };
    wait_for("the state to be kept", || states() == 1);
    assert!(session::autosave::recoverable(&autosave).is_empty(), "it is in use");
    killed.0.kill().unwrap();
    killed.0.wait().unwrap();

    let left = session::autosave::recoverable(&autosave);
    assert_eq!(left.iter().map(|left| (left.name.as_str(), left.states)).collect::<Vec<_>>(), [("photo.png", 1)]);
    let found = session::open(&left[0].folder).unwrap();
    assert_eq!((found.history.outline().len(), found.history.current().picture.width()), (2, 512));

    // The next start finds it, and leaves it alone until it is asked.
    let mut again = viewer(&folder, &display, Some(&photo));
    wait_for("the photo", || {
        still_runs(&mut again, &folder);
        orange(&display) > 5000
    });
    keys(&["ctrl+q"]);
    wait_for("the end", || again.0.try_wait().unwrap().is_some());
    assert_eq!(session::autosave::recoverable(&autosave), left);
}

#[test]
fn settings_with_a_typo_are_kept_and_told_of() {
    let folder = Folder::new();
    let photo = folder.photo("photo.png", 600, 400);
    let (_server, display) = screen();
    let settings = folder.path("config/chain-of-zoom/settings.toml");
    std::fs::create_dir_all(settings.parent().unwrap()).unwrap();
    let typo = "seed = 7\nprocess_size = five hundred\n";
    std::fs::write(&settings, typo).unwrap();
    let mut viewer = viewer(&folder, &display, Some(&photo));
    wait_for("the photo", || {
        still_runs(&mut viewer, &folder);
        orange(&display) > 5000
    });
    wait_for("new settings", || settings.exists());
    assert_eq!(std::fs::read_to_string(folder.path("config/chain-of-zoom/settings.toml.bak")).unwrap(), typo);
    assert!(!std::fs::read_to_string(&settings).unwrap().contains("five hundred"));
    drop(viewer);

    // It is in the log, with which a report ends.
    let run = coz(["doctor"])
        .env("XDG_CONFIG_HOME", folder.path("config"))
        .env("XDG_DATA_HOME", folder.path("data"))
        .env_remove("XDG_RUNTIME_DIR")
        .output()
        .unwrap();
    assert!(run.status.success());
    let report = String::from_utf8(run.stdout).unwrap();
    let (_, log) = report.split_once("log.txt").unwrap();
    assert!(log.contains("ERROR") && log.contains("The settings could not be read"), "{report}");
    assert!(log.contains("line 2"), "{report}");
    assert_eq!(String::from_utf8(run.stderr).unwrap(), "", "a command that succeeds has nothing to say there");
}

#[test]
fn opens_shows_the_photo_and_rests() {
    let folder = Folder::new();
    let photo = folder.photo("photo.png", 600, 400);
    let (_server, display) = screen();
    let mut viewer = viewer(&folder, &display, Some(&photo));
    wait_for("the photo", || {
        still_runs(&mut viewer, &folder);
        orange(&display) > 5000
    });
    // First the model is loaded and a step estimated, which takes its time beside other tests.
    let used: Vec<u64> = (0..5)
        .map(|_| {
            let before = ticks(&viewer);
            std::thread::sleep(Duration::from_secs(4));
            ticks(&viewer) - before
        })
        .take_while(|&used| used > 4)
        .collect();
    assert!(used.len() < 5, "{used:?} ticks of 400 used while nothing happens: 1 % of a core is asked for");
    let settings = folder.path("config/chain-of-zoom/settings.toml");
    assert!(std::fs::read_to_string(settings).unwrap().contains("photo.png"), "the photo is among the recent ones");
}
