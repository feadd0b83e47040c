//! A picture: 8-bit RGB pixels in memory. Knows nothing of files, boxes or models.

use std::fmt;
use std::sync::OnceLock;

/// 8-bit RGB pixels, row by row from the top left; shared between threads as `Arc<Picture>`.
#[derive(Clone)]
pub struct Picture {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
    /// Half as large; made when first asked for.
    half: OnceLock<Box<Picture>>,
}

impl PartialEq for Picture {
    fn eq(&self, other: &Self) -> bool {
        (self.width, self.height) == (other.width, other.height) && self.rgb == other.rgb
    }
}

impl Eq for Picture {}

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Picture({} x {})", self.width, self.height)
    }
}

/// Giving back the memory of larger ones takes the system so long that a window would stutter.
const LARGE: usize = 16 << 20;

impl Drop for Picture {
    fn drop(&mut self) {
        if self.rgb.len() > LARGE {
            let rgb = std::mem::take(&mut self.rgb);
            rayon::spawn(move || drop(rgb));
        }
    }
}

impl Picture {
    /// A picture from `width * height * 3` bytes; `None` where the length differs or a side is zero.
    pub fn from_rgb(width: u32, height: u32, rgb: Vec<u8>) -> Option<Self> {
        let expected = usize::try_from(u64::from(width) * u64::from(height)).ok()?.checked_mul(3)?;
        (expected > 0 && rgb.len() == expected).then_some(Self { width, height, rgb, half: OnceLock::new() })
    }

    /// A picture whose every pixel comes from `pixel(x, y)`. A side of zero becomes one.
    pub fn from_fn(width: u32, height: u32, mut pixel: impl FnMut(u32, u32) -> [u8; 3]) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        let mut rgb = Vec::with_capacity(width as usize * height as usize * 3);
        for y in 0..height {
            for x in 0..width {
                rgb.extend(pixel(x, y));
            }
        }
        Self { width, height, rgb, half: OnceLock::new() }
    }

    /// Pixels across.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Pixels down.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The shorter side.
    pub fn short_side(&self) -> u32 {
        self.width.min(self.height)
    }

    /// All pixels, three bytes each.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// One row, three bytes a pixel. `y` must lie inside.
    pub fn row(&self, y: u32) -> &[u8] {
        let stride = self.width as usize * 3;
        &self.rgb[y as usize * stride..][..stride]
    }

    /// One pixel. `x` and `y` must lie inside.
    pub fn pixel(&self, x: u32, y: u32) -> [u8; 3] {
        let at = (y as usize * self.width as usize + x as usize) * 3;
        [self.rgb[at], self.rgb[at + 1], self.rgb[at + 2]]
    }

    /// The `width` x `height` pixels whose top left corner is (`left`, `top`); what lies outside is black, as in Pillow.
    pub fn crop(&self, left: i64, top: i64, width: u32, height: u32) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        let mut rgb = vec![0; width as usize * height as usize * 3];
        let x_range = left.max(0)..(left + i64::from(width)).min(i64::from(self.width));
        let y_range = top.max(0)..(top + i64::from(height)).min(i64::from(self.height));
        if !x_range.is_empty() {
            for y in y_range {
                let from = &self.row(y as u32)[x_range.start as usize * 3..x_range.end as usize * 3];
                let at = ((y - top) as usize * width as usize + (x_range.start - left) as usize) * 3;
                rgb[at..at + from.len()].copy_from_slice(from);
            }
        }
        Self { width, height, rgb, half: OnceLock::new() }
    }

    /// The picture halved `level` times: each pixel is the mean of two by two of the level below, an odd last row or
    /// column counting twice. Kept once made, a third more memory for all levels together.
    pub fn level(&self, level: u32) -> &Picture {
        match level.checked_sub(1) {
            None => self,
            Some(below) => self.half.get_or_init(|| Box::new(self.halved())).level(below),
        }
    }

    /// Makes the halvings that a canvas will want, down to a side of 512, so that nobody waits for them later.
    pub fn prepare_levels(&self) {
        let side = self.width.max(self.height);
        self.level((0..32).find(|level| side.div_ceil(1 << level) <= 512).unwrap_or(0));
    }

    /// Bytes in memory, with those halvings.
    pub fn bytes(&self) -> u64 {
        let own = self.rgb.len() as u64;
        if self.width.max(self.height) > 512 { own + own / 3 } else { own }
    }

    fn halved(&self) -> Self {
        let (width, height) = (self.width.div_ceil(2), self.height.div_ceil(2));
        let stride = self.width as usize * 3;
        let mut rgb = vec![0; width as usize * height as usize * 3];
        let rows_of = |chunk: &mut [u8], from: usize| {
            for (y, out) in (from..).zip(chunk.chunks_exact_mut(width as usize * 3)) {
                let upper = &self.rgb[2 * y * stride..][..stride];
                let lower = &self.rgb[(2 * y + 1).min(self.height as usize - 1) * stride..][..stride];
                for (x, pixel) in out.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                    let (left, right) = (6 * x, (6 * x + 3).min(stride - 3));
                    for c in 0..3 {
                        let sum = u16::from(upper[left + c])
                            + u16::from(upper[right + c])
                            + u16::from(lower[left + c])
                            + u16::from(lower[right + c]);
                        pixel[c] = ((sum + 2) / 4) as u8;
                    }
                }
            }
        };
        let threads = if rgb.len() > 1 << 20 { std::thread::available_parallelism().map_or(1, usize::from) } else { 1 };
        let rows = (height as usize).div_ceil(threads);
        std::thread::scope(|scope| {
            for (i, chunk) in rgb.chunks_mut(rows * width as usize * 3).enumerate() {
                if threads == 1 {
                    rows_of(chunk, 0);
                } else {
                    scope.spawn(move || rows_of(chunk, i * rows));
                }
            }
        });
        Self { width, height, rgb, half: OnceLock::new() }
    }

    /// Copies `other` into this picture with its top left corner at (`left`, `top`); what does not fit is cut off.
    pub fn paste(&mut self, other: &Picture, left: u32, top: u32) {
        let columns = self.width.saturating_sub(left).min(other.width) as usize * 3;
        if columns == 0 {
            return;
        }
        for y in 0..self.height.saturating_sub(top).min(other.height) {
            let at = ((top + y) as usize * self.width as usize + left as usize) * 3;
            self.rgb[at..at + columns].copy_from_slice(&other.row(y)[..columns]);
        }
    }

    /// The `width` x `height` pixels from (`left`, `top`) as RGBA with full opacity, for textures; beyond the edge the
    /// last row or column goes on.
    pub fn rgba(&self, left: i64, top: i64, width: u32, height: u32) -> Vec<u8> {
        let mut rgba = vec![255; width as usize * height as usize * 4];
        let end = i64::from(self.width);
        let inside = left.clamp(0, end - 1)..(left + i64::from(width)).clamp(1, end);
        for (y, out) in (top..).zip(rgba.chunks_exact_mut(width as usize * 4)) {
            let row = self.row(y.clamp(0, i64::from(self.height) - 1) as u32).as_chunks::<3>().0;
            let out = out.as_chunks_mut::<4>().0;
            let column = |x: i64| (x - left).clamp(0, i64::from(width)) as usize;
            let (before, after) = (column(inside.start), column(inside.end));
            out[..before].iter_mut().for_each(|pixel| pixel[..3].copy_from_slice(&row[0]));
            let seen = &row[inside.start as usize..inside.end as usize];
            out[before..after].iter_mut().zip(seen).for_each(|(pixel, rgb)| pixel[..3].copy_from_slice(rgb));
            out[after..].iter_mut().for_each(|pixel| pixel[..3].copy_from_slice(&row[row.len() - 1]));
        }
        rgba
    }

    /// Gives the bytes away.
    pub fn into_rgb(mut self) -> Vec<u8> {
        std::mem::take(&mut self.rgb)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp() -> Picture {
        Picture::from_fn(5, 4, |x, y| [x as u8, y as u8, 9])
    }

    #[test]
    fn crop_outside_is_black() {
        let cut = ramp().crop(-1, 2, 3, 4);
        assert_eq!(cut.pixel(0, 0), [0, 0, 0]);
        assert_eq!(cut.pixel(1, 0), [0, 2, 9]);
        assert_eq!(cut.pixel(2, 1), [1, 3, 9]);
        assert_eq!(cut.pixel(2, 2), [0, 0, 0]);
        assert_eq!(ramp().crop(10, 0, 2, 2).pixel(1, 1), [0, 0, 0]);
    }

    #[test]
    fn levels_are_means_and_textures_go_on_beyond_the_edge() {
        let half = ramp();
        let half = half.level(1);
        assert_eq!((half.width(), half.height()), (3, 2));
        assert_eq!([half.pixel(0, 0), half.pixel(2, 1)], [[1, 1, 9], [4, 3, 9]]);
        let large = Picture::from_fn(1501, 701, |x, y| [x as u8, y as u8, (x / 7) as u8]);
        let mean = |x: u32, y: u32| {
            let sum: u16 = [(0, 0), (1, 0), (0, 1), (1, 1)]
                .map(|(i, j)| u16::from(large.pixel((2 * x + i).min(1500), (2 * y + j).min(700))[2]))
                .iter()
                .sum();
            ((sum + 2) / 4) as u8
        };
        for (x, y) in [(0, 0), (750, 350), (333, 175), (12, 349)] {
            assert_eq!(large.level(1).pixel(x, y)[2], mean(x, y), "the threads' bands meet");
        }
        assert_eq!(large.level(11).width(), 1);
        let rgba = ramp().rgba(-2, 3, 9, 2);
        let reds: Vec<u8> = rgba.as_chunks::<4>().0.iter().map(|pixel| pixel[0]).collect();
        assert_eq!(reds, [0, 0, 0, 1, 2, 3, 4, 4, 4, 0, 0, 0, 1, 2, 3, 4, 4, 4]);
    }

    #[test]
    fn sizes_are_checked() {
        assert!(Picture::from_rgb(2, 2, vec![0; 11]).is_none());
        assert!(Picture::from_rgb(0, 2, vec![]).is_none());
        assert!(Picture::from_rgb(2, 2, vec![0; 12]).is_some());
    }
}
