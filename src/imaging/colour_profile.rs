//! Colours of picture files to sRGB, by LittleCMS: relative colorimetric without black point compensation, which is what
//! its flags are by default (and Pillow's ImageCms).

use std::sync::OnceLock;

use lcms2::{
    CIExyY, CIExyYTRIPLE, DisallowCache, Flags, Intent, PixelFormat, Profile, ThreadContext, ToneCurve, Transform,
};

/// The colours of a pixel in a file, alpha apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ColourModel {
    Grey,
    Rgb,
    /// 0 is no ink.
    Cmyk,
    /// 0 is all ink, as Adobe's programs write JPEG.
    InvertedCmyk,
    /// CIE L*a*b* as ICC profiles of version 2 have it, always in 16 bits.
    Lab,
}

impl ColourModel {
    /// Samples a pixel.
    pub(super) fn channels(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::Rgb | Self::Lab => 3,
            Self::Cmyk | Self::InvertedCmyk => 4,
        }
    }
}

/// The profile that says sRGB, for files that are written.
pub(super) fn srgb() -> &'static [u8] {
    static SRGB: OnceLock<Vec<u8>> = OnceLock::new();
    let made = || {
        // Writing into memory does not fail.
        let mut icc = Profile::new_srgb_context(ThreadContext::new()).icc().unwrap_or_default();
        // When it was made: the same picture is to be the same file at any time.
        if let Some(date) = icc.get_mut(24..36) {
            date.copy_from_slice(&[7, 0xe6, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0]);
        }
        icc
    };
    SRGB.get_or_init(made)
}

/// What a file says of its colours.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum ColourSpace {
    /// Nothing, or sRGB.
    #[default]
    Srgb,
    /// An ICC profile.
    Icc(Vec<u8>),
    /// Primaries and transfer function as in ITU-T H.273 (cICP of PNG).
    Cicp { primaries: u8, transfer: u8 },
    /// The exponent of encoding, and x and y of white, red, green and blue (gAMA and cHRM of PNG).
    Gamma { gamma: f64, chromaticities: [f64; 8] },
}

/// White D65, and the primaries of sRGB.
pub(super) const SRGB_CHROMATICITIES: [f64; 8] = [0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06];

/// The white of L*a*b*.
const D50: CIExyY = CIExyY { x: 0.3457, y: 0.3585, Y: 1.0 };

/// Pixels of one model, in 8 or 16 bits of the machine's own order, to 8-bit sRGB.
pub(super) struct ToSrgb(Transform<u8, u8, ThreadContext, DisallowCache>);

impl ToSrgb {
    /// `None` where the colours are sRGB already, or cannot be anything else.
    ///
    /// # Errors
    /// Why what the file says is of no use, in words.
    pub(super) fn new(space: &ColourSpace, model: ColourModel, sixteen_bits: bool) -> Result<Option<Self>, String> {
        let context = ThreadContext::new();
        let profile = match space {
            _ if model == ColourModel::Lab => {
                Profile::new_lab4_context(&context, &D50).map_err(|_| "there is no L*a*b*")?
            }
            ColourSpace::Srgb => return Ok(None),
            ColourSpace::Icc(icc) => Profile::new_icc_context(&context, icc).map_err(|_| "its profile is broken")?,
            ColourSpace::Cicp { primaries, transfer } => {
                let curve = transfer_curve(*transfer)?;
                of_rgb(&context, primaries_of(*primaries)?, &curve)?
            }
            ColourSpace::Gamma { gamma, chromaticities } => {
                let is_srgb = (gamma - 1.0 / 2.2).abs() < 0.005
                    && chromaticities
                        .iter()
                        .zip(SRGB_CHROMATICITIES)
                        .all(|(found, usual)| (found - usual).abs() < 0.002);
                if is_srgb {
                    return Ok(None);
                }
                of_rgb(&context, *chromaticities, &ToneCurve::new(1.0 / gamma.clamp(0.05, 5.0)))?
            }
        };
        let format = match (model, sixteen_bits) {
            (ColourModel::Grey, false) => PixelFormat::GRAY_8,
            (ColourModel::Grey, true) => PixelFormat::GRAY_16,
            (ColourModel::Rgb, false) => PixelFormat::RGB_8,
            (ColourModel::Rgb, true) => PixelFormat::RGB_16,
            (ColourModel::Cmyk, false) => PixelFormat::CMYK_8,
            (ColourModel::Cmyk, true) => PixelFormat::CMYK_16,
            (ColourModel::InvertedCmyk, false) => PixelFormat::CMYK_8_REV,
            (ColourModel::InvertedCmyk, true) => PixelFormat::CMYK_16_REV,
            (ColourModel::Lab, _) => PixelFormat::LabV2_16,
        };
        let srgb = Profile::new_srgb_context(&context);
        let (intent, flags) = (Intent::RelativeColorimetric, Flags::NO_CACHE);
        let transform =
            Transform::new_flags_context(&context, &profile, format, &srgb, PixelFormat::RGB_8, intent, flags);
        let to_srgb = Self(transform.map_err(|_| "its profile is of another kind of picture")?);
        Ok(Some(to_srgb).filter(|to_srgb| !to_srgb.changes_nothing(model, sixteen_bits)))
    }

    /// `samples` to three bytes a pixel in `rgb`.
    pub(super) fn convert(&self, samples: &[u8], rgb: &mut [u8]) {
        self.0.transform_pixels(samples, rgb);
    }

    /// Whether it is a profile of sRGB, which most are, or of its greys.
    fn changes_nothing(&self, model: ColourModel, sixteen_bits: bool) -> bool {
        const LEVELS: [u8; 9] = [0, 8, 32, 64, 100, 128, 192, 230, 255];
        let colours = || LEVELS.iter().flat_map(|&r| LEVELS.iter().flat_map(move |&g| LEVELS.map(|b| [r, g, b])));
        let (expected, samples): (Vec<u8>, Vec<u8>) = match model {
            ColourModel::Rgb => (colours().flatten().collect(), colours().flatten().collect()),
            ColourModel::Grey => ((0..=255).flat_map(|grey| [grey; 3]).collect(), (0..=255).collect()),
            _ => return false,
        };
        let mut rgb = vec![0; expected.len()];
        if sixteen_bits {
            let wide: Vec<u16> = samples.iter().map(|&level| u16::from(level) * 257).collect();
            self.convert(bytemuck::cast_slice(&wide), &mut rgb);
        } else {
            self.convert(&samples, &mut rgb);
        }
        expected.iter().zip(&rgb).all(|(before, after)| before.abs_diff(*after) <= 1)
    }
}

fn of_rgb(
    context: &ThreadContext,
    [wx, wy, rx, ry, gx, gy, bx, by]: [f64; 8],
    curve: &ToneCurve,
) -> Result<Profile<ThreadContext>, String> {
    let colour = |x: f64, y: f64| CIExyY { x, y, Y: 1.0 };
    let primaries = CIExyYTRIPLE { Red: colour(rx, ry), Green: colour(gx, gy), Blue: colour(bx, by) };
    Profile::new_rgb_context(context, &colour(wx, wy), &primaries, &[curve, curve, curve])
        .map_err(|_| "its primaries make no sense".into())
}

fn primaries_of(number: u8) -> Result<[f64; 8], String> {
    Ok(match number {
        1 => SRGB_CHROMATICITIES,
        5 => [0.3127, 0.329, 0.64, 0.33, 0.29, 0.6, 0.15, 0.06],
        6 | 7 => [0.3127, 0.329, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07],
        9 => [0.3127, 0.329, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046],
        11 => [0.314, 0.351, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06],
        12 => [0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06],
        other => return Err(format!("its primaries (cICP {other}) are not known here")),
    })
}

fn transfer_curve(number: u8) -> Result<ToneCurve, String> {
    // (a x + b)^g above d, c x below.
    let parametric = |parameters: [f64; 5]| ToneCurve::new_parametric(4, &parameters);
    match number {
        1 | 6 | 14 | 15 => parametric([1.0 / 0.45, 1.0 / 1.099, 0.099 / 1.099, 1.0 / 4.5, 0.081]),
        13 => parametric([2.4, 1.0 / 1.055, 0.055 / 1.055, 1.0 / 12.92, 0.04045]),
        4 => Ok(ToneCurve::new(2.2)),
        5 => Ok(ToneCurve::new(2.8)),
        8 => Ok(ToneCurve::new(1.0)),
        16 | 18 => return Err("it is an HDR picture (PQ or HLG), whose brightness is not mapped here".into()),
        other => return Err(format!("its transfer function (cICP {other}) is not known here")),
    }
    .map_err(|_| "its transfer function makes no sense".into())
}
