//! Linear light to a screen's 0 to 1: what a screen can show stays, what is brighter is compressed into the range above 0.8
//! (the shoulder and its loss of colour from Khronos' PBR Neutral tone mapper), then sRGB's curve.

use image::DynamicImage;

/// What is darker is shown as it is.
const KNEE: f32 = 0.8;
/// How fast what is brighter becomes white.
const DESATURATION: f32 = 0.15;

/// Maps a picture of numbers with a point in place, dividing associated opacity out; the brightest of them, 1 being white.
pub(super) fn map(image: &mut DynamicImage, is_associated: bool) -> f32 {
    let (samples, channels): (&mut [f32], usize) = match image {
        DynamicImage::ImageRgb32F(rgb) => (rgb, 3),
        DynamicImage::ImageRgba32F(rgba) => (rgba, 4),
        _ => return 1.0,
    };
    let mut brightest = 0.0f32;
    for pixel in samples.chunks_exact_mut(channels) {
        let opacity = if is_associated { pixel.get(3).copied().filter(|&alpha| alpha > 0.0) } else { None };
        for level in &mut pixel[..3] {
            *level = if level.is_nan() { 0.0 } else { (*level / opacity.unwrap_or(1.0)).clamp(0.0, f32::MAX) };
            brightest = brightest.max(*level);
        }
    }
    for pixel in samples.chunks_exact_mut(channels) {
        let light = [pixel[0], pixel[1], pixel[2]];
        let light = if brightest > 1.0 { lowered(light) } else { light };
        pixel[..3].copy_from_slice(&light.map(encoded));
    }
    brightest
}

fn lowered(light: [f32; 3]) -> [f32; 3] {
    let peak = light.into_iter().fold(0.0, f32::max);
    if peak <= KNEE {
        return light;
    }
    let room = 1.0 - KNEE;
    let shown = 1.0 - room * room / (peak + room - KNEE);
    let whiteness = 1.0 - 1.0 / (DESATURATION * (peak - shown) + 1.0);
    light.map(|level| level / peak * shown * (1.0 - whiteness) + shown * whiteness)
}

/// IEC 61966-2-1.
fn encoded(linear: f32) -> f32 {
    if linear <= 0.003_130_8 { linear * 12.92 } else { 1.055 * linear.powf(1.0 / 2.4) - 0.055 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_screen_shows_stays_and_the_rest_keeps_its_order() {
        let mut plain =
            DynamicImage::ImageRgb32F(image::Rgb32FImage::from_raw(2, 1, vec![0.0, 0.5, 1.0, 0.2, 0.2, 0.2]).unwrap());
        assert_eq!(map(&mut plain, false), 1.0);
        let bytes = plain.to_rgb8();
        assert_eq!(bytes.as_raw()[..3], [0, 188, 255]);
        let levels = vec![0.5, 0.5, 0.5, 0.9, 0.9, 0.9, 5.0, 5.0, 5.0, f32::INFINITY, 0.0, f32::NAN];
        let mut bright = DynamicImage::ImageRgb32F(image::Rgb32FImage::from_raw(4, 1, levels).unwrap());
        map(&mut bright, false);
        let bytes = bright.to_rgb8().into_raw();
        assert_eq!(bytes[0], 188, "as without the brighter ones");
        assert!(bytes[0] < bytes[3] && bytes[3] < bytes[6], "{bytes:?}");
        let mut half =
            DynamicImage::ImageRgba32F(image::Rgba32FImage::from_raw(1, 1, vec![0.25, 0.25, 0.5, 0.5]).unwrap());
        map(&mut half, true);
        assert_eq!(half.to_rgba8().into_raw(), [188, 188, 255, 128]);
    }
}
