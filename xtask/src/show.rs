//! `cargo xtask show PHOTO`: the README's pictures and a demonstration film, made by using the program on a virtual screen.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::screen::Screen;

/// Draws boxes, waits for states, takes pictures into `root/docs`; the film goes there as a GIF and below
/// `root/target/show` as an MP4.
pub fn all(root: &Path, photo: &Path) -> anyhow::Result<()> {
    let program = root.join("target/release/coz");
    let (folder, docs) = (root.join("target/show"), root.join("docs"));
    let home = folder.join("home");
    _ = std::fs::remove_dir_all(&home);
    // The pictures are Real-ESRGAN's; without it they would be the built-in network's.
    let models = ["models", "download", "realesrgan"];
    crate::run(Command::new(&program).args(models).env("XDG_DATA_HOME", home.join("data")))?;
    let screen = Screen::new(1440, 900)?;
    let viewer = screen.viewer(&program, &home, &[photo])?;
    screen.wait(viewer.start, |seen| seen.get_pixel(20, 500).0 == [0x1e; 3])?;
    std::thread::sleep(Duration::from_secs(1));
    screen.focus()?;

    // Two boxes into each other: the eye, half of it as the photo's own pixels.
    screen.drag((520, 300), (700, 480))?;
    settle();
    screen.drag((560, 330), (800, 570))?;
    settle();
    screen.hand("key b")?;
    screen.hand("key s")?;
    screen.hand("mousemove 1200 880")?;
    std::thread::sleep(Duration::from_millis(400));
    screen.look()?.save(docs.join("compare.png"))?;
    screen.hand("key s")?;
    // A branch beside them.
    screen.hand("key Home")?;
    settle();
    screen.drag((800, 500), (900, 600))?;
    settle();
    screen.hand("key Home")?;
    settle();
    // A box being drawn in the fur, with the steps that lead there.
    screen.press((786, 232), (802, 248))?;
    std::thread::sleep(Duration::from_millis(300));
    screen.look()?.save(docs.join("screenshot.png"))?;
    screen.hand("mouseup 1")?;
    settle();
    settle();
    screen.hand("key End")?;
    settle();
    screen.hand("key ctrl+q")?;
    std::thread::sleep(Duration::from_secs(1));
    drop(viewer);

    // What the window kept on the disk is a session.
    let kept =
        std::fs::read_dir(home.join("data/chain-of-zoom/autosave"))?.next().context("no session was kept")??.path();
    for (file, options) in [
        (
            docs.join("zoom.gif"),
            &["--size", "240x160", "--fps", "8", "--seconds-per-4x", "1.2", "--hold-end", "0.6"][..],
        ),
        (folder.join("zoom.mp4"), &["--caption"][..]),
    ] {
        let film = Command::new(&program)
            .args(["export", "--video", "-i"])
            .arg(&kept)
            .arg("-o")
            .arg(&file)
            .args(options)
            .output()?;
        if !film.status.success() {
            bail!("{}", String::from_utf8_lossy(&film.stderr));
        }
        eprintln!("{}", file.display());
    }
    Ok(())
}

/// The steps of a box have run and the camera has arrived.
fn settle() {
    std::thread::sleep(Duration::from_secs(12));
}
