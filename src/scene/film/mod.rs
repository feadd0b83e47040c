//! The zoom film: one move from the whole photo into a state, composed as the canvas composes.
//!
//! [`path`] says where the camera is and how far states have faded in; [`studio`] draws frames without a window;
//! `mp4` and `gif` write them. [`make`] puts them together.

mod caption;
mod gif;
mod mp4;
pub mod path;
pub mod studio;

use std::path::{Path, PathBuf};
use std::time::Duration;

use caption::Caption;
use path::ZoomPath;
use serde::{Deserialize, Serialize};
use studio::Studio;

use super::canvas::Scene;
use crate::base;
use crate::base::{UserError, WriteError, magnification_label};
use crate::document::{History, ScaleState, StateId, provenance, recipe};
use crate::imaging::ImageError;

/// Why a film was not made.
#[derive(Debug, thiserror::Error)]
pub enum FilmError {
    /// Someone asked to stop; not a fault.
    #[error("cancelled")]
    Cancelled,
    /// There is no graphics driver, or it failed.
    #[error("the graphics driver does not draw: {0}")]
    Graphics(String),
    /// The state has nothing before it.
    #[error("the photo alone makes no film: choose a state")]
    NoChain,
    /// The size cannot be encoded.
    #[error("{width} x {height} is no size for a film: sides from 64 to {} pixels{}", LARGEST_SIDE, if *is_gif { "" } else { ", even" })]
    Size {
        /// Asked for.
        width: u32,
        /// Asked for.
        height: u32,
        /// GIF has odd sides too.
        is_gif: bool,
    },
    /// The name's ending says no format we write.
    #[error("{} does not end in .mp4 or .gif", .0.display())]
    Ending(PathBuf),
    /// The encoder failed.
    #[error("the frames could not be encoded: {0}")]
    Encode(String),
    /// A state's picture could not be reread.
    #[error(transparent)]
    Picture(#[from] ImageError),
    /// The file could not be written; nothing half-written is left.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl From<FilmError> for UserError {
    fn from(error: FilmError) -> Self {
        let (title, hint) = match error {
            FilmError::Cancelled => ("Cancelled", ""),
            FilmError::Write(error) => return ImageError::from(error).into(),
            FilmError::Picture(error) => return error.into(),
            FilmError::Graphics(_) => (
                "There is no graphics driver to draw with",
                "Without a graphics card, Debian's mesa-vulkan-drivers draws in software.",
            ),
            FilmError::NoChain => ("There is nothing to film", "Zoom into the photo first, or choose a state."),
            FilmError::Size { .. } => ("The film's size is out of range", "1920 x 1080 plays everywhere."),
            FilmError::Ending(_) => ("The format is not clear", "End the name in .mp4 or .gif."),
            FilmError::Encode(_) => ("The film could not be encoded", "Try a smaller size; check the free disk space."),
        };
        Self::new(title, error.to_string(), hint)
    }
}

/// The longest side H.264 encoders and players are sure of.
pub const LARGEST_SIDE: u32 = 3840;

/// How the film looks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// Pixels across; even.
    pub width: u32,
    /// Pixels down; even.
    pub height: u32,
    /// Frames a second.
    pub fps: u32,
    /// How long an enlargement by 4 takes.
    pub seconds_per_4x: f64,
    /// Starts and ends gently.
    pub easing: bool,
    /// Seconds it rests at each state on the way.
    pub hold: f64,
    /// Seconds it rests at the photo and at the last state.
    pub hold_end: f64,
    /// From the last state out to the photo.
    pub reverse: bool,
    /// Writes magnification and prompt into the picture.
    pub caption: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            width: 1920,
            height: 1080,
            fps: 30,
            seconds_per_4x: 2.5,
            easing: true,
            hold: 0.0,
            hold_end: 1.0,
            reverse: false,
            caption: false,
        }
    }
}

impl Options {
    /// With numbers that can be: what comes from a file or a command line may say anything.
    pub fn clamped(mut self) -> Self {
        let seconds = |value: f64, range: std::ops::RangeInclusive<f64>| {
            if value.is_finite() { value.clamp(*range.start(), *range.end()) } else { *range.start() }
        };
        self.fps = self.fps.clamp(1, 120);
        self.seconds_per_4x = seconds(self.seconds_per_4x, 0.05..=600.0);
        (self.hold, self.hold_end) = (seconds(self.hold, 0.0..=600.0), seconds(self.hold_end, 0.0..=600.0));
        self
    }

    fn check(&self, is_gif: bool) -> Result<(), FilmError> {
        let side = |length: u32| (64..=LARGEST_SIDE).contains(&length) && (is_gif || length.is_multiple_of(2));
        match side(self.width) && side(self.height) {
            true => Ok(()),
            false => Err(FilmError::Size { width: self.width, height: self.height, is_gif }),
        }
    }
}

/// What a finished film is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Written {
    /// How many frames it has.
    pub frames: u32,
    /// How long it plays.
    pub seconds: f64,
}

/// Where frames go.
trait Sink {
    /// One more frame: `width * height` pixels of RGB.
    fn frame(&mut self, rgb: &[u8]) -> Result<(), FilmError>;
}

fn ending(file: &Path) -> String {
    file.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

/// Whether a file of this name is a film.
pub fn is_film(file: &Path) -> bool {
    matches!(ending(file).as_str(), "mp4" | "gif")
}

/// Makes a film of `branch`, a history that is one chain, into `file` (.mp4 or .gif); whole or not at all.
///
/// `on_frame` is called with how many of all frames are done and answers whether to go on.
pub fn make(
    branch: &History,
    options: &Options,
    file: &Path,
    on_frame: &mut dyn FnMut(u32, u32) -> bool,
) -> Result<Written, FilmError> {
    let is_gif = ending(file) == "gif";
    if !is_film(file) {
        return Err(FilmError::Ending(file.to_owned()));
    }
    options.check(is_gif)?;
    let branch = &branch.in_memory()?;
    let path = ZoomPath::new(branch, options).ok_or(FilmError::NoChain)?;
    let fps = options.fps.clamp(1, if is_gif { 50 } else { 120 });
    let frames = ((path.seconds() * f64::from(fps)).round() as u32).max(1);
    let mut studio = Studio::new(options.width, options.height)?;
    let chain: Vec<&ScaleState> = branch.chain(branch.current().id);
    let xmp = provenance::packet(&recipe(branch.source(), &chain));
    // What went wrong inside comes out as it is; around it only the file can fail.
    let mut inner = None;
    let written = base::write_atomic(file, |out| {
        let outcome = if is_gif {
            gif::Gif::new(out, options.width, options.height, fps, &xmp)
                .and_then(|mut gif| shoot(branch, options, &path, frames, fps, &mut studio, &mut gif, on_frame))
        } else {
            mp4::Mp4::new(out, options.width, options.height, fps, frames).and_then(|mut mp4| {
                shoot(branch, options, &path, frames, fps, &mut studio, &mut mp4, on_frame)?;
                mp4.finish(&xmp)
            })
        };
        outcome.map_err(|error| {
            let details = error.to_string();
            inner = Some(error);
            details
        })
    });
    if let Some(error) = inner {
        return Err(error);
    }
    written?;
    Ok(Written { frames, seconds: f64::from(frames) / f64::from(fps) })
}

/// Frames waiting to be encoded while the next ones are drawn.
const AHEAD: usize = 3;

#[allow(clippy::too_many_arguments, reason = "one call site a format, all of it needed")]
fn shoot(
    branch: &History,
    options: &Options,
    path: &ZoomPath,
    frames: u32,
    fps: u32,
    studio: &mut Studio,
    sink: &mut dyn Sink,
    on_frame: &mut dyn FnMut(u32, u32) -> bool,
) -> Result<(), FilmError> {
    let (sender, receiver) = crossbeam_channel::bounded::<Result<Vec<u8>, FilmError>>(AHEAD);
    std::thread::scope(|scope| {
        let draw = move || {
            for number in 0..frames {
                let frame = frame(branch, options, path, f64::from(number) / f64::from(fps), studio);
                let failed = frame.is_err();
                // A sink that stopped wants no more.
                if sender.send(frame).is_err() || failed {
                    return;
                }
            }
        };
        let drawing = std::thread::Builder::new().name("coz-film".into()).spawn_scoped(scope, draw);
        drawing.map_err(|error| FilmError::Graphics(error.to_string()))?;
        // Taken in here, so that it goes before the drawing thread is waited for: that stops when nobody listens.
        let receiver = receiver;
        for (done, frame) in (1..).zip(receiver.iter()) {
            sink.frame(&frame?)?;
            if !on_frame(done, frames) {
                return Err(FilmError::Cancelled);
            }
        }
        Ok(())
    })
}

fn frame(
    branch: &History,
    options: &Options,
    path: &ZoomPath,
    seconds: f64,
    studio: &mut Studio,
) -> Result<Vec<u8>, FilmError> {
    let moment = path.at(Duration::from_secs_f64(seconds));
    let screen = [f64::from(options.width), f64::from(options.height)];
    let opacity = |id| moment.opacity(id);
    let scene = Scene { history: branch, camera: moment.camera, screen, overlays: &[], opacity: &opacity };
    let mut rgb = studio.draw(&scene)?;
    if options.caption {
        // The prompt of what is seen most of; the marker from the first invented pixel on.
        let seen = |least: f32| match moment.fading > least {
            true => branch.get(StateId(moment.state.0 + 1)),
            false => branch.get(moment.state),
        };
        let record = seen(0.5).and_then(|state| state.record.as_ref());
        let chain = seen(0.0).map(|state| branch.chain(state.id)).unwrap_or_default();
        let is_generated = chain.iter().any(|state| state.record.as_ref().is_some_and(|record| record.model.is_some()));
        let caption = Caption {
            magnification: magnification_label(moment.magnification),
            prompt: record.map_or("", |record| &record.prompt),
            marker: if is_generated { "AI-generated detail" } else { "" },
        };
        caption.draw(&mut rgb, options.width, options.height);
    }
    Ok(rgb)
}
