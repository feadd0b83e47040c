//! Colour matching of a restored picture to the enlarged crop it came from: StableSR's `wavelet_color_fix.py`,
//! the reference's `--align_method`.

use super::Picture;
use crate::base::AlignMethod;

const LEVELS: u32 = 5;

/// `result` with the colours of `source`; both of one size (where they differ, `result` is returned as it is).
pub fn align(method: AlignMethod, result: &Picture, source: &Picture) -> Picture {
    let match_planes = match method {
        AlignMethod::Adain => adain,
        AlignMethod::Wavelet => wavelet,
        AlignMethod::NoFix => return result.clone(),
    };
    if (result.width(), result.height()) != (source.width(), source.height()) {
        return result.clone();
    }
    let channels = [0, 1, 2].map(|c| match_planes(Plane::channel(result, c), Plane::channel(source, c)));
    let level = |value: f32| (value.clamp(0.0, 1.0) * 255.0) as u8;
    Picture::from_fn(result.width(), result.height(), |x, y| {
        let at = (y * result.width() + x) as usize;
        channels.each_ref().map(|plane| level(plane.values[at]))
    })
}

/// One channel in [0, 1].
struct Plane {
    width: usize,
    values: Vec<f32>,
}

impl Plane {
    fn channel(picture: &Picture, c: usize) -> Self {
        let values = picture.rgb().as_chunks::<3>().0.iter().map(|pixel| f32::from(pixel[c]) / 255.0).collect();
        Self { width: picture.width() as usize, values }
    }

    /// Mean and deviation: unbiased variance + 1e-5.
    fn moments(&self) -> (f32, f32) {
        let n = self.values.len() as f64;
        let mean = self.values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let squares = self.values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>();
        (mean as f32, (squares / (n - 1.0).max(1.0) + 1e-5).sqrt() as f32)
    }

    /// Convolved with [1 2 1; 2 4 2; 1 2 1] / 16, taps `radius` apart, edges repeated.
    fn blurred(&self, radius: usize) -> Self {
        let height = self.values.len() / self.width;
        let across = |row: usize, x: usize| {
            let row = &self.values[row * self.width..][..self.width];
            row[x.saturating_sub(radius)] + 2.0 * row[x] + row[(x + radius).min(self.width - 1)]
        };
        let mut values = Vec::with_capacity(self.values.len());
        for y in 0..height {
            let (above, below) = (y.saturating_sub(radius), (y + radius).min(height - 1));
            values.extend((0..self.width).map(|x| (across(above, x) + 2.0 * across(y, x) + across(below, x)) / 16.0));
        }
        Self { width: self.width, values }
    }
}

fn adain(mut ours: Plane, theirs: Plane) -> Plane {
    let (mean, deviation) = ours.moments();
    let (wanted_mean, wanted_deviation) = theirs.moments();
    for value in &mut ours.values {
        *value = (*value - mean) / deviation * wanted_deviation + wanted_mean;
    }
    ours
}

/// Own high frequencies, summed level by level, on the other's last low ones.
fn wavelet(ours: Plane, theirs: Plane) -> Plane {
    let mut high = vec![0.0; ours.values.len()];
    let (mut low, mut wanted_low) = (ours, theirs);
    for level in 0..LEVELS {
        let blurred = low.blurred(1 << level);
        for ((high, before), after) in high.iter_mut().zip(&low.values).zip(&blurred.values) {
            *high += before - after;
        }
        low = blurred;
        wanted_low = wanted_low.blurred(1 << level);
    }
    for (low, high) in wanted_low.values.iter_mut().zip(high) {
        *low += high;
    }
    wanted_low
}
