//! From a file's pixels to RGB, on all processors: rows as they are decoded, and pictures that come whole. Large ones can be
//! looked at meanwhile.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use image::metadata::Orientation;
use rayon::prelude::*;

use super::samples::Samples;
use super::{GREY, Picture, Preview, upright};

/// Longest side of a preview.
const PREVIEW: u32 = 1600;
/// Between two previews.
const INTERVAL: Duration = Duration::from_millis(80);
/// Pictures of fewer pixels are decoded before anybody could look at a preview.
const WORTH_A_PREVIEW: u64 = 24_000_000;
/// Pixels that are handed to another thread at once.
const BATCH: usize = 1 << 15;
/// Batches that wait at most: a decoder may be faster than all processors.
const MOST_WAITING: usize = 32;

/// A picture's pixels, row by row.
pub(super) struct Pixels {
    /// Three bytes each.
    pub rgb: Vec<u8>,
    /// A byte each, or empty.
    pub opacity: Vec<u8>,
}

impl Pixels {
    /// Of a picture that came whole.
    pub(super) fn of(samples: &Samples, bytes: &[u8], width: u32, height: u32) -> Result<Self, String> {
        let mut pixels = Self::sized(samples, width, height)?;
        let (rgb, opacity) = pixels.batches(samples, BATCH);
        let batches = bytes.chunks(BATCH * samples.bytes_a_pixel()).zip(rgb).zip(opacity);
        batches.par_bridge().for_each(|((bytes, rgb), opacity)| {
            let whole = rgb.len().min(bytes.len() / samples.bytes_a_pixel() * 3);
            let opacity = if opacity.is_empty() { opacity } else { &mut opacity[..whole / 3] };
            samples.convert(&bytes[..whole / 3 * samples.bytes_a_pixel()], &mut rgb[..whole], opacity);
        });
        Ok(pixels)
    }

    /// Nothing yet, all black.
    fn sized(samples: &Samples, width: u32, height: u32) -> Result<Self, String> {
        let pixels = width as usize * height as usize;
        let zeros = |bytes: usize| {
            let failed = |()| format!("{} MB of memory are not there", bytes >> 20);
            bytemuck::allocation::try_zeroed_vec(bytes).map_err(failed)
        };
        Ok(Self { rgb: zeros(pixels * 3)?, opacity: zeros(if samples.has_opacity() { pixels } else { 0 })? })
    }

    /// So many pixels each, and their opacity.
    fn batches(
        &mut self,
        samples: &Samples,
        pixels: usize,
    ) -> (std::slice::ChunksMut<'_, u8>, impl Iterator<Item = &mut [u8]> + Send) {
        let opacity = self.opacity.chunks_mut(pixels);
        // Where there is none, every batch has none.
        let nothing = (!samples.has_opacity()).then(|| std::iter::repeat_with(|| &mut [][..])).into_iter().flatten();
        (self.rgb.chunks_mut(pixels * 3), opacity.chain(nothing))
    }
}

/// Rows that a decoder makes.
pub(super) struct Rows<'a> {
    pub samples: &'a Samples,
    pub width: u32,
    pub height: u32,
    pub orientation: Orientation,
    /// Sees previews, and answers whether to go on.
    pub watch: &'a mut dyn FnMut(Preview) -> bool,
}

impl Rows<'_> {
    /// Runs a decoder, which hands each of its rows on, and stops where it hears false. Rows that it does not make are grey.
    ///
    /// # Errors
    /// Where there is not enough memory.
    pub(super) fn read<T>(
        self,
        decode: impl FnOnce(&mut dyn FnMut(&[u8]) -> bool) -> T,
    ) -> Result<(T, Pixels), String> {
        let Self { samples, width, height, .. } = self;
        let mut pixels = Pixels::sized(samples, width, height)?;
        let rows = if samples.is_slow() { BATCH.div_ceil(width as usize).max(1) } else { 1 };
        let (mut done, waiting) = (0, AtomicUsize::new(0));
        let outcome = {
            let (rgb, opacity) = pixels.batches(samples, rows * width as usize);
            let mut places = rgb.zip(opacity);
            let mut growing = Growing::new(self);
            rayon::in_place_scope(|scope| {
                let mut batch = Vec::new();
                let waiting = &waiting;
                let mut hand_on = |batch: Vec<u8>| {
                    let Some((rgb, opacity)) = places.next() else { return };
                    let count = batch.len() / samples.bytes_a_pixel();
                    let opacity = if opacity.is_empty() { opacity } else { &mut opacity[..count] };
                    let mut convert = move || samples.convert(&batch, &mut rgb[..count * 3], opacity);
                    // Where the others have enough to do, here: nothing ever waits for them.
                    if !samples.is_slow() || waiting.load(Ordering::Relaxed) >= MOST_WAITING {
                        return convert();
                    }
                    waiting.fetch_add(1, Ordering::Relaxed);
                    scope.spawn(move |_| {
                        convert();
                        waiting.fetch_sub(1, Ordering::Relaxed);
                    });
                };
                let outcome = decode(&mut |row: &[u8]| {
                    batch.extend_from_slice(row);
                    done += 1;
                    if batch.len() == rows * row.len() {
                        hand_on(std::mem::take(&mut batch));
                    }
                    growing.add(row)
                });
                if !batch.is_empty() {
                    hand_on(batch);
                }
                outcome
            })
        };
        pixels.rgb[(done * width as usize * 3).min(width as usize * height as usize * 3)..].fill(GREY);
        if samples.has_opacity() {
            pixels.opacity[(done * width as usize).min(width as usize * height as usize)..].fill(255);
        }
        Ok((outcome, pixels))
    }
}

/// The preview of rows so far.
struct Growing<'a> {
    rows: Rows<'a>,
    done: u32,
    /// Every so many pixels make one of the preview; 0 where there is none.
    every: u32,
    preview: Vec<u8>,
    row: Vec<u8>,
    opacity: Vec<u8>,
    last_preview: Instant,
}

impl<'a> Growing<'a> {
    fn new(rows: Rows<'a>) -> Self {
        let (width, height) = (rows.width, rows.height);
        let large = u64::from(width) * u64::from(height) >= WORTH_A_PREVIEW;
        let every = if large { width.max(height).div_ceil(PREVIEW) } else { 0 };
        Self {
            rows,
            done: 0,
            every,
            preview: Vec::new(),
            row: Vec::new(),
            opacity: Vec::new(),
            last_preview: Instant::now(),
        }
    }

    /// A row more. Answers whether to go on.
    fn add(&mut self, row: &[u8]) -> bool {
        let y = self.done;
        self.done += 1;
        if self.every == 0 || !y.is_multiple_of(self.every) {
            return true;
        }
        let Rows { samples, width, height, orientation, .. } = self.rows;
        self.row.resize(width as usize * 3, 0);
        self.opacity.resize(if samples.has_opacity() { width as usize } else { 0 }, 0);
        samples.convert(row, &mut self.row, &mut self.opacity);
        for pixel in self.row.as_chunks::<3>().0.iter().step_by(self.every as usize) {
            self.preview.extend(pixel);
        }
        if self.last_preview.elapsed() < INTERVAL {
            return true;
        }
        self.last_preview = Instant::now();
        let (small_width, small_height) = (width.div_ceil(self.every), height.div_ceil(self.every));
        let mut rgb = self.preview.clone();
        rgb.resize(small_width as usize * small_height as usize * 3, 0x20);
        let Some(picture) = Picture::from_rgb(small_width, small_height, rgb) else { return true };
        let picture = upright(picture, orientation);
        let is_turned = (picture.width() > picture.height()) != (small_width > small_height);
        let size = if is_turned { [height, width] } else { [width, height] };
        (self.rows.watch)(Preview { size, picture, fraction: self.done as f32 / height as f32 })
    }
}
