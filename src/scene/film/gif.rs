//! Animated GIF: plays everywhere, 256 colours a frame.

use std::io::Write;

use gif::{Encoder, Extension, Frame, Repeat};

use super::{FilmError, Sink};

/// 1 is best and slow, 30 fast.
const QUANTISER_SPEED: i32 = 10;

pub(super) struct Gif<W: Write> {
    encoder: Encoder<W>,
    width: u16,
    height: u16,
    fps: u32,
    frames: u32,
}

fn failed(error: impl std::fmt::Display) -> FilmError {
    FilmError::Encode(error.to_string())
}

impl<W: Write> Gif<W> {
    /// Plays again and again; `xmp` says how it was made.
    pub(super) fn new(out: W, width: u32, height: u32, fps: u32, xmp: &str) -> Result<Self, FilmError> {
        let side = |length: u32| u16::try_from(length).map_err(failed);
        let (width, height) = (side(width)?, side(height)?);
        let mut encoder = Encoder::new(out, width, height, &[]).map_err(failed)?;
        encoder.set_repeat(Repeat::Infinite).map_err(failed)?;
        // As a comment: the format has no better place that its library can write.
        let blocks: Vec<&[u8]> = xmp.as_bytes().chunks(255).collect();
        encoder.write_raw_extension(Extension::Comment.into(), &blocks).map_err(failed)?;
        Ok(Self { encoder, width, height, fps, frames: 0 })
    }
}

impl<W: Write> Sink for Gif<W> {
    fn frame(&mut self, rgb: &[u8]) -> Result<(), FilmError> {
        let mut frame = Frame::from_rgb_speed(self.width, self.height, rgb, QUANTISER_SPEED);
        // Hundredths of a second; what does not divide evenly is spread, so that the length is right.
        let until = |frames: u32| frames * 100 / self.fps;
        frame.delay = (until(self.frames + 1) - until(self.frames)) as u16;
        self.frames += 1;
        self.encoder.write_frame(&frame).map_err(failed)
    }
}
