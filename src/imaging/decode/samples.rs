//! Pixels of any kind to 8-bit RGB: colours to sRGB, 16 bits to 8, transparency laid over one colour.

use super::{Alpha, Opening};
use crate::imaging::colour_profile::{ColourModel, ToSrgb};

/// Bits a sample; 16 in the machine's own order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    Eight,
    Sixteen,
}

impl Depth {
    fn bytes(self) -> usize {
        if self == Self::Eight { 1 } else { 2 }
    }
}

/// The sample behind the colours of each pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AlphaKind {
    /// There is none.
    None,
    /// Colours are as they are where they can be seen.
    Straight,
    /// Colours are multiplied by it already (associated alpha).
    Associated,
}

/// What makes RGB of one kind of pixels.
pub(super) struct Samples {
    to_srgb: Option<ToSrgb>,
    model: ColourModel,
    depth: Depth,
    alpha: AlphaKind,
    becomes: Alpha,
    keeps_opacity: bool,
}

impl Samples {
    pub(super) fn new(
        to_srgb: Option<ToSrgb>,
        model: ColourModel,
        depth: Depth,
        alpha: AlphaKind,
        opening: &Opening,
    ) -> Self {
        Self { to_srgb, model, depth, alpha, becomes: opening.alpha, keeps_opacity: opening.keep_alpha }
    }

    /// Bytes a pixel in the file's rows.
    pub(super) fn bytes_a_pixel(&self) -> usize {
        (self.model.channels() + usize::from(self.alpha != AlphaKind::None)) * self.depth.bytes()
    }

    /// Whether opacity is wanted, and there is any.
    pub(super) fn has_opacity(&self) -> bool {
        self.keeps_opacity && self.alpha != AlphaKind::None
    }

    /// Whether making RGB takes longer than handing it to another thread.
    pub(super) fn is_slow(&self) -> bool {
        self.to_srgb.is_some() || self.alpha != AlphaKind::None || self.depth == Depth::Sixteen
    }

    /// Pixels of the file to three bytes each in `rgb`, and to one each in `kept`, which is empty where
    /// [`Samples::has_opacity`] is not.
    pub(super) fn convert(&self, pixels: &[u8], rgb: &mut [u8], kept: &mut [u8]) {
        if self.alpha == AlphaKind::None {
            self.convert_opaque(pixels, rgb);
            return;
        }
        let (colours, opacity) = self.split(pixels);
        self.convert_opaque(&colours, rgb);
        if let Alpha::Blend(background) = self.becomes {
            for (pixel, &opacity) in rgb.as_chunks_mut::<3>().0.iter_mut().zip(&opacity) {
                for (level, below) in pixel.iter_mut().zip(background) {
                    let (opacity, above) = (u32::from(opacity), u32::from(*level));
                    *level = ((above * opacity + u32::from(below) * (255 - opacity) + 127) / 255) as u8;
                }
            }
        }
        if self.keeps_opacity {
            kept.copy_from_slice(&opacity);
        }
    }

    /// Colours and opacity apart; associated alpha is divided out.
    fn split(&self, pixels: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (channels, size) = (self.model.channels(), self.bytes_a_pixel());
        let mut colours = Vec::with_capacity(pixels.len() / size * channels * self.depth.bytes());
        let mut opacity = Vec::with_capacity(pixels.len() / size);
        let is_associated = self.alpha == AlphaKind::Associated;
        for pixel in pixels.chunks_exact(size) {
            let (of_pixel, alpha) = pixel.split_at(channels * self.depth.bytes());
            match (self.depth, alpha) {
                (Depth::Sixteen, &[first, second]) => {
                    let alpha = u32::from(u16::from_ne_bytes([first, second]));
                    opacity.push(((alpha + 128) / 257) as u8);
                    for sample in of_pixel.as_chunks::<2>().0 {
                        let value = u32::from(u16::from_ne_bytes(*sample));
                        let value = if is_associated { divided(value, alpha, 65535) } else { value };
                        colours.extend((value as u16).to_ne_bytes());
                    }
                }
                (_, &[alpha, ..]) => {
                    opacity.push(alpha);
                    let divided = |&value: &u8| divided(value.into(), alpha.into(), 255) as u8;
                    match is_associated {
                        true => colours.extend(of_pixel.iter().map(divided)),
                        false => colours.extend(of_pixel),
                    }
                }
                (_, []) => {}
            }
        }
        (colours, opacity)
    }

    fn convert_opaque(&self, samples: &[u8], rgb: &mut [u8]) {
        match (&self.to_srgb, self.depth) {
            (Some(to_srgb), _) => to_srgb.convert(samples, rgb),
            (None, Depth::Eight) => convert_bytes(self.model, samples, rgb),
            (None, Depth::Sixteen) => {
                let reduced = |sample: &[u8; 2]| ((u32::from(u16::from_ne_bytes(*sample)) + 128) / 257) as u8;
                let bytes: Vec<u8> = samples.as_chunks::<2>().0.iter().map(reduced).collect();
                convert_bytes(self.model, &bytes, rgb);
            }
        }
    }
}

fn divided(value: u32, alpha: u32, most: u32) -> u32 {
    (value * most + alpha / 2).checked_div(alpha).unwrap_or(0).min(most)
}

fn convert_bytes(model: ColourModel, samples: &[u8], rgb: &mut [u8]) {
    // Without a profile: paper and inks are as pure as the screen's colours.
    let inked =
        |[c, m, y, k]: [u8; 4]| [c, m, y].map(|ink| ((u32::from(255 - ink) * u32::from(255 - k) + 127) / 255) as u8);
    let pixels = rgb.as_chunks_mut::<3>().0.iter_mut();
    let inks = samples.as_chunks::<4>().0;
    match model {
        ColourModel::Rgb | ColourModel::Lab => rgb.copy_from_slice(samples),
        ColourModel::Grey => pixels.zip(samples).for_each(|(pixel, &grey)| *pixel = [grey; 3]),
        ColourModel::Cmyk => pixels.zip(inks).for_each(|(pixel, &inks)| *pixel = inked(inks)),
        ColourModel::InvertedCmyk => {
            pixels.zip(inks).for_each(|(pixel, inks)| *pixel = inked(inks.map(|ink| 255 - ink)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rgb(alpha: AlphaKind, becomes: Alpha, row: &[u8]) -> Vec<u8> {
        let opening = Opening { alpha: becomes, keep_alpha: true, ..Opening::default() };
        let samples = Samples::new(None, ColourModel::Rgb, Depth::Eight, alpha, &opening);
        let (mut rgb, mut kept) = (vec![0; row.len() / 4 * 3], vec![0; row.len() / 4]);
        samples.convert(row, &mut rgb, &mut kept);
        assert!(kept.iter().zip(row.chunks(4)).all(|(kept, pixel)| *kept == pixel[3]));
        rgb
    }

    #[test]
    fn what_cannot_be_seen_is_the_background() {
        let row = [9, 8, 7, 0, 100, 0, 200, 255, 100, 0, 200, 128];
        let blended = rgb(AlphaKind::Straight, Alpha::Blend([255, 0, 10]), &row);
        assert_eq!(blended, [255, 0, 10, 100, 0, 200, 177, 0, 105]);
        assert_eq!(rgb(AlphaKind::Straight, Alpha::Drop, &row), [9, 8, 7, 100, 0, 200, 100, 0, 200]);
        let associated = rgb(AlphaKind::Associated, Alpha::Blend([255; 3]), &[50, 0, 100, 128, 1, 1, 1, 0]);
        assert_eq!(associated, [177, 127, 227, 255, 255, 255]);
    }

    #[test]
    fn wide_samples_and_inks_are_reduced() {
        let wide: Vec<u8> = [0u16, 32896, 65535].iter().flat_map(|level| level.to_ne_bytes()).collect();
        let opening = Opening::default();
        let mut out = [0; 3];
        let samples = |model, depth| Samples::new(None, model, depth, AlphaKind::None, &opening);
        samples(ColourModel::Rgb, Depth::Sixteen).convert(&wide, &mut out, &mut []);
        assert_eq!(out, [0, 128, 255]);
        let mut out = [0; 6];
        samples(ColourModel::Cmyk, Depth::Eight).convert(&[255, 0, 0, 0, 0, 0, 0, 255], &mut out, &mut []);
        assert_eq!(out, [0, 255, 255, 0, 0, 0]);
    }
}
