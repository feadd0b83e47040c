//! A virtual screen with the viewer on it: what is seen there, and a hand to use it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use image::RgbImage;

/// An Xvfb server.
pub struct Screen {
    server: Child,
    display: String,
}

impl Drop for Screen {
    fn drop(&mut self) {
        _ = self.server.kill();
        _ = self.server.wait();
    }
}

/// A viewer on it, with settings and data of its own.
pub struct Viewer {
    process: Child,
    /// When it was started.
    pub start: Instant,
}

impl Drop for Viewer {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

impl Screen {
    /// Of this many pixels.
    pub fn new(width: u32, height: u32) -> anyhow::Result<Self> {
        let size = format!("{width}x{height}x24");
        let mut server = Command::new("Xvfb")
            // Else it starts anew whenever its last client leaves, and drops who comes in that moment.
            .args(["-displayfd", "1", "-screen", "0", &size, "-nolisten", "tcp", "-noreset"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("Xvfb does not start")?;
        let mut line = String::new();
        BufReader::new(server.stdout.take().context("Xvfb has no output")?).read_line(&mut line)?;
        Ok(Self { server, display: format!(":{}", line.trim()) })
    }

    /// Starts the viewer; its settings and data go below `home`.
    pub fn viewer(&self, program: &Path, home: &Path, arguments: &[&Path]) -> anyhow::Result<Viewer> {
        std::fs::create_dir_all(home)?;
        let start = Instant::now();
        let process = Command::new(program)
            .args(arguments)
            .env("DISPLAY", &self.display)
            .env_remove("WAYLAND_DISPLAY")
            .env("XDG_RUNTIME_DIR", home)
            .env("XDG_CONFIG_HOME", home.join("config"))
            .env("XDG_DATA_HOME", home.join("data"))
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("{} does not start", program.display()))?;
        Ok(Viewer { process, start })
    }

    /// What is on the screen.
    pub fn look(&self) -> anyhow::Result<RgbImage> {
        let dump = Command::new("xwd").args(["-silent", "-root", "-display", &self.display]).output()?.stdout;
        let number = |i: usize| -> anyhow::Result<usize> {
            let bytes = dump.get(i * 4..i * 4 + 4).context("xwd shows nothing")?;
            Ok(u32::from_be_bytes(bytes.try_into()?) as usize)
        };
        // Header size; then at fixed places width and height (4, 5) and the number of colours (19), 12 bytes each.
        let (width, height) = (number(4)?, number(5)?);
        let pixels = dump.get(number(0)? + number(19)? * 12..).context("xwd shows nothing")?;
        let rgb = pixels.chunks_exact(4).flat_map(|p| [p[2], p[1], p[0]]).take(width * height * 3).collect();
        RgbImage::from_raw(width as u32, height as u32, rgb).context("xwd shows too little")
    }

    /// Looks until something holds; how long after `since` that was.
    pub fn wait(&self, since: Instant, holds: impl Fn(&RgbImage) -> bool) -> anyhow::Result<Duration> {
        while since.elapsed() < Duration::from_secs(120) {
            let seen = self.look()?;
            let when = since.elapsed();
            if holds(&seen) {
                return Ok(when);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("it does not appear on the screen")
    }

    /// Mouse and keys, in xdotool's words.
    pub fn hand(&self, words: &str) -> anyhow::Result<()> {
        let status = Command::new("xdotool").env("DISPLAY", &self.display).args(words.split_whitespace()).status();
        if !status.context("xdotool does not start")?.success() {
            bail!("xdotool {words} failed");
        }
        std::thread::sleep(Duration::from_millis(120));
        Ok(())
    }

    /// The keyboard goes to the viewer.
    pub fn focus(&self) -> anyhow::Result<()> {
        self.hand("search --onlyvisible --name Chain-of-Zoom windowfocus --sync")
    }

    /// A box drawn from corner to corner.
    pub fn drag(&self, from: (u32, u32), to: (u32, u32)) -> anyhow::Result<()> {
        self.press(from, to)?;
        self.hand("mouseup 1")
    }

    /// The same, the button still down.
    pub fn press(&self, from: (u32, u32), to: (u32, u32)) -> anyhow::Result<()> {
        self.hand(&format!("mousemove {} {}", from.0, from.1))?;
        self.hand("mousedown 1")?;
        for i in 1..=5 {
            let at = |a: u32, b: u32| (i64::from(a) + (i64::from(b) - i64::from(a)) * i / 5).max(0);
            self.hand(&format!("mousemove {} {}", at(from.0, to.0), at(from.1, to.1)))?;
        }
        Ok(())
    }
}

impl Viewer {
    /// A line of the process's status, in kB.
    pub fn kilobytes(&self, what: &str) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find(|line| line.starts_with(what)).context("no such line")?;
        Ok(line.split_whitespace().nth(1).unwrap_or_default().parse()?)
    }

    /// Seconds of processor time used so far.
    pub fn processor_seconds(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |i: usize| fields.get(i).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        Ok((ticks(11) + ticks(12)) / 100.0)
    }
}
