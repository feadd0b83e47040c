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
    /// Of all rows so far, where it is wanted.
    kept_opacity: Option<Vec<u8>>,
    colours: Vec<u8>,
    opacity: Vec<u8>,
}

impl Samples {
    pub(super) fn new(
        to_srgb: Option<ToSrgb>,
        model: ColourModel,
        depth: Depth,
        alpha: AlphaKind,
        opening: &Opening,
    ) -> Self {
        let kept_opacity = opening.keep_alpha.then(Vec::new);
        let becomes = opening.alpha;
        Self { to_srgb, model, depth, alpha, becomes, kept_opacity, colours: Vec::new(), opacity: Vec::new() }
    }

    /// Bytes a pixel in the file's rows.
    pub(super) fn bytes_a_pixel(&self) -> usize {
        (self.model.channels() + usize::from(self.alpha != AlphaKind::None)) * self.depth.bytes()
    }

    /// A byte a pixel, where it is wanted and there is any.
    pub(super) fn into_opacity(self) -> Vec<u8> {
        self.kept_opacity.unwrap_or_default()
    }

    /// Adds a row to `rgb`, three bytes a pixel.
    pub(super) fn add(&mut self, row: &[u8], rgb: &mut Vec<u8>) {
        let from = rgb.len();
        if self.alpha == AlphaKind::None {
            add_opaque(self.to_srgb.as_ref(), self.model, self.depth, row, rgb);
            return;
        }
        self.split(row);
        let colours = std::mem::take(&mut self.colours);
        add_opaque(self.to_srgb.as_ref(), self.model, self.depth, &colours, rgb);
        self.colours = colours;
        if let Some(kept) = &mut self.kept_opacity {
            kept.extend(&self.opacity);
        }
        if let Alpha::Blend(background) = self.becomes {
            for (pixel, &opacity) in rgb[from..].as_chunks_mut::<3>().0.iter_mut().zip(&self.opacity) {
                for (level, below) in pixel.iter_mut().zip(background) {
                    let (opacity, level_16) = (u32::from(opacity), u32::from(*level));
                    *level = ((level_16 * opacity + u32::from(below) * (255 - opacity) + 127) / 255) as u8;
                }
            }
        }
    }

    /// Colours and opacity apart; associated alpha is divided out.
    fn split(&mut self, row: &[u8]) {
        self.colours.clear();
        self.opacity.clear();
        let channels = self.model.channels();
        for pixel in row.chunks_exact(self.bytes_a_pixel()) {
            let (colours, alpha) = pixel.split_at(channels * self.depth.bytes());
            let is_associated = self.alpha == AlphaKind::Associated;
            match (self.depth, alpha) {
                (Depth::Sixteen, &[first, second]) => {
                    let alpha = u32::from(u16::from_ne_bytes([first, second]));
                    self.opacity.push(((alpha + 128) / 257) as u8);
                    for sample in colours.as_chunks::<2>().0 {
                        let value = u32::from(u16::from_ne_bytes(*sample));
                        let value = if is_associated { divided(value, alpha, 65535) } else { value };
                        self.colours.extend((value as u16).to_ne_bytes());
                    }
                }
                (_, &[alpha, ..]) => {
                    self.opacity.push(alpha);
                    let divided = |&value: &u8| divided(value.into(), alpha.into(), 255) as u8;
                    match is_associated {
                        true => self.colours.extend(colours.iter().map(divided)),
                        false => self.colours.extend(colours),
                    }
                }
                (_, []) => {}
            }
        }
    }
}

fn divided(value: u32, alpha: u32, most: u32) -> u32 {
    (value * most + alpha / 2).checked_div(alpha).unwrap_or(0).min(most)
}

fn add_opaque(to_srgb: Option<&ToSrgb>, model: ColourModel, depth: Depth, samples: &[u8], rgb: &mut Vec<u8>) {
    if let Some(to_srgb) = to_srgb {
        let from = rgb.len();
        let pixels = samples.len() / (model.channels() * depth.bytes());
        rgb.resize(from + pixels * 3, 0);
        to_srgb.convert(samples, &mut rgb[from..]);
        return;
    }
    match depth {
        Depth::Eight => add_bytes(model, samples.iter().copied(), samples, rgb),
        Depth::Sixteen => {
            let reduced = |sample: &[u8; 2]| ((u32::from(u16::from_ne_bytes(*sample)) + 128) / 257) as u8;
            let bytes: Vec<u8> = samples.as_chunks::<2>().0.iter().map(reduced).collect();
            add_bytes(model, bytes.iter().copied(), &bytes, rgb);
        }
    }
}

fn add_bytes(model: ColourModel, each: impl Iterator<Item = u8>, all: &[u8], rgb: &mut Vec<u8>) {
    // Without a profile: paper and inks are as pure as the screen's colours.
    let inked =
        |[c, m, y, k]: [u8; 4]| [c, m, y].map(|ink| ((u32::from(255 - ink) * u32::from(255 - k) + 127) / 255) as u8);
    match model {
        ColourModel::Rgb | ColourModel::Lab => rgb.extend(all),
        ColourModel::Grey => each.for_each(|grey| rgb.extend([grey; 3])),
        ColourModel::Cmyk => all.as_chunks::<4>().0.iter().for_each(|&inks| rgb.extend(inked(inks))),
        ColourModel::InvertedCmyk => {
            all.as_chunks::<4>().0.iter().for_each(|inks| rgb.extend(inked(inks.map(|ink| 255 - ink))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rgb(alpha: AlphaKind, becomes: Alpha, row: &[u8]) -> Vec<u8> {
        let mut rgb = Vec::new();
        let opening = Opening { alpha: becomes, keep_alpha: true, ..Opening::default() };
        let mut samples = Samples::new(None, ColourModel::Rgb, Depth::Eight, alpha, &opening);
        samples.add(row, &mut rgb);
        assert_eq!(samples.into_opacity(), [row[3], row[7], row[row.len() - 1]][..row.len() / 4]);
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
        let mut out = Vec::new();
        let opening = Opening::default();
        Samples::new(None, ColourModel::Rgb, Depth::Sixteen, AlphaKind::None, &opening).add(&wide, &mut out);
        assert_eq!(out, [0, 128, 255]);
        let mut out = Vec::new();
        Samples::new(None, ColourModel::Cmyk, Depth::Eight, AlphaKind::None, &opening)
            .add(&[255, 0, 0, 0, 0, 0, 0, 255], &mut out);
        assert_eq!(out, [0, 255, 255, 0, 0, 0]);
    }
}
