//! A picture: 8-bit RGB pixels in memory. Knows nothing of files, boxes or models.

use std::fmt;

/// 8-bit RGB pixels, row by row from the top left; shared between threads as `Arc<Picture>`.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Picture({} x {})", self.width, self.height)
    }
}

impl Picture {
    /// A picture from `width * height * 3` bytes; `None` where the length differs or a side is zero.
    pub fn from_rgb(width: u32, height: u32, rgb: Vec<u8>) -> Option<Self> {
        let expected = usize::try_from(u64::from(width) * u64::from(height)).ok()?.checked_mul(3)?;
        (expected > 0 && rgb.len() == expected).then_some(Self { width, height, rgb })
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
        Self { width, height, rgb }
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
        Self { width, height, rgb }
    }

    /// Copies `other` into this picture with its top left corner at (`left`, `top`); what does not fit is cut off.
    pub fn paste(&mut self, other: &Picture, left: u32, top: u32) {
        let columns = self.width.saturating_sub(left).min(other.width) as usize * 3;
        for y in 0..self.height.saturating_sub(top).min(other.height) {
            let at = ((top + y) as usize * self.width as usize + left as usize) * 3;
            self.rgb[at..at + columns].copy_from_slice(&other.row(y)[..columns]);
        }
    }

    /// Rows `rows` as RGBA with full opacity, for textures.
    pub fn rgba_rows(&self, rows: std::ops::Range<u32>) -> Vec<u8> {
        let stride = self.width as usize * 3;
        let mut rgba = Vec::with_capacity(rows.len() * self.width as usize * 4);
        for pixel in self.rgb[rows.start as usize * stride..rows.end as usize * stride].as_chunks::<3>().0 {
            rgba.extend([pixel[0], pixel[1], pixel[2], 255]);
        }
        rgba
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
    fn sizes_are_checked() {
        assert!(Picture::from_rgb(2, 2, vec![0; 11]).is_none());
        assert!(Picture::from_rgb(0, 2, vec![]).is_none());
        assert!(Picture::from_rgb(2, 2, vec![0; 12]).is_some());
    }
}
